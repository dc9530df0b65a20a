"""The palette: equal to its sources, and exact both ways."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from m2f_helpers.palette import IGNORE, IGNORE_COLOR, ade20k_palette, load_palette
from m2f_helpers.resources import resource


@pytest.fixture
def entries() -> list[dict]:
    return json.loads(resource("ade20k_palette.json").read_text(encoding="utf-8"))["classes"]


def write(tmp_path, classes):
    path = tmp_path / "palette.json"
    path.write_text(json.dumps({"classes": classes}), encoding="utf-8")
    return path


def test_equals_mmseg():
    from mmseg.datasets import ADE20KDataset

    meta = ADE20KDataset.METAINFO
    assert ade20k_palette().names == [name.strip() for name in meta["classes"]]
    assert ade20k_palette().colors.tolist() == meta["palette"]
    assert "bed " in meta["classes"], "mmseg mended the trailing space: the note about it can go"


def test_equals_class_table(ade20k_sample):
    table = ade20k_sample.parent / "facts" / "objectInfo150.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    for row, entry in zip(rows, ade20k_palette().classes, strict=True):
        assert int(row["Idx"]) == entry.id + 1
        assert float(row["Ratio"]) == entry.share
        assert (row["Stuff"] == "1") == entry.stuff
        assert row["Name"] == ";".join(entry.names).replace(" ", ";")  # the table splits names at spaces too
        assert entry.name in entry.names


def test_every_unique_color_survives_the_round_trip():
    palette = ade20k_palette()
    unique = [i for i in range(150) if not any(i in ids for ids in palette.shared_colors.values())]
    assert len(unique) == 148
    label_map = np.array([*unique, IGNORE, IGNORE], dtype=np.uint8).reshape(10, 15)
    decoded = palette.decode(palette.colorize(label_map))
    assert np.array_equal(decoded.label_map, label_map)
    assert decoded.ambiguous == {} and decoded.unknown == {}


def test_shared_color_is_reported_not_guessed():
    palette = ade20k_palette()
    assert palette.shared_colors == {(140, 140, 140): (6, 48)}
    assert [palette.names[i] for i in (6, 48)] == ["road", "skyscraper"]
    decoded = palette.decode(palette.colorize(np.array([[6, 48, 2]], dtype=np.uint8)))
    assert decoded.label_map.tolist() == [[IGNORE, IGNORE, 2]]
    assert decoded.ambiguous == {(6, 48): 2}


def test_person_and_ignore_are_the_colors_people_know():
    painted = ade20k_palette().colorize(np.array([[12, IGNORE]], dtype=np.uint8))
    assert painted.tolist() == [[[150, 5, 61], list(IGNORE_COLOR)]]


def test_unknown_color_is_reported():
    decoded = ade20k_palette().decode(np.full((2, 2, 3), 1, dtype=np.uint8))
    assert decoded.unknown == {(1, 1, 1): 4} and (decoded.label_map == IGNORE).all()


def test_names_find_ids_by_synonym_and_without_spaces():
    palette = ade20k_palette()
    assert palette.id_of(" Bed ") == 7 and palette.id_of("TV") == 89 and palette.id_of("screen") == 130
    with pytest.raises(ValueError, match="no class is called 'unicorn'"):
        palette.id_of("unicorn")


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.array([[150]], dtype=np.uint8), r"expected class ids 0..149 or 255, got \[150\]"),
        (np.array([[-1]]), r"got \[-1\]"),
        (np.array([0], dtype=np.uint8), r"got shape \(1,\)"),
        (np.zeros((2, 2)), "dtype float64"),
    ],
)
def test_colorize_refuses(label_map, message):
    with pytest.raises(ValueError, match=message):
        ade20k_palette().colorize(label_map)


def test_decode_refuses_a_label_map():
    with pytest.raises(ValueError, match=r"expected an RGB picture \(H, W, 3\) uint8, got shape \(2, 2\)"):
        ade20k_palette().decode(np.zeros((2, 2), dtype=np.uint8))


def change(entries, index, **values):
    return [entry | values if k == index else entry for k, entry in enumerate(entries)]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda e: e[:149], "expected 150 classes, got 149"),
        (lambda e: change(e, 5, id=4), r"got \[4\] more than once"),
        (lambda e: change(e, 5, color=[0, 300, 0]), "class 5 .*three whole numbers 0..255, got .0, 300, 0."),
        (lambda e: change(e, 5, color=[0, 0]), "class 5 .*three whole numbers"),
        (lambda e: change(e, 5, id=150), "class 150 .*expected an id 0..149"),
        (lambda e: change(e, 5, share=1.5), "share between 0 and 1, got 1.5"),
        (lambda e: [e[1], e[0], *e[2:]], "in order, got"),
        (lambda e: [{"id": 0}, *e[1:]], "lacks .'color', 'name'"),
        (lambda e: None, "expected 150 classes, got NoneType"),
    ],
)
def test_bad_file_gets_one_sentence_with_its_name(tmp_path, entries, break_it, message):
    path = write(tmp_path, break_it(entries))
    with pytest.raises(ValueError, match=message) as error:
        load_palette(path)
    assert str(path) in str(error.value)


def test_file_that_is_not_json(tmp_path):
    path = tmp_path / "palette.json"
    path.write_text("classes: 150", encoding="utf-8")
    with pytest.raises(ValueError, match="expected JSON of the form"):
        load_palette(path)
