"""What the optimiser's lines do to which weights: rates, decay, clipping, on one step of a small model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from m2f_helpers import config
from m2f_helpers.finetune import ignored, optimiser
from m2f_helpers.finetune.batches import Batch


@pytest.fixture(scope="module")
def published() -> config.Config:
    """The demo model with the published optimiser."""
    cfg = config.base_config("demo")
    cfg.optim_wrapper = config.published_config("ade20k").optim_wrapper
    return cfg


@pytest.fixture(scope="module")
def model(published):
    return config.build_model(published)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two made-up images of 64x64 with two classes, and ignored pixels on the right."""
    maps = np.zeros((2, 64, 64), np.uint8)
    maps[:, 32:], maps[:, :, 48:] = 3, 255
    torch.manual_seed(0)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(m)[None].long())) for m in maps]
    for sample in samples:
        sample.set_metainfo({"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)})
    return Batch(torch.randn(2, 3, 64, 64), np.zeros((2, 64, 64, 3), np.uint8), maps, samples)


def test_groups_have_the_rates_and_decays_of_the_config(published, model):
    groups = optimiser.parameter_groups(published, model)
    assert list(groups.index) == list(optimiser.GROUPS)
    assert groups["rate"].tolist() == pytest.approx([1e-5, 1e-5, 1e-4, 1e-4, 1e-4])
    assert groups["decay"].tolist() == pytest.approx([0.05, 0.05, 0.05, 0, 0])
    assert groups["values"].sum() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_step_moves_each_kind_by_about_its_rate(published, model, batch):
    unclipped = copy.deepcopy(published)
    unclipped.optim_wrapper.clip_grad = None
    moved, norm = optimiser.first_step(unclipped, model, batch)
    assert norm > 1
    assert moved["head norms"] == pytest.approx(1e-4, rel=0.1)
    assert 0 < moved["backbone weights"] < 1.01e-5, "never further than a tenth of the head's rate"


def test_a_step_leaves_the_model_alone(published, model, batch):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser.first_step(published, model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_rate_means_no_movement(published, model, batch):
    frozen = copy.deepcopy(published)
    frozen.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult = 0.0
    moved, _ = optimiser.first_step(frozen, model, batch)
    assert moved["backbone weights"] == moved["backbone norms"] == 0 < moved["head weights"]


def test_decay_as_adamw_does_it():
    weight = torch.nn.Parameter(torch.ones(1))
    adamw = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.05)
    for step in range(20):
        adamw.param_groups[0]["lr"] = 0.1 * (1 - step / 20) ** 0.9
        weight.grad = torch.zeros(1)
        adamw.step()
    assert optimiser.left_by_decay(0.1, 0.05, 20) == pytest.approx(weight.item(), abs=1e-6)


def test_ignored_pixels_are_background_to_the_masks_and_nothing_to_the_classes(model, batch):
    losses = ignored.losses_under_ignored(model, batch, [-5, 0, 5])
    assert np.ptp(losses["cls"]) < 1e-6
    assert losses["mask"][5] > 5 * losses["mask"][-5] and losses["dice"][5] > losses["dice"][-5]
    assert losses["points"][0] > 1.5 * (batch.label_maps == 255).mean(), "undecided pixels are looked at more often"
    figure = ignored.plot_ignored(batch, losses)
    assert len(figure.axes) == 3 and "-5:" in figure.alt


def test_without_ignored_pixels_there_is_nothing_to_see(model, batch):
    judged = copy.deepcopy(batch)
    judged.label_maps[judged.label_maps == 255] = 3
    for sample in judged.samples:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 255] = 3
    with pytest.raises(ValueError, match="got none; see with_ignored"):
        ignored.losses_under_ignored(model, judged, [0])
    marked = ignored.with_ignored(judged)
    assert (marked.label_maps == 255).mean() == 1 / 8 and not (judged.label_maps == 255).any()
    assert ignored.losses_under_ignored(model, marked, [5])["mask"][5] > 1
    assert ignored.with_ignored(batch) is batch
