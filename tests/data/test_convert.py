"""Every format comes back as it went out; what is wrong is said in one sentence, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from m2f_helpers.cli import main
from m2f_helpers.data import convert as conversion
from m2f_helpers.data.convert import convert
from m2f_helpers.data.formats.mapping import parse_mapping
from m2f_helpers.data.scenes.album import CATEGORIES, make_album
from m2f_helpers.images import read_image
from m2f_helpers.palette import read_classes
from tests.data import exports

A, B, C = exports.NAMES
LABELS, FULL = exports.label_map, exports.full_map


def as_binary(i):
    return (LABELS(i) != 255).astype(np.uint8)


def in_table(numbers):
    """Labels with class k of the test set as class numbers[k] of the result."""
    table = np.full(256, 255, np.uint8)
    table[:3] = numbers
    return lambda i: table[LABELS(i)]


# format, writer, options of convert, labels expected, names expected, images in validation (None: chosen)
ROUND_TRIPS = {
    "ids": ("ids", exports.ids, {"classes": [A, B, C]}, LABELS, [A, B, C], None),
    "ids without names": ("ids", exports.ids, {}, LABELS, ["class 0", "class 4", "class 9"], None),
    "ids in splits": ("ids", exports.split_ids, {}, FULL, [A, B, C], {"p0", "p3"}),
    "colours, table": ("colors", exports.colors, {}, FULL, [A, B, C], None),
    "colours, CamVid": ("colors", exports.camvid, {}, FULL, [A, B, C], {"p0", "p3"}),
    "binary": ("binary", exports.binary, {}, as_binary, ["background", "foreground"], None),
    "a mask for each class": ("binary", exports.by_class, {}, LABELS, [A, B.replace("/", "-"), C], None),
    "Pascal VOC": ("voc", exports.voc, {}, in_table([0, 7, 15]), None, {"p0"}),
    "Cityscapes": (
        "cityscapes",
        exports.cityscapes,
        {},
        in_table([0, 13, 10]),
        None,
        {"ulm_000000_000019_leftImg8bit"},
    ),
    "COCO, packed": ("coco", lambda root: exports.coco(root, form="packed"), {}, LABELS, [A, B, C], None),
    "COCO, plain": ("coco", lambda root: exports.coco(root, form="plain"), {}, LABELS, [A, B, C], None),
    "COCO, polygons": ("coco", exports.coco, {}, LABELS, [A, B, C], None),
    "LabelMe": ("labelme", exports.labelme, {}, LABELS, None, None),
}


def iou(label_map, truth, number):
    return ((label_map == number) & (truth == number)).sum() / ((label_map == number) | (truth == number)).sum()


@pytest.mark.parametrize("case", ROUND_TRIPS)
@pytest.mark.parametrize("asked", [False, True])
def test_labels_come_back(tmp_path, case, asked):
    form, write, options, truth, names, validation = ROUND_TRIPS[case]
    write(tmp_path / "src")
    report = convert(tmp_path / "src", tmp_path / "dst", form if asked else "auto", **options)
    assert report.format == form and sum(report.pairs.values()) == 6
    palette = read_classes(tmp_path / "dst/classes.json")
    assert names is None or palette.names == names
    found = sorted((tmp_path / "dst/annotations").rglob("*.png"))
    for path in found:
        i = int(path.stem.split("p")[-1] if "ulm" not in path.stem else path.stem.split("_")[-3])
        wanted, label_map = truth(i), exports.read(path)
        if case in ("COCO, polygons", "LabelMe"):
            order = {A: 0, B: 1, C: 2}
            ids = {number: palette.id_of(name) for name, number in order.items() if number in wanted}
            assert all(iou(label_map == ids[n], wanted == n, True) > 0.98 for n in ids)
        else:
            assert np.array_equal(label_map, wanted)
        image = next((tmp_path / "dst/images" / path.parent.name).glob(f"{path.stem}.*"))
        source = next(p for p in (tmp_path / "src").rglob(image.name.split("__")[-1]) if "gtFine" not in str(p))
        assert np.array_equal(read_image(image), read_image(source))
    held = {path.stem.split("__")[-1] for path in found if path.parent.name == "validation"}
    assert validation is None or held == validation
    assert {path.name for path in tmp_path.iterdir()} == {"src", "dst"}, "nothing hidden stays"


def test_tables_are_those_of_mmseg():
    from mmseg.datasets import CityscapesDataset, PascalVOCDataset

    from m2f_helpers.data.formats.tables import cityscapes_categories, voc_categories

    for rows, meta in ((cityscapes_categories(), CityscapesDataset), (voc_categories(), PascalVOCDataset)):
        judged = [row for row in rows if not row.ignored]
        assert tuple(row.name.replace(" ", "") for row in judged) == tuple(
            name.replace(" ", "") for name in meta.METAINFO["classes"]
        )
        assert [list(row.color) for row in judged] == meta.METAINFO["palette"]


def test_coco_with_two_files_that_number_differently(tmp_path):
    exports.coco_splits(tmp_path / "src")
    report = convert(tmp_path / "src", tmp_path / "dst")
    assert report.pairs == {"training": 6, "validation": 6} and [*report.classes] == [A, B, C]
    for part, i in (("training", 3), ("validation", 4)):
        year = "train2017" if part == "training" else "val2017"
        assert np.array_equal(exports.read(tmp_path / f"dst/annotations/{part}/{year}__p{i}.png"), LABELS(i))
        images = [
            read_image(tmp_path / f"{place}p{i}.jpg") for place in (f"dst/images/{part}/{year}__", f"src/{year}/")
        ]
        assert np.array_equal(*images)


def test_a_json_file_is_a_source_too(tmp_path):
    exports.coco(tmp_path / "src", form="packed")
    report = convert(tmp_path / "src/annotations.json", tmp_path / "src/out", ignore=["255"])
    assert report.format == "coco" and sum(report.pairs.values()) == 6
    assert str(convert(tmp_path / "src/annotations.json", tmp_path / "src/out", ignore=["255"])) == str(report)


def test_map_merges_renames_and_ignores(tmp_path):
    exports.ids(tmp_path / "src")
    report = convert(tmp_path / "src", tmp_path / "dst", mapping={"4": "thing", "9": "4"}, classes=["ground", "thing"])
    assert [*report.classes] == ["ground", "thing"]
    table = np.array([0, 1, 1] + [255] * 253, np.uint8)
    for path in (tmp_path / "dst/annotations").rglob("*.png"):
        assert np.array_equal(exports.read(path), table[LABELS(int(path.stem[1]))])
    assert any("the ids have no names: --classes" in n for n in convert(tmp_path / "src", tmp_path / "all").notes)
    convert(tmp_path / "src", tmp_path / "less", ignore=["9"])
    assert read_classes(tmp_path / "less/classes.json").names == ["class 0", "class 4"]


def test_misspelt_names_are_merged(tmp_path):
    exports.coco(tmp_path / "src")
    path = tmp_path / "src/annotations.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["categories"].append({"id": 99, "name": "skie"})
    content["annotations"][1]["category_id"] = 99
    path.write_text(json.dumps(content), encoding="utf-8")
    assert [*convert(tmp_path / "src", tmp_path / "one").classes] == [A, B, C, "skie"]
    report = convert(tmp_path / "src", tmp_path / "two", mapping={"skie": "sky", "unlabelled": "rest"})
    assert [*report.classes] == [A, B, C, "rest"]
    assert not any(255 in exports.read(path) for path in (tmp_path / "two/annotations").rglob("*.png"))


def test_names_beside_the_ids_count_by_line(tmp_path):
    exports.split_ids(tmp_path / "src")
    (tmp_path / "src/classes.txt").write_text("\n".join([*exports.NAMES, "never seen"]), encoding="utf-8")
    report = convert(tmp_path / "src", tmp_path / "dst", mapping={B: "car"})
    assert [*report.classes] == [A, "car", C, "never seen"]
    assert "the class 'never seen' has no pixel" in report.notes
    assert np.array_equal(exports.read(tmp_path / "dst/annotations/training/train__p1.png"), FULL(1))


def test_a_rare_name_that_looks_like_a_common_one_is_said(tmp_path):
    notes = [
        *conversion._misspelt({"road": {"training": 9, "validation": 1}, "raod": {"training": 2, "validation": 0}})
    ]
    assert notes == ["'raod' (2 images) looks like 'road' (10): if they are one class, --map \"raod=road\""]
    even = {"card": {"training": 9, "validation": 1}, "car": {"training": 8, "validation": 0}}
    assert not [*conversion._misspelt(even)]


def test_what_has_no_label_is_said(tmp_path):
    exports.coco(tmp_path / "src")
    text = str(convert(tmp_path / "src", tmp_path / "dst"))
    assert "% of all pixels have no label" in text and '--map "unlabelled=background"' in text
    assert "the smaller one wins" in text and "1 categories without any shape are left out: unused" in text


def test_jpeg_masks_take_the_nearest_colour_and_say_so(tmp_path):
    exports.colors(tmp_path / "src", suffix=".jpg")
    report = convert(tmp_path / "src", tmp_path / "table")
    assert any("have a colour beside the table" in note and "#" in note for note in report.notes)
    (tmp_path / "src/labelmap.txt").unlink()
    found = convert(tmp_path / "src", tmp_path / "found")
    assert len(found.classes) == 3, "three colours are far from each other, the others are JPEG's"
    for folder in ("table", "found"):
        palette = read_classes(tmp_path / folder / "classes.json")
        for path in (tmp_path / folder / "annotations").rglob("*.png"):
            near = palette.colors[exports.read(path)].astype(int) - np.array(exports.COLORS)[FULL(int(path.stem[1]))]
            assert (abs(near).max(-1) < 20).mean() > 0.97


def as_phone(root, name, turn):
    """Store the image as a phone held sideways does: pixels turned, and EXIF that says so."""
    path = root / f"images/{name}.jpg"
    upright = Image.open(path)
    upright.load()
    exif = Image.Exif()
    exif[274] = turn
    method = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE}[turn]
    upright.transpose(method).save(path, exif=exif, quality=95)
    return method


@pytest.mark.parametrize("turn", [3, 5, 6])
def test_phone_images_become_upright(tmp_path, turn):
    exports.ids(tmp_path / "src")
    as_phone(tmp_path / "src", "p1", turn)
    report = convert(tmp_path / "src", tmp_path / "dst")
    image = next((tmp_path / "dst/images").rglob("p1.jpg"))
    with Image.open(image) as file:
        assert file.getexif().get(274, 1) == 1 and file.size == exports.SIZE[::-1]
        assert np.abs(np.array(file).astype(int) - exports.image(1)).mean() < 2
    assert np.array_equal(exports.read(next((tmp_path / "dst/annotations").rglob("p1.png"))), LABELS(1))
    assert not any("turned" in note for note in report.notes)


@pytest.mark.parametrize("turn", [5, 6])
def test_labels_drawn_on_the_sensor_are_turned_with_their_image(tmp_path, turn):
    exports.ids(tmp_path / "src")
    method = as_phone(tmp_path / "src", "p1", turn)
    mask = tmp_path / "src/masks/p1.png"
    Image.open(mask).transpose(method).save(mask)
    report = convert(tmp_path / "src", tmp_path / "dst")
    assert np.array_equal(exports.read(next((tmp_path / "dst/annotations").rglob("p1.png"))), LABELS(1))
    assert any("1 labels lay as the sensor does" in note and "p1" in note for note in report.notes)


def test_the_album_tells_of_its_faults(tmp_path):
    """The folder of notebook 06: a label that was never turned, two misspelt classes, and images held sideways."""
    make_album(tmp_path / "album", 40)
    report = convert(tmp_path / "album", tmp_path / "dst")
    text = " ".join(report.notes)
    assert "EXIF turns photos/IMG_1207, but the label fits better unturned" in text
    assert '--map "raod=road"' in text and '--map "bulding=building"' in text
    assert sum(name in report.classes for name in CATEGORIES) == 9 and len(report.classes) == 11
    sideways = tmp_path / "album/photos/IMG_1202.jpg"
    made = next((tmp_path / "dst/images").rglob("*IMG_1202.jpg"))
    assert Image.open(sideways).size == (288, 216) and Image.open(made).size == (216, 288)


def test_labelme_has_other_shapes_than_polygons(tmp_path):
    exports.labelme(tmp_path / "src")
    bitmap = np.zeros((20, 30), np.uint8)
    bitmap[5:15, 10:20] = 1
    buffer = BytesIO()
    Image.fromarray(bitmap).save(buffer, "PNG")
    shapes = [
        {"label": "box", "shape_type": "rectangle", "points": [[20, 10], [120, 90]]},
        {"label": "disc", "shape_type": "circle", "points": [[150, 100], [150, 130]]},
        {
            "label": "bits",
            "shape_type": "mask",
            "points": [[40, 30], [70, 50]],
            "mask": b64encode(buffer.getvalue()).decode(),
        },
    ]
    for path in (tmp_path / "src").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content | {"shapes": shapes}), encoding="utf-8")
    report = convert(tmp_path / "src", tmp_path / "dst")
    label_map = exports.read(next((tmp_path / "dst/annotations").rglob("*.png")))
    areas = {name: int((label_map == i).sum()) for i, name in enumerate(report.classes)}
    assert areas["box"] == pytest.approx(100 * 80 - 100, rel=0.02) and areas["bits"] == 100
    assert areas["disc"] == pytest.approx(np.pi * 30**2, rel=0.02)
    assert (label_map[35:45, 50:60] == [*report.classes].index("bits")).all(), "the later shape lies above"


def test_images_of_every_depth_are_read_as_predict_reads_them(tmp_path):
    exports.ids(tmp_path / "src")
    folder = tmp_path / "src/images"
    deep = (exports.image(0)[..., 0].astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(folder / "p0.png")
    exports.save(np.dstack([exports.image(1), exports.image(1)[..., :1]]), folder / "p1.png")
    exports.save(exports.image(2)[..., 0], folder / "p2.png")
    frames = [Image.fromarray(exports.image(k)) for k in (3, 4)]
    frames[0].save(folder / "p3.tif", save_all=True, append_images=frames[1:])
    for i in range(4):
        (folder / f"p{i}.jpg").unlink()
    report = convert(tmp_path / "src", tmp_path / "dst")
    for i, name in enumerate(["p0.png", "p1.png", "p2.png", "p3.tif"]):
        made = next((tmp_path / "dst/images").rglob(f"p{i}.png"))
        assert np.array_equal(read_image(made), read_image(folder / name))
        assert Image.open(made).mode in ("RGB", "L")
    text = " ".join(report.notes)
    for words in (
        "p0: of its 16 bits",
        "p1: its transparent parts are laid on white",
        "p3: only the first of 2 frames",
    ):
        assert words in text


def test_groups_stay_together_and_classes_are_in_both_parts(tmp_path):
    exports.ids(tmp_path / "src", count=12)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        for i in range(12):
            path = tmp_path / f"src/{kind}/p{i}.{suffix}"
            path.rename(path.with_name(f"video{i // 3}_{i}.{suffix}"))
    report = convert(tmp_path / "src", tmp_path / "dst", val=0.3, group=r"video\d")
    parts = {part: {p.stem[:6] for p in (tmp_path / "dst/images" / part).iterdir()} for part in report.pairs}
    assert not parts["training"] & parts["validation"] and report.pairs["validation"] == 3
    assert all(found["training"] and found["validation"] for found in report.classes.values())


def test_the_same_call_again_has_nothing_to_do_and_another_is_refused(tmp_path):
    exports.ids(tmp_path / "src")
    first = convert(tmp_path / "src", tmp_path / "dst")
    stamp = (tmp_path / "dst/classes.json").stat().st_mtime_ns
    assert str(convert(tmp_path / "src", tmp_path / "dst")) == str(first)
    assert (tmp_path / "dst/classes.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="holds another conversion: give a new folder"):
        convert(tmp_path / "src", tmp_path / "dst", ignore=["9"])


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    exports.ids(tmp_path / "src")
    whole, made = convert(tmp_path / "src", tmp_path / "whole"), []
    real = conversion._convert_item

    def stopping(item, *rest):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(item.key)
        return real(item, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversion, "_convert_item", stopping)
        convert(tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()
    log = tmp_path / ".dst.convert/items.jsonl"
    log.write_text(log.read_text() + '{"key": "p')  # and the last line was cut
    monkeypatch.setattr(conversion, "_convert_item", lambda item, *rest: made.append(item.key) or real(item, *rest))
    report = convert(tmp_path / "src", tmp_path / "dst")
    assert sorted(made) == [f"p{i}" for i in range(6)], "each pair once"
    assert report.classes == whole.classes and report.pairs == whole.pairs
    names = {
        folder: {str(p.relative_to(tmp_path / folder)) for p in (tmp_path / folder).rglob("*")}
        for folder in ("dst", "whole")
    }
    assert names["dst"] == names["whole"]


def test_two_at_once_the_second_is_refused(tmp_path):
    exports.ids(tmp_path / "src")
    with conversion._staging(tmp_path / "dst", {}), pytest.raises(ValueError, match=r"dst is in use by process \d+ "):
        convert(tmp_path / "src", tmp_path / "dst")


def test_command_line(tmp_path):
    exports.ids(tmp_path / "src")
    words = ["convert", str(tmp_path / "src"), str(tmp_path / "dst"), "--from", "ids", "--classes", "road,car"]
    words += ["--map", "9=4", "--val", "0.5"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "ids: as asked for" in result.output and "3 training and 3 validation pairs, 2 classes" in result.output
    assert "road, car" in result.output


# --- Bad input ---------------------------------------------------------------------------------------------------


def edit_coco(change):
    def write(root):
        exports.coco(root)
        path = root / "annotations.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return write


def with_file(writer, name, array=None, data=b""):
    """The data set of `writer` with one more file, or another in place of one."""

    def write(root):
        writer(root)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data) if array is None else exports.save(array, root / name)

    return write


def without(writer, pattern):
    def write(root):
        writer(root)
        for path in root.rglob(pattern):
            path.unlink() if path.is_file() else shutil.rmtree(path)

    return write


def shape(**values):
    return edit_coco(lambda content: content["annotations"][0].update(values))


def ids_to_254(root):
    for i in range(2):
        exports.save(np.arange(255, dtype=np.uint8)[None], root / f"masks/p{i}.png")
        exports.save(exports.image(0, (1, 255)), root / f"images/p{i}.jpg")


def jpeg_ids(root):
    ids(root)
    exports.save(LABELS(1), root / "masks/p1.jpg")
    (root / "masks/p1.png").unlink()


def full(*value):
    """A mask of one value."""
    return np.full((*exports.SIZE, len(value)) if len(value) > 1 else exports.SIZE, value[0], np.uint8)


AB = b'{"classes": [{"name": "a"}, {"name": "b"}]}'
SMALL = np.zeros((20, 30), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 255, (*exports.SIZE, 3)).astype(np.uint8)
ids, coco = exports.ids, exports.coco
BAD = {
    "no folder": (lambda root: None, {}, "src does not exist"),
    "empty folder": (lambda root: root.mkdir(), {}, "holds neither images nor masks: expected images/ and masks/"),
    "a file": (lambda root: root.write_text("x"), {}, "is a file: unpack it"),
    "unknown format": (ids, {"form": "yolo"}, "expected one of the formats auto, ids"),
    "images alone": (without(ids, "masks"), {}, "6 images and no mask: expected images/ and masks/"),
    "masks alone": (without(ids, "images"), {}, "6 masks and no image"),
    "no name fits": (
        without(with_file(ids, "masks/q.png", SMALL), "p*.png"),
        {},
        "none of 6 images has a mask of the same",
    ),
    "one class": (lambda root: ids(root, numbers=(3, 3, 3)), {}, "expected 2 to 254 classes, got 1"),
    "one class of polygons": (coco, {"mapping": {B: A, C: A}}, "got 1; with --map .unlabelled=background"),
    "no class": (ids, {"ignore": [0, 4, 9]}, "expected 2 to 254 classes, got 0"),
    "255 classes": (ids_to_254, {}, "expected 2 to 254 classes, got 255"),
    "images as masks": (
        with_file(ids, "masks/p0.png", NOISE),
        {"form": "colors"},
        "masks hold .* colours: they were smoothed",
    ),
    "names twice": (ids, {"classes": ["a", "A", "b"]}, "class names must differ, got 'a' and 'A'"),
    "too few names": (ids, {"classes": ["a", "b"]}, "2 names for 3 classes: the source holds the ids 0, 4, 9"),
    "val 0": (ids, {"val": 0}, "--val must lie between 0 and 1, got 0"),
    "val 1": (ids, {"val": 1.0}, "--val must lie between 0 and 1, got 1.0"),
    "unknown in map": (ids, {"mapping": {"8": "car"}}, "'8' is no category of the source; there are class 0, class 4"),
    "map to an unknown id": (ids, {"mapping": {"9": "8"}}, "class '8' to map to is no id of the source"),
    "unknown ignored": (ids, {"ignore": ["tree"]}, "'tree' is no category"),
    "id outside the table": (
        with_file(exports.split_ids, "classes.json", data=AB),
        {},
        "table of classes lacks 2 .in .*--map .2=NAME",
    ),
    "VOC id": (
        with_file(exports.voc, "VOC2012/SegmentationClass/p1.png", full(33)),
        {},
        "p1.png holds ids 33 that no class has",
    ),
    "colour not in the table": (
        with_file(exports.colors, "masks/p2.png", full(9, 9, 9)),
        {},
        "lacks #090909 .in .*p2.png",
    ),
    "names for colours": (
        without(exports.colors, "labelmap.txt"),
        {"classes": "a,b,c"},
        "do not say which colour is which",
    ),
    "group without a match": (ids, {"group": r"video\d"}, "finds nothing in 'images/p0'|finds nothing in 'p0'"),
    "group, but the source has a split": (exports.split_ids, {"group": "p"}, "its own split.*add --val to part"),
    "group is no regex": (ids, {"group": "("}, "is no regular expression"),
    "one group": (ids, {"group": "p"}, "there is only one group"),
    "label of another size": (
        with_file(ids, "masks/p1.png", SMALL),
        {},
        "the label of .*p1.jpg is 30 x 20, the image 200 x 150",
    ),
    "label turned": (
        with_file(ids, "masks/p1.png", full(0).T.copy()),
        {},
        "is 150 x 200, the image 200 x 150: turn one",
    ),
    "damaged mask": (
        with_file(ids, "masks/p1.png", data=b"\x89PNG\r\n\x1a\nxxxx"),
        {},
        "p1.png is not a mask that can be read",
    ),
    "damaged image": (with_file(ids, "images/p1.jpg", data=b"\xff\xd8xxxx"), {}, "p1.jpg is not a"),
    "ids in JPEG": (jpeg_ids, {"form": "ids"}, "p1.jpg is a JPEG, which changes ids"),
    "two masks": (with_file(ids, "masks/p1_mask.png", SMALL), {}, "p1_mask.png and .*p1.png are both masks"),
    "not binary": (ids, {"form": "binary"}, "expected a mask of 0 and 255; for ids use --from ids"),
    "not JSON": (with_file(lambda root: None, "a.json", data=b"{"), {}, "a.json is not JSON"),
    "another JSON": (
        with_file(ids, "a.json", data=b"{}"),
        {"form": "coco"},
        "no JSON with the lists images, annotations",
    ),
    "COCO without images": (without(coco, "*.jpg"), {}, "none of the images that the JSON names is here"),
    "COCO list of images empty": (
        edit_coco(lambda c: c.update(images=[])),
        {},
        "annotations speak of images that are not in",
    ),
    "COCO boxes only": (shape(segmentation=[]), {}, "annotation 0 of p0.jpg has a box but no shape"),
    "COCO polygon outside": (
        shape(segmentation=[[900, 10, 950, 10, 950, 60]]),
        {},
        "annotation 0 of p0.jpg reaches over x = 900..950",
    ),
    "COCO polygon of words": (shape(segmentation=[["a", "b"]]), {}, "expected a polygon of numbers"),
    "COCO unknown category": (shape(category_id=77), {}, "annotation 0 has category_id 77, there are 3, 5, 7, 1"),
    "COCO without a field": (edit_coco(lambda c: c["images"][0].pop("file_name")), {}, "an entry has no 'file_name'"),
    "COCO run lengths": (
        shape(segmentation={"size": [150, 200], "counts": [5, 5]}),
        {},
        "run lengths do not fit .*cover 10 pixels",
    ),
    "COCO of another size": (
        edit_coco(lambda c: c["images"][0].update(height=300, width=400)),
        {},
        "is 400 x 300, the image 200 x 150",
    ),
    "COCO panoptic": (edit_coco(lambda c: c["annotations"][0].update(segments_info=[])), {}, "is a panoptic JSON"),
    "LabelMe without image": (without(exports.labelme, "p2.jpg"), {}, "p2.json: the image p2.jpg is not below"),
    "Cityscapes images alone": (
        without(exports.cityscapes, "*labelIds.png"),
        {"form": "cityscapes"},
        "unpack both archives",
    ),
    "everything ignored": (
        exports.split_ids,
        {"mapping": {n: "ignore" for n in exports.NAMES}},
        "expected 2 to 254 classes, got 0",
    ),
    "class table of another form": (
        with_file(ids, "class_dict.csv", data=b"label,red\na,1\n"),
        {},
        "expected the columns name, r, g, b",
    ),
    "no such class table": (ids, {"classes": "names.txt"}, "the class table names.txt does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, case):
    write, options, message = BAD[case]
    write(tmp_path / "src")
    with pytest.raises((ValueError, OSError), match=message) as error:
        convert(tmp_path / "src", tmp_path / "dst", **options)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"src"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "expected CATEGORY=CLASS, got 'a'"), ("a=", "got 'a='"), ("a=b,a=c", "'a' is mapped to 'b' and to 'c'")],
)
def test_bad_mapping(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mapping(text)
    assert parse_mapping("4=255, a=b=c") == {"4": "255", "a=b": "c"}


def test_destination_must_be_apart_and_empty(tmp_path):
    exports.ids(tmp_path / "src")
    with pytest.raises(ValueError, match="must not contain each other"):
        convert(tmp_path / "src", tmp_path / "src/out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: give a new folder"):
        convert(tmp_path / "src", tmp_path / "full")
    assert (tmp_path / "full/mine.txt").read_text() == "mine"
