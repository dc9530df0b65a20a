"""A folder as people have it: a phone's photographs, polygons in one JSON, a few mistakes. Used by notebook 06."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.data.scenes.stage import ON_DISK

# the learner's classes, with the number each has in the JSON, and what the scenes call it
CATEGORIES = {
    "sky": (1, ["sky"]),
    "hill": (2, ["mountain"]),
    "building": (3, ["building", "windowpane", "door"]),
    "plants": (5, ["tree", "grass"]),
    "road": (8, ["road"]),
    "pavement": (9, ["sidewalk"]),
    "car": (12, ["car"]),
    "person": (13, ["person"]),
    "lamp / post": (20, ["streetlight", "pole", "fence"]),
}
MISSPELT = {"bulding": (4, "building"), "raod": (7, "road")}
_SIDEWAYS, _UPSIDE_DOWN = 6, 3  # EXIF orientations of a phone held upright, and of one held the wrong way round
_TURNS = {_SIDEWAYS: Image.Transpose.ROTATE_90, _UPSIDE_DOWN: Image.Transpose.ROTATE_180}


def make_album(root: str | Path, count: int = 60, seed: int = 0) -> Path:
    """Draw street scenes at dusk as a phone stores them, with labels as somebody clicked them together.

    Every fifth image was taken in portrait, one upside down, and EXIF says so. The labels are polygons in COCO's form:
    the ids have gaps, two classes are misspelt in two images each, and the polygons of the image that was taken upside
    down were drawn on the pixels as the sensor had them.

    They lie in `root`, which is returned, as `photos/IMG_1200.jpg` ... and `polygons.json`; files in it are replaced.
    `count` is at least 10, else it is a ValueError. Another seed draws other streets.
    """
    if count < 10:
        raise ValueError(f"expected at least 10 images, got {count}")
    root = Path(root)
    (root / "photos").mkdir(parents=True, exist_ok=True)
    names = {name: number for name, (number, _) in CATEGORIES.items()}
    names |= {name: number for name, (number, _) in MISSPELT.items()}
    categories = [{"id": number, "name": name} for name, number in sorted(names.items(), key=lambda entry: entry[1])]
    content = {"images": [], "annotations": [], "categories": categories}
    for i, (image, label_map) in enumerate(_streets(count, seed)):
        turn = _UPSIDE_DOWN if i == 7 else _SIDEWAYS if i % 5 == 2 else 1
        name = f"IMG_{1200 + i}.jpg"
        _save_as_phone(image, turn, root / "photos" / name)
        height, width = label_map.shape
        content["images"].append({"id": i, "file_name": name, "width": width, "height": height})
        drawn_on = np.rot90(label_map, 2) if turn == _UPSIDE_DOWN else label_map
        for category, polygon in _polygons(np.ascontiguousarray(drawn_on), i):
            entry = {"id": len(content["annotations"]), "image_id": i, "category_id": names[category], "iscrowd": 0}
            content["annotations"].append(entry | {"segmentation": [polygon]})
    (root / "polygons.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def _streets(count: int, seed: int):
    """Scenes with a sky, as image and label map; every fifth in portrait."""
    number, found = 3_000_000 + 10_000 * seed, 0
    while found < count:
        size = [288, 216] if found % 5 == 2 and found != 7 else [216, 288]
        scene = draw_scene(number, "dusk", size)
        number += 1
        if (scene.label_map == ON_DISK["sky"]).any():
            found += 1
            yield scene.image, scene.label_map


def _save_as_phone(image: np.ndarray, turn: int, path: Path) -> None:
    image, exif = Image.fromarray(image), Image.Exif()
    exif[274] = turn
    (image.transpose(_TURNS[turn]) if turn in _TURNS else image).save(path, quality=92, exif=exif)


def _polygons(label_map: np.ndarray, i: int):
    """Class and outline `[x, y, x, y, ...]` of each region; a hole is filled, what lies in it is a smaller polygon."""
    wrong = {right: name for k, (name, (_, right)) in enumerate(MISSPELT.items()) if i in (4 + k, 11 + k)}
    for name, (_, parts) in CATEGORIES.items():
        mask = np.isin(label_map, [ON_DISK[part] for part in parts]).astype(np.uint8)
        large = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        for outline in cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            if len(outline) > 2 and cv2.contourArea(outline) > 24:
                yield wrong.get(name, name), ((outline[:, 0] + 0.5) / 2).ravel().tolist()
