"""Three answers from the same queries: semantic, instance and panoptic maps, in plain PyTorch. Taught in notebook 07.

This is the "universal" of the paper's title (arXiv 2112.01527, section 1): network and loss stay the same, only the
reading of the predictions differs. All functions take one image: class logits `(Q, K + 1)`, the last column "no
object", and mask logits `(Q, H, W)`, already at the size that is wanted (`resize` does that, as mmseg and mmdet do).

Shape letters: Q queries, K classes, S segments, H W height and width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING = -1  # in a panoptic map: no segment here


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic map: its number there, class id, and the probability of that class."""

    number: int
    class_id: int
    score: float


@dataclass(frozen=True)
class Instances:
    """Objects that may overlap: class ids `(S,)`, scores `(S,)` 0..1, masks `(S, H, W)` bool, best first."""

    class_ids: Tensor
    scores: Tensor
    masks: Tensor


def resize(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits `(Q, h, w)` at another size `[H, W]`, bilinear."""
    return F.interpolate(mask_logits[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def semantic(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """A class for each pixel, `(H, W)` int64: every query votes with its class probabilities wherever its mask is.

    mmseg: `Mask2FormerHead.predict` and the argmax after it. No query is asked what it is as a whole.
    """
    probabilities = class_logits.softmax(1)[:, :-1]  # (Q, K)
    return torch.einsum("qk,qhw->khw", probabilities, mask_logits.sigmoid()).argmax(0)


def instance(
    class_logits: Tensor, mask_logits: Tensor, things: Collection[int] | None = None, limit: int = 100
) -> Instances:
    """The most probable pairs of query and class, each with the query's mask. mmdet: `instance_postprocess`.

    Args:
        class_logits: `(Q, K + 1)`.
        mask_logits: `(Q, H, W)`.
        things: class ids of countable objects; pairs with other classes are left out. None keeps all.
        limit: pairs looked at. A query may come back under two classes: whoever counts objects keeps the best.

    Returns: the pairs. The score is the class probability times the mean mask probability inside the mask.
    """
    probabilities = class_logits.softmax(1)[:, :-1]  # (Q, K)
    classes = probabilities.shape[1]
    best, flat = probabilities.flatten().topk(min(limit, probabilities.numel()))
    queries, class_ids = flat // classes, flat % classes
    if things is not None:
        countable = torch.isin(class_ids, torch.as_tensor(sorted(things), device=class_ids.device))
        best, queries, class_ids = best[countable], queries[countable], class_ids[countable]
    logits = mask_logits[queries]  # (S, H, W)
    masks = logits > 0
    sure = (logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
    scores, order = (best * sure).sort(descending=True, stable=True)
    return Instances(class_ids[order], scores, masks[order])


def panoptic(
    class_logits: Tensor, mask_logits: Tensor, things: Collection[int], min_score: float = 0.8, min_visible: float = 0.8
) -> tuple[Tensor, list[Segment]]:
    """Each pixel belongs to one segment or to none. mmdet: `MaskFormerFusionHead.panoptic_postprocess`.

    Args:
        class_logits: `(Q, K + 1)`.
        mask_logits: `(Q, H, W)`.
        things: class ids of countable objects: each query is a segment of its own. Queries of one other class are
            merged into one segment.
        min_score: queries whose best class is less probable, or "no object", are left out.
        min_visible: a query is left out if a smaller part of its mask remains after the others took theirs.

    Returns: numbers of segments `(H, W)` int64, `NOTHING` where none is, and the segments in that order.
    """
    scores, class_ids = class_logits.softmax(1).max(1)
    kept = ((scores > min_score) & (class_ids < class_logits.shape[1] - 1)).nonzero()[:, 0]
    result = torch.full(mask_logits.shape[1:], NOTHING, device=mask_logits.device)
    if not len(kept):
        return result, []
    masks = mask_logits[kept].sigmoid()
    owner = (scores[kept, None, None] * masks).argmax(0)  # (H, W): which of the kept queries asks loudest
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for i, query in enumerate(kept.tolist()):
        own, whole = owner == i, masks[i] >= 0.5
        visible, area = int(own.sum()), int(whole.sum())
        if not visible or not area or visible / area < min_visible:
            continue
        class_id = int(class_ids[query])
        number = len(segments) if class_id in things else stuff.setdefault(class_id, len(segments))
        if number == len(segments):
            segments.append(Segment(number, class_id, float(scores[query])))
        result[own] = number
    return result, segments


def paint(numbers: Tensor, segments: list[Segment], colors: np.ndarray) -> np.ndarray:
    """A panoptic map in the colours of its classes `(K, 3)`, white between segments, black where none is.

    Returns: RGB `(H, W, 3)` uint8.
    """
    numbers = numbers.cpu().numpy()
    table = np.array([*(colors[segment.class_id] for segment in segments), (0, 0, 0)], np.uint8)
    image = table[numbers]  # `NOTHING` is -1 and so takes the last row
    rim = np.zeros(numbers.shape, bool)
    rim[1:] |= numbers[1:] != numbers[:-1]
    rim[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    image[rim] = 255
    return image
