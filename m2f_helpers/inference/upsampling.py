"""The winner of each pixel at the image's own size, in a fraction of the memory. Taught in notebook 05."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops

WHOLE = (
    200_000_000  # up to so many class scores (1.3 megapixels x 150) the picture's own size is done in one go, as mmseg
)
CHUNK = 24_000_000  # beyond that, so many at a time


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
        best, winner = upsample(scores, size)[0].max(0)
        return winner.to(torch.uint8), best
    ids = _possible_winners(scores[0])
    winner = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    best = torch.full(size, -torch.inf, device=scores.device)
    for part in ids.split(max(1, chunk // pixels)):
        value, local = upsample(scores[:, part], size)[0].max(0)
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


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize `(B, K, h, w)` to `[H, W]` bilinearly, as mmseg does."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
