from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from m2f_helpers import config
from m2f_helpers.finetune import differences

WRITE_UP = {  # the eight edits of the original walkthrough that have no effect
    "crop_size": (256, 256),
    "num_classes": 7,
    "dataset_type": "Ade20KDataset",
    "data_root": "elsewhere",
    "train_pipeline": [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}],
    "test_pipeline": [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}],
    "optimizer": {"type": "SGD", "lr": 0.1},
    "embed_multi": {"lr_mult": 10.0, "decay_mult": 1.0},
}


def make_data(root, splits=(("training", 3), ("validation", 2)), labels="annotations", suffix=".jpg"):
    """Pictures of 64 x 80 with two classes, ids 1 and 2 on disk."""
    for split, count in splits:
        for i in range(count):
            for kind, picture, ending in (
                ("images", np.full((64, 80, 3), 20 * i + 30, np.uint8), suffix),
                (labels, np.repeat([[1, 2]], 64, 0).repeat(40, 1).astype(np.uint8), ".png"),
            ):
                path = root / kind / split / f"p{i}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return root


@pytest.fixture(scope="module")
def published():
    return config.published_config("ade20k")


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture(scope="module")
def demo():
    return config.profile_edits("demo")


def test_published_config_is_the_installed_file_unchanged(published):
    assert published.model.decode_head.num_queries == 100
    assert published.train_cfg.max_iters == 160_000
    assert len(published.model.decode_head.loss_cls.class_weight) == 151


def test_demo_is_the_same_model_made_narrow(published, demo):
    """Every part of the published model is there under the same key and of the same type."""

    def types(node, key=""):
        if isinstance(node, dict):
            for name in node:
                yield from types(node[name], f"{key}.{name}")
        elif key.endswith(".type"):
            yield key, node

    narrow, full = dict(types(demo.cfg.model)), dict(types(published.model))
    assert narrow.pop(".backbone.norm_cfg.type") == "BN" and full.pop(".backbone.norm_cfg.type") == "SyncBN"
    full.pop(".backbone.init_cfg.type")
    assert narrow == full
    head = demo.cfg.model.decode_head
    assert (head.num_classes, head.num_queries, demo.cfg.model.backbone.base_channels) == (150, 20, 16)
    assert (head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers) == (2, 3)
    assert demo.cfg.train_dataloader.batch_size == 8 and demo.cfg.optim_wrapper.optimizer.lr == 1e-3


def test_ade20k_leaves_the_model_alone(published):
    diff = differences.config_diff(config.remove_dead_keys(published), config.base_config("ade20k"))
    keys = [change.key for change in diff.changes]
    assert "train_cfg.max_iters" in keys and not any(key.startswith("model.") for key in keys)


def test_edits_never_change_what_they_were_given(demo, data):
    before = config.plain(demo.cfg._cfg_dict)
    for edit in (
        lambda c: config.set_data(c, data),
        lambda c: config.set_crop(c, [64, 96]),
        lambda c: config.set_schedule(c, 7),
        lambda c: config.set_classes(c, ["a", "b"]),
        lambda c: config.set_batch(c, 3, 0.01),
        lambda c: config.set_workers(c, 2),
        lambda c: config.set_weights(c, None),
        lambda c: config.set_test_size(c, [96, 200]),
        lambda c: config.drop_step(c, "RandomFlip"),
    ):
        changed = edit(demo)
        assert config.plain(demo.cfg._cfg_dict) == before
        assert len(changed.changes) >= len(demo.changes)


def test_every_change_is_real_and_has_a_reason(demo):
    for change in demo.changes:
        assert change.before != change.after and change.reason


def test_a_reason_is_about_its_value(demo, data):
    edited = config.set_data(demo, data)
    for loader in config.LOADERS:
        assert edited.reason_of(f"{loader}.dataset.reduce_zero_label").startswith("label 0: ")
        assert edited.reason_of(f"{loader}.dataset.data_root").startswith("data: the images in ")
        assert edited.reason_of(f"{loader}.dataset.pipeline.0.type").startswith("data: read as prediction reads")


@pytest.mark.parametrize("key", WRITE_UP)
def test_each_silent_edit_of_the_write_up_is_found_and_really_silent(published, key):
    cfg = copy.deepcopy(published)
    assert differences.silent_edits(cfg) == []
    before = differences.runner_arguments(cfg)
    cfg[key] = WRITE_UP[key]
    assert differences.runner_arguments(cfg) == before
    (found,) = differences.silent_edits(cfg)
    assert found.key == key and f"cfg.{key}" in found.text and found.fix in found.text and "\n" not in found.text


@pytest.mark.parametrize("key", WRITE_UP)
def test_silent_edits_of_the_profiles_configs_are_found_too(demo, key):
    cfg = copy.deepcopy(demo.cfg)
    cfg[key] = WRITE_UP[key]
    assert [edit.key for edit in differences.silent_edits(cfg)] == [key]


def test_stock_value_set_on_a_profile_that_differs_is_silent(demo):
    cfg = copy.deepcopy(demo.cfg)
    cfg.crop_size = (512, 512)  # what the file says; the demo trains on 192 x 192
    assert [edit.key for edit in differences.silent_edits(cfg)] == ["crop_size"]


def test_names_that_nobody_reads_are_found(published):
    cfg = copy.deepcopy(published)
    cfg.learning_rate, cfg.my_note = 0.1, "x"
    found = {edit.key: edit.fix for edit in differences.silent_edits(cfg)}
    assert set(found) == {"learning_rate", "my_note"} and "set_batch" in found["learning_rate"]


SET_IN_A_FILE = {
    "num_classes = 8\n": "num_classes",
    "optimizer = dict(type='SGD', lr=0.1)\n": "optimizer",
    "learning_rate = 0.1\n": "learning_rate",
    "crop_size = (256, 256)\nmodel = dict(data_preprocessor=dict(size=crop_size))\n": "",  # used below
    "num_classes = 150\n": "",  # says what is so
    "model = dict(decode_head=dict(num_queries=50))\n": "",
    "train_cfg = dict(max_iters=5)\n": "",
}


@pytest.mark.parametrize("text", SET_IN_A_FILE)
def test_what_a_file_sets_in_vain_is_found_too(tmp_path, text):
    path = tmp_path / "own.py"
    base = config.CONFIGS / "mask2former" / "mask2former_r50_8xb2-160k_ade20k-512x512.py"
    path.write_text(f"_base_ = [{str(base)!r}]\n{text}")
    found = differences.silent_edits(config.as_config(path))
    assert [edit.key for edit in found] == ([SET_IN_A_FILE[text]] if SET_IN_A_FILE[text] else [])
    assert all(edit.text.startswith(f"{path}: {edit.key} = ") for edit in found)


def test_edits_with_effect_are_not_reported(published, demo, data):
    cfg = copy.deepcopy(published)
    cfg.model.decode_head.num_classes = 7
    cfg.train_cfg.max_iters = 5
    cfg.work_dir = "x"
    cfg.load_from = "y"
    assert differences.silent_edits(cfg) == []
    cfg.num_classes = 7  # agrees with the place that counts: harmless
    assert differences.silent_edits(cfg) == []
    edited = config.set_test_size(config.set_classes(config.set_data(demo, data), ["a", "b"]), [64, 64])
    assert differences.silent_edits(edited) == []


def test_set_data_reaches_all_loaders(demo, data):
    edited = config.set_data(demo, data, max_val=1)
    for loader in config.LOADERS:
        dataset = edited.cfg[loader].dataset
        assert (dataset.type, dataset.data_root, dataset.reduce_zero_label) == ("PairDataset", str(data), True)
    assert edited.cfg.train_dataloader.dataset.split == "training"
    assert edited.cfg.val_dataloader.dataset.split == "validation"
    assert edited.cfg.val_dataloader.dataset.indices == 1 and "indices" not in edited.cfg.train_dataloader.dataset


def test_set_data_says_what_it_looked_for(demo, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: does not exist; expected the folders images and one of"):
        config.set_data(demo, tmp_path / "gone")
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="annotations, labels, masks"):
        config.set_data(demo, tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="no image with a label map in images, masks"):
        config.set_data(demo, tmp_path)


def test_set_schedule_moves_every_end_and_interval(published):
    cfg = copy.deepcopy(published)
    cfg.param_scheduler.insert(0, dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=16_000))
    edited = config.set_schedule(cfg, 100, val_interval=25)
    warmup, poly = edited.cfg.param_scheduler
    assert (warmup.end, poly.end, edited.cfg.train_cfg.max_iters) == (10, 100, 100)
    assert edited.cfg.train_cfg.val_interval == edited.cfg.default_hooks.checkpoint.interval == 25
    assert 1 <= edited.cfg.default_hooks.logger.interval <= 5
    with pytest.raises(ValueError, match="at least one iteration, got 0"):
        config.set_schedule(published, 0)


def test_set_crop_moves_padding_crop_and_resize(published):
    edited = config.set_crop(published, [128, 256]).cfg
    steps = {step.type: step for step in edited.train_dataloader.dataset.pipeline}
    assert tuple(edited.model.data_preprocessor.size) == tuple(steps["RandomCrop"].crop_size) == (128, 256)
    assert steps["RandomChoiceResize"].scales[0] == 64 and steps["RandomChoiceResize"].scales[-1] == 256
    for wrong in ([16, 64], [64], [64.5, 64]):
        with pytest.raises(ValueError, match="expected a crop size"):
            config.set_crop(published, wrong)


def test_set_test_size_reaches_inference_too(published):
    edited = config.set_test_size(published, [100, 300]).cfg
    for steps in (
        edited.val_dataloader.dataset.pipeline,
        edited.test_dataloader.dataset.pipeline,
        edited.test_pipeline,
    ):
        assert tuple(next(s for s in steps if s.type == "Resize").scale) == (300, 100)


def test_set_workers_and_batch(published):
    edited = config.set_workers(config.set_batch(published, 3, 0.002), 0).cfg
    assert edited.train_dataloader.batch_size == 3 and edited.optim_wrapper.optimizer.lr == 0.002
    assert all(not edited[name].persistent_workers and edited[name].num_workers == 0 for name in config.LOADERS)
    assert config.set_workers(edited, 2).cfg.val_dataloader.persistent_workers is True
    for wrong in (lambda: config.set_workers(edited, -1), lambda: config.set_batch(edited, 0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()
    with pytest.raises(ValueError, match="between 0 and 1, got 3"):
        config.set_batch(edited, 2, 3)


def test_set_weights_switches_the_second_download_off(published, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"x")
    edited = config.set_weights(published, path).cfg
    assert edited.load_from == str(path) and edited.model.backbone.init_cfg is None
    assert config.set_weights(edited, None).cfg.load_from is None
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        config.set_weights(published, tmp_path / "gone.pth")


def test_set_classes_writes_all_places(demo):
    edited = config.set_classes(demo, ["cat", "dog", "mat"]).cfg
    head = edited.model.decode_head
    assert head.num_classes == 3 and head.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]
    for loader in config.LOADERS:
        dataset = edited[loader].dataset
        assert dataset.type == "BaseSegDataset" and dataset.reduce_zero_label is False
        assert tuple(dataset.metainfo.classes) == ("cat", "dog", "mat")
        assert len({tuple(color) for color in dataset.metainfo.palette}) == 3
    assert config.class_names(edited) == ["cat", "dog", "mat"] and len(config.class_names(demo.cfg)) == 150


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [("water", "a list of class names"), (["one"], "2 to 254 classes, got 1"), (["a", "a"], "class names must differ")],
)
def test_set_classes_refuses_names_that_mmseg_would_misread(demo, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        config.set_classes(demo, classes)


def with_classes(folder, content):
    """The folder with a `classes.json`."""
    (folder / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


OWN = {"classes": [{"name": "Straße", "on_disk": [1]}, {"name": "car, parked", "on_disk": [2, 7]}], "ignored": [0]}


def test_set_data_takes_the_classes_of_the_folder(demo, data):
    cfg = config.set_data(demo, with_classes(data, OWN)).cfg
    assert cfg.model.decode_head.num_classes == 2 and cfg.model.decode_head.loss_cls.class_weight == [1.0, 1.0, 0.1]
    for loader in config.LOADERS:
        dataset = cfg[loader].dataset
        assert tuple(dataset.metainfo.classes) == ("Straße", "car, parked") and len(dataset.metainfo.palette) == 2
        assert (dataset.on_disk, dataset.ignored, dataset.reduce_zero_label) == ([[1], [2, 7]], [0, 255], False)
    assert config.class_names(cfg) == ["Straße", "car, parked"]
    (data / "classes.json").unlink()
    again = config.set_data(cfg, data).cfg
    assert again.model.decode_head.num_classes == 150 and config.class_names(again)[0] == "wall"
    assert not again.val_dataloader.dataset.on_disk and again.val_dataloader.dataset.reduce_zero_label


def test_names_given_win_over_the_folders(demo, data):
    named = config.finetune_edits("demo", data, classes=["sky", "sea"]).cfg  # ids 1 and 2 lie on disk
    assert named.train_dataloader.dataset.on_disk == [[1], [2]] and named.train_dataloader.dataset.ignored == [0, 255]
    renamed = config.finetune_edits("demo", with_classes(data, OWN), classes=["sky", "sea"]).cfg
    assert config.class_names(renamed) == ["sky", "sea"] and renamed.val_dataloader.dataset.on_disk == [[1], [2, 7]]
    with pytest.raises(ValueError, match="classes.json has 2 classes, 3 names were given"):
        config.finetune_edits("demo", data, classes=["a", "b", "c"])
    before = config.set_data(config.set_classes(demo, ["x", "y", "z"]), data).cfg
    assert config.class_names(before) == ["x", "y", "z"] and before.model.decode_head.num_classes == 3


def test_set_classes_refuses_a_palette_that_does_not_fit(demo):
    with pytest.raises(ValueError, match="expected 2 colours"):
        config.set_classes(demo, ["a", "b"], [[1, 2, 3]])


def test_drop_step_names_the_steps_there_are(demo):
    with pytest.raises(ValueError, match="has no Mosaic step; it has LoadImageFromFile"):
        config.drop_step(demo, "Mosaic")


def test_other_things_than_configs_are_refused():
    with pytest.raises(ValueError, match="expected an mmengine Config or the path of one, got dict"):
        config.set_schedule({}, 3)
    with pytest.raises(ValueError, match="it is not the config of a Mask2Former"):
        config.set_schedule(Config({"a": 1}), 3)


def test_diff_has_reasons(published):
    diff = differences.config_diff(published, config.set_schedule(published, 100))
    (steps,) = [change for change in diff.changes if change.key == "train_cfg.max_iters"]
    assert (steps.before, steps.after) == (160000, 100) and "100 steps" in steps.reason
    assert "param_scheduler.0.end" in diff._repr_html_()
    assert not differences.config_diff(published, copy.deepcopy(published)).changes


def test_finetune_edits_fit_the_schedule_to_the_data(data):
    edited = config.finetune_edits("demo", data, None, crop_size=[64, 64])
    assert edited.cfg.train_cfg.max_iters == 10  # 25 passes over 3 pictures in batches of 8
    assert tuple(edited.cfg.model.data_preprocessor.size) == (64, 64)
    assert config.finetune_edits("demo", data, None, iterations=3).cfg.param_scheduler[0].end == 3


def test_a_config_written_and_read_again_has_no_silent_edits(demo, data, tmp_path):
    path = tmp_path / "config.py"
    config.set_data(demo, data).cfg.dump(str(path))
    assert differences.silent_edits(Config.fromfile(str(path))) == []
