"""The winner of each pixel at the image's own size, in a fraction of the memory. Taught in notebook 05."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops

WHOLE = 200_000_000  # up to so many scores at the image's own size (1.3 megapixels x 150) all are held, as in mmseg
LIKELY = (0.02, 0.002, 0.0)  # probabilities from which on a class is taken for likely; 0 takes all


def upsampled_argmax(scores: Tensor, size: Sequence[int], whole: int = WHOLE) -> tuple[Tensor, Tensor]:
    """`F.interpolate(scores, size, mode="bilinear").max(1)`; for large sizes in a fraction of the memory.

    Bilinear interpolation stays between the four pixels around it. So a class that is beaten by one other class in all
    four corners of every cell cannot win anywhere: it is not interpolated at all. The rest is done one class at a time,
    with a running best.

    Args:
        scores: `(1, K, h, w)` float.
        size: `[H, W]` of the result.
        whole: up to this many scores at size `[H, W]` everything is done at once: bit for bit what mmseg does. Beyond,
            the same up to the order of rounding: a pixel can differ where two classes are equal to seven digits.

    Returns: winner `(H, W)` uint8 (the lowest id on a tie, as `argmax`), and its score `(H, W)` float.
    """
    size = tuple(size)
    if scores.shape[1] * size[0] * size[1] <= whole:
        best, winner = upsample(scores, size)[0].max(0)  # (1, K, h, w) -> (K, H, W) -> (H, W)
        return winner.to(torch.uint8), best
    winner = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    best = torch.full(size, -torch.inf, device=scores.device)
    for class_id in _possible_winners(scores[0]).tolist():  # ascending, so that on a tie the lowest id stays
        value = upsample(scores[:, class_id : class_id + 1], size)[0, 0]  # (1, 1, h, w) -> (H, W)
        winner.masked_fill_(value > best, class_id)
        torch.maximum(best, value, out=best)
    return winner, best


def winners(
    class_logits: Tensor, mask_logits: Tensor, padded: Sequence[int], inner: Callable, size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `class_scores` and `upsampled_argmax` give for all classes, from the few that can win.

    A class that no query finds likely can hardly win. So only the likely ones are computed, and one score more: as if
    all the others were one class that takes from each query the best that any of them has. None of them is ever above
    that. If it stays below the winner at every pixel of the result, nothing was missed; else more classes are taken.

    Args:
        class_logits: `(1, Q, K + 1)`, the last column "no object".
        mask_logits: `(1, Q, h / 4, w / 4)`.
        padded: `[H, W]` of the network's input.
        inner: takes the padding off maps `(1, n, *padded)`, and to where there is room for the result.
        size: `[H, W]` of the result.

    Returns: places `(H, W)` uint8 among the ids, the winner's score `(H, W)`, the sum of all scores `(H, W)`, and the
        ids of the classes looked at `(n,)`, ascending.
    """
    probabilities = class_logits.softmax(-1)[..., :-1]  # (1, Q, K)
    total = probabilities.sum(-1, keepdim=True)  # (1, Q, 1)
    masks = upsample(mask_logits, padded).sigmoid_()  # (1, Q, *padded), in place: the largest array there is
    for least in LIKELY:
        likely = probabilities[0].amax(0) >= least  # (K,)
        ids, rest = likely.nonzero()[:, 0], (probabilities * ~likely).amax(-1, keepdim=True)  # (n,), (1, Q, 1)
        votes = torch.cat((probabilities[..., ids], rest, total), -1)  # (1, Q, n + 2)
        scores = inner(torch.einsum("bqk,bqhw->bkhw", votes, masks))  # (1, n + 2, h, w)
        if not len(ids):
            continue
        places, best = upsampled_argmax(scores[:, :-2], size, WHOLE // 8)  # (1, n, h, w) -> (H, W) each
        if least == 0:
            break
        bound = upsample(scores[:, -2:-1], size)[0, 0].div_(best)  # (H, W): what the others could have, at most
        if bool((bound < 1 - 1e-5).all()):  # rounding must not decide
            break
    return places, best, upsample(scores[:, -1:], size)[0, 0], ids  # the sum: (1, 1, h, w) -> (H, W)


def _possible_winners(scores: Tensor) -> Tensor:
    """Ids, ascending, of the classes of `(K, h, w)` that some bilinear interpolation could let win.

    A cell is the square between four neighbouring pixels. Inside it a class is at least the smallest and at most the
    largest of its four corners. A class whose largest corner is below another class's smallest one loses there.
    """
    leaders = scores.argmax(0).unique()  # (K, h, w) -> (h, w) -> ids of the classes that win at some pixel
    lowest = _corners(scores[leaders], torch.minimum)  # (leaders, h - 1, w - 1): what each leader has all over a cell
    floor = lowest.amax(0)  # (h - 1, w - 1): what has to be reached in each cell to win there
    floor = floor - 1e-5 * floor.abs() - 1e-7  # interpolation rounds
    # A cheap test first: a class whose best pixel anywhere is below the lowest floor wins nowhere.
    ids = (scores.amax((1, 2)) >= floor.min()).nonzero()[:, 0]  # (K, h, w) -> (K,) -> (ids,)
    if len(ids) > 1.5 * len(leaders):  # the exact test, cell by cell, pays only if it can spare many classes
        # _corners of one class: (1, h, w) -> (1, h - 1, w - 1); kept if it reaches the floor in at least one cell
        ids = ids[[bool((_corners(scores[i : i + 1], torch.maximum)[0] >= floor).any()) for i in ids.tolist()]]
    return ids


def _corners(maps: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Minimum or maximum over the four corners of each cell: `(K, h, w)` -> `(K, h - 1, w - 1)`, at least 1."""
    if maps.shape[1] > 1:
        maps = combine(maps[:, :-1], maps[:, 1:])  # upper and lower neighbour: (K, h - 1, w)
    if maps.shape[2] > 1:
        maps = combine(maps[:, :, :-1], maps[:, :, 1:])  # left and right neighbour: (K, h - 1, w - 1)
    return maps


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize `(B, K, h, w)` to `[H, W]` bilinearly, as mmseg does."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)  # (B, K, H, W)
