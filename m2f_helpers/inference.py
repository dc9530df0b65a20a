"""From a picture to a class map with a trained Mask2Former, and a look at every step between. Taught in notebook 05.

`segment` gives what mmseg's `inference_model` gives, pixel for pixel (`mmseg/apis/inference.py`, mmseg 1.2.2), with three
differences: it takes RGB (a path, a PIL picture or an array) and never BGR, it changes nothing in the model or its config,
and it holds class scores at the picture's own size only for a few classes at a time, where mmseg holds all 150.

Shape letters: Q queries, K classes, H W the picture's own size, h w the size the network worked on.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.palette import IGNORE, ade20k_palette

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
LONGEST = 2048  # input side up to which a test pipeline without a Resize step is left alone
CHUNK = 24_000_000  # class scores held at the picture's own size at any one time
MAX_PIXELS = 178_000_000  # Pillow's own limit against decompression bombs


@dataclass(frozen=True)
class LayerPrediction:
    """What the head predicts after one decoder layer (index 0: before the first).

    `class_logits` is `(Q, K + 1)`, the last column "no object"; `mask_logits` `(Q, h / 4, w / 4)`. `allowed` is what the
    *next* decoder layer may attend to, `(Q, rows, columns)` bool at that layer's feature level; None after the last.
    `rescued` `(Q,)` bool: the query's mask was empty, so it may attend everywhere.
    """

    class_logits: Tensor
    mask_logits: Tensor
    allowed: Tensor | None = None
    rescued: Tensor | None = None


@dataclass(frozen=True)
class Query:
    """One query's verdict: its best class, the probability of that class and of "no object", and what it owns.

    `share` is the part of the pixels, 0..1, where no other query adds more to the score of the class that won.
    """

    index: int
    class_id: int
    name: str
    score: float
    no_object: float
    share: float


@dataclass(frozen=True)
class Segmentation:
    """A segmented picture. Arrays are at the picture's own size (after EXIF orientation).

    `image` RGB `(H, W, 3)` uint8; `label_map` `(H, W)` uint8 class ids 0..149; `confidence` `(H, W)` float32 0..1, the
    winner's part of the sum of all class scores; `entropy` `(h, w)` float32 0..1 (1: all classes alike) and `owner`
    `(h, w)` int16, the query that decided the pixel, both at the network's size; `class_logits` `(Q, K + 1)` and
    `mask_logits` `(Q, h / 4, w / 4)` float32, the last prediction; `layers` all predictions, if they were asked for.
    """

    image: np.ndarray
    label_map: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    owner: np.ndarray
    class_logits: Tensor
    mask_logits: Tensor
    geometry: Geometry
    layers: tuple[LayerPrediction, ...] = ()
    source: str = "array"

    @cached_property
    def table(self) -> pd.DataFrame:
        """Classes by falling area: `id`, `name`, `share` (0..1) and mean `confidence` (0..1)."""
        counts = np.bincount(self.label_map.ravel(), minlength=256)
        sums = np.bincount(self.label_map.ravel(), self.confidence.ravel(), minlength=256)
        ids = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        names = ade20k_palette().names
        return pd.DataFrame(
            {
                "id": ids,
                "name": [names[i] for i in ids],
                "share": counts[ids] / counts.sum(),
                "confidence": sums[ids] / counts[ids],
            }
        )

    @cached_property
    def queries(self) -> list[Query]:
        """All queries, the one that owns most first."""
        probabilities = self.class_logits.softmax(-1)
        score, ids = probabilities[:, :-1].max(-1)
        shares = np.bincount(self.owner.ravel(), minlength=len(ids)) / self.owner.size
        names = ade20k_palette().names
        found = [
            Query(q, int(ids[q]), names[int(ids[q])], float(score[q]), float(probabilities[q, -1]), float(shares[q]))
            for q in range(len(ids))
        ]
        return sorted(found, key=lambda query: (-query.share, -query.score))

    @property
    def used_queries(self) -> list[Query]:
        """The queries that own at least one pixel."""
        return [query for query in self.queries if query.share > 0]

    def query_mask(self, query: int, layer: int = -1) -> np.ndarray:
        """One query's mask at the picture's own size, `(H, W)` float32 probabilities.

        Args:
            query: 0..Q-1.
            layer: which prediction; -1 is the last and needs no `layers`.
        """
        if not 0 <= query < len(self.mask_logits):
            raise ValueError(f"expected a query 0..{len(self.mask_logits) - 1}, got {query}")
        logits = self.mask_logits if layer == -1 else self._layer(layer).mask_logits
        return self.geometry.to_picture(logits[query]).sigmoid().numpy()

    def allowed(self, query: int, layer: int) -> np.ndarray:
        """Where decoder layer `layer` (1..L) let the query look, `(rows, columns)` bool at that feature level."""
        mask = self._layer(layer - 1).allowed if layer >= 1 else None
        if mask is None:
            raise ValueError(f"expected a decoder layer 1..{len(self.layers) - 1}, got {layer}")
        return mask[query].numpy()

    def _layer(self, index: int) -> LayerPrediction:
        if not self.layers:
            raise ValueError("the layers were not kept: call segment(model, image, layers=True)")
        if not 0 <= index < len(self.layers):
            raise ValueError(f"expected a prediction 0..{len(self.layers) - 1}, got {index}")
        return self.layers[index]


@dataclass(frozen=True)
class Geometry:
    """How the network's maps lie on the picture. Sizes are `[H, W]`.

    `padded` is the input's size with padding, `inner` without it (rows top to bottom, columns left to right as slices),
    `picture` the picture's own size.
    """

    padded: tuple[int, int]
    rows: slice
    columns: slice
    picture: tuple[int, int]

    def to_picture(self, maps: Tensor) -> Tensor:
        """Resize logits `(h / 4, w / 4)` to the picture `(H, W)`, by way of the padded input, as mmseg does."""
        padded = F.interpolate(maps[None, None].float(), self.padded, mode="bilinear", align_corners=False)
        return _resize(padded[..., self.rows, self.columns], self.picture)[0, 0]


def load(config: Any, checkpoint: str | Path | None, device: str | None = None) -> Any:
    """Build a model for inference and fill it with a checkpoint's weights.

    Args:
        config: an MMEngine `Config`, or the path of one. It is copied, never changed.
        checkpoint: weights; None leaves the model as it was initialised, at random.
        device: `"cpu"`, `"cuda"`, ...; None takes a GPU if there is one.

    Returns: mmseg's segmentor in evaluation mode; `.cfg` holds the copied config.
    Raises: FileNotFoundError or ValueError naming the file and what was expected.
    """
    from mmengine import init_default_scope
    from mmseg.registry import MODELS

    config = _read_config(config)
    _forget_pretrained(config.model)
    init_default_scope(config.get("default_scope", "mmseg"))
    model = MODELS.build(config.model)
    if checkpoint is not None:
        _load_weights(model, Path(checkpoint))
    model.cfg = config
    model.dataset_meta = {"classes": ade20k_palette().names, "palette": ade20k_palette().colors.tolist()}
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def read_image(source: Any) -> np.ndarray:
    """Read one picture, whatever its form, as RGB.

    EXIF orientation is applied, grey is repeated three times, an alpha channel is dropped, 16 bit is cut to the upper 8.

    Args:
        source: path, PIL picture, or array: `(H, W)`, `(H, W, 1)`, RGB `(H, W, 3)` or RGBA `(H, W, 4)`, uint8 or uint16.

    Returns: RGB, `(H, W, 3)` uint8, an array of its own.
    Raises: FileNotFoundError, PermissionError or ValueError: one sentence with the file and the fix.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL picture")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source)
    hint = {"Tensor": "; turn a tensor into an array (H, W, 3) uint8", "bytes": "; open bytes with PIL.Image.open"}
    kind = type(source).__name__
    raise ValueError(f"expected a path, a PIL picture or an RGB array, got {kind}{hint.get(kind, '')}")


def segment(model: Any, image: Any, *, layers: bool = False) -> Segmentation | list[Segmentation]:
    """Segment a picture, or all pictures of a folder.

    Args:
        model: from `load`, or from mmseg's `init_model`.
        image: path, PIL picture, RGB array (see `read_image`), or a folder of pictures.
        layers: keep the prediction after every decoder layer and the attention each layer was allowed.

    Returns: a `Segmentation`; for a folder a list of them, by file name. A file that cannot be read is warned about.
    Raises: FileNotFoundError or ValueError: one sentence with the file and the fix.
    """
    if isinstance(image, (str, os.PathLike)) and Path(image).is_dir():
        return _segment_folder(model, Path(image), layers)
    picture = read_image(image)
    source = str(image) if isinstance(image, (str, os.PathLike)) else "array"
    return _segment_array(model, picture, source, layers)


def class_scores(class_logits: Tensor, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Mask2Former's class scores: the queries' class probabilities, spread over their masks and added up.

    Built step by step in notebook 05; the same operations as `Mask2FormerHead.predict` of mmseg 1.2.2.

    Args:
        class_logits: `(B, Q, K + 1)`, the last column "no object".
        mask_logits: `(B, Q, h, w)`.
        size: `[H, W]` to which the masks are resized first (the padded input).

    Returns: `(B, K, H, W)`, 0..Q; not a probability: the classes of a pixel need not add up to 1.
    """
    masks = F.interpolate(mask_logits, size=tuple(size), mode="bilinear", align_corners=False).sigmoid()
    probabilities = class_logits.softmax(-1)[..., :-1]  # (B, Q, K): "no object" belongs to no pixel
    return torch.einsum("bqc,bqhw->bchw", probabilities, masks)


def list_images(folder: str | Path) -> list[Path]:
    """Pictures directly in a folder, by name. ValueError if there are none, FileNotFoundError if there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"the folder {folder} has no pictures (looked for {', '.join(sorted(SUFFIXES))})")
    return found


# ---------------------------------------------------------------------------------------------------------- segment


@torch.no_grad()
def _segment_array(model: Any, image: np.ndarray, source: str, layers: bool) -> Segmentation:
    inputs, samples = _prepare(model, image, source)
    with _watch_attention(model.decode_head, layers) as seen:
        class_logits, mask_logits = model.decode_head(model.extract_feat(inputs), samples)
    if not torch.isfinite(class_logits[-1]).all() or not torch.isfinite(mask_logits[-1]).all():
        raise ValueError(
            f"{source}: the model's scores are not finite numbers, so its weights are damaged; load others"
        )
    geometry = _geometry(samples[0].metainfo, image.shape[:2])
    scores = class_scores(class_logits[-1], mask_logits[-1], geometry.padded)[..., geometry.rows, geometry.columns]
    label_map, best = upsampled_argmax(scores, geometry.picture)
    total = _resize(scores.sum(1, keepdim=True), geometry.picture)[0, 0]
    owner = _owner(class_logits[-1][0], mask_logits[-1][0], scores[0].argmax(0), geometry)
    return Segmentation(
        image=image,
        label_map=label_map.cpu().numpy(),
        confidence=(best / total.clamp_min(1e-12)).clamp_(0, 1).cpu().numpy(),
        entropy=_entropy(scores[0]).cpu().numpy(),
        owner=owner.cpu().numpy(),
        class_logits=class_logits[-1][0].cpu(),
        mask_logits=mask_logits[-1][0].cpu(),
        geometry=geometry,
        layers=_layers(class_logits, mask_logits, seen) if layers else (),
        source=source,
    )


def upsampled_argmax(scores: Tensor, size: Sequence[int], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`F.interpolate(scores, size, mode="bilinear").argmax(1)`, equal bit for bit, in a fraction of the memory.

    Bilinear interpolation stays between the four pixels around it. So a class that is beaten by one other class in all
    four corners of every cell cannot win anywhere: it is not interpolated at all. The rest is done a few classes at a
    time, with a running best.

    Args:
        scores: `(1, K, h, w)` float.
        size: `[H, W]` of the result.
        chunk: scores held at size `[H, W]` at a time.

    Returns: winner `(H, W)` uint8 (the lowest id on a tie, as `argmax`), and its score `(H, W)` float.
    """
    size = tuple(size)
    ids = _possible_winners(scores[0])
    step = max(1, chunk // (size[0] * size[1]))
    winner, best = None, None
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        resized = _resize(scores[:, part], size)[0]
        value, local = resized.max(0) if len(part) > 1 else (resized[0], None)
        labels = part[local].to(torch.uint8) if local is not None else int(part[0])
        if best is None:
            best = value
            winner = labels if local is not None else torch.full(size, labels, dtype=torch.uint8, device=scores.device)
            continue
        better = value > best
        torch.maximum(best, value, out=best)
        winner = torch.where(better, labels, winner) if local is not None else winner.masked_fill_(better, labels)
    return winner, best


def _possible_winners(scores: Tensor) -> Tensor:
    """Ids, ascending, of the classes of `(K, h, w)` that some bilinear interpolation could let win."""
    leaders = scores.argmax(0).unique()
    floor = _cells(scores[leaders], torch.minimum).amax(0)  # what the best of the leaders has everywhere in a cell
    floor = floor - 1e-5 * floor.abs() - 1e-7  # interpolation rounds
    ids = (scores.amax((1, 2)) >= floor.min()).nonzero()[:, 0]
    if len(ids) > 1.5 * len(leaders):
        ids = ids[[bool((_cells(scores[i : i + 1], torch.maximum)[0] >= floor).any()) for i in ids.tolist()]]
    return ids


def _cells(maps: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Minimum or maximum over the four corners of each cell: `(K, h, w)` -> `(K, h - 1, w - 1)`, at least 1."""
    if maps.shape[1] > 1:
        maps = combine(maps[:, :-1], maps[:, 1:])
    if maps.shape[2] > 1:
        maps = combine(maps[:, :, :-1], maps[:, :, 1:])
    return maps


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _entropy(scores: Tensor) -> Tensor:
    """Entropy of the class scores `(K, h, w)`, divided by its largest possible value: `(h, w)`, 0..1."""
    total = scores.sum(0).clamp_min(1e-12)
    result = torch.zeros_like(total)
    for score in scores:  # one class at a time: no second array of this size
        part = score / total
        result -= torch.xlogy(part, part)
    return (result / np.log(len(scores))).clamp_(0, 1)


def _owner(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, geometry: Geometry) -> Tensor:
    """The query that adds most to the winning class of each pixel: `(h, w)` int16."""
    probabilities = class_logits.softmax(-1)
    best = torch.full(labels.shape, -1.0, device=labels.device)
    owner = torch.zeros(labels.shape, dtype=torch.int16, device=labels.device)
    for q, logits in enumerate(mask_logits):
        padded = F.interpolate(logits[None, None], geometry.padded, mode="bilinear", align_corners=False)
        added = probabilities[q][labels] * padded[0, 0, geometry.rows, geometry.columns].sigmoid()
        better = added > best
        torch.maximum(best, added, out=best)
        owner.masked_fill_(better, q)
    return owner


def _layers(class_logits: list[Tensor], mask_logits: list[Tensor], seen: list[Tensor]) -> tuple[LayerPrediction, ...]:
    """The head's predictions, each with the attention mask that was made of it."""
    result = []
    for i, (classes, masks) in enumerate(zip(class_logits, mask_logits, strict=True)):
        allowed = rescued = None
        if i < len(seen):
            allowed, rescued = _allowed(seen[i], masks)
        result.append(LayerPrediction(classes[0].cpu(), masks[0].cpu(), allowed, rescued))
    return tuple(result)


def _allowed(blocked: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`attn_mask` `(heads, Q, tokens)`, True = blocked, as maps `(Q, rows, columns)`, True = allowed."""
    tokens, (height, width) = blocked.shape[-1], mask_logits.shape[-2:]
    factor = round((height * width / tokens) ** 0.5)
    allowed = ~blocked[0].reshape(-1, -(-height // factor), -(-width // factor))
    resized = _resize(mask_logits, allowed.shape[-2:])[0].flatten(1)
    return allowed.cpu(), (resized.sigmoid() < 0.5).all(-1).cpu()


@contextmanager
def _watch_attention(head: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect the attention mask that each decoder layer is given: `(B * heads, Q, tokens)` bool, True = blocked."""
    seen: list[Tensor] = []

    def note(module: Any, args: tuple, kwargs: dict) -> None:
        seen.append(kwargs["cross_attn_mask"].detach().clone())

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in head.transformer_decoder.layers]
    hooks = hooks if wanted else [hook.remove() for hook in hooks] and []
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _prepare(model: Any, image: np.ndarray, source: str) -> tuple[Tensor, list[Any]]:
    """Run the test pipeline and the preprocessor, on copies: input `(1, 3, h, w)` and its data sample."""
    from mmengine.dataset import Compose

    if model.test_cfg.get("mode", "whole") != "whole":
        raise ValueError(f"expected a config with test_cfg mode 'whole', got {model.test_cfg['mode']!r}")
    pipeline = Compose(_test_pipeline(model.cfg, image.shape[:2]))
    try:
        packed = pipeline({"img": np.ascontiguousarray(image[..., ::-1])})  # mmseg's pipelines work on BGR
    except Exception as error:
        size = f"{image.shape[0]} x {image.shape[1]}"
        raise ValueError(
            f"{source}: the test pipeline cannot take a picture of {size} pixels: {_line(error)}"
        ) from error
    data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    data = model.data_preprocessor(data, training=False)
    return data["inputs"], data["data_samples"]


def _test_pipeline(config: Any, size: Sequence[int]) -> list[dict]:
    steps = config.get("test_pipeline") or config.test_dataloader.dataset.pipeline
    steps = [copy.deepcopy(dict(step)) for step in steps if step["type"] != "LoadAnnotations"]
    steps[0] = {"type": "LoadImageFromNDArray"}
    if max(size) > LONGEST and not any("Resize" in step["type"] for step in steps):
        steps.insert(1, {"type": "Resize", "scale": (LONGEST, LONGEST), "keep_ratio": True})
    return steps


def _geometry(meta: dict, picture: Sequence[int]) -> Geometry:
    padded = tuple(meta.get("pad_shape", meta["img_shape"])[:2])
    left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
    rows, columns = slice(top, padded[0] - bottom), slice(left, padded[1] - right)
    return Geometry(padded, rows, columns, tuple(picture[:2]))


def _segment_folder(model: Any, folder: Path, layers: bool) -> list[Segmentation]:
    results = []
    for path, result in _each(model, list_images(folder), layers):
        if isinstance(result, Segmentation):
            results.append(result)
        else:
            warnings.warn(f"left out {path.name}: {result}", UserWarning, stacklevel=3)
    if not results:
        raise ValueError(f"none of the pictures in {folder} could be read")
    return results


def _each(
    model: Any, paths: Sequence[Path], layers: bool = False, progress: bool | None = None
) -> Iterator[tuple[Path, Segmentation | Exception]]:
    """Segment one file after another; what cannot be read comes back as the error."""
    hide = len(paths) < 4 if progress is None else not progress
    for path in tqdm(paths, desc="segment", unit="picture", disable=hide, leave=False):
        try:
            yield path, _segment_array(model, _from_path(path), str(path), layers)
        except (ValueError, OSError) as error:
            yield path, error


# ------------------------------------------------------------------------------------------------------ load, read


def _read_config(config: Any) -> Any:
    import mmdet.models  # noqa: F401  explicitly: mmseg would hide why it cannot be imported
    from mmengine import Config

    if isinstance(config, Config):
        return copy.deepcopy(config)
    if not isinstance(config, (str, os.PathLike)):
        raise ValueError(f"expected a Config or the path of one, got {type(config).__name__}")
    if not Path(config).is_file():
        raise FileNotFoundError(f"the config {config} does not exist")
    return Config.fromfile(str(config))


def _forget_pretrained(model_config: Any) -> None:
    """The checkpoint brings all weights: without this, building the backbone would ask for ImageNet's."""
    model_config.pretrained = None
    if "init_cfg" in model_config.backbone:
        model_config.backbone.init_cfg = None


def _load_weights(model: Any, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("state_dict", state))


def _from_path(source: str | os.PathLike) -> np.ndarray:
    path = Path(source)
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source} is an address: download the picture first, then give the file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one of its pictures, or the folder to segment() or `m2f predict`")
    if not path.exists():
        raise FileNotFoundError(f"the picture {path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): copy or download it again")
    try:
        with Image.open(path) as picture:
            return _from_pil(picture, str(path))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that Pillow can read: convert it to PNG or JPEG") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read: change its permissions") from None


def _from_pil(picture: Image.Image, name: str) -> np.ndarray:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{name} has {picture.width} x {picture.height} pixels: shrink it below {MAX_PIXELS:,} pixels")
    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16") or picture.mode == "I":
            return _from_array(_sixteen_bit(picture, name))
        if picture.mode == "F":
            raise ValueError(f"{name} holds decimal numbers (mode F): scale it to 0..255 and convert it to mode L")
        return _from_array(np.array(picture.convert("RGB")), name)
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is damaged or incomplete ({_line(error)}): copy or download it again") from None


def _sixteen_bit(picture: Image.Image, name: str) -> np.ndarray:
    values = np.array(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"{name} has values {values.min()}..{values.max()}, expected 16 bit (0..65535): rescale it")
    return values.astype(np.uint16)


def _from_array(array: np.ndarray, name: str = "the array") -> np.ndarray:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {shape}, channels first: expected (H, W, 3), use array.transpose(1, 2, 0)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(f"{name} has shape {shape}: expected (H, W), (H, W, 3) or (H, W, 4), one picture at a time")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}, no pixels at all")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {array.dtype}, expected uint8 (0..255) or uint16{_dtype_hint(array)}")
    array = array[..., None] if array.ndim == 2 else array
    return np.ascontiguousarray(array[..., :3] if array.shape[2] > 1 else np.repeat(array, 3, axis=2)).copy()


def _dtype_hint(array: np.ndarray) -> str:
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            return "; it holds NaN or infinity too"
        scale = "multiply by 255 and round" if array.max() <= 1 else "round"
        return f"; {scale}, then .astype(np.uint8)"
    if np.issubdtype(array.dtype, np.integer):
        return f"; its values are {array.min()}..{array.max()}, convert with .clip(0, 255).astype(np.uint8)"
    return ""


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
