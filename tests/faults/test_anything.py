"""Whatever lies in a folder: check, prepare, train and predict do it right or say one sentence, and change no input."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from m2f_helpers.cli import main
from m2f_helpers.data.layout import read_data
from tests.faults.test_faults import contents

NAMES = st.sampled_from(["a", "b", "ü ber", "c.d", "x'y", "sub/a", "-f", "#1", "a_overlay", "é"])
ENDINGS = st.sampled_from([".jpg", ".JPG", ".png", ".jpeg", ".webp", ".tif", ".bmp", ".txt", ".json", ""])
LAYOUTS = st.sampled_from(
    ["images/training|annotations/training|images/validation|annotations/validation", "images|masks"]
)
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@st.composite
def label_maps(draw) -> bytes | np.ndarray:
    """Ids of all kinds, often of another size than the image, or no label map at all."""
    kind = draw(st.sampled_from(["few", "few", "few", "any", "grey", "colour", "16 bit", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=60))
    shape = draw(SIZES)
    seed = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "colour":
        return seed.integers(0, 255, (*shape, 3), np.uint8)
    if kind == "16 bit":
        return seed.integers(0, 3000, shape, np.uint16)
    ids = {"few": [0, 1, 2, 3], "any": range(256), "grey": [0, 255]}[kind]
    return seed.choice(np.array(ids, np.uint8), shape)


@st.composite
def pairs(draw, tame: bool = False) -> tuple:
    """Name, ending, image and label map; tame ones go wrong in one case out of ten."""
    wild = draw(st.integers(0, 9)) == 0 if tame else draw(st.integers(0, 3)) == 0
    if tame and not wild:
        height, width = draw(st.tuples(st.integers(20, 90), st.integers(20, 90)))
        label = np.random.default_rng(draw(st.integers(0, 99))).integers(0, draw(st.integers(2, 5)), (height, width))
        return (
            draw(NAMES),
            draw(st.sampled_from([".jpg", ".JPG", ".png", ".webp"])),
            _image(draw, label),
            label.astype("u1"),
        )
    label = draw(label_maps())
    image = _image(draw, np.zeros(draw(SIZES)) if wild or isinstance(label, bytes) else label)
    return draw(NAMES), draw(ENDINGS), draw(st.binary(max_size=40)) if draw(st.integers(0, 9)) == 0 else image, label


def _image(draw, label: np.ndarray) -> np.ndarray:
    return np.full((*label.shape[:2], 3), draw(st.integers(0, 255)), np.uint8)


def write(path: Path, content: bytes | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        Image.fromarray(content).save(path)
    except (AttributeError, TypeError, ValueError, OSError):  # bytes, or an ending that Pillow does not know
        path.write_bytes(content if isinstance(content, bytes) else content.tobytes()[:500])


def build(root: Path, layout: str, found: list[tuple]) -> None:
    folders = layout.split("|")
    for i, (name, ending, image, label) in enumerate(found):
        images, labels = folders[2 * (i % (len(folders) // 2)) :][:2]
        write(root / images / f"{name}{ending}", image)
        write(root / labels / f"{name}.png", label)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.output)
    assert "Traceback" not in result.output and "a fault of this project" not in result.output, result.output
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, result.output


def try_all(layout: str, found: list[tuple], commands: dict[str, list[str]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="m2f-anything-"))
    try:
        (root / "data").mkdir()
        build(root / "data", layout, found)
        before = contents(root / "data")
        for name, words in commands.items():
            status, output = run(*[word.replace("ROOT", str(root)) for word in words])
            assert contents(root / "data") == before, name
            if status == 0 and name == "prepare":
                assert str(read_data(root / "prepared")), "what prepare calls done can be read"
            elif status == 0 and name == "train":
                assert (root / "run/iter_1.pth").is_file()
            elif status:
                assert output.strip(), "a fault is said"
    finally:
        shutil.rmtree(root)


ALWAYS = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=40, **ALWAYS)
@given(LAYOUTS, st.lists(pairs(), max_size=6))
def test_check_and_prepare(layout, found):
    commands = {
        "check": ["check", "--data", "ROOT/data"],
        "prepare": ["prepare", "ROOT/data", "ROOT/prepared", "--size", "32", "32", "--workers", "1"],
    }
    try_all(layout, found, commands)


@pytest.mark.slow
@settings(max_examples=12, **ALWAYS)
@given(LAYOUTS, st.lists(pairs(tame=True), min_size=3, max_size=6))
def test_train_and_predict(layout, found):
    small = ["--weights", "random", "--iterations", "1", "--crop", "64", "64", "--batch-size", "2", "--device", "cpu"]
    commands = {
        "train": ["train", "--data", "ROOT/data", "--out", "ROOT/run", *small],
        "predict": ["predict", "ROOT/data/images", "ROOT/data/images/training", "--out", "ROOT/out", "--device", "cpu"],
    }
    try_all(layout, found, commands)
