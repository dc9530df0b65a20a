"""Training reads the pixels that prediction reads, and the classes that the folder means."""

import subprocess
import sys

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from m2f_helpers import config
from m2f_helpers.images import read_image
from m2f_helpers.palette import CLASSES_FILE, own_palette, write_classes
from tests.pair_files import LABEL, add, half, png, saved

KINDS = {
    "rgba.png": saved(half((255, 0, 0, 255), (0, 90, 0, 0), "RGBA"), "PNG"),
    "grey.png": saved(half(40, 200, "L"), "PNG"),
    "palette.gif": saved(half((255, 0, 0), (0, 0, 255)).quantize(4), "GIF"),
    "deep.png": png(np.asarray(half(40, 200, "L")).astype(np.uint16) * 257),
    "plain.jpg": saved(half((255, 0, 0), (0, 0, 255)), "JPEG"),
    "pages.tif": saved(half((1, 2, 3), (4, 5, 6)), "TIFF", save_all=True, append_images=[Image.new("RGB", (48, 40))]),
}
OWN = own_palette(["low", "high"], on_disk=[[1, 2], [40]], ignored=[7])  # ids with a gap, two merged, one ignored


@pytest.fixture
def root(tmp_path):
    label = np.select([k == LABEL for k in range(1, 7)], [1, 2, 40, 40, 7, 255]).astype(np.uint8)
    for name, data in KINDS.items():
        stem, suffix = name.split(".")
        add(tmp_path / "data", stem, data, png(label), f".{suffix}")
    add(tmp_path / "data", "a", None, png(label), split="validation")
    write_classes(tmp_path / "data" / CLASSES_FILE, OWN)
    return tmp_path / "data"


def loading(root):
    """The training data set with its two reading steps alone."""
    settings = config.finetune_edits("demo", root).cfg.train_dataloader.dataset
    settings.pipeline = settings.pipeline[:2]
    init_default_scope("mmseg")
    return DATASETS.build(settings)


def test_training_and_prediction_see_the_same_pixels(root):
    dataset = loading(root)
    assert len(dataset) == len(KINDS)
    for item in dataset:
        assert (item["img"][..., ::-1] == read_image(item["img_path"])).all(), item["img_path"]


def test_ids_on_disk_become_the_folders_classes(root):
    wanted = np.select([k == LABEL for k in range(1, 7)], [0, 0, 1, 1, 255, 255])
    assert all((item["gt_seg_map"] == wanted).all() for item in loading(root))
    add(root, "odd", None, png(LABEL))  # 3 to 6 mean nothing here
    with pytest.raises(ValueError, match=r"odd\.png holds ids \[3, 4, 5, 6\] that no class has"):
        list(loading(root))


def test_plain_mmseg_builds_it_from_the_config_that_is_left(root, tmp_path):
    config.finetune_edits("demo", root).cfg.dump(str(tmp_path / "config.py"))
    code = (
        "import sys; from mmengine import Config; from mmengine.registry import init_default_scope\n"
        "cfg = Config.fromfile(sys.argv[1]); from mmseg.registry import DATASETS; init_default_scope('mmseg')\n"
        "print(len(DATASETS.build(cfg.train_dataloader.dataset)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "config.py"], capture_output=True, text=True)
    assert done.stdout.strip().endswith("6"), done.stderr


def test_an_image_that_opencv_cannot_resize_is_named(tmp_path):
    """Scaled down to the longest side that the profile allows, it would be no pixel wide."""
    thin = np.full((1, 3000), 1, np.uint8)
    for split in ("training", "validation"):
        add(tmp_path / "data", "thin", png(thin), png(thin), ".png", split=split)
    edited = config.finetune_edits("demo", tmp_path / "data", None, iterations=2)
    init_default_scope("mmseg")
    data = DATASETS.build(edited.cfg.train_dataloader.dataset)
    with pytest.raises(ValueError, match=r"thin\.png cannot be resized or cropped \(.*hundreds of times"):
        data[0]
