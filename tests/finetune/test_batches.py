from __future__ import annotations

import copy
import math

import cv2
import numpy as np
import pytest
import torch

from m2f_helpers import config
from m2f_helpers.config import build_model
from m2f_helpers.data.scenes.dataset import make_scenes
from m2f_helpers.finetune import batches


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    data = make_scenes(tmp_path_factory.mktemp("batches"), 8, 1, "day", size=[192, 192])
    return config.set_batch(config.finetune_edits("demo", data, None, iterations=2, crop_size=[96, 96]), 4)


@pytest.fixture(scope="module")
def model(edited):
    return build_model(edited)


@pytest.fixture(scope="module")
def batch(edited, model):
    return batches.first_batch(edited, model)


def test_batch_has_the_crop_size_and_ids_in_memory(batch):
    assert batch.inputs.shape == (4, 3, 96, 96) and batch.images.shape == (4, 96, 96, 3)
    assert batch.label_maps.shape == (4, 96, 96) and batch.label_maps.dtype == np.uint8
    ids = np.unique(batch.label_maps)
    assert set(ids) <= {*range(94), 255} and len(ids) > 3


def test_images_are_the_pictures_in_rgb(tmp_path, edited, model):
    """A red picture stays red: read as BGR, turned round by the data preprocessor, turned back for looking."""
    root = make_scenes(tmp_path, 1, 1, "day", size=[192, 192])
    red = np.zeros((192, 192, 3), np.uint8)
    red[..., 2] = 200  # BGR, as cv2 writes
    cv2.imwrite(str(next((root / "images" / "training").iterdir())), red)
    batch = batches.first_batch(config.set_data(edited, root), model)
    middle = batch.images[:, 40, 40].astype(int)
    assert np.abs(middle - [200, 0, 0]).max() <= 6  # JPEG


def test_same_seed_same_batch(edited, model, batch):
    again = batches.first_batch(edited, model)
    assert torch.equal(again.inputs, batch.inputs) and np.array_equal(again.label_maps, batch.label_maps)
    assert not torch.equal(batches.first_batch(edited, model, seed=1).inputs, batch.inputs)


def test_mask_shares_by_hand():
    label_maps = np.array([[[0, 0, 0, 5]], [[7, 7, 255, 255]]], np.uint8)
    batch = batches.Batch(torch.zeros(2), label_maps, label_maps, [])
    assert list(batch.mask_shares) == [0.75, 0.25, 0.5]


def test_the_first_loss_is_what_the_pencil_says(edited, model, batch):
    seen, expected = batches.first_losses(model, batch), batches.predicted_losses(edited, batch)
    assert len(seen) == expected["terms"] == 12
    assert sum(seen.values()) == pytest.approx(expected["total"], rel=0.1)
    for kind, value in batches.mean_by_kind(seen).items():
        assert value == pytest.approx(expected[kind], rel=0.15), kind


def test_the_published_model_has_thirty_terms(batch):
    expected = batches.predicted_losses(config.base_config("ade20k"), batch)
    assert expected["terms"] == 30
    assert expected["cls"] == pytest.approx(2 * math.log(151)) and expected["mask"] == pytest.approx(5 * math.log(2))


def test_looking_changes_neither_model_nor_config(edited, model, batch):
    before, plain = copy.deepcopy(model.state_dict()), config.plain(edited.cfg._cfg_dict)
    model.eval()
    batches.first_losses(model, batch)
    assert not model.training and config.plain(edited.cfg._cfg_dict) == plain
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
