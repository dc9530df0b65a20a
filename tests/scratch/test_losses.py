import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from m2f_helpers.architecture.reference import build_model
from m2f_helpers.config import base_config
from m2f_helpers.scratch import losses as scratch
from m2f_helpers.scratch.losses import Target
from m2f_helpers.scratch.model import Mask2Former
from m2f_helpers.scratch.weights import rename
from tests.scratch.library import images, randomised

POINTS = 256


def label_maps(empty: bool = False) -> list[torch.Tensor]:
    first = torch.zeros(64, 96, dtype=torch.int64)
    first[10:40, 5:50], first[30:60, 60:90], first[:3] = 7, 22, 255
    second = torch.full((64, 96), 255) if empty else first.roll(20, 1).clamp_max(30)
    return [first, second]


def both_losses(model, ours, x, maps, seed=1):
    """mmseg's loss dict and ours for the same batch, from the same seed.

    The networks are float64: in float32 a rounded cell of an attention mask may flip. mmdet's losses are float32.
    """
    head = model.decode_head
    samples = [SegDataSample(gt_sem_seg=PixelData(data=m[None])) for m in maps]
    classes, masks = (_floats(logits) for logits in head(model.extract_feat(x), samples))
    torch.manual_seed(seed)
    theirs = head.loss_by_feat(classes, masks, *head._seg_data_to_instance_data(samples))
    torch.manual_seed(seed)
    found = scratch.losses([_floats(pair) for pair in ours(x)], [scratch.target(m) for m in maps], POINTS)
    return theirs, found


def _floats(tensors):
    return [tensor.float() for tensor in tensors]


@pytest.fixture
def pair():
    """Random offsets too: at the start all samples lie on pixel centres, where the gradient jumps."""
    model = copy.deepcopy(randomised("demo")).train()
    model.decode_head.num_points = POINTS
    return model, Mask2Former.from_mmseg(model).train()


@pytest.mark.parametrize("empty", [False, True], ids=["", "one image all ignored"])
def test_terms_and_all_gradients_equal_mmseg(pair, empty):
    model, ours = pair
    theirs, found = both_losses(model, ours, images(2, 64, 96), label_maps(empty))
    assert found.keys() == theirs.keys() and len(found) == 3 * 4
    for name, value in theirs.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name
    sum(theirs.values()).backward()
    sum(found.values()).backward()
    expected = rename({name: p.grad for name, p in model.named_parameters()})
    norm = torch.stack([grad.norm() for grad in expected.values()]).norm()
    assert norm > 1
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-9 * norm, name


MISTAKES = {
    "points of x and y exchanged": ("sample", lambda right: lambda maps, points: right(maps, points.flip(2))),
    "most certain points": ("choose_points", lambda right: lambda logits, n: right(1 / logits, n)),
    "no object counts in full": ("class_loss", lambda right: lambda logits, classes: right(logits, classes, 1.0)),
    "mean over masks by 1 more": ("mask_loss", lambda right: lambda a, b, n: right(a, b, n + 1)),
    "Dice of logits": ("dice_loss", lambda right: lambda a, b, n: right(torch.logit(a.sigmoid() * 0.99), b, n)),
    "cost without Dice": ("pairwise_dice", lambda right: lambda a, b: 0 * right(a, b)),
    "cost inside out": ("pairwise_cross_entropy", lambda right: lambda a, b: right(-a, b)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_noticed(pair, monkeypatch, mistake):
    name, wrap = MISTAKES[mistake]
    monkeypatch.setattr(scratch, name, wrap(getattr(scratch, name)))
    theirs, found = both_losses(*pair, images(2, 64, 96), label_maps())
    assert any(found[key].item() != pytest.approx(theirs[key].item(), rel=1e-3) for key in theirs)


def test_nothing_to_match_in_the_whole_batch_is_zero_and_still_trains():
    classes, masks = torch.randn(1, 5, 4, requires_grad=True), torch.randn(1, 5, 8, 8, requires_grad=True)
    found = scratch.prediction_losses(classes, masks, [scratch.target(torch.full((8, 8), 255))], 16)
    assert found["mask"] == found["dice"] == 0 and found["cls"] > 0
    sum(found.values()).backward()
    assert masks.grad.abs().sum() == 0 and classes.grad.abs().sum() > 0


def test_target_has_a_mask_for_each_class_and_none_for_ignore():
    found = scratch.target(torch.tensor([[4, 4, 255], [9, 4, 255]]))
    assert found.labels.tolist() == [4, 9]
    assert found.masks.tolist() == [[[1, 1, 0], [0, 1, 0]], [[0, 0, 0], [1, 0, 0]]]


def test_sample_reads_x_then_y_and_gives_pixel_centres_exactly():
    maps = torch.arange(6.0).view(1, 2, 3)
    points = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.25], [0.5 / 3, 0.75], [2 / 3, 0.75]]])
    assert torch.allclose(scratch.sample(maps, points), torch.tensor([[0.0, 2.0, 3.0, 4.5]]), atol=1e-6)


def test_match_finds_the_cheapest_pairs():
    masks = torch.zeros(3, 8, 8)
    masks[0, :4], masks[1, 4:], masks[2, :, :2] = 1, 1, 1
    wanted = Target(torch.tensor([0, 1]), masks[:2])
    logits = torch.stack([masks[2], masks[1], masks[0]]) * 20 - 10
    torch.manual_seed(0)
    rows, columns = scratch.match(torch.zeros(3, 3), logits, wanted, 64)
    assert rows.tolist() == [1, 2] and columns.tolist() == [1, 0]


def test_three_quarters_of_the_points_are_unsure_ones():
    logits = torch.linspace(-8, 8, 64).expand(1, 64, 64)  # sure at the sides, unsure in the middle column
    torch.manual_seed(0)
    points = scratch.choose_points(logits, 4000)[0]
    unsure, anywhere = points[:3000, 0], points[3000:, 0]
    near = (unsure - 0.5).abs() < 0.13  # 3000 of 12000 candidates: the middle quarter
    assert near.float().mean() > 0.98  # the rest lies on the rim, where samples mix with the 0 outside
    assert anywhere.min() < 0.05 and anywhere.max() > 0.95


def test_losses_of_perfect_and_of_wrong_masks():
    truth = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    perfect, wrong = 40 * truth - 20, 20 - 40 * truth
    assert scratch.mask_loss(perfect, truth, 1) < 1e-6 and scratch.mask_loss(wrong, truth, 1) == pytest.approx(20)
    assert scratch.dice_loss(perfect, truth, 1) < 1e-6
    assert scratch.dice_loss(wrong, truth, 1).item() == pytest.approx(1 - 1 / 5, abs=1e-6)  # 1 - (0 + 1) / (2 + 2 + 1)


def test_no_object_counts_a_tenth():
    logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    right, wrong = F.cross_entropy(logits[0], torch.tensor([0, 0])), F.cross_entropy(logits[0], torch.tensor([1, 1]))
    found = scratch.class_loss(logits, torch.tensor([[0, 1]]))
    assert found.item() == pytest.approx((right + 0.1 * wrong).item() / 1.1)


def test_a_few_steps_make_the_loss_fall():
    torch.manual_seed(0)
    config = base_config("demo")
    model = Mask2Former.from_mmseg(copy.deepcopy(build_model(config))).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    x, targets = images(2, 64, 96, torch.float32), [scratch.target(m) for m in label_maps()]
    totals = []
    for _ in range(8):
        total = sum(scratch.losses(model(x), targets, POINTS).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]
