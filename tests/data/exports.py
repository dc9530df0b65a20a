"""Writes one small data set in every form that `m2f convert` reads. The labels are known; none of its code is used."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from matplotlib.path import Path as Outline
from PIL import Image

NAMES = ["Straße, nass", "on/off ramp", "sky"]
COLORS = [(128, 64, 128), (0, 0, 142), (70, 130, 180)]
SIZE = (150, 200)


def image(i: int, size=SIZE) -> np.ndarray:
    """Smooth, so that JPEG hardly changes it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([rows + i, columns, (rows + columns) // 2 + 7 * i], -1).astype(np.uint8)


def shapes(i: int) -> list[tuple[int, np.ndarray]]:
    """Class and outline `(N, 2)` x, y of the shapes of image `i`; the second lies in the first."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    disc = np.stack([110 + 2 * i + 35 * np.cos(turn), 75 + 30 * np.sin(turn)], -1)
    box = np.array([[10.0, 5], [190, 15], [180, 140], [20, 130]])
    return [(0, box), (1 + i % 2, disc)]


def inside(outline: np.ndarray, size=SIZE) -> np.ndarray:
    """Pixels whose centre lies in an outline."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return Outline(outline).contains_points(np.stack([columns + 0.5, rows + 0.5], -1).reshape(-1, 2)).reshape(size)


def label_map(i: int) -> np.ndarray:
    """Class ids `(H, W)` uint8, 255 where no shape lies."""
    result = np.full(SIZE, 255, np.uint8)
    for number, outline in shapes(i):
        result[inside(outline)] = number
    return result


def full_map(i: int) -> np.ndarray:
    """As `label_map`, with class 2 where no shape lies."""
    return np.where(label_map(i) == 255, 2, label_map(i)).astype(np.uint8)


def save(array: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_palette(array: np.ndarray, path: Path, colors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array).convert("P")
    picture.putdata(array.ravel().tolist())
    picture.putpalette([v for color in colors for v in color])
    picture.save(path)


def ids(root: Path, count: int = 6, numbers=(0, 4, 9)) -> None:
    """images/NAME.jpg, masks/NAME.png with gaps in the ids."""
    table = np.full(256, 255, np.uint8)
    table[:3] = numbers
    for i in range(count):
        save(image(i), root / f"images/p{i}.jpg", quality=95)
        save(table[label_map(i)], root / f"masks/p{i}.png")


def split_ids(root: Path, count: int = 6) -> None:
    """train/images, train/labels, valid/images ... with names in a text file."""
    for i in range(count):
        part = "valid" if i % 3 == 0 else "train"
        save(image(i), root / part / f"images/p{i}.jpg", quality=95)
        save(full_map(i), root / part / f"labels/p{i}_mask.png")
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")


def colors(root: Path, count: int = 6, suffix: str = ".png") -> None:
    """images and colour masks, with a table of the colours as CVAT writes it."""
    table = np.array(COLORS, np.uint8)
    for i in range(count):
        save(image(i), root / f"images/p{i}.jpg", quality=95)
        save(table[full_map(i)], root / f"masks/p{i}{suffix}")
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows), encoding="utf-8")


def camvid(root: Path, count: int = 6) -> None:
    """train, train_labels, val, val_labels and class_dict.csv."""
    table = np.array(COLORS, np.uint8)
    for i in range(count):
        part = "val" if i % 3 == 0 else "train"
        save(image(i), root / part / f"p{i}.png")
        save(table[full_map(i)], root / f"{part}_labels" / f"p{i}_L.png")
    rows = [f'"{name}",{r},{g},{b}' for name, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(rows), encoding="utf-8")


def binary(root: Path, count: int = 6) -> None:
    """images/NAME.jpg, masks/NAME.png of 0 and 255: the box and what lies in it."""
    for i in range(count):
        save(image(i), root / f"images/p{i}.jpg", quality=95)
        save((label_map(i) != 255).astype(np.uint8) * 255, root / f"masks/p{i}.png")


def by_class(root: Path, count: int = 6) -> None:
    """images/NAME.jpg, masks/CLASS/NAME.png; the masks overlap."""
    for i in range(count):
        save(image(i), root / f"images/p{i}.jpg", quality=95)
        for number, outline in shapes(i):
            save(inside(outline).astype(np.uint8) * 255, root / f"masks/{NAMES[number].replace('/', '-')}/p{i}.png")


def voc(root: Path, count: int = 6) -> None:
    """VOC2012 with palette PNGs and a border of 255."""
    table = np.full(256, 255, np.uint8)
    table[:3] = [0, 7, 15]
    for i in range(count):
        save(image(i), root / f"VOC2012/JPEGImages/p{i}.jpg", quality=95)
        save_palette(table[label_map(i)], root / f"VOC2012/SegmentationClass/p{i}.png", [(k, k, 9) for k in range(256)])
    folder = root / "VOC2012/ImageSets/Segmentation"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("\n".join(f"p{i}" for i in range(1, count)))
    (folder / "val.txt").write_text("p0\n")


def cityscapes(root: Path, count: int = 6) -> None:
    """leftImg8bit and gtFine: road, car, sky, and ids that are not judged."""
    table = np.full(256, 4, np.uint8)
    table[:3] = [7, 26, 23]
    for i in range(count):
        name = f"{'val' if i == 0 else 'train'}/ulm/ulm_{i:06d}_000019"
        save(image(i), root / f"leftImg8bit/{name}_leftImg8bit.png")
        save(table[label_map(i)], root / f"gtFine/{name}_gtFine_labelIds.png")
        save(image(i), root / f"gtFine/{name}_gtFine_color.png")


def coco_content(count: int = 6, form: str = "polygons") -> dict:
    """COCO's JSON: polygons, run lengths plain or packed; the last shape of image 0 is a crowd when packed."""
    from pycocotools import mask as coco

    images, annotations = [], []
    for i in range(count):
        images.append({"id": 10 + i, "file_name": f"p{i}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for number, outline in reversed(shapes(i)):  # the order in the file must not matter
            shape = [outline.ravel().tolist()]
            if form == "packed":
                shape = coco.encode(np.asfortranarray(inside(outline).astype(np.uint8)))
                shape = {"size": list(SIZE), "counts": shape["counts"].decode()}
            elif form == "plain":
                shape = {"size": list(SIZE), "counts": run_lengths(inside(outline))}
            entry = {"id": len(annotations), "image_id": 10 + i, "category_id": 3 + 2 * number, "segmentation": shape}
            annotations.append(entry | {"iscrowd": int(form != "polygons" and number == 0), "bbox": [0, 0, 1, 1]})
    categories = [{"id": 3 + 2 * k, "name": name} for k, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories + [{"id": 1, "name": "unused"}]}


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's plain run lengths: column by column, beginning with zeros."""
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff([0, *edges, mask.size]).tolist()


def coco(root: Path, count: int = 6, form: str = "polygons") -> None:
    """images/ and annotations.json."""
    for i in range(count):
        save(image(i), root / f"images/p{i}.jpg", quality=95)
    (root / "annotations.json").write_text(json.dumps(coco_content(count, form)), encoding="utf-8")


def coco_splits(root: Path, count: int = 6) -> None:
    """train2017, val2017 with images of the same names, annotations/instances_*.json with other numbers."""
    for part in ("train2017", "val2017"):
        content = coco_content(count, "packed")
        for i in range(count):
            save(image(i + 40 * (part == "val2017")), root / part / f"p{i}.jpg", quality=95)
        if part == "val2017":
            for entry in content["categories"] + content["annotations"]:
                entry["id" if "name" in entry else "category_id"] += 20
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def labelme(root: Path, count: int = 6) -> None:
    """One JSON beside each image, with a point thrown in, which has no area."""
    for i in range(count):
        save(image(i), root / f"p{i}.jpg", quality=95)
        entries = [{"label": NAMES[n], "points": outline.tolist(), "shape_type": "polygon"} for n, outline in shapes(i)]
        entries.append({"label": NAMES[0], "points": [[3, 3]], "shape_type": "point"})
        content = {"version": "5.4", "imagePath": f"p{i}.jpg", "imageData": None, "shapes": entries}
        content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (root / f"p{i}.json").write_text(json.dumps(content), encoding="utf-8")


def read(path: Path) -> np.ndarray:
    """A label map of the result, as it lies on disk."""
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
