import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from m2f_helpers import cli
from m2f_helpers.data import pairs, preparation
from m2f_helpers.data.labels import counted_classes
from m2f_helpers.data.layout import read_data
from m2f_helpers.data.preparation import prepare, prepared_data
from m2f_helpers.data.scenes import dataset
from m2f_helpers.files import InUse, locked
from m2f_helpers.images import read_image
from tests.pair_files import LABEL, RED_BLUE, add, png, saved


def files(root):
    """All bytes below `root` except the manifest, which holds time stamps."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != preparation.MANIFEST}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return dataset.make_scenes(tmp_path_factory.mktemp("drawn"), 20, 4, size=[150, 200])


# --- Bad input -----------------------------------------------------------------------------------------------------


def jpeg_cut():
    data = saved(Image.effect_noise((48, 40), 60).convert("RGB"), "JPEG")
    return data[: len(data) // 2]


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


def scratched(data):
    middle = len(data) // 2
    return data[:middle] + bytes(20) + data[middle + 20 :]


NOISE = np.random.default_rng(0).integers(0, 150, LABEL.shape, dtype=np.uint8)
SIDEWAYS = Image.Exif()
SIDEWAYS[274] = 8
BAD = {  # name: (image, label, suffix of the picture, code)
    "picture empty": (b"", None, ".jpg", "unreadable-image"),
    "picture is text": (b"<html>404</html>", None, ".jpg", "unreadable-image"),
    "picture is random": (bytes(range(256)) * 9, None, ".jpg", "unreadable-image"),
    "jpeg cut off": (jpeg_cut(), None, ".jpg", "unreadable-image"),
    "jpeg header only": (saved(RED_BLUE, "JPEG")[:30], None, ".jpg", "unreadable-image"),
    "png cut off": (png(np.dstack([NOISE] * 3))[:1500], None, ".png", "unreadable-image"),
    "png scratched": (scratched(png(np.dstack([NOISE] * 3))), None, ".png", "unreadable-image"),
    "webp cut off": (saved(RED_BLUE, "WEBP")[:60], None, ".webp", "unreadable-image"),
    "tiff with floats": (saved(Image.new("F", (48, 40)), "TIFF"), None, ".tif", "unreadable-image"),
    "tiff with 32 bits": (saved(Image.new("I", (48, 40), 99999), "TIFF"), None, ".tif", "unreadable-image"),
    "decompression bomb": (bomb(), None, ".png", "unreadable-image"),
    "picture of 1 pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), None, ".png", "size-mismatch"),
    "image in a ppm": (saved(RED_BLUE, "PPM"), None, ".ppm", "wrong-suffix"),
    "no picture": (False, None, ".jpg", "no-image"),
    "no label": (None, False, ".jpg", "no-label"),
    "label empty": (None, b"", ".jpg", "empty"),
    "label is text": (None, b"wall floor bed " * 9, ".jpg", "not-png"),
    "label is bmp": (None, saved(Image.fromarray(LABEL), "BMP"), ".jpg", "not-png"),
    "label is jpeg": (None, saved(Image.fromarray(LABEL), "JPEG"), ".jpg", "jpeg-mask"),
    "label cut off": (None, png(NOISE)[:900], ".jpg", "truncated"),
    "label scratched": (None, scratched(png(NOISE)), ".jpg", "unreadable"),
    "label rgb": (None, png(np.dstack([LABEL, NOISE, LABEL])), ".jpg", "rgb-mask"),
    "label grey as rgb": (None, png(np.dstack([LABEL] * 3)), ".jpg", "rgb-mask"),
    "label rgba": (None, png(np.dstack([LABEL] * 4)), ".jpg", "rgb-mask"),
    "label with alpha": (None, png(np.dstack([LABEL] * 2)), ".jpg", "alpha-mask"),
    "label 16 bit": (None, png(LABEL.astype(np.uint16)), ".jpg", "16-bit"),
    "label 1 bit": (None, png(LABEL > 3), ".jpg", "low-bit"),
    "label 0 and 255": (None, png(LABEL // 4 * 255), ".jpg", "0-255-mask"),
    "label with id 151": (None, png(LABEL + np.uint8(145)), ".jpg", "id-out-of-range"),
    "label with id 254": (None, png(LABEL + np.uint8(248)), ".jpg", "id-out-of-range"),
    "label too small": (None, png(LABEL[::2, ::2]), ".jpg", "size-mismatch"),
    "label one row short": (None, png(LABEL[1:]), ".jpg", "size-mismatch"),
    "label turned": (saved(RED_BLUE, "JPEG", exif=SIDEWAYS), None, ".jpg", "turned"),
    "label palette damaged": (None, scratched(saved(Image.fromarray(NOISE).convert("P"), "PNG")), ".jpg", "unreadable"),
}


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory):
    """One run over all bad files, with good ones between them."""
    root = tmp_path_factory.mktemp("bad")
    for k, (name, (image, label, suffix, _)) in enumerate(BAD.items()):
        add(root / "src", name.replace(" ", "_"), image, label, suffix)
        add(root / "src", f"good_{k:02d}")
    (root / "src/images/training/broken_link.jpg").symlink_to(root / "nowhere.jpg")
    (root / "src/annotations/training/broken_link.png").write_bytes(png(LABEL))
    return root, prepare(root / "src", root / "dst", [32, 32])


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_its_reason(bad_run, name):
    root, report = bad_run
    stem, code = name.replace(" ", "_"), BAD[name][3]
    entries = [entry for entry in report.failed if Path(entry[0]).stem == stem]
    assert code in [entry[1] for entry in entries]
    assert all(len(entry[2]) > 10 for entry in entries)
    assert not list(root.glob(f"dst/*/*/{stem}.*"))


def test_bad_files_do_not_stop_the_others(bad_run):
    root, report = bad_run
    assert report.pairs == len(BAD)
    assert len(list((root / "dst/images/training").iterdir())) == len(BAD)
    assert any(entry[0].endswith("broken_link.jpg") for entry in report.failed)
    assert not report.ok


def test_report_json_holds_the_reasons(bad_run):
    root, report = bad_run
    content = json.loads((root / "dst/report.json").read_text())
    assert content["failed"] == report.failed
    assert content["pairs"] == len(BAD)
    assert {Path(file).stem for file, _, _ in content["failed"]} >= {name.replace(" ", "_") for name in BAD}


def test_exit_status_and_text_of_the_command(tmp_path):
    add(tmp_path / "src", "good")
    runner = CliRunner()
    arguments = ["prepare", str(tmp_path / "src"), str(tmp_path / "dst"), "--size", "24", "32", "--mode", "pad"]
    result = runner.invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "1 pairs of 24 x 32 (pad)" in result.output
    add(tmp_path / "src", "bad", label=b"")
    result = runner.invoke(cli.main, arguments)
    assert result.exit_code == 1
    assert "failed: annotations/training/bad.png is an empty file: copy or download it again" in result.output
    missing = runner.invoke(cli.main, ["prepare", str(tmp_path / "nowhere"), str(tmp_path / "dst2")])
    assert missing.exit_code == 1
    assert "does not exist" in missing.output


def test_a_worker_that_dies_is_named_and_the_rest_goes_on(tmp_path, drawn):
    report = prepare(drawn, tmp_path / "dst", [32, 32])
    jobs = preparation._make_jobs(read_data(drawn), tmp_path / "dst", report.settings)
    deadly = _Deadly("training/killer", jobs[0].image, jobs[0].label, tmp_path, report.settings)
    results = {result.key: result for result in preparation._run_pool([*jobs[:4], deadly, *jobs[4:6]], 2)}
    assert len(results) == 7
    assert [key for key, result in results.items() if result.errors] == ["training/killer"]
    assert results["training/killer"].errors[0][1] == "worker-died"


class _Deadly(pairs.Job):
    """Unpickled in a worker, it ends the process as a crash in a decoder would."""

    def __reduce__(self):
        return os._exit, (139,)


# --- Own classes, warnings, report ---------------------------------------------------------------------------------


def test_own_classes_counted_from_zero(tmp_path):
    add(tmp_path / "src", "a", label=png(LABEL - 1))
    report = prepare(tmp_path / "src", tmp_path / "dst", [60, 60], "pad", classes=counted_classes(6, False))
    assert report.ok
    assert [entry.name for entry in report.classes] == ["class 0", *(f"class {i}" for i in range(1, 6)), "ignore"]
    add(tmp_path / "src", "b")  # ids 1..6
    report = prepare(tmp_path / "src", tmp_path / "dst", [60, 60], "pad", classes=counted_classes(6, False))
    assert [entry[1] for entry in report.failed] == ["id-equals-num-classes"]


def test_all_other_is_kept_with_a_warning(tmp_path):
    report = prepare(add(tmp_path / "src", "a", label=png(LABEL * 0)), tmp_path / "dst", [32, 32])
    assert report.ok and report.pairs == 1
    assert [entry[1] for entry in report.warnings] == ["all-other"]
    again = prepare(tmp_path / "src", tmp_path / "dst", [32, 32])
    assert again.warnings == report.warnings and again.written == 0


def test_report_counts_classes_and_names_the_vanished(tmp_path):
    label = np.ones((40, 400), np.uint8)
    label[:, :3] = 94  # a pole at the very left
    image = saved(Image.new("RGB", (400, 40)), "JPEG")
    add(tmp_path / "src", "a", image, png(label))
    add(tmp_path / "src", "b")
    report = prepare(tmp_path / "src", tmp_path / "dst", [40, 40], "crop")
    assert report.vanished == {"training/a": ["pole"]}
    walls = next(entry for entry in report.classes if entry.name == "wall")
    kept = [cv2.imread(str(tmp_path / f"dst/annotations/training/{n}.png"), -1) for n in "ab"]
    assert walls.pixels == sum(int((k == 1).sum()) for k in kept)
    assert walls.images == sum(bool((k == 1).any()) for k in kept)
    assert "vanished from training/a: pole" in str(report)
    assert list(report.table().columns) == ["id", "name", "pixels", "images"]


def test_real_pairs_keep_their_ids(ade20k_sample, tmp_path):
    report = prepare(ade20k_sample, tmp_path / "dst")
    assert report.pairs == 2
    for split in ("training", "validation"):
        (before,), (after,) = read_data(ade20k_sample).splits[split], read_data(tmp_path / "dst").splits[split]
        source, small = (cv2.imread(str(pair.label), cv2.IMREAD_UNCHANGED) for pair in (before, after))
        assert small.shape == (512, 512)
        assert set(np.unique(small)) == set(np.unique(source))
        assert small.max() <= 150
        assert read_image(after.image).shape == (512, 512, 3)


# --- Resuming ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(drawn, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "dst"
    assert prepare(drawn, root, [128, 128]).written == 24
    return files(root)


def test_processes_do_not_change_the_bytes(drawn, undisturbed, tmp_path):
    prepare(drawn, tmp_path / "dst", [128, 128], workers=2)
    assert files(tmp_path / "dst") == undisturbed


def test_second_run_does_only_what_is_missing_or_changed(drawn, undisturbed, tmp_path):
    dst = tmp_path / "dst"
    prepare(drawn, dst, [128, 128])
    assert prepare(drawn, dst, [128, 128]).written == 0
    pairs = read_data(dst).train
    pairs[0].image.unlink()  # missing
    pairs[1].label.write_bytes(pairs[1].label.read_bytes()[:-5])  # shorter
    data = bytearray(pairs[2].image.read_bytes())
    data[len(data) // 2] ^= 255
    pairs[2].image.write_bytes(data)  # same size, other bytes
    os.utime(pairs[3].image)  # touched, but the same bytes
    assert prepare(drawn, dst, [128, 128]).written == 3
    assert files(dst) == undisturbed


def test_changed_source_and_changed_settings_are_done_again(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    add(src, "a"), add(src, "b")
    prepare(src, dst, [32, 32])
    add(src, "b", label=png(np.full_like(LABEL, 9)))
    assert prepare(src, dst, [32, 32]).written == 1
    assert set(np.unique(cv2.imread(str(dst / "annotations/training/b.png"), -1))) == {9}
    assert prepare(src, dst, [32, 48]).written == 2
    assert prepare(src, dst, [32, 48], "crop").written == 2
    assert read_image(dst / "images/training/a.jpg").shape == (32, 48, 3)


def test_outputs_of_gone_or_spoilt_sources_are_removed(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    for name in "abc":
        add(src, name)
    prepare(src, dst, [32, 32])
    (src / "images/training/a.jpg").unlink()
    (src / "annotations/training/a.png").unlink()
    add(src, "b", label=b"")
    report = prepare(src, dst, [32, 32])
    assert report.pairs == 1
    assert [pair.name for pair in read_data(dst).train] == ["c"]


def test_unfinished_line_of_the_manifest_is_harmless(drawn, undisturbed, tmp_path):
    dst = tmp_path / "dst"
    prepare(drawn, dst, [128, 128])
    manifest = dst / preparation.MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-100])
    assert prepare(drawn, dst, [128, 128]).written == 1
    assert files(dst) == undisturbed


def test_a_file_has_its_final_name_only_when_it_is_complete(tmp_path, monkeypatch):
    src, dst = add(tmp_path / "src", "a"), tmp_path / "dst"

    def die(source, target):  # as a process killed just before the rename
        if str(target).endswith((".jpg", ".png")):
            raise KeyboardInterrupt
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            prepare(src, dst, [32, 32])
    assert [path for path in dst.glob("*/*/*") if not path.name.startswith(".")] == []
    leftover = next(dst.glob("*/*/.*.part"))
    leftover.rename(leftover.with_name(".a.jpg.999999999.part"))  # of a process that is no more
    assert prepare(src, dst, [32, 32]).written == 1
    assert list(dst.glob("*/*/.*")) == []


def test_wrong_arguments_leave_nothing_behind(drawn, tmp_path):
    for size, mode, workers, text in (
        ([8, 8], "zoom", 1, "mode must be"),
        ([0, 8], "crop", 1, "1 to 8192"),
        ([8, 8], "pad", 0, "1 or more, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            prepare(drawn, tmp_path / "dst", size, mode, workers)
    assert not (tmp_path / "dst").exists()


def test_destination_with_other_files_is_refused(drawn, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that `prepare` did not write"):
        prepare(drawn, tmp_path, [32, 32])
    for dst in (drawn, drawn / "images" / "small", drawn.parent):
        with pytest.raises(ValueError, match="must not contain each other"):
            prepare(drawn, dst, [32, 32])


def start_prepare(src, dst, workers):
    call = f"prepare({str(src)!r}, {str(dst)!r}, [384, 384], workers={workers})"
    code = f"from m2f_helpers.data.preparation import prepare; {call}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_runs_end_with_the_same_bytes(tmp_path):
    src = dataset.make_scenes(tmp_path / "src", 40, 8, size=[300, 400])
    prepare(src, tmp_path / "whole", [384, 384])
    expected, chance, partial = files(tmp_path / "whole"), random.Random(3), 0
    for k in range(20):
        dst = tmp_path / f"dst{k}"
        process = start_prepare(src, dst, 2 if k % 5 == 0 else 1)
        until_first_file(dst, process)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = {n: d for n, d in files(dst).items() if not n.split("/")[-1].startswith(".")}
        finished.pop(preparation.REPORT, None)
        assert finished.items() <= expected.items()  # whole and right, or absent
        partial += 0 < len(finished) < len(expected) - 1
        time.sleep(0.3 if k % 5 == 0 else 0)  # workers notice that their parent is gone
        assert prepare(src, dst, [384, 384]).pairs == 48
        assert files(dst) == expected
    assert partial >= 8, "too few runs were killed in the middle: the test proves little"


def until_first_file(dst, process):
    while process.poll() is None and not list(dst.glob("images/*/*")):
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="counts processes by their parent, which Windows does not keep")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    import psutil

    src = dataset.make_scenes(tmp_path / "src", 60, 0, size=[300, 400])
    process = start_prepare(src, tmp_path / "dst", 2)
    until_first_file(tmp_path / "dst", process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert children
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


# --- The call of the notebooks -------------------------------------------------------------------------------------


def test_prepared_data_draws_and_prepares_once(tmp_path):
    root = prepared_data("", tmp_path, train=3, val=2)
    assert root == tmp_path / "prepared"
    assert [len(read_data(root).splits[split]) for split in ("training", "validation")] == [3, 2]
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    prepared_data("", tmp_path, train=3, val=2)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == stamps


def test_prepared_data_of_another_source_replaces_the_first(tmp_path):
    prepared_data("", tmp_path, train=3, val=2)
    own = add(tmp_path / "own", "mine")
    root = prepared_data(own, tmp_path)
    assert [pair.name for pair in read_data(root).train] == ["mine"]
    assert read_data(root).val == []


def test_prepared_data_without_a_usable_pair(tmp_path):
    with pytest.raises(ValueError, match="holds no pair that can be used(.|\n)*is an empty file"):
        prepared_data(add(tmp_path / "own", "mine", label=b""), tmp_path / "out")


def test_a_second_run_into_the_same_folder_is_refused(tmp_path, drawn):
    with locked(tmp_path / "dst"), pytest.raises(InUse, match=f"dst is in use by process {os.getpid()} "):
        prepare(drawn, tmp_path / "dst", [32, 32])
    assert prepare(drawn, tmp_path / "dst", [32, 32]).pairs == 24
