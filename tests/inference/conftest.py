"""Models and images that the tests of inference share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2f_helpers.config import base_config, set_classes
from m2f_helpers.inference import models
from m2f_helpers.inference.segment import segment

OWN = ["Himmel", "crème, brûlée", "a / b", 'say "no"', "über cool"]


def lively(model):
    """Random weights whose predictions differ from pixel to pixel and from query to query.

    The mask features are centred and scaled on one picture, so that masks are half on and half off.
    """
    torch.manual_seed(0)
    head, last = model.decode_head, model.decode_head.pixel_decoder.mask_feature
    with torch.no_grad():
        head.query_feat.weight.normal_(0, 3)
        head.cls_embed.weight.normal_(0, 0.5)
        seen = []
        hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output[0].flatten(1)))
        segment(model, blocks(192, 256, seed=9))
        hook.remove()
        scale = 1 / seen[0].std(1).clamp_min(1e-6)
        last.bias.sub_(seen[0].mean(1)).mul_(scale)
        last.weight.mul_(scale[:, None, None, None])
        head.mask_embed[-1].weight.normal_(0, 0.3)
    return model


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    return lively(models.load(base_config("demo"), None, "cpu"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.jpg"
    Image.fromarray(blocks(301, 402)).save(path, quality=90)
    return path


def blocks(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A colourful picture, `(height, width, 3)` uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def own_model():
    """Of five classes of one's own, with names that are hard to write."""
    return lively(models.load(set_classes(base_config("demo"), OWN), None, "cpu"))


def stock(model, image):
    """The class map and the scores of mmseg's own `inference_model`, on a copy of the config."""
    import copy

    from mmseg.apis import inference_model

    kept, model.cfg = model.cfg, copy.deepcopy(model.cfg)
    try:
        result = inference_model(model, image)
    finally:
        model.cfg = kept
    return result.pred_sem_seg.data[0].numpy(), result.seg_logits.data


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images, one that is none, and a file of another kind."""
    root = tmp_path / "folder"
    root.mkdir()
    for i in range(3):
        Image.fromarray(blocks(90, 120, i)).save(root / f"{i}.png")
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not looked at")
    return root
