"""Data sets whose files are all legal, and that are wrong together."""

import re
import shutil

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from m2f_helpers import cli
from m2f_helpers.data.checks import check_data
from m2f_helpers.data.layout import read_data
from m2f_helpers.data.scenes.dataset import make_scenes
from m2f_helpers.palette import CLASSES_FILE, own_palette, write_classes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("drawn") / "data", 12, 4, "day", size=[96, 128])


@pytest.fixture
def data(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


def relabel(root, change, split="*"):
    for path in root.glob(f"annotations/{split}/*.png"):
        label_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(label_map).astype(np.uint8))


def only(root, code):
    """The one problem of the whole set, by its code; nothing else may be found."""
    report = check_data(root)
    found = [problem for problem in report.problems if problem.code == code]
    assert len(found) == 1, report
    return found[0]


def run_named_command(problem, new, **filled):
    """Do what the message says: its first command in backticks, with the capitals filled in."""
    words = re.search(r"`m2f ([^`]+)`", problem.message)[1].split()
    words = [str(new) if word == "NEW" else filled.get(word, word) for word in words]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output


def test_drawn_scenes_have_no_problem_and_the_report_counts(drawn):
    report = check_data(drawn)
    assert [str(problem) for problem in report.problems] == []
    assert str(report) == (
        "12 training and 4 validation pairs, 16 looked at, 150 classes: 0 errors, 0 warnings"
    )  # fmt: skip
    assert "pairs, 4 looked at," in str(check_data(drawn, limit=2))


def test_labels_that_are_shifted_already(data, tmp_path):
    relabel(data, lambda ids: ids - 1)  # uint8: 0 becomes 255
    problem = only(data, "already-shifted")
    assert problem.severity == "error" and "255 occurs in" in problem.message
    run_named_command(problem, tmp_path / "new")
    made = read_data(tmp_path / "new")
    assert made.classes.names[0] == "wall" and made.classes.from_disk[0] == 0 and check_data(made.root).problems == []


def test_ids_with_gaps_get_the_command_that_numbers_them_anew(data, tmp_path):
    relabel(data, lambda ids: ids % 3 * 100)
    write_classes(data / CLASSES_FILE, own_palette(["a", "b", "c"]))
    problem = only(data, "unknown-ids")
    assert "hold 3 ids: 0, 100, 200; no class has 100, 200" in problem.message
    run_named_command(problem, tmp_path / "new", **{"NAME,NAME,...": "one,two,three"})
    assert read_data(tmp_path / "new").classes.names == ["one", "two", "three"]
    assert check_data(tmp_path / "new").errors == 0


def test_own_classes_taken_for_ade20ks(data, tmp_path):
    relabel(data, lambda ids: ids % 4)
    problem = only(data, "few-ids")
    assert problem.severity == "warning" and "0..3" in problem.message and "wall, building, sky" in problem.message
    run_named_command(problem, tmp_path / "new", **{"NAME,NAME,...": "a,b,c,d"})
    assert read_data(tmp_path / "new").classes.names == ["a", "b", "c", "d"]


@pytest.mark.parametrize("value, words", [(0, "no class at all"), (3, "only the class 'sky'")])
def test_one_class_everywhere_teaches_nothing(data, value, words):
    relabel(data, lambda ids: ids * 0 + value)
    problem = only(data, "one-class")
    assert problem.severity == "error" and words in problem.message


def test_classes_that_are_nowhere_or_in_one_split_only(data):
    names = ["a", "b", "c", "d", "e"]
    write_classes(data / CLASSES_FILE, own_palette(names))
    relabel(data, lambda ids: np.where(ids % 3 == 2, 3, ids % 3), "training")
    relabel(data, lambda ids: np.where(ids % 3 == 2, 4, ids % 3), "validation")
    messages = {problem.code: problem.message for problem in check_data(data).problems}
    assert messages["never-seen"].startswith("no label map shows c:")
    assert messages["training-only"].startswith("d occurs in training only")
    assert messages["validation-only"].startswith("e occurs in validation only")


@pytest.mark.parametrize("orientation", [3, 2])
def test_masks_that_were_never_turned_with_their_images(data, orientation):
    turn = {3: lambda a: np.rot90(a, 2), 2: np.fliplr}[orientation]  # both are their own inverse
    exif = Image.Exif()
    exif[274] = orientation
    for pair in read_data(data).pairs:
        stored = turn(np.asarray(Image.open(pair.image)))
        Image.fromarray(np.ascontiguousarray(stored)).save(pair.image, exif=exif, quality=95)
    assert check_data(data).problems == []  # the masks lie as people see the images
    relabel(data, turn)
    problem = only(data, "never-turned")
    assert problem.severity == "error" and "so do 16 in all" in problem.message


def test_near_duplicates_across_splits(data):
    folder = read_data(data)
    image = Image.open(folder.train[3].image).resize((100, 75))
    image.point(lambda v: min(255, v + 12)).save(folder.val[1].image, quality=60)
    shutil.copy(folder.train[3].label, folder.val[1].label)
    label_map = cv2.imread(str(folder.val[1].label), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(folder.val[1].label), cv2.resize(label_map, (100, 75), interpolation=cv2.INTER_NEAREST))
    problem = only(data, "near-duplicate")
    assert problem.path == folder.val[1].image and folder.train[3].image.name in problem.message
    assert "1 of 4 validation images" in problem.message


def test_what_is_not_read_of_images_is_said_once(data):
    for pair in read_data(data).train[:3]:
        image = Image.open(pair.image)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(pair.image.with_suffix(".png"))
        pair.image.unlink()
    problem = only(data, "left-out")
    assert problem.message == "its transparent parts are laid on white (and 2 more images like it)"
