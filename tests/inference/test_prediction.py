"""`m2f predict`: one bad item costs only itself, files are told apart, and nothing that is not ours is overwritten."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from m2f_helpers import files
from m2f_helpers.cli import main
from m2f_helpers.inference import prediction
from m2f_helpers.inference import segment as segmentation
from m2f_helpers.inference.segment import segment
from m2f_helpers.palette import ade20k_palette, own_palette, palette_of
from tests.inference.conftest import OWN, blocks


def content(out: Path) -> dict[str, bytes]:
    found = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != files.LOCK]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_predict_writes_overlays_labels_and_shares_and_goes_on(model, folder, tmp_path):
    out = tmp_path / "out"
    report = prediction.predict(model, [folder, tmp_path / "nowhere.png"], out)
    assert sorted(content(out)) == sorted(
        [f"{i}_{kind}.png" for i in range(3) for kind in ("labels", "overlay")] + ["shares.csv"]
    )
    assert set(map(Path, report.failed)) == {folder / "broken.jpg", tmp_path / "nowhere.png"}
    result = segment(model, folder / "1.png")
    with Image.open(out / "1_labels.png") as labels:
        assert labels.mode == "P"
        assert (np.array(labels) == result.label_map + 1).all(), "on disk ADE20K counts from 1"
        assert (np.array(labels.convert("RGB")) == ade20k_palette().colorize(result.label_map)).all()
    shares = pd.read_csv(out / "shares.csv")
    assert list(shares.columns) == ["file", "id", "name", "share", "confidence"]
    assert shares.groupby("file")["share"].sum().round(3).tolist() == [1, 1, 1]


def test_predict_keeps_two_images_of_one_name_apart(model, tmp_path):
    for suffix in (".png", ".jpg"):
        Image.fromarray(blocks(80, 80)).save(tmp_path / f"same{suffix}")
    report = prediction.predict(model, [tmp_path / "same.png", tmp_path / "same.jpg"], tmp_path / "out")
    assert len({p.name for p in report.files}) == 5


def test_label_files_read_back_through_mmseg(tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    label_map = np.array([[0, 12, 149], [255, 48, 6]], dtype=np.uint8)
    path = prediction.save_labels(label_map, tmp_path / "x.png")
    loaded = LoadAnnotations()({"seg_map_path": str(path), "reduce_zero_label": True, "seg_fields": []})
    assert (loaded["gt_seg_map"] == label_map).all()


def test_command_predict(model, folder, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict()}, weights)
    arguments = ["predict", str(folder), "--out", str(tmp_path / "o"), "--checkpoint", str(weights), "--device", "cpu"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and "3 images segmented" in done.stdout
    assert done.stderr.count("\n") == 1 and "broken.jpg" in done.stderr
    (folder / "broken.jpg").unlink()
    assert CliRunner().invoke(main, arguments).exit_code == 0


# ----------------------------------------------------------------------------------------------- names, own results


def test_two_folders_with_one_file_name_are_two_rows_and_two_results(model, tmp_path):
    for i, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        Image.fromarray(blocks(80, 80, i)).save(tmp_path / place / "x.jpg")
    out = tmp_path / "out"
    report = prediction.predict(model, [tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.jpg"], out)
    assert sorted(set(report.table["file"])) == ["a/x.jpg", "b/x.jpg"]
    assert set(content(out)) == {f"{p}/x_{kind}.png" for p in "ab" for kind in ("labels", "overlay")} | {"shares.csv"}
    shares = pd.read_csv(out / "shares.csv").groupby("file")["share"].sum()
    assert shares.round(3).tolist() == [1, 1], "the same file given twice is one row"


def test_what_is_left_out_of_an_image_is_said(model, tmp_path):
    pages = [Image.fromarray(blocks(60, 80, i)) for i in range(3)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    report = prediction.predict(model, [tmp_path / "scan.tif"], tmp_path / "out")
    assert report.notes == (f"{tmp_path / 'scan.tif'}: only the first of 3 frames or pages is read",)


def test_names_differ_in_case_only(tmp_path):
    paths = [tmp_path / "A.jpg", tmp_path / "a.jpg"]
    targets = prediction._targets(prediction.row_names(paths), tmp_path)
    assert len({str(file).casefold() for pair in targets.values() for file in pair}) == 4


def test_results_beside_the_images_are_not_taken_as_images(model, folder):
    (folder / "broken.jpg").unlink()
    first = prediction.predict(model, [folder], folder)
    before = content(folder)
    again = prediction.predict(model, [folder], folder)
    assert len(again.skipped) == 6 and first.table.equals(again.table)
    assert content(folder) == before
    with pytest.raises(ValueError, match=r"nothing but results of an earlier predict \(1\)"):
        prediction.predict(model, [folder / "0_overlay.png"], folder / "new")


@pytest.mark.parametrize("name", ["1_labels.png", "shares.csv"])
def test_a_file_of_somebody_else_is_not_overwritten(model, folder, name):
    """Such as the true label maps beside the images."""
    if name.endswith("png"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / name)
    else:
        (folder / name).write_text("my,own,table\n")
    before = content(folder)
    with pytest.raises(ValueError, match=rf"{name} is there and was not written by m2f predict: give another --out"):
        prediction.predict(model, [folder / "1.png"], folder)
    assert content(folder) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8_costs_nothing(model, folder, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save({"state_dict": model.state_dict()}, weights)
    os.rename(folder / "1.png", os.fsencode(folder) + b"/caf\xe9.png")
    os.rename(folder / "broken.jpg", os.fsencode(folder) + b"/b\xe9.jpg")
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["predict", str(folder), "--out", str(out), "--checkpoint", str(weights)])
    assert done.exit_code == 1 and "3 images segmented" in done.stdout
    assert "b\\xe9.jpg" in done.stderr and "Traceback" not in done.stderr
    shares = pd.read_csv(out / "shares.csv")
    assert sorted(set(shares["file"])) == ["0.png", "2.png", "caf\\xe9.png"]
    assert b"caf\xe9_labels.png" in os.listdir(os.fsencode(out))


# --------------------------------------------------------------------------------------- faults while it is working


def test_a_full_disk_costs_only_the_rows_that_do_not_fit(model, folder, tmp_path, monkeypatch):
    real, out = files.replacing, tmp_path / "out"

    def full(path):
        if Path(path).name == "1_labels.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path)

    monkeypatch.setattr(files, "replacing", full)
    report = prediction.predict(model, [folder], out)
    words = report.failed[str(folder / "1.png")]
    assert "cannot be written" in words and "the disk is full: make room" in words
    assert sorted(set(pd.read_csv(out / "shares.csv")["file"])) == ["0.png", "2.png"]


def test_memory_that_is_missing_costs_one_row(model, folder, tmp_path, monkeypatch):
    real = segmentation.winners
    calls = []

    def upsampled(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")
        return real(*arguments)

    monkeypatch.setattr(segmentation, "winners", upsampled)
    report = prediction.predict(model, [folder], tmp_path / "out")
    assert "needs more memory than there is" in report.failed[str(folder / "1.png")]
    assert sorted(set(report.table["file"])) == ["0.png", "2.png"]


def test_two_at_once_the_second_is_told_and_nothing_changes(model, folder, tmp_path):
    with files.locked(tmp_path / "out"), pytest.raises(ValueError, match=r"out is in use by process \d+"):
        prediction.predict(model, [folder], tmp_path / "out")
    assert content(tmp_path / "out") == {}


def test_an_image_that_does_not_fit_is_said_before_anything_is_computed(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "free_memory", lambda device="cpu": 50_000_000)
    Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(folder / "large.png")
    monkeypatch.setattr(segmentation, "lean_model", lambda model: lambda inputs, every: pytest.fail("computed"))
    report = prediction.predict(model, [folder / "large.png"], tmp_path / "out")
    (words,) = report.failed.values()
    assert "has 2000 x 2000 pixels and needs 0.1 GB, the main memory has 0.1 GB free: make the image smaller" in words


def test_a_table_that_cannot_grow_is_left_whole(tmp_path, monkeypatch):
    rows = pd.DataFrame([["a", 1, "x", 0.5, 0.5]], columns=prediction.COLUMNS)
    prediction._append(rows, tmp_path / "t.csv", first=True)
    before = (tmp_path / "t.csv").read_bytes()
    real = open

    def opened(path, mode="r", *more):
        file = real(path, mode, *more)
        if mode == "r+b":

            class Half:
                def __enter__(self):
                    return self

                def __exit__(self, *error):
                    file.close()

                def seek(self, *where):
                    return file.seek(*where)

                def write(self, data):
                    file.write(data[:4])
                    file.flush()
                    raise OSError(errno.ENOSPC, "No space left on device")

            return Half()
        return file

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(OSError, match="No space"):
        prediction._append(rows, tmp_path / "t.csv", first=False)
    monkeypatch.undo()
    assert (tmp_path / "t.csv").read_bytes() == before


def test_an_interruption_keeps_the_finished_rows_and_a_second_run_ends_as_one_undisturbed(
    model, folder, tmp_path, monkeypatch
):
    """After a kill at any write it ends so too: `faults/test_writes.py`."""
    (folder / "broken.jpg").unlink()
    save, saved = prediction._save, []

    def counted(image, path):
        saved.append(path)
        if len(saved) == 4:
            raise KeyboardInterrupt
        return save(image, path)

    monkeypatch.setattr(prediction, "_save", counted)
    with pytest.raises(KeyboardInterrupt):
        prediction.predict(model, [folder], tmp_path / "stopped")
    assert set(pd.read_csv(tmp_path / "stopped" / "shares.csv")["file"]) == {"0.png"}
    for name in ("stopped", "whole"):
        prediction.predict(model, [folder], tmp_path / name)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


# ----------------------------------------------------------------------------------------------------- own classes


def test_own_classes_are_in_the_table_and_in_the_png(own_model, tmp_path):
    Image.fromarray(blocks(90, 120)).save(tmp_path / "x.png")
    out = tmp_path / "out"
    report = prediction.predict(own_model, [tmp_path / "x.png"], out)
    assert set(report.table["name"]) == set(pd.read_csv(out / "shares.csv")["name"]) <= set(OWN)
    assert len(report.table) > 1
    result, palette = segment(own_model, tmp_path / "x.png"), palette_of(own_model)
    with Image.open(out / "x_labels.png") as labels:
        assert (np.array(labels) == result.label_map).all(), "no 0 = other: the ids start at 0"
        assert (np.array(labels.convert("RGB")) == palette.colorize(result.label_map)).all()


def test_ids_with_gaps_go_back_to_disk(tmp_path):
    palette = own_palette(["a", "b"], on_disk=[[7, 8], [40]], ignored=[0])
    path = prediction.save_labels(np.array([[0, 1, 255]], np.uint8), tmp_path / "x.png", palette)
    with Image.open(path) as image:
        assert np.array(image).tolist() == [[7, 40, 0]]
        assert np.array(image.convert("RGB"))[0, :2].tolist() == palette.colors.tolist()


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ([], {}, "expected at least one image or folder of images, got none"),
        (["x.png"], {"alpha": 1.5}, "expected alpha between 0 and 1, got 1.5"),
    ],
)
def test_predict_says_at_the_door_what_is_wrong(model, tmp_path, inputs, options, words):
    with pytest.raises(ValueError, match=words):
        prediction.predict(model, inputs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
