"""Broken configs and data: each fault is one sentence that names it, before anything is built."""

from __future__ import annotations

import copy
import re
import shutil

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from m2f_helpers import config
from m2f_helpers.finetune import memory, preflight
from tests.test_config import make_data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("preflight") / "data")


@pytest.fixture(scope="module")
def sound(root):
    return config.finetune_edits("demo", root, None, iterations=4)


def broken(sound, change):
    cfg = copy.deepcopy(sound.cfg)
    change(cfg)
    return cfg


def steps_of(cfg, loader="train_dataloader"):
    return cfg[loader].dataset.pipeline


def set_at(key, value):
    def change(cfg):
        *parents, last = key.split(".")
        node = cfg
        for part in parents:
            node = node[int(part)] if part.isdigit() else node[part]
        node[int(last) if last.isdigit() else last] = value

    return change


def remove_step(loader, kind):
    def change(cfg):
        steps = steps_of(cfg, loader)
        steps[:] = [step for step in steps if step["type"] != kind]

    return change


def swap_steps(loader, one, other):
    def change(cfg):
        steps = steps_of(cfg, loader)
        kinds = [step["type"] for step in steps]
        a, b = kinds.index(one), kinds.index(other)
        steps[a], steps[b] = steps[b], steps[a]

    return change


def set_lists(cfg):
    cfg.train_dataloader.dataset.metainfo = dict(classes=["a"] * 150, palette=[[0, 0, 0]] * 3)


def set_text(cfg):
    cfg.train_dataloader.dataset.metainfo = dict(classes="water")


BROKEN_CONFIGS = {
    "an edit without effect": (set_at("num_classes", 7), r"cfg.num_classes = 7 has no effect.*set_classes"),
    "classes without weights": (
        set_at("model.decode_head.num_classes", 7),
        r"151 class weights for 7 classes; expected 8",
    ),
    "one class weight short": (
        set_at("model.decode_head.loss_cls.class_weight", [1.0] * 150),
        r"150 class weights for 150 classes; expected 151, the last for 'no object'",
    ),
    "palette does not fit": (set_lists, r"3 colours for 150 classes"),
    "class names as one text": (set_text, r"metainfo.classes is the text 'water'"),
    "own data without names": (set_at("val_dataloader.dataset.type", "BaseSegDataset"), r"without class names"),
    "training without labels": (remove_step("train_dataloader", "LoadLabels"), r"lacks LoadAnnotations"),
    "no crop in training": (remove_step("train_dataloader", "RandomCrop"), r"lacks RandomCrop"),
    "packed too early": (swap_steps("train_dataloader", "PackSegInputs", "RandomCrop"), r"wrong order"),
    "labels resized in validation": (
        swap_steps("val_dataloader", "Resize", "LoadLabels"),
        r"wrong order.*Resize >",
    ),
    "0 means two things": (
        set_at("train_dataloader.dataset.pipeline.1.reduce_zero_label", False),
        r"reduce_zero_label=False, the data set True",
    ),
    "crop larger than the padding": (
        set_at("model.data_preprocessor.size", (64, 64)),
        r"crops of \[192, 192\] pixels do not fit .*\[64, 64\]",
    ),
    "half a schedule": (set_at("train_cfg.max_iters", 400), r"reaches its end at step 4, training ends at 400"),
    "no step at all": (set_at("train_cfg.max_iters", 0), r"max_iters is 0"),
    "learning rate without point": (set_at("optim_wrapper.optimizer.lr", 10), r"learning rate is 10; expected"),
    "learning rate of another model": (set_at("optim_wrapper.optimizer.lr", 0.1), r"diverges above 0.01"),
    "no batch": (set_at("train_dataloader.batch_size", 0), r"batch_size is 0"),
    "persistent without workers": (set_at("val_dataloader.persistent_workers", True), r"persistent_workers without"),
    "data set class misspelt": (
        set_at("test_dataloader.dataset.type", "Ade20KDataset"),
        r"no data set class 'Ade20KDataset'",
    ),
    "start weights gone": (set_at("load_from", "gone.pth"), r"gone.pth is no file; use set_weights"),
    "folder gone": (
        set_at("train_dataloader.dataset.data_root", "gone"),
        r"gone: does not exist; expected the folders",
    ),
}


def test_a_sound_config_has_no_problem(sound):
    assert preflight.problems(sound) == []
    preflight.check(sound)


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_broken_config_is_one_sentence(sound, name):
    change, sentence = BROKEN_CONFIGS[name]
    found = preflight.problems(broken(sound, change))
    matching = [line for line in found if re.search(sentence, line)]
    assert len(matching) == 1, found
    assert "\n" not in matching[0] and len(matching[0]) < 400


def test_download_beside_own_weights(sound, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    cfg = config.published_config("ade20k")
    cfg.load_from = str(tmp_path / "w.pth")
    assert any("would download weights" in line for line in preflight.problems(cfg))


def write_labels(root, values, size=(64, 80)):
    label_map = np.resize(np.array(values, np.uint8), size) if np.ndim(values) < 2 else np.asarray(values)
    cv2.imwrite(str(root / "annotations" / "training" / "p1.png"), label_map)


BROKEN_LABELS = {
    "id beyond the classes": lambda root: write_labels(root, [1, 2, 200]),
    "smaller than the picture": lambda root: write_labels(root, [1, 2], size=(32, 40)),
    "a colour picture": lambda root: write_labels(root, np.full((64, 80, 3), (90, 20, 7), np.uint8)),
    "not a picture": lambda root: (root / "annotations" / "training" / "p1.png").write_bytes(b"no png"),
}


@pytest.mark.parametrize("name", BROKEN_LABELS)
def test_broken_label_map_is_one_sentence_with_its_file(sound, root, tmp_path, name):
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    BROKEN_LABELS[name](copy)
    found = preflight.problems(config.set_data(sound, copy))
    assert len(found) == 1 and "p1.png" in found[0] and "\n" not in found[0], found


def test_several_faults_are_one_line_each(sound):
    cfg = broken(sound, set_at("train_cfg.max_iters", 0))
    cfg.train_dataloader.batch_size = 0
    with pytest.raises(ValueError) as caught:
        preflight.check(cfg)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.startswith("- ") for line in lines[1:])


def test_too_little_memory_is_said_before_it_runs_out(sound, monkeypatch):
    free = psutil.virtual_memory()._replace(available=200_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    (line,) = preflight.problems(sound)
    assert re.search(r"a training step needs about 0\.\d GB, 0.2 GB are free on cpu: take --batch-size [1-7] ", line)


def test_the_option_that_is_named_makes_it_fit(sound, monkeypatch):
    free = psutil.virtual_memory()._replace(available=300_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    (line,) = preflight.problems(sound)
    batch = int(re.search(r"--batch-size (\d)", line)[1])
    assert preflight.problems(config.set_batch(sound, batch)) == []
    assert preflight.problems(config.set_batch(sound, batch + 1)) != []
    assert "--batch-size 1 --crop" in preflight.problems(config.set_crop(sound, [1024, 1024]))[0]


def test_large_validation_images_are_counted(sound, root, tmp_path, monkeypatch):
    """150 scores of 4 bytes for each pixel: an image of 24 megapixels asks for 14 GB."""
    shutil.copytree(root, tmp_path / "data")
    for kind, ending, mode in (("images", ".jpg", "RGB"), ("annotations", ".png", "L")):
        Image.new(mode, (6000, 4000), 1 if mode == "L" else "blue").save(
            tmp_path / "data" / kind / "validation" / f"p0{ending}"
        )
    free = psutil.virtual_memory()._replace(available=8_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    (line,) = preflight.problems(config.set_data(sound, tmp_path / "data"))
    assert re.match(r"validating an image of 4000 x 6000 pixels needs about 14\.\d GB, 8.0 GB are free on cpu: ", line)
    assert "`m2f prepare DATA NEW --size 512 512` (then about 0." in line


@pytest.mark.parametrize(("value", "sentence"), [(1e-12, "nothing is learnt below 1e-07"), (0.5, "diverges above")])
def test_learning_rates_that_cannot_work_are_refused(sound, value, sentence):
    (line,) = preflight.problems(config.set_batch(sound, 2, value))
    assert sentence in line


def test_labels_that_are_all_ignored_are_refused(sound, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    for path in (tmp_path / "data" / "annotations" / "training").iterdir():
        Image.new("L", (80, 64), 0).save(path)
    (line,) = preflight.problems(config.set_data(sound, tmp_path / "data"))
    assert line.startswith("nothing can be learnt: in all 3 training label maps every pixel is ignored")


def test_memory_estimate_grows_with_batch_and_crop(sound):
    def activations(source):
        cfg = config.as_config(source)
        return memory.step_bytes(cfg) - 16 * memory._parameters(cfg)

    assert 1.4 < activations(config.set_batch(sound, 16)) / activations(sound) < 2
    assert activations(config.set_crop(sound, [384, 384])) > 2.5 * activations(sound)
    full = config.base_config("ade20k")
    # OpenMMLab's metafile: 3.31 GB per GPU, 2 pictures of 512 x 512, weights of 44.0 M parameters four times
    assert 44.0e6 * 0.8 < memory._parameters(full) < 44.0e6 * 1.25
    assert 0.5 < memory.step_bytes(full) / 3.31e9 < 2
