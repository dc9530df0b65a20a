"""What Mask2Former is trained with: matching, points and three losses, in plain PyTorch. Taught in notebook 07.

Paper: section 3.3 and 4.1 of arXiv 2112.01527. Random numbers are drawn in the order in which mmdet draws them, so with
the same seed both look at the same points.

Shape letters: B images, Q queries, K classes, T targets (one per class in the image), P points, H W the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

IGNORE = 255
WEIGHTS = {"cls": 2.0, "mask": 5.0, "dice": 5.0}  # of the three losses, and of the three costs of matching


@dataclass(frozen=True)
class Target:
    """What is in one image: class ids `(T,)` int64 and a mask for each, `(T, H, W)` float, 0 or 1."""

    labels: Tensor
    masks: Tensor


def target(label_map: Tensor) -> Target:
    """One mask per class of a label map `(H, W)` int64; 255 is in none. mmseg: `_seg_data_to_instance_data`."""
    labels = label_map.unique()
    labels = labels[labels != IGNORE]
    return Target(labels, (label_map[None] == labels[:, None, None]).float())


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps `(n, H, W)` at points `(n or 1, P, 2)`, x then y, 0..1: `(n, P)`, bilinear. mmcv: `point_sample`."""
    grid = (2 * points - 1).expand(len(maps), -1, -1)[:, :, None]  # (n, P, 1, 2)
    return F.grid_sample(maps[:, None], grid.to(maps.dtype), align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def match(class_logits: Tensor, mask_logits: Tensor, wanted: Target, num_points: int) -> tuple[Tensor, Tensor]:
    """The cheapest way to give each target a query of its own. mmdet: `HungarianAssigner` with three costs.

    Args:
        class_logits: `(Q, K + 1)`.
        mask_logits: `(Q, h, w)`.
        wanted: the image's targets.
        num_points: masks are compared at as many random points, the same for all.

    Returns: indices of queries, ascending, and of their targets, both `(min(Q, T),)`.
    """
    points = torch.rand(1, num_points, 2, device=mask_logits.device)
    predicted, masks = sample(mask_logits, points), sample(wanted.masks, points).to(mask_logits.dtype)
    cost = -WEIGHTS["cls"] * class_logits.softmax(1)[:, wanted.labels]  # (Q, T)
    cost = cost + WEIGHTS["mask"] * pairwise_cross_entropy(predicted, masks)
    cost = cost + WEIGHTS["dice"] * pairwise_dice(predicted, masks)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


def pairwise_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy of each `(Q, P)` logits with each `(T, P)` mask: `(Q, T)`. mmdet: `CrossEntropyLossCost`."""
    inside, outside = F.softplus(-logits), F.softplus(logits)  # the loss where the mask is 1, and where it is 0
    return (inside @ masks.T + outside @ (1 - masks).T) / logits.shape[1]


def pairwise_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of each `(Q, P)` logits with each `(T, P)` mask: `(Q, T)`. mmdet: `DiceCost`."""
    areas = logits.sigmoid()
    return 1 - (2 * areas @ masks.T + 1) / (areas.sum(1)[:, None] + masks.sum(1)[None] + 1)


@torch.no_grad()
def choose_points(mask_logits: Tensor, num_points: int) -> Tensor:
    """Points where the masks are least sure, and some anywhere: `(n, P, 2)` for `(n, h, w)` (PointRend, 1912.08193).

    mmdet: `get_uncertain_point_coords_with_randomness`. Of three times P candidates the nearest to 0 are three
    quarters of the points; the rest is drawn anew.
    """
    count, device = len(mask_logits), mask_logits.device
    candidates = torch.rand(count, 3 * num_points, 2, device=device)
    certainty = sample(mask_logits, candidates).abs()
    least = certainty.topk(int(0.75 * num_points), largest=False).indices  # (n, 3/4 P)
    kept = candidates.gather(1, least[..., None].expand(-1, -1, 2))
    return torch.cat((kept, torch.rand(count, num_points - kept.shape[1], 2, device=device)), 1)


def class_loss(class_logits: Tensor, classes: Tensor, no_object: float = 0.1) -> Tensor:
    """Cross-entropy of all queries `(B, Q, K + 1)` with `classes` `(B, Q)`; "no object" counts a tenth."""
    weights = class_logits.new_ones(class_logits.shape[2])
    weights[-1] = no_object
    return F.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), weights)


def mask_loss(logits: Tensor, masks: Tensor, count: int) -> Tensor:
    """Cross-entropy at the points, `(n, P)` both: mean over points, sum over masks, divided by `count`."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(1).sum() / count


def dice_loss(logits: Tensor, masks: Tensor, count: int) -> Tensor:
    """Dice loss at the points, `(n, P)` both: sum over masks, divided by `count`. mmdet: `DiceLoss`, the naive one."""
    areas = logits.sigmoid()
    overlap = (2 * (areas * masks).sum(1) + 1) / (areas.sum(1) + masks.sum(1) + 1)
    return (1 - overlap).sum() / count


def prediction_losses(
    class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target], num_points: int
) -> dict[str, Tensor]:
    """The three losses of one prediction, weighted. mmdet: `Mask2FormerHead._loss_by_feat_single`.

    Args:
        class_logits: `(B, Q, K + 1)`.
        mask_logits: `(B, Q, h, w)`.
        targets: one per image.
        num_points: for matching and, anew, for the losses.
    """
    classes = torch.full(class_logits.shape[:2], class_logits.shape[2] - 1, device=class_logits.device)  # "no object"
    logits, masks, count = [], [], 0
    for i, wanted in enumerate(targets):
        rows, columns = match(class_logits[i], mask_logits[i], wanted, num_points)
        classes[i, rows] = wanted.labels[columns]
        count += max(1, len(rows))  # an image without a target counts as one, as in mmdet
        logits.append(mask_logits[i, rows])
        masks.append(wanted.masks[columns])
    logits, masks = torch.cat(logits), torch.cat(masks)  # (n, h, w), (n, H, W): the matched pairs of all images
    losses = {"cls": class_loss(class_logits, classes)}
    if len(logits):
        points = choose_points(logits, num_points)
        at_points, truth = sample(logits, points), sample(masks, points).to(logits.dtype)
        losses["mask"] = mask_loss(at_points, truth, count)
        losses["dice"] = dice_loss(at_points, truth, count)
    else:  # nothing to match in the whole batch: zero, but a part of the graph
        losses["mask"] = losses["dice"] = mask_logits.sum() * 0
    return {name: WEIGHTS[name] * loss for name, loss in losses.items()}


def losses(
    predictions: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Target], num_points: int = 12544
) -> dict[str, Tensor]:
    """All losses of all predictions, `{"d0.loss_cls": ..., ..., "loss_dice": ...}`; their sum is trained on.

    Args:
        predictions: from `Mask2Former`; the names follow mmseg, where the last one has no prefix.
        targets: one per image.
        num_points: P; 12544 = 112 x 112 in the paper, 1024 for demo.
    """
    named = {}
    for i, prediction in enumerate(predictions):
        prefix = "" if i == len(predictions) - 1 else f"d{i}."
        found = prediction_losses(*prediction, targets, num_points)
        named |= {f"{prefix}loss_{name}": loss for name, loss in found.items()}
    return named
