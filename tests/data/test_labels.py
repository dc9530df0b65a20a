import io

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from m2f_helpers import cli
from m2f_helpers.data.checks import check_data
from m2f_helpers.data.labels import LabelError, check_pair, count_ids, counted_classes, read_label
from m2f_helpers.palette import ade20k_palette
from tests.pair_files import LABEL as GOOD
from tests.pair_files import png


def palette_png(array):
    picture = Image.frombytes("P", array.shape[::-1], array.tobytes())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [9] * 759)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write(root, label, name="a", image_shape=None, split="training"):
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    data = label if isinstance(label, bytes) else png(label)
    (root / f"annotations/{split}/{name}.png").write_bytes(data)
    shape = image_shape or (label.shape[:2] if isinstance(label, np.ndarray) else GOOD.shape)
    Image.new("RGB", shape[::-1], "olive").save(root / f"images/{split}/{name}.jpg")
    return root


def problems_of(root, **options):
    return check_data(root, **options).problems


def codes(problems):
    return [problem.code for problem in problems]


def jpeg(array):
    return cv2.imencode(".jpg", array)[1].tobytes()


def damaged(data):
    middle = len(data) // 2
    return data[:middle] + bytes(40) + data[middle + 40 :]


RNG = np.random.default_rng(0)
FAULTS = {
    "16-bit": (png(GOOD.astype(np.uint16)), "16 bits"),
    "rgb-mask": (png(RNG.integers(0, 255, (40, 48, 3), dtype=np.uint8)), "colours instead of ids"),
    "alpha-mask": (png(np.dstack([GOOD, GOOD])), "transparency"),
    "low-bit": (png(GOOD > 3), "1 bits per pixel"),
    "jpeg-mask": (jpeg(GOOD), "invents ids at every edge"),
    "not-png": (b"BM" + bytes(100), "8-bit grey or palette PNG"),
    "empty": (b"", "empty file"),
    "truncated": (png(RNG.integers(0, 150, (40, 48), dtype=np.uint8))[:900], "ends too early"),
    "unreadable": (damaged(png(RNG.integers(0, 150, (40, 48), dtype=np.uint8))), "damaged"),
    "0-255-mask": (GOOD // 4 * 255, "255 means ignore"),
    "all-other": (GOOD * 0, '"other"'),
    "id-out-of-range": (GOOD + np.uint8(150), "known are 0..150"),
}


@pytest.mark.parametrize("code", FAULTS)
def test_each_fault_is_named_with_its_remedy(tmp_path, code):
    label, text = FAULTS[code]
    problem = next(problem for problem in problems_of(write(tmp_path, label)) if problem.code == code)
    assert text in problem.message
    assert problem.path.name == "a.png"
    assert problem.severity == ("warning" if code == "all-other" else "error")


def test_good_labels_have_no_problem(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, np.where(GOOD == 1, 0, GOOD).astype(np.uint8), "b", split="validation")
    write(tmp_path, np.where(GOOD == 1, 255, GOOD).astype(np.uint8), "c")
    assert problems_of(tmp_path) == []


def test_real_pairs_are_right_and_what_two_pairs_cannot_show_is_said(ade20k_sample):
    (warning,) = problems_of(ade20k_sample)  # one pair to train on does not hold all classes of the other
    assert warning.severity == "warning" and warning.message.startswith("earth occurs in validation only")


def test_palette_png_is_read_as_ids():
    ids = GOOD % 3
    assert np.array_equal(read_label(palette_png(ids)), ids)
    assert cv2.imdecode(np.frombuffer(palette_png(ids), np.uint8), 0).max() > 2  # what goes wrong elsewhere


def test_grey_saved_as_rgb_gets_its_own_advice():
    with pytest.raises(LabelError, match="three equal channels: save one of them") as caught:
        read_label(png(np.dstack([GOOD] * 3)))
    assert caught.value.code == "rgb-mask"


def test_four_bit_png_is_refused(tmp_path):
    picture = Image.frombytes("P", (4, 4), bytes(range(16)))
    picture.putpalette([v for k in range(16) for v in (k, k, k)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", bits=4)
    assert np.array_equal(read_label(buffer.getvalue()).ravel(), range(16))  # palette: indices stay
    data = bytearray(buffer.getvalue())
    data[25] = 0  # the same pixels declared grey: readers would stretch them to 0, 17, 34, ...
    with pytest.raises(LabelError, match="4 bits per pixel, which readers stretch"):
        read_label(bytes(data))


def test_id_equal_to_number_of_classes_is_the_silent_one(tmp_path):
    write(tmp_path, GOOD)  # ids 1..6 with six classes counted from 0
    problem, together = problems_of(tmp_path, classes=counted_classes(6, False))
    assert (problem.code, together.code) == ("id-equals-num-classes", "unknown-ids")
    assert '"no object"' in problem.message
    assert problems_of(tmp_path, classes=counted_classes(6, True)) == []


def test_own_classes_from_zero(tmp_path):
    write(tmp_path, GOOD - 1)
    assert problems_of(tmp_path, classes=counted_classes(6, False)) == []
    (problem,) = problems_of(tmp_path, classes=counted_classes(6, True))
    assert (problem.code, problem.severity) == ("counts-from-zero", "warning")


def test_size_mismatch_and_exif_turn(tmp_path):
    write(tmp_path, GOOD, "small", image_shape=(80, 96))
    write(tmp_path, GOOD, "turned")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", GOOD.shape[::-1]).save(tmp_path / "images/training/turned.jpg", exif=exif)
    problems = problems_of(tmp_path)
    assert codes(problems) == ["size-mismatch", "turned"]
    assert "is 48 x 40 (width x height) but its image is 96 x 80" in problems[0].message


def test_missing_partners_and_wrong_suffix(tmp_path):
    write(tmp_path, GOOD, "good")
    write(tmp_path, GOOD, "lonely_picture")
    write(tmp_path, GOOD, "lonely_label")
    (tmp_path / "annotations/training/lonely_picture.png").unlink()
    (tmp_path / "images/training/lonely_label.jpg").unlink()
    (tmp_path / "images/training/notes.txt").write_text("x")
    Image.new("RGB", (48, 40)).save(tmp_path / "images/training/good.png")
    found = {problem.path.name: problem.code for problem in problems_of(tmp_path)}
    assert found == {
        "lonely_picture.jpg": "no-label",
        "lonely_label.png": "no-image",
        "notes.txt": "wrong-suffix",
        "good.png": "same-name",
    }


def test_unreadable_picture(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "images/training/a.jpg").write_text("no picture")
    assert codes(problems_of(tmp_path)) == ["unreadable-image"]


def test_smoothly_resized_mask_is_suspected_and_thin_classes_are_not(tmp_path):
    blocks = RNG.integers(1, 150, (6, 8), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    smooth = np.asarray(Image.fromarray(blocks).resize((400, 300), Image.Resampling.BICUBIC))
    nearest = np.asarray(Image.fromarray(blocks).resize((400, 300), Image.Resampling.NEAREST))
    assert "smoothed-mask" in codes(problems_of(write(tmp_path / "smooth", smooth)))
    assert problems_of(write(tmp_path / "nearest", nearest)) == []


def test_more_classes_than_queries(tmp_path):
    write(tmp_path, GOOD)
    pair = (tmp_path / "images/training/a.jpg", tmp_path / "annotations/training/a.png")
    _, (problem,) = check_pair(*pair, ade20k_palette(), num_queries=5)
    assert problem.message == "shows 6 classes, but the model has 5 queries: some are never matched"


def test_limit_spreads_over_the_files(tmp_path):
    for k in range(9):
        write(tmp_path, GOOD if k % 8 else GOOD * 0, f"f{k}")
    for limit, found in ((None, 2), (2, 2), (1, 1)):  # with 2 the first and the last
        assert codes(problems_of(tmp_path, limit=limit)).count("all-other") == found


def test_arguments_are_checked(tmp_path):
    for count in (0, 1, 255, 300):
        with pytest.raises(ValueError, match=f"--classes must lie between 2 and 254, got {count}"):
            counted_classes(count)
    for limit in (0, -3):
        with pytest.raises(ValueError, match=f"--limit must be 1 or more, got {limit}"):
            check_data(write(tmp_path, GOOD), limit=limit)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        problems_of(tmp_path / "nowhere")


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 150, 255])))
def test_count_ids_agrees_with_numpy(label_map):
    ids, pixels = np.unique(label_map, return_counts=True)
    assert count_ids(label_map) == dict(zip(ids.tolist(), pixels.tolist(), strict=True))


def test_description_counts_and_cuts(tmp_path):
    for k in range(23):
        write(tmp_path, GOOD * 0 if k else GOOD // 4 * 255, f"f{k}")
    text = str(check_data(tmp_path))
    assert text.splitlines()[0].startswith("error: ")
    assert text.endswith(
        "... and 4 more\n23 training and 0 validation pairs, 23 looked at, 150 classes: 2 errors, 22 warnings"
    )


def test_command_line(tmp_path):
    write(tmp_path, GOOD)
    runner = CliRunner()
    assert runner.invoke(cli.main, ["check", "--data", str(tmp_path)]).exit_code == 0
    result = runner.invoke(cli.main, ["check", "--data", str(tmp_path), "--classes", "5"])
    assert result.exit_code == 1
    assert "holds ids 6 that no class has (known are 0..5" in result.output
