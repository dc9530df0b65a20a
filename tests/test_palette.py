"""The palette: equal to its sources, and exact."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from m2f_helpers.palette import (
    IGNORE,
    IGNORE_COLOR,
    UNKNOWN,
    Palette,
    ade20k_palette,
    distinct_colors,
    load_palette,
    own_palette,
    palette_of,
    read_classes,
    write_classes,
)
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


def test_person_and_ignore_are_the_colors_people_know():
    painted = ade20k_palette().colorize(np.array([[12, IGNORE]], dtype=np.uint8))
    assert painted.tolist() == [[[150, 5, 61], list(IGNORE_COLOR)]]


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


# --- Classes of one's own ----------------------------------------------------------------------------------------

HARD_NAMES = ["Straße, nass", "on/off ramp", "  bed ", "a=b: c", 'père\'s "chat"', "道路"]


def test_what_ids_on_disk_mean():
    palette = own_palette(["road", "car", "sky"], on_disk=[7, (26, 27), 23], ignored=[0, 3])
    assert palette.from_disk[[7, 26, 27, 23, 0, 3, 255, 8]].tolist() == [0, 1, 1, 2, IGNORE, IGNORE, IGNORE, UNKNOWN]
    assert palette.to_disk[[0, 1, 2, 255]].tolist() == [7, 26, 23, 0]
    assert own_palette(["a", "b"]).to_disk[[0, 1, 255]].tolist() == [0, 1, 255]


def test_ade20k_on_disk():
    table = ade20k_palette().from_disk
    assert table[1:151].tolist() == list(range(150)) and table[[0, 255]].tolist() == [IGNORE, IGNORE]
    assert (table[151:255] == UNKNOWN).all()
    assert ade20k_palette().to_disk[[0, 149, 255]].tolist() == [1, 150, 0]


def test_own_colors_differ_also_from_ignore_and_are_the_same_every_time():
    palette = own_palette([f"class {i}" for i in range(254)])
    colors = {tuple(color) for color in palette.colors.tolist()}
    assert len(colors) == 254 and IGNORE_COLOR not in colors
    assert distinct_colors(3) == palette.colors[:3].tolist() == [[214, 0, 0], [140, 59, 255], [1, 135, 0]]


def test_classes_survive_the_file(tmp_path):
    palette = own_palette(HARD_NAMES, on_disk=[0, (1, 9), 2, 3, 4, 250], ignored=[11])
    write_classes(tmp_path / "classes.json", palette)
    back = read_classes(tmp_path / "classes.json")
    assert back == palette and back.names[2] == "bed" and back.ignored == (11, 255)


def test_a_file_of_names_alone_counts_from_0(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"classes": [{"name": "soil"}, {"name": "plant"}]}', encoding="utf-8")
    assert read_classes(path) == own_palette(["soil", "plant"])


def test_palette_of_what_speaks_of_classes():
    from types import SimpleNamespace

    from mmengine import Config
    from mmseg.datasets import ADE20KDataset

    palette = own_palette(HARD_NAMES)
    dataset = {"type": "BaseSegDataset", "metainfo": palette.meta}
    wrapped = {"type": "RepeatDataset", "times": 2, "dataset": dataset}
    sources = [palette, palette.meta, {"dataset_meta": palette.meta}, SimpleNamespace(dataset_meta=palette.meta)]
    sources += [Config({"train_dataloader": {"dataset": entry}}) for entry in (dataset, wrapped)]
    assert all(palette_of(source) == palette for source in sources)
    assert palette_of({"classes": ["a", "b"]}) == own_palette(["a", "b"])
    for source in (ADE20KDataset.METAINFO, Config({"train_dataloader": {"dataset": {"type": "ADE20KDataset"}}})):
        assert palette_of(source) is ade20k_palette()
    for source in ({}, None, SimpleNamespace(dataset_meta=None), Config({"train_dataloader": {"dataset": {}}})):
        with pytest.raises(ValueError, match="no class names in"):
            palette_of(source)


OWN = {
    "one class": ({"names": ["a"]}, "expected 2 to 254 classes, got 1"),
    "255 classes": ({"names": [str(i) for i in range(255)]}, "expected 2 to 254 classes, got 255"),
    "one string": ({"names": "road,sky"}, "expected a list of class names, got 'road,sky'"),
    "twice": ({"names": ["Car", "sky", "car "]}, "class names must differ, got 'Car' and 'car'"),
    "empty": ({"names": ["a", " "]}, "expected printable class names, got ''"),
    "line break": ({"names": ["a", "b\nc"]}, "printable class names"),
    "colours missing": ({"colors": [[1, 2, 3]]}, "expected 2 colours for 2 classes, got 1"),
    "no colour": ({"colors": [[1, 2, 3], [0, 256, 0]]}, r"class 'b': expected a colour .* got \[0, 256, 0\]"),
    "same colour": ({"colors": [[1, 2, 3], (1, 2, 3)]}, r"classes 'a' and 'b' have the same colour \[1, 2, 3\]"),
    "ids missing": ({"on_disk": [1]}, "ids on disk for each of 2 classes, got 1"),
    "id too large": ({"on_disk": [1, 300]}, "class 'b': expected ids on disk 0..255, got .300"),
    "no id": ({"on_disk": [1, []]}, "class 'b' has no id on disk"),
    "id twice": ({"on_disk": [1, (2, 1)]}, "id 1 on disk belongs to class 'a' and to class 'b'"),
    "id ignored": ({"ignored": [1]}, "id 1 on disk belongs to class 'b' and to the ignored ids"),
    "255 is ignored": ({"on_disk": [1, 255]}, "id 255 on disk belongs to class 'b' and to the ignored ids"),
}


@pytest.mark.parametrize("case", OWN)
def test_own_palette_refuses(case):
    values, message = OWN[case]
    with pytest.raises(ValueError, match=message):
        own_palette(**({"names": ["a", "b"]} | values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected JSON, got"),
        ("[]", "expected .*classes"),
        ('{"classes": ["a", "b"]}', "expected classes with"),
        ('{"classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b"}]}', "expected classes with"),
        ('{"classes": [{"name": "a", "color": [1, 2, 3]}, {"name": "b"}]}', "class 'b' has no \"color\""),
        ('{"classes": [{"name": "a"}, {"name": "a"}]}', "must differ"),
        ('{"classes": [{"name": "a"}, {"name": "b"}], "ignored": 3}', "expected a list of ids under"),
        ('{"classes": [{"name": "a"}, {"name": "b"}], "ignore": []}', "expected .*ignored"),
    ],
)
def test_bad_classes_file_gets_one_sentence_with_its_name(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_classes(path)
    assert str(path) in str(error.value)


def test_classes_whose_share_nobody_knows_are_equal():
    """NaN is no NaN's equal: a tuple overlooks that for one and the same object, Python 3.13's dataclasses do not."""
    one = own_palette(["soil", "plant"])
    other = Palette(tuple(replace(entry, share=float("nan")) for entry in one.classes), one.ignored)
    assert one == other and one != own_palette(["soil", "plants"])
