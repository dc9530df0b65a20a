"""From an image to a label map with a trained Mask2Former, and a look at every step between. Taught in notebook 05.

`segment` gives what mmseg's `inference_model` gives, pixel for pixel (`mmseg/apis/inference.py`, mmseg 1.2.2), with
three differences: it takes RGB (a path, a PIL image or an array) and never BGR; it changes nothing in the model or its
config; and at a large image's own size it holds the scores of one class at a time, where mmseg holds all of them.

Shape letters: B batch, Q queries, K classes, L tokens, H W the image's own size, h w the size the network worked on.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers.data.dataset import READERS
from m2f_helpers.images import list_images, read_image
from m2f_helpers.inference.lean import lean_model
from m2f_helpers.inference.upsampling import upsample, upsampled_argmax, winners
from m2f_helpers.install.devices import free_memory
from m2f_helpers.palette import Palette, ade20k_palette, palette_of
from m2f_helpers.plotting import count_ids
from m2f_helpers.quiet import one_line

LABEL_STEPS = ("LoadAnnotations", READERS["LoadAnnotations"])  # steps of a test pipeline that read the truth
PIXEL_BYTES = 18  # per pixel of the image: the arrays at its own size that live at once; measured up to 80 megapixels
NETWORK_BYTES = {True: 700, False: 2000}  # per pixel of the network's input, lean or as mmseg does it; measured on R50
LONGEST = 2048  # input side up to which a test pipeline without a Resize step is left alone


@dataclass(frozen=True)
class LayerPrediction:
    """What the head predicts after one decoder layer (index 0: before the first).

    `class_logits` is `(Q, K + 1)`, the last column "no object"; `mask_logits` `(Q, h / 4, w / 4)`. `allowed` is what
    the *next* decoder layer may attend to, `(Q, rows, columns)` bool at that layer's feature level; None after the
    last. `rescued` `(Q,)` bool: the query's mask was empty, so it may attend everywhere.
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
    """A segmented image. Arrays are at the image's own size (after EXIF orientation).

    `image` RGB `(H, W, 3)` uint8; `label_map` `(H, W)` uint8 class ids 0..K-1; `confidence` `(H, W)` float32 0..1, the
    winner's part of the sum of all class scores; `class_logits` `(Q, K + 1)` and `mask_logits` `(Q, h / 4, w / 4)`
    float32, the last prediction; `layers` all predictions, if they were asked for; `palette` the model's classes.
    """

    image: np.ndarray
    label_map: np.ndarray
    confidence: np.ndarray
    class_logits: Tensor
    mask_logits: Tensor
    geometry: Geometry
    layers: tuple[LayerPrediction, ...] = ()
    source: str = "array"
    palette: Palette = field(default_factory=ade20k_palette, repr=False)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Classes by falling area: `id`, `name`, `share` (0..1) and mean `confidence` (0..1)."""
        counts = count_ids(self.label_map)
        ids = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        columns = {
            "id": ids,
            "name": [self.palette.names[i] for i in ids],
            "share": counts[ids] / counts.sum(),
            "confidence": [float(self.confidence[self.label_map == i].mean()) for i in ids],
        }
        return pd.DataFrame(columns)

    @cached_property
    def scores(self) -> Tensor:
        """Class scores at the network's size, `(K, h, w)` float32; computed again from the logits when first asked."""
        scores = class_scores(self.class_logits[None], self.mask_logits[None], self.geometry.padded)  # (1, K, h, w)
        return self.geometry.inner(scores)[0]  # (K, h, w), padding cut away

    @cached_property
    def entropy(self) -> np.ndarray:
        """How undecided the pixel is, `(H, W)` float32: 0 one class has all the score, 1 all classes have the same."""
        total = self.scores.sum(0).clamp_min(1e-12)  # (K, h, w) -> (h, w)
        result = torch.zeros_like(total)
        for score in self.scores:  # one class (h, w) at a time: no second array of this size
            part = score / total
            result -= torch.xlogy(part, part)
        result = (result / np.log(len(self.scores))).clamp_(0, 1)[None, None]  # (1, 1, h, w)
        return upsample(result, self.geometry.image)[0, 0].numpy()  # (H, W)

    @cached_property
    def owner(self) -> np.ndarray:
        """The query that adds most to the winning class, `(h, w)` int16 at the network's size."""
        labels, probabilities = self.scores.argmax(0), self.class_logits.softmax(-1)  # (h, w), (Q, K + 1)
        best, owner = torch.full(labels.shape, -1.0), torch.zeros(labels.shape, dtype=torch.int16)
        for q, logits in enumerate(self.mask_logits):  # logits (h / 4, w / 4)
            padded = upsample(logits[None, None], self.geometry.padded)  # (1, 1, *padded)
            mask = self.geometry.inner(padded)[0, 0].sigmoid()  # (h, w)
            added = probabilities[q][labels] * mask  # (K + 1,) looked up at each pixel's winner: (h, w)
            better = added > best
            torch.maximum(best, added, out=best)
            owner.masked_fill_(better, q)
        return owner.numpy()

    @cached_property
    def queries(self) -> list[Query]:
        """All queries, the one that owns most first."""
        probabilities = self.class_logits.softmax(-1)  # (Q, K + 1)
        score, ids = probabilities[:, :-1].max(-1)  # both (Q,)
        shares = np.bincount(self.owner.ravel(), minlength=len(ids)) / self.owner.size  # (Q,)
        names = [self.palette.names[i] for i in ids]
        columns = (ids.tolist(), names, score.tolist(), probabilities[:, -1].tolist(), shares.tolist())
        found = [Query(index, *row) for index, row in enumerate(zip(*columns, strict=True))]
        return sorted(found, key=lambda query: (-query.share, -query.score))

    @property
    def used_queries(self) -> list[Query]:
        """The queries that own at least one pixel."""
        return [query for query in self.queries if query.share > 0]

    def query_mask(self, query: int, layer: int = -1, size: Sequence[int] | None = None) -> np.ndarray:
        """One query's mask, `(H, W)` float32 probabilities.

        Args:
            query: 0..Q-1.
            layer: which prediction; -1 is the last and needs no `layers`.
            size: `[H, W]` of the result; None: the image's own.
        """
        if not 0 <= query < len(self.mask_logits):
            raise ValueError(f"expected a query 0..{len(self.mask_logits) - 1}, got {query}")
        logits = self.mask_logits if layer == -1 else self._layer(layer).mask_logits
        return self.geometry.to_image(logits[query], size).sigmoid().numpy()  # (h / 4, w / 4) -> (H, W)

    def allowed(self, query: int, layer: int) -> np.ndarray:
        """Where decoder layer `layer` (1..L) let the query look, `(rows, columns)` bool at that feature level."""
        mask = self._layer(layer - 1).allowed if layer >= 1 else None
        if mask is None:
            raise ValueError(f"expected a decoder layer 1..{len(self.layers) - 1}, got {layer}")
        return mask[query].numpy()  # (Q, rows, columns) -> (rows, columns)

    def _layer(self, index: int) -> LayerPrediction:
        if not self.layers:
            raise ValueError("the layers were not kept: call segment(model, image, layers=True)")
        if not 0 <= index < len(self.layers):
            raise ValueError(f"expected a prediction 0..{len(self.layers) - 1}, got {index}")
        return self.layers[index]


@dataclass(frozen=True)
class Geometry:
    """How the network's maps lie on the image. Sizes are `[H, W]`.

    `padded` is the input's size with padding; `rows` (top to bottom) and `columns` (left to right) are the slices of it
    without padding; `image` is the image's own size.
    """

    padded: tuple[int, int]
    rows: slice
    columns: slice
    image: tuple[int, int]

    @classmethod
    def of(cls, meta: dict[str, Any], size: Sequence[int]) -> Geometry:
        """From what the test pipeline and the preprocessor noted, and the image's `[H, W]`."""
        padded = tuple(meta.get("pad_shape", meta["img_shape"])[:2])
        left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
        return cls(padded, slice(top, padded[0] - bottom), slice(left, padded[1] - right), tuple(size))

    def inner(self, maps: Tensor) -> Tensor:
        """Cut the padding away: `(..., *padded)` -> `(..., h, w)`."""
        return maps[..., self.rows, self.columns]

    def to_image(self, maps: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Resize logits `(h / 4, w / 4)` to the image `(H, W)`, by way of the padded input, as mmseg does."""
        padded = upsample(maps[None, None].float(), self.padded)  # (1, 1, h / 4, w / 4) -> (1, 1, *padded)
        return upsample(self.inner(padded), size or self.image)[0, 0]  # (1, 1, h, w) -> (H, W)


def segment(model: Any, image: Any, *, layers: bool = False, engine: str = "lean") -> Segmentation | list[Segmentation]:
    """Segment an image, or all images of a folder.

    Args:
        model: from `load`, or from mmseg's `init_model`.
        image: path, PIL image, RGB array (see `images.read_image`), or a folder of images.
        layers: keep the prediction after every decoder layer and the attention each layer was allowed.
        engine: `"lean"` computes the same in less time with `scratch.model` (see `inference.lean`), unless layers are
            asked for or the model is not a plain Mask2Former; `"mmseg"` runs the model itself.

    Returns: a `Segmentation`; for a folder a list of them, by file name. A file that cannot be read is warned about.
    Raises: FileNotFoundError or ValueError: one sentence with the file and the fix.
    """
    if isinstance(image, (str, os.PathLike)) and Path(image).is_dir():
        return _segment_folder(model, Path(image), layers, engine)
    source = str(image) if isinstance(image, (str, os.PathLike)) else "array"
    return segment_array(model, read_image(image), source, layers, engine)


def class_scores(class_logits: Tensor, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Mask2Former's class scores: the queries' class probabilities, spread over their masks and added up.

    The same operations as `Mask2FormerHead.predict` of mmseg 1.2.2.

    Args:
        class_logits: `(B, Q, K + 1)`, the last column "no object".
        mask_logits: `(B, Q, h, w)`.
        size: `[H, W]` to which the masks are resized first (the padded input).

    Returns: `(B, K, H, W)`, 0..Q; not a probability: the classes of a pixel need not add up to 1.
    """
    masks = F.interpolate(mask_logits, size=tuple(size), mode="bilinear", align_corners=False)  # (B, Q, H, W)
    masks = masks.sigmoid_()  # in place: the largest array there is
    probabilities = class_logits.softmax(-1)[..., :-1]  # (B, Q, K): "no object" belongs to no pixel
    return torch.einsum("bqk,bqhw->bkhw", probabilities, masks)  # the queries are summed up: (B, K, H, W)


@torch.no_grad()
def segment_array(
    model: Any, image: np.ndarray, source: str, layers: bool = False, engine: str = "lean"
) -> Segmentation:
    """Segment an RGB array `(H, W, 3)` uint8; `source` names it in messages."""
    if engine not in ("lean", "mmseg"):
        raise ValueError(f"expected the engine 'lean' or 'mmseg', got {engine!r}")
    inputs, samples = _prepare(model, image, source)
    lean = None if layers or engine == "mmseg" else lean_model(model)
    need_memory(image.shape[:2], inputs, NETWORK_BYTES[lean is not None], source)
    with _watch_attention(model.decode_head, layers) as seen:  # both results are lists, one entry per prediction
        if lean is None:
            class_logits, mask_logits = model.decode_head(model.extract_feat(inputs), samples)
        else:
            class_logits, mask_logits = zip(*lean(inputs, every=False), strict=True)
    if not torch.isfinite(class_logits[-1]).all() or not torch.isfinite(mask_logits[-1]).all():
        said = "the model's scores are not finite numbers, so its weights are damaged; load others"
        raise ValueError(f"{source}: {said}")
    geometry = Geometry.of(samples[0].metainfo, image.shape[:2])
    last = class_logits[-1], mask_logits[-1]

    def inner(maps: Tensor) -> Tensor:  # on the CPU if a large image's own size has no room on the GPU
        maps, needed = geometry.inner(maps), PIXEL_BYTES * image.shape[0] * image.shape[1]
        return maps.cpu() if maps.is_cuda and free_memory(str(maps.device)) < needed else maps

    if lean is None:
        scores = inner(class_scores(*last, geometry.padded))  # (1, K, h, w)
        label_map, best = upsampled_argmax(scores, geometry.image)  # both (H, W)
        total, ids = upsample(scores.sum(1, keepdim=True), geometry.image)[0, 0], None  # (1, 1, h, w) -> (H, W)
    else:
        label_map, best, total, ids = winners(*last, geometry.padded, inner, geometry.image)  # three (H, W), and (n,)
    return Segmentation(
        image=image,
        label_map=_class_ids(label_map.cpu().numpy(), ids),
        confidence=best.div_(total.clamp_min_(1e-12)).clamp_(0, 1).cpu().numpy(),
        class_logits=class_logits[-1][0].cpu(),  # (1, Q, K + 1) -> (Q, K + 1)
        mask_logits=mask_logits[-1][0].cpu(),  # (1, Q, h / 4, w / 4) -> (Q, h / 4, w / 4)
        geometry=geometry,
        layers=_layers(class_logits, mask_logits, seen) if layers else (),
        source=source,
        palette=palette_of(model),
    )


def need_memory(size: Sequence[int], inputs: Tensor, per_pixel: int, source: str) -> None:
    """ValueError if segmenting an image of `[H, W]` is going to take more than what is free.

    `inputs` is what the network will see, `(1, 3, h, w)`; `per_pixel` are the bytes for each of its pixels.
    """
    network, own = per_pixel * inputs.shape[-2] * inputs.shape[-1], PIXEL_BYTES * size[0] * size[1]
    free = free_memory()
    if network > (there := free_memory(str(inputs.device))):  # on a GPU another memory than the image's
        where, needed, free = str(inputs.device), network, there
    elif (needed := own + (0 if inputs.is_cuda else network)) > free:
        where = "the main memory"
    else:
        return
    raise ValueError(
        f"{source} has {size[1]} x {size[0]} pixels and needs {needed / 1e9:.1f} GB, {where} has {free / 1e9:.1f} GB "
        "free: make the image smaller, or close other programs"
    )


def _class_ids(places: np.ndarray, ids: Tensor | None) -> np.ndarray:
    """Class ids `(H, W)` for places `(H, W)` among `ids` `(n,)`; both uint8, without a copy in larger numbers."""
    if ids is None:
        return places
    table = np.zeros(256, dtype=np.uint8)
    table[: len(ids)] = ids.cpu().numpy()
    return cv2.LUT(places, table)


def _layers(class_logits: list[Tensor], mask_logits: list[Tensor], seen: list[Tensor]) -> tuple[LayerPrediction, ...]:
    """The head's predictions, each with the attention mask that was made of it."""
    masks_of = [*map(_allowed, seen, mask_logits), (None, None)]  # the last prediction steers no layer
    rows = zip(class_logits, mask_logits, masks_of, strict=True)
    return tuple(LayerPrediction(classes[0].cpu(), masks[0].cpu(), *mask) for classes, masks, mask in rows)


def _allowed(blocked: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`attn_mask` `(heads, Q, L)`, True = blocked, as maps `(Q, rows, columns)`, True = allowed; and who was rescued.

    The mask does not tell the shape of its feature level; its L tokens are the mask logits' `h / 4 * w / 4` cells,
    made coarser by the same factor in both directions.
    """
    tokens, (height, width) = blocked.shape[-1], mask_logits.shape[-2:]
    factor = round((height * width / tokens) ** 0.5)  # 2, 4 or 8
    rows, columns = -(-height // factor), -(-width // factor)  # rounded up, as a convolution with stride 2 does
    allowed = ~blocked[0].reshape(-1, rows, columns)  # all heads have one mask: (Q, L) -> (Q, rows, columns)
    resized = upsample(mask_logits, [rows, columns])[0].flatten(1)  # (1, Q, h / 4, w / 4) -> (Q, L)
    return allowed.cpu(), (resized.sigmoid() < 0.5).all(-1).cpu()  # (Q, L) -> (Q,)


@contextmanager
def _watch_attention(head: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect the attention mask that each decoder layer is given: `(B * heads, Q, L)` bool, True = blocked."""
    seen: list[Tensor] = []

    def note(module: Any, args: tuple, kwargs: dict) -> None:
        seen.append(kwargs["cross_attn_mask"].clone())

    layers = head.transformer_decoder.layers if wanted else []
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield seen


def _prepare(model: Any, image: np.ndarray, source: str) -> tuple[Tensor, list[Any]]:
    """Run the test pipeline and the preprocessor, on copies: input `(1, 3, h, w)` and its data sample."""
    from mmengine.dataset import Compose

    if model.test_cfg.get("mode", "whole") != "whole":
        raise ValueError(f"expected a config with test_cfg mode 'whole', got {model.test_cfg['mode']!r}")
    pipeline = Compose(_test_pipeline(model.cfg, image.shape[:2]))
    try:
        packed = pipeline({"img": np.ascontiguousarray(image[..., ::-1])})  # mmseg's pipelines want (H, W, 3) BGR
    except Exception as error:
        what = f"an image of {image.shape[0]} x {image.shape[1]} pixels"
        raise ValueError(f"{source}: the test pipeline cannot take {what}: {one_line(error)}") from error
    data = model.data_preprocessor({name: [value] for name, value in packed.items()}, training=False)
    return data["inputs"], data["data_samples"]  # (1, 3, h, w), padded to a multiple of the size divisor


def _test_pipeline(config: Any, size: Sequence[int]) -> list[dict]:
    steps = config.get("test_pipeline") or config.test_dataloader.dataset.pipeline
    steps = [copy.deepcopy(dict(step)) for step in steps if step["type"] not in LABEL_STEPS]
    steps[0] = {"type": "LoadImageFromNDArray"}
    if max(size) > LONGEST and not any("Resize" in step["type"] for step in steps):
        steps.insert(1, {"type": "Resize", "scale": (LONGEST, LONGEST), "keep_ratio": True})
    return steps


def _segment_folder(model: Any, folder: Path, layers: bool, engine: str) -> list[Segmentation]:
    results = []
    for path, result in segment_each(model, list_images(folder), layers, engine):
        if isinstance(result, Segmentation):
            results.append(result)
        else:
            warnings.warn(f"left out {path.name}: {result}", UserWarning, stacklevel=3)
    if not results:
        raise ValueError(f"none of the images in {folder} could be read")
    return results


def segment_each(
    model: Any, paths: Sequence[Path], layers: bool = False, engine: str = "lean"
) -> Iterator[tuple[Path, Segmentation | Exception]]:
    """Segment one file after another; what cannot be read, or is too large, comes back as the error."""
    for path in tqdm(paths, desc="segment", unit="image", disable=len(paths) < 4, leave=False):
        try:
            yield path, segment_array(model, read_image(path), str(path), layers, engine)
        except (ValueError, OSError) as error:
            yield path, error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            yield path, ValueError(f"{path} needs more memory than there is: make it smaller, or close other programs")
