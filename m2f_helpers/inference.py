"""From a picture to a class map with a trained Mask2Former, and a look at every step between. Taught in notebook 05.

`segment` gives what mmseg's `inference_model` gives, pixel for pixel (`mmseg/apis/inference.py`, mmseg 1.2.2), with
three differences: it takes RGB (a path, a PIL picture or an array) and never BGR; it changes nothing in the model or
its config; and at the picture's own size it holds the scores of a few classes at a time, where mmseg holds all 150.

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
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers import files
from m2f_helpers.checkpoints import load_weights, profile_weights
from m2f_helpers.config import Edited, base_config, set_data
from m2f_helpers.palette import IGNORE, NUM_CLASSES, ade20k_palette
from m2f_helpers.pictures import list_images, one_line, read_image
from m2f_helpers.plotting import overlay
from m2f_helpers.profiles import get_profile
from m2f_helpers.training import newest_checkpoint

LONGEST = 2048  # input side up to which a test pipeline without a Resize step is left alone
WHOLE = (
    200_000_000  # up to so many class scores (1.3 megapixels x 150) the picture's own size is done in one go, as mmseg
)
CHUNK = 24_000_000  # beyond that, so many at a time


@dataclass(frozen=True)
class LayerPrediction:
    """What the head predicts after one decoder layer (index 0: before the first).

    `class_logits` is `(Q, K + 1)`, the last column "no object"; `mask_logits` `(Q, h / 4, w / 4)`. `allowed` is what
    the *next* decoder layer may attend to, `(Q, rows, columns)` bool at that layer's feature level; None after the
    last.
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
    winner's part of the sum of all class scores; `class_logits` `(Q, K + 1)` and `mask_logits` `(Q, h / 4, w / 4)`
    float32, the last prediction; `layers` all predictions, if they were asked for.
    """

    image: np.ndarray
    label_map: np.ndarray
    confidence: np.ndarray
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
    def scores(self) -> Tensor:
        """Class scores at the network's size, `(K, h, w)` float32; computed again from the logits when first asked."""
        scores = class_scores(self.class_logits[None], self.mask_logits[None], self.geometry.padded)
        return scores[0, :, self.geometry.rows, self.geometry.columns]

    @cached_property
    def entropy(self) -> np.ndarray:
        """How undecided the pixel is, `(H, W)` float32: 0 one class has all the score, 1 all classes have the same."""
        return _resize(_entropy(self.scores)[None, None], self.geometry.picture)[0, 0].numpy()

    @cached_property
    def owner(self) -> np.ndarray:
        """The query that adds most to the winning class, `(h, w)` int16 at the network's size."""
        return _owner(self.class_logits, self.mask_logits, self.scores.argmax(0), self.geometry).numpy()

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
        config: an MMEngine `Config`, what an edit of `m2f_helpers.config` returned, or the path of a config file. It is
            copied, never changed.
        checkpoint: weights, read by `checkpoints.load_weights`; None leaves the model as it was initialised, at random.
        device: `"cpu"`, `"cuda"`, ...; None takes a GPU if there is one.

    Returns: mmseg's segmentor in evaluation mode; `.cfg` holds the copied config.
    Raises: FileNotFoundError or ValueError naming the file, and what was not in it: a half-filled model would guess.
    """
    from mmengine import init_default_scope
    from mmseg.registry import MODELS

    config = _read_config(config)
    _forget_pretrained(config.model)
    init_default_scope(config.get("default_scope", "mmseg"))
    model = MODELS.build(config.model)
    if checkpoint is not None:
        report = load_weights(model, checkpoint)
        if report.missing or report.reshaped:
            raise ValueError(f"{checkpoint} is of another model: {report.text}")
    model.cfg = config
    model.dataset_meta = {"classes": ade20k_palette().names, "palette": ade20k_palette().colors.tolist()}
    return model.to(_device(device)).eval()


def load_profile(
    profile: str = "demo", config: Any = None, checkpoint: str | Path | None = None, device: str | None = None
) -> Any:
    """`load` with a profile's config and weights wherever none are given.

    Args:
        profile: `"demo"` or `"ade20k"`.
        config: in place of the profile's.
        checkpoint: in place of the profile's; the `ade20k` profile's own is fetched once, with its hash checked.
        device: as in `load`.
    """
    settings = get_profile(profile)
    checkpoint = profile_weights(settings.weights) if checkpoint is None else checkpoint
    return load(base_config(settings) if config is None else config, checkpoint, device)


def load_finetuned(folder: str | Path, profile: str = "demo", device: str | None = None) -> Any | None:
    """The model that notebook 04 (or `m2f train`) left in a folder, if there is one and it is of this profile.

    Args:
        folder: with `config.py` and checkpoints.
        profile: `"demo"` or `"ade20k"`.
        device: as in `load`.

    Returns: the model, or None if the folder has none or one of another profile.
    """
    folder = Path(folder)
    if not (folder / "config.py").is_file():
        return None
    config, wanted = _read_config(folder / "config.py"), base_config(profile)
    heads = config.model.decode_head, wanted.model.decode_head
    if config.model.backbone.depth != wanted.model.backbone.depth or heads[0].num_queries != heads[1].num_queries:
        return None
    return load(config, newest_checkpoint(folder), device)


def segment(model: Any, image: Any, *, layers: bool = False) -> Segmentation | list[Segmentation]:
    """Segment a picture, or all pictures of a folder.

    Args:
        model: from `load`, or from mmseg's `init_model`.
        image: path, PIL picture, RGB array (see `pictures.read_image`), or a folder of pictures.
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


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled pictures. Scores in percent, 0..100, as mmseg's `IoUMetric` gives them.

    `miou` is the mean IoU over the classes that occur in truth or prediction, `accuracy` the part of judged pixels that
    are right. `confusion` `(K, K)` int64 counts pixels, truth in rows, prediction in columns, ignore left out.
    """

    miou: float
    accuracy: float
    table: pd.DataFrame
    confusion: np.ndarray
    pictures: int

    def confusions(self, limit: int = 10) -> pd.DataFrame:
        """The most frequent mistakes: `truth`, `predicted`, `pixels`, and their `share` of the true class, 0..1."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[: min(limit, int((wrong > 0).sum()))]
        truth, predicted = np.unravel_index(order, wrong.shape)
        names, pixels = ade20k_palette().names, wrong[truth, predicted]
        columns = {"truth": [names[i] for i in truth], "predicted": [names[i] for i in predicted], "pixels": pixels}
        return pd.DataFrame({**columns, "share": pixels / self.confusion.sum(1)[truth]})


@dataclass(frozen=True)
class PredictReport:
    """What `predict` wrote: class shares of all pictures, the files, and per failed picture the reason."""

    table: pd.DataFrame
    files: tuple[Path, ...]
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(model: Any, data: Any, *, limit: int | None = None, progress: bool = True) -> Evaluation:
    """Judge a model on the validation pictures, with mmseg's `IoUMetric`.

    Args:
        model: from `load`.
        data: a data folder that `config.set_data` knows (ADE20K layout), or a config whose validation data is meant.
        limit: at most this many pictures; None takes all.
        progress: show a bar.

    Returns: mIoU, a table of the classes that occur (by number of true pixels), and the confusions.
    Raises: FileNotFoundError or ValueError if there are no pictures or labels, or a label has another size.
    """
    from mmseg.evaluation.metrics import IoUMetric

    dataset = _labelled_pictures(model, data)
    areas = np.zeros((4, NUM_CLASSES))
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    count = min(len(dataset), limit or len(dataset))
    for i in tqdm(range(count), desc="evaluate", unit="picture", disable=not progress or count < 4, leave=False):
        item = dataset[i]
        predicted = _segment_array(model, read_image(item["img_path"]), item["img_path"], False).label_map
        truth = _check_truth(item, predicted)
        parts = IoUMetric.intersect_and_union(_tensor(predicted), _tensor(truth), NUM_CLASSES, IGNORE)
        areas += torch.stack(parts).numpy()
        confusion += confusion_matrix(predicted, truth)
    metrics = IoUMetric.total_area_to_metrics(*torch.from_numpy(areas), metrics=["mIoU"])
    miou, accuracy = float(np.nanmean(metrics["IoU"]) * 100), float(metrics["aAcc"] * 100)
    return Evaluation(miou, accuracy, _class_table(metrics, areas), confusion, count)


def confusion_matrix(prediction: np.ndarray, truth: np.ndarray, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Count pixels by true and predicted class, those with truth 255 = ignore left out.

    Args:
        prediction: class ids `(H, W)`.
        truth: class ids `(H, W)`, 255 = ignore.
        num_classes: K.

    Returns: `(K, K)` int64, truth in rows, prediction in columns.
    """
    judged = np.asarray(truth) != IGNORE
    pairs = np.asarray(truth)[judged].astype(np.int64) * num_classes + np.asarray(prediction)[judged]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def predict(model: Any, inputs: Iterable[str | Path], out: str | Path, *, alpha: float = 0.55) -> PredictReport:
    """Segment files and folders and write the results. A file that cannot be read does not stop the rest.

    Per picture two files: `NAME_overlay.png`, and `NAME_labels.png` with the palette in it and ids as ADE20K has them
    on disk (class + 1; 0 = other). For all pictures together `shares.csv`: file, id, name, share, confidence.

    Args:
        model: from `load`.
        inputs: pictures and folders of pictures.
        out: folder for the results, made if need be.
        alpha: weight of the class colours in the overlay, 0..1.

    Returns: the table, the files written, and the reason for each picture that failed.
    Raises: ValueError if there is nothing to do; an input that does not exist counts as failed.
    """
    out, failed, tables, written = Path(out), {}, [], []
    paths = list(_expand(inputs, failed))
    if not paths and not failed:
        raise ValueError("expected at least one picture or folder of pictures, got none")
    out.mkdir(parents=True, exist_ok=True)
    names = _unique_names(paths)
    for path, result in _each(model, paths):
        if not isinstance(result, Segmentation):
            failed[str(path)] = str(result)
            continue
        written += _write(result, out, names[path], alpha)
        tables.append(result.table.assign(file=path.name))
    table = pd.concat(tables) if tables else pd.DataFrame(columns=["file", "id", "name", "share", "confidence"])
    table = table[["file", "id", "name", "share", "confidence"]].reset_index(drop=True)
    files.write(out / "shares.csv", table.round(6).to_csv(index=False))
    return PredictReport(table, (*written, out / "shares.csv"), failed)


def save_labels(label_map: np.ndarray, path: str | Path) -> Path:
    """Write a label map `(H, W)` of ids in memory as a PNG with the palette, ids as on disk: class + 1, 0 = other.

    255 = ignore becomes 0. mmseg's `LoadAnnotations` with `reduce_zero_label` reads back the same label map.
    """
    label_map = np.asarray(label_map)
    on_disk = np.where(label_map == IGNORE, 0, label_map.astype(np.int16) + 1).astype(np.uint8)
    picture = Image.fromarray(on_disk)
    picture.putpalette([128, 128, 128, *ade20k_palette().colors.ravel().tolist()])
    with files.replacing(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)


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
    return Segmentation(
        image=image,
        label_map=label_map.cpu().numpy(),
        confidence=(best / total.clamp_min(1e-12)).clamp_(0, 1).cpu().numpy(),
        class_logits=class_logits[-1][0].cpu(),
        mask_logits=mask_logits[-1][0].cpu(),
        geometry=geometry,
        layers=_layers(class_logits, mask_logits, seen) if layers else (),
        source=source,
    )


def upsampled_argmax(
    scores: Tensor, size: Sequence[int], whole: int = WHOLE, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """`F.interpolate(scores, size, mode="bilinear").max(1)`; for large sizes in a fraction of the memory.

    Bilinear interpolation stays between the four pixels around it. So a class that is beaten by one other class in all
    four corners of every cell cannot win anywhere: it is not interpolated at all. The rest is done a few classes at a
    time, with a running best.

    Args:
        scores: `(1, K, h, w)` float.
        size: `[H, W]` of the result.
        whole: up to this many scores at size `[H, W]` everything is done at once: bit for bit what mmseg does. Beyond,
            the same up to the order of rounding: a pixel can differ where two classes are equal to seven digits.
        chunk: beyond `whole`, scores held at size `[H, W]` at a time.

    Returns: winner `(H, W)` uint8 (the lowest id on a tie, as `argmax`), and its score `(H, W)` float.
    """
    size = tuple(size)
    pixels = size[0] * size[1]
    if scores.shape[1] * pixels <= whole:
        best, winner = _resize(scores, size)[0].max(0)
        return winner.to(torch.uint8), best
    ids = _possible_winners(scores[0])
    winner = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    best = torch.full(size, -torch.inf, device=scores.device)
    for part in ids.split(max(1, chunk // pixels)):
        value, local = _resize(scores[:, part], size)[0].max(0)
        winner = torch.where(value > best, part[local].to(torch.uint8), winner)
        torch.maximum(best, value, out=best)
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

    layers = head.transformer_decoder.layers if wanted else []
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
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
            f"{source}: the test pipeline cannot take a picture of {size} pixels: {one_line(error)}"
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
            yield path, _segment_array(model, read_image(path), str(path), layers)
        except (ValueError, OSError) as error:
            yield path, error


# ------------------------------------------------------------------------------------------------- evaluate, predict


def _labelled_pictures(model: Any, data: Any) -> Any:
    """mmseg's data set for the validation pictures, whose items have `img_path` and `gt_seg_map` at full size."""
    from mmengine import Config
    from mmseg.registry import DATASETS

    if isinstance(data, (str, os.PathLike)):
        data = set_data(model.cfg, data)
    config = data.cfg if isinstance(data, Edited) else data
    if not isinstance(config, Config):
        raise ValueError(f"expected a data folder or a Config, got {type(data).__name__}")
    settings = copy.deepcopy(config.val_dataloader.dataset)
    settings.pipeline = [{"type": "LoadAnnotations"}]
    pictures = Path(settings.get("data_root") or "") / settings.data_prefix.img_path
    if not pictures.is_dir():
        raise FileNotFoundError(f"the folder of validation pictures {pictures} does not exist; see config.set_data")
    dataset = DATASETS.build(settings)
    if not len(dataset):
        raise ValueError(f"no validation pictures in {pictures}")
    return dataset


def _check_truth(item: dict, predicted: np.ndarray) -> np.ndarray:
    truth = item["gt_seg_map"]
    if truth.shape != predicted.shape:
        raise ValueError(
            f"{item['seg_map_path']} has {truth.shape} pixels, its picture {predicted.shape}; sizes must agree"
        )
    wrong = np.unique(truth[(truth >= NUM_CLASSES) & (truth != IGNORE)])
    if len(wrong):
        raise ValueError(
            f"{item['seg_map_path']}: expected class ids 0..{NUM_CLASSES - 1} or {IGNORE}, got {wrong[:5].tolist()}"
        )
    return truth


def _tensor(label_map: np.ndarray) -> Tensor:
    return torch.from_numpy(label_map.astype(np.int64))


def _class_table(metrics: dict, areas: np.ndarray) -> pd.DataFrame:
    """The classes that occur in truth or prediction; `areas` rows: intersection, union, prediction, truth."""
    union, truth = areas[1], areas[3]
    ids = [int(i) for i in np.argsort(-truth, kind="stable") if union[i]]
    names = ade20k_palette().names
    return pd.DataFrame(
        {
            "id": ids,
            "name": [names[i] for i in ids],
            "share": truth[ids] / max(truth.sum(), 1),
            "predicted": areas[2][ids] / max(truth.sum(), 1),
            "iou": metrics["IoU"][ids] * 100,
            "recall": metrics["Acc"][ids] * 100,
        }
    )


def _expand(inputs: Iterable[str | Path], failed: dict[str, str]) -> Iterator[Path]:
    for path in map(Path, inputs):
        if not path.is_dir():
            yield path
            continue
        try:
            yield from list_images(path)
        except ValueError as error:
            failed[str(path)] = str(error)


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for the results of each picture: its stem; with suffix or a number where two would be equal."""
    names: dict[Path, str] = {}
    for path in paths:
        options = [path.stem, path.name, *(f"{path.name}-{n}" for n in range(2, len(paths) + 2))]
        names[path] = next(name for name in options if name not in names.values())
    return names


def _write(result: Segmentation, out: Path, name: str, alpha: float) -> list[Path]:
    mixed = Image.fromarray(overlay(result.image, result.label_map, alpha))
    overlay_file = out / f"{name}_overlay.png"
    with files.replacing(overlay_file) as temporary:
        mixed.save(temporary, format="PNG")
    return [overlay_file, save_labels(result.label_map, out / f"{name}_labels.png")]


# ------------------------------------------------------------------------------------------------------ load, read


def _read_config(config: Any) -> Any:
    import mmdet.models  # noqa: F401  explicitly: mmseg would hide why it cannot be imported
    from mmengine import Config

    config = config.cfg if isinstance(config, Edited) else config
    if isinstance(config, Config):
        return copy.deepcopy(config)
    if not isinstance(config, (str, os.PathLike)):
        raise ValueError(f"expected a Config or the path of one, got {type(config).__name__}")
    if not Path(config).is_file():
        raise FileNotFoundError(f"the config {config} does not exist")
    try:
        return Config.fromfile(str(config))
    except (OSError, SyntaxError, ValueError, ImportError) as error:
        raise ValueError(f"{config} is not a config that MMEngine can read: {one_line(error)}") from None


def _forget_pretrained(model_config: Any) -> None:
    """The checkpoint brings all weights: without this, building the backbone would ask for ImageNet's."""
    model_config.pretrained = None
    if "init_cfg" in model_config.backbone:
        model_config.backbone.init_cfg = None


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} cannot be used here ({one_line(error)}); try cpu") from None
