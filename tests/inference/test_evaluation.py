"""Evaluation: mmseg's own numbers, the data's classes, and an error where there is nothing to judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from m2f_helpers.cli import main
from m2f_helpers.inference import evaluation
from m2f_helpers.inference.segment import segment
from m2f_helpers.palette import ade20k_palette, own_palette, write_classes
from tests.inference.conftest import OWN, blocks, stock


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """Two validation pairs in ADE20K's layout, the second with ignore and with a class that nothing else has."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(1)
    for split in ("training", "validation"):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(blocks(120, 160, i)).save(root / "images" / split / f"{i}.jpg")
            labels = np.repeat(np.repeat(rng.integers(0, 60, (3, 4), dtype=np.uint8), 40, 0), 40, 1)
            Image.fromarray(labels).save(root / "annotations" / split / f"{i}.png")
    return root


def test_evaluate_is_mmsegs_metric(model, labelled, monkeypatch):
    """The model's own predictions, partly, as truth: then mIoU is neither 0 nor 100; compared with Runner's metric."""
    from mmseg.evaluation.metrics import IoUMetric

    for i in range(2):
        path = labelled / "annotations" / "validation" / f"{i}.png"
        predicted = segment(model, labelled / "images" / "validation" / f"{i}.jpg").label_map
        truth = predicted + 1
        truth[:30] = 0  # other: not judged
        truth[30:60, :80] = 77
        Image.fromarray(truth).save(path)
    result = evaluation.evaluate(model, labelled, progress=False)
    metric = IoUMetric()
    metric.dataset_meta = {"classes": ade20k_palette().names}
    for i in range(2):
        truth = np.array(Image.open(labelled / "annotations" / "validation" / f"{i}.png")).astype(np.int64) - 1
        truth[truth < 0] = 255
        predicted = stock(model, str(labelled / "images" / "validation" / f"{i}.jpg"))[0]
        sample = {"pred_sem_seg": {"data": torch.tensor(predicted)}, "gt_sem_seg": {"data": torch.tensor(truth)}}
        metric.process({}, [sample])
    expected = metric.evaluate(2)
    assert result.miou == pytest.approx(expected["mIoU"], abs=0.006) and 5 < result.miou < 100
    assert result.accuracy == pytest.approx(expected["aAcc"], abs=0.006)
    assert result.images == 2


def test_evaluation_table_shows_present_classes_only_and_confusions_count_pixels(model, labelled):
    result = evaluation.evaluate(model, labelled, progress=False)
    assert result.table["share"].sum() == pytest.approx(1) and len(result.table) < 60
    assert (result.table["share"] + result.table["predicted"] > 0).all()
    assert np.nanmean(result.table["iou"]) == pytest.approx(result.miou)
    wrong = result.confusion.sum() - np.trace(result.confusion)
    assert result.accuracy == pytest.approx(100 * (1 - wrong / result.confusion.sum()))
    first = result.confusions(3).iloc[0]
    truth, predicted = ade20k_palette().id_of(first["truth"]), ade20k_palette().id_of(first["predicted"])
    assert first["pixels"] == result.confusion[truth, predicted] and truth != predicted


def test_confusion_matrix_by_hand():
    truth = np.array([[0, 0, 1, 255]])
    prediction = np.array([[0, 1, 1, 2]])
    assert evaluation.confusion_matrix(prediction, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def with_labels(labelled: Path, root: Path, values: np.ndarray) -> Path:
    """A copy whose first validation label map is another."""
    shutil.copytree(labelled, root)
    Image.fromarray(values).save(root / "annotations" / "validation" / "0.png")
    return root


def test_evaluate_says_what_is_missing(model, tmp_path, labelled):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluation.evaluate(model, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a limit of at least 1 image, got 0"):
        evaluation.evaluate(model, labelled, limit=0)


def test_evaluate_refuses_other_classes_and_ids_without_meaning(own_model, model, labelled, tmp_path):
    with pytest.raises(ValueError, match=r"the model has 5 classes and the data 150; where the model says 'Himmel'"):
        evaluation.evaluate(own_model, labelled)
    root = with_labels(labelled, tmp_path / "gap", np.full((120, 160), 200, np.uint8))
    with pytest.raises(ValueError, match=r"0\.png: the ids \[200\] belong to none of the 150 classes"):
        evaluation.evaluate(model, root, progress=False)


def test_nothing_to_judge_is_no_success(model, labelled, tmp_path):
    root = with_labels(labelled, tmp_path / "empty", np.zeros((120, 160), np.uint8))
    with pytest.raises(ValueError, match=r"nothing to judge, every pixel of the 1 validation label maps is ignored"):
        evaluation.evaluate(model, root, limit=1, progress=False)


def test_evaluate_refuses_a_label_of_another_size(model, labelled, tmp_path):
    root = with_labels(labelled, tmp_path / "small", np.ones((60, 80), np.uint8))
    with pytest.raises(ValueError, match=r"0\.png has \(60, 80\) pixels, its image \(120, 160\)"):
        evaluation.evaluate(model, root, progress=False)


def test_command_evaluate_speaks_the_data_classes(own_model, tmp_path):
    """Ids with gaps on disk; a checkpoint alone; table and confusions on the screen, scores in a file."""
    root, palette = tmp_path / "data", own_palette(OWN, on_disk=[[3], [9, 10], [40], [41], [200]], ignored=[0])
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            (root / kind / split).mkdir(parents=True)
    for split in ("training", "validation"):
        image = blocks(96, 128)
        Image.fromarray(image).save(root / "images" / split / "x.png")
        truth = palette.to_disk[segment(own_model, image).label_map]
        truth[:20], truth[20:40] = 0, 10
        Image.fromarray(truth).save(root / "annotations" / split / "x.png")
    write_classes(root / "classes.json", palette)
    meta = {"cfg": own_model.cfg.pretty_text, "dataset_meta": own_model.dataset_meta}
    torch.save({"state_dict": own_model.state_dict(), "meta": meta}, tmp_path / "own.pth")
    target = tmp_path / "new" / "scores.json"
    arguments = ["evaluate", "--checkpoint", str(tmp_path / "own.pth"), "--data", str(root), "--json", str(target)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "most frequent mistakes" in done.stdout and "crème, brûlée" in done.stdout and "wall" not in done.stdout
    scores = json.loads(target.read_text(encoding="utf-8"))
    assert set(scores) == {"miou", "accuracy", "classes"} and set(scores["classes"]) <= set(OWN)
    assert sum(entry["share"] for entry in scores["classes"].values()) == pytest.approx(1, abs=1e-4)
    assert scores["accuracy"] == pytest.approx(evaluation.evaluate(own_model, root).accuracy / 100, abs=1e-5)
    assert 0 < scores["miou"] < 1 and f"mIoU {100 * scores['miou']:.1f} %" in done.stdout
