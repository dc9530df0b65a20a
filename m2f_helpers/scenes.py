"""Drawn scenes with ADE20K's class ids, for work without a download. Used by notebook 02.

A scene is set up in metres and seen through a pinhole camera: X to the right, Y up from the ground, Z away from the
camera. Everything is painted far to near, on three layers at a time: the picture, the label map and a light layer that
is blurred and multiplied in at the end (soft shadows). Class textures, haze, light and noise come last.

The two domains `day` and `dusk` share layouts and classes, seed by seed, and differ only in their looks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

CLASS_IDS = {
    "wall": 0,
    "building": 1,
    "sky": 2,
    "floor": 3,
    "tree": 4,
    "ceiling": 5,
    "road": 6,
    "bed": 7,
    "windowpane": 8,
    "grass": 9,
    "cabinet": 10,
    "sidewalk": 11,
    "person": 12,
    "door": 14,
    "table": 15,
    "mountain": 16,
    "curtain": 18,
    "chair": 19,
    "car": 20,
    "painting": 22,
    "sofa": 23,
    "rug": 28,
    "fence": 32,
    "lamp": 36,
    "cushion": 39,
    "streetlight": 87,
    "pole": 93,
}
DOMAINS = ("day", "dusk")
VERSION = 2
_ON_DISK = {"other": 0} | {name: class_id + 1 for name, class_id in CLASS_IDS.items()}
_VAL_OFFSET = 500_000
_NEUTRAL = 128

# Colours of the materials by daylight, RGB. One is picked per object, then varied a little.
_COLORS = {
    "building": [(190, 112, 84), (214, 180, 132), (168, 128, 118)],
    "roof": [(120, 62, 50), (96, 78, 84)],
    "tree": [(38, 92, 42), (52, 104, 36), (30, 80, 52)],
    "road": [(88, 88, 96), (78, 80, 86)],
    "sidewalk": [(186, 178, 166), (172, 168, 164)],
    "grass": [(112, 160, 62), (96, 150, 70)],
    "mountain": [(106, 112, 150), (118, 118, 142)],
    "car": [(200, 34, 40), (36, 74, 190), (232, 190, 30), (240, 240, 244)],
    "shirt": [(236, 60, 130), (214, 40, 150), (240, 84, 110)],
    "trousers": [(60, 40, 110), (76, 44, 96)],
    "skin": [(228, 182, 150), (142, 96, 70), (196, 146, 110)],
    "pole": [(228, 226, 222)],
    "streetlight": [(34, 62, 62)],
    "fence": [(158, 98, 50), (142, 88, 56)],
    "windowpane": [(132, 184, 214), (118, 170, 204)],
    "door": [(18, 150, 142), (24, 132, 150)],
    "wall": [(214, 190, 140), (160, 192, 162), (212, 164, 150), (150, 178, 206)],
    "floor": [(176, 120, 70), (150, 104, 70), (186, 142, 96)],
    "ceiling": [(246, 244, 238), (240, 240, 242)],
    "bed": [(92, 124, 200), (112, 104, 190)],
    "cabinet": [(92, 56, 38), (78, 50, 44)],
    "table": [(226, 196, 130), (216, 180, 120)],
    "chair": [(226, 148, 24), (214, 120, 30)],
    "sofa": [(104, 122, 44), (92, 110, 52)],
    "lamp": [(252, 234, 170)],
    "curtain": [(168, 40, 70), (140, 50, 96)],
    "rug": [(40, 50, 110), (90, 36, 92)],
    "cushion": [(250, 208, 60), (236, 96, 150)],
    "other": [(120, 220, 120), (70, 190, 230), (230, 230, 120)],
}
_TEXTURE_OF = {
    "grain": ("wall", "building", "ceiling", "door", "car"),
    "leaf": ("tree",),
    "rock": ("mountain",),
    "wood": ("table", "cabinet", "fence", "chair"),
    "cloth": ("bed", "sofa", "curtain", "cushion"),
}
_GROUND_OF = {"turf": ("grass",), "asphalt": ("road",), "slabs": ("sidewalk",), "planks": ("floor",), "weave": ("rug",)}


@dataclass(frozen=True)
class Scene:
    """A drawn picture with its labels.

    `image` is RGB, `(H, W, 3)` uint8. `label_map` is `(H, W)` uint8 with ids as on disk: 0 = other, else class id + 1.
    """

    image: np.ndarray
    label_map: np.ndarray


def draw_scene(seed: int, domain: str = "day", size: Sequence[int] | None = None) -> Scene:
    """Draw one scene; the same arguments always give the same pixels.

    Args:
        seed: any whole number from 0; decides layout, objects, colours and, with `size=None`, the size. About half of
            the seeds give an indoor scene.
        domain: `"day"`, or `"dusk"`: the same scene in low, bluish light with haze, lamps and sensor noise.
        size: `[H, W]` in pixels, at least 64 each; None lets the seed choose both between 300 and 800.

    Returns: picture and label map.
    Raises: ValueError for a negative seed, an unknown domain or a size that is too small.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {list(DOMAINS)}, got {domain!r}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or larger, got {seed}")
    rng = np.random.default_rng([seed, 20210])
    drawn_size = _random_size(rng)
    height, width = (int(v) for v in size) if size is not None else drawn_size
    if min(height, width) < 64:
        raise ValueError(f"size must be [H, W] with at least 64 pixels each, got {[height, width]}")
    indoor = rng.random() < 0.5
    stage = _Stage(height, width, rng, dusk=domain == "dusk", indoor=indoor)
    _draw_room(stage) if indoor else _draw_outdoors(stage)
    return Scene(_finish(stage, np.random.default_rng([seed, 2000])), stage.label)


def make_scenes(
    root: str | Path,
    train: int,
    val: int,
    domain: str = "day",
    seed: int = 0,
    size: Sequence[int] | None = None,
) -> Path:
    """Draw a data set in the layout of ADEChallengeData2016; only pairs that are missing are drawn.

    Args:
        root: folder to fill with `images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png`.
        train: number of training pairs.
        val: number of validation pairs; their seeds never meet those of the training pairs.
        domain: `"day"` or `"dusk"`.
        seed: another seed gives other scenes.
        size: `[H, W]` for all pictures; None varies them between 300 and 800 pixels.

    Returns: `root`.
    Raises: ValueError if `root` already holds scenes of another domain, seed or size, or for impossible counts.
    """
    if not (0 <= train < _VAL_OFFSET and 0 <= val < _VAL_OFFSET):
        raise ValueError(f"train and val must lie between 0 and {_VAL_OFFSET - 1}, got {train} and {val}")
    root = Path(root)
    _check_description(root, {"domain": domain, "seed": seed, "size": list(size) if size else None, "version": VERSION})
    first = seed * 2 * _VAL_OFFSET
    jobs = [("training", f"scene_train_{i + 1:08d}", first + i) for i in range(train)]
    jobs += [("validation", f"scene_val_{i + 1:08d}", first + _VAL_OFFSET + i) for i in range(val)]
    todo = [job for job in jobs if not all(path.exists() for path in _pair_paths(root, *job[:2]))]
    for split, name, scene_seed in tqdm(todo, desc=f"drawing {domain} scenes", disable=len(todo) < 50):
        _write_pair(_pair_paths(root, split, name), draw_scene(scene_seed, domain, size))
    return root


def _check_description(root: Path, description: dict) -> None:
    path = root / "scenes.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != description:
            raise ValueError(f"{root} holds scenes drawn with {found}, wanted {description}: choose another folder")
        return
    root.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(description).encode())


def _pair_paths(root: Path, split: str, name: str) -> tuple[Path, Path]:
    return root / "images" / split / f"{name}.jpg", root / "annotations" / split / f"{name}.png"


def _write_pair(paths: tuple[Path, Path], scene: Scene) -> None:
    picture = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    labels = cv2.imencode(".png", scene.label_map)[1]
    for path, data in zip(paths, (picture, labels), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data.tobytes())


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    """`(H, W)`, long side 420..800, short side 300 or more, mostly landscape as in ADE20K."""
    ratio = rng.choice([1.0, 4 / 3, 4 / 3, 3 / 2, 3 / 2, 16 / 9, 3 / 4, 2 / 3])
    long_side = int(rng.integers(420, 801))
    short_side = max(300, round(long_side / max(ratio, 1 / ratio)))
    return (short_side, long_side) if ratio >= 1 else (long_side, short_side)


# --- The stage: layers, camera, brushes --------------------------------------------------------------------------


@dataclass
class _Stage:
    """Layers and camera of one scene. Points in metres are (X, Y, Z); points in pixels are (x, y)."""

    height: int
    width: int
    rng: np.random.Generator
    dusk: bool
    indoor: bool
    glows: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, y, radius in pixels, strength

    def __post_init__(self) -> None:
        rng, height, width = self.rng, self.height, self.width
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)
        self.light = np.full((height, width), _NEUTRAL, np.uint8)
        low, high = (1.35, 1.75) if self.indoor else (1.9, 2.9)
        self.eye = rng.uniform(low, high)
        self.focal = (
            (0.7 if self.indoor else 0.8) * float(np.hypot(height, width) / np.sqrt(2)) * rng.uniform(0.95, 1.1)
        )
        self.center_x = width * rng.uniform(0.4, 0.6)
        self.horizon = height * rng.uniform(0.42, 0.52)
        self.sun_left = rng.random() < 0.5
        self.haze_color = (150.0, 100.0, 100.0) if self.dusk else (198.0, 212.0, 228.0)
        self.haze_range = (48.0 if self.dusk else 120.0) if not self.indoor else 1e9
        self.near = 0.9 * self.focal * self.eye / (height - self.horizon)  # just in front of the lowest row

    def project(self, points: Iterable[Sequence[float]]) -> np.ndarray:
        """Metres `(N, 3)` to pixels `(N, 2)` float, (x, y)."""
        pixels = []
        for x, y, z in points:
            scale = self.focal / max(z, 0.2)
            pixels.append((self.center_x + scale * x, self.horizon - scale * (y - self.eye)))
        return np.array(pixels, float)

    def pick(self, name: str) -> np.ndarray:
        """A colour of the material, RGB float, varied a little."""
        choices = _COLORS[name]
        color = np.array(choices[int(self.rng.integers(len(choices)))], float)
        return np.clip(color * self.rng.uniform(0.92, 1.06) + self.rng.uniform(-5, 5, 3), 0, 255)

    def tint(self, color: Sequence[float], gain: float, depth: float) -> tuple[float, ...]:
        """The colour lit by `gain` and seen through `depth` metres of air."""
        clear = math.exp(-depth / self.haze_range)
        lit = (min(max(float(c) * gain, 0.0), 255.0) for c in color)
        return tuple(c * clear + air * (1 - clear) for c, air in zip(lit, self.haze_color, strict=True))

    def paint(self, polygon: np.ndarray, color: Sequence[float], gain: float = 1.0, depth: float = 0.0) -> None:
        """Fill pixels (x, y) in the picture only: a detail of what is there already."""
        self.paint_many([polygon], color, gain, depth)

    def paint_many(
        self, polygons: list[np.ndarray], color: Sequence[float], gain: float = 1.0, depth: float = 0.0
    ) -> None:
        """`paint` for polygons that do not overlap."""
        fixed = [np.round(np.clip(p, -8000, 8000) * 16).astype(np.int32) for p in polygons]
        cv2.fillPoly(self.image, fixed, self.tint(color, gain, depth), cv2.LINE_AA, 4)

    def fill(
        self, name: str, polygon: np.ndarray, color: Sequence[float], gain: float = 1.0, depth: float = 0.0
    ) -> None:
        """Fill pixels (x, y) on all layers with an object of the class `name`."""
        fixed = [np.round(np.clip(polygon, -8000, 8000) * 16).astype(np.int32)]
        cv2.fillPoly(self.image, fixed, self.tint(color, gain, depth), cv2.LINE_AA, 4)
        cv2.fillPoly(self.label, fixed, _ON_DISK[name], cv2.LINE_8, 4)
        cv2.fillPoly(self.light, fixed, _NEUTRAL, cv2.LINE_8, 4)

    def face(self, name: str, points: Sequence[Sequence[float]], color: Sequence[float], gain: float = 1.0) -> None:
        """Fill a flat face given in metres."""
        depth = float(np.mean([p[2] for p in points]))
        self.fill(name, self.project(points), color, gain, depth)

    def shadow(self, polygon: np.ndarray, value: int = 78) -> None:
        """Darken (value < 128) or brighten (> 128) the light layer."""
        fixed = [np.round(np.clip(polygon, -8000, 8000) * 16).astype(np.int32)]
        cv2.fillPoly(self.light, fixed, value, cv2.LINE_8, 4)

    def ground_shadow(self, x: float, z: float, radius: float, depth: float | None = None, value: int = 70) -> None:
        """A soft spot on the ground below an object, in metres."""
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        rim = np.stack([x + radius * np.cos(angle), 0 * angle, z + (depth or radius) * np.sin(angle)], axis=1)
        rim[:, 2] = np.maximum(rim[:, 2], self.near * 0.5)
        self.shadow(self.project(rim), value)

    def cuboid(self, name: str, x: Sequence[float], y: Sequence[float], z: Sequence[float], color) -> None:
        """A box between two X, two Y and two Z values, with the faces that the camera sees."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        if x0 > 0:
            gain = 0.78 if self.sun_left else 0.66
            self.face(name, [(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], color, gain)
        if x1 < 0:
            gain = 0.66 if self.sun_left else 0.78
            self.face(name, [(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], color, gain)
        if y1 < self.eye:
            self.face(name, [(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], color, 1.12)
        self.face(name, [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], color, 0.92)

    def quad_x(self, x: float, y: Sequence[float], z: Sequence[float]) -> np.ndarray:
        """Pixels of a rectangle on a wall that runs away from the camera."""
        return self.project([(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])])

    def quad_z(self, x: Sequence[float], y: Sequence[float], z: float) -> np.ndarray:
        """Pixels of a rectangle on a wall that faces the camera."""
        return self.project([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)])

    def quad_y(self, x: Sequence[float], y: float, z: Sequence[float]) -> np.ndarray:
        """Pixels of a rectangle that lies flat."""
        return self.project([(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])])

    def at_least(self, pixels_at_512: float, depth: float) -> float:
        """The width in metres that covers so many pixels at this depth once the picture is 512 wide."""
        return pixels_at_512 * self.width / 512 * depth / self.focal


def _disc(x: float, y: float, radius_x: float, radius_y: float | None = None, corners: int = 18) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + (radius_y or radius_x) * np.sin(angle)], axis=1)


# --- Outdoors ----------------------------------------------------------------------------------------------------


def _draw_outdoors(stage: _Stage) -> None:
    _draw_sky(stage)
    _draw_mountains(stage)
    _draw_lawn(stage)
    if stage.rng.random() < 0.55:
        _draw_street(stage)
    else:
        _draw_house_front(stage)


def _draw_sky(stage: _Stage) -> None:
    rows = int(stage.horizon) + 2
    top, bottom = ((44, 62, 140), (250, 160, 96)) if stage.dusk else ((74, 138, 222), (206, 226, 244))
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** (1.8 if stage.dusk else 1.0)
    gradient = np.float32(top) * (1 - t) + np.float32(bottom) * t
    cloud_x, cloud_y = (int(v) for v in stage.rng.integers(0, 500, 2))
    clouds = cv2.resize(_textures()["cloud"][cloud_y : cloud_y + 160, cloud_x : cloud_x + 220], (stage.width, rows))
    color = np.float32((150, 96, 112) if stage.dusk else (252, 252, 254))
    strength = np.float32(stage.rng.uniform(0.3, 1.0) * (0.6 if stage.dusk else 0.9) / 255)
    amount = clouds[..., None] * strength
    stage.image[:rows] = (gradient + (color - gradient) * amount).astype(np.uint8)
    stage.label[:rows] = _ON_DISK["sky"]


def _draw_mountains(stage: _Stage) -> None:
    rng = stage.rng
    if rng.random() < 0.15:
        return
    for layer, (low, high) in enumerate([(0.16, 0.30), (0.08, 0.18)]):
        corners = 9
        x = np.linspace(-0.05, 1.05, corners) * stage.width
        y = stage.horizon - stage.height * rng.uniform(low, high, corners) * np.where(np.arange(corners) % 2, 1, 0.55)
        ridge = np.stack([x, y], 1)
        foot = [(x[-1], stage.horizon + 3), (x[0], stage.horizon + 3)]
        color = stage.pick("mountain") * (1.0 if layer == 0 else 0.8)
        stage.fill("mountain", np.vstack([ridge, foot]), color, depth=stage.haze_range * (0.3 if layer == 0 else 0.15))
        for k in range(1, corners - 1, 2):
            if layer == 0:
                side = -1 if stage.sun_left else 1
                flank = [ridge[k], ridge[k + side], (ridge[k][0], stage.horizon)]
                stage.paint(np.array(flank), color, 1.16, stage.haze_range * 0.3)


def _draw_lawn(stage: _Stage) -> None:
    rows = np.array([(0, stage.horizon), (stage.width, stage.horizon), (stage.width, stage.height), (0, stage.height)])
    stage.fill("grass", rows, stage.pick("grass"))


def _haze_ground(stage: _Stage) -> None:
    """Let the ground fade with distance; call it before anything stands on it."""
    first = int(stage.horizon) + 1
    below = np.arange(first, stage.height) - stage.horizon + 1
    clear = np.exp(-stage.focal * stage.eye / below / stage.haze_range)[:, None, None]
    ground = stage.image[first:]
    weight = np.broadcast_to((clear * 256).astype(np.uint16), ground.shape)
    veil = ((1 - clear) * np.array(stage.haze_color) * 256).astype(np.uint16)
    ground[:] = ((ground * weight + veil) >> 8).astype(np.uint8)


def _draw_street(stage: _Stage) -> None:
    rng = stage.rng
    middle, half, walk = rng.uniform(-1.6, 1.6), rng.uniform(2.8, 3.8), rng.uniform(1.8, 2.6)
    span = (stage.near, 160.0)
    stage.fill("road", stage.quad_y((middle - half, middle + half), 0, span), stage.pick("road"))
    for start in np.arange(np.ceil(stage.near), 40, 4.0):
        stage.paint(stage.quad_y((middle - 0.1, middle + 0.1), 0, (start, start + 2)), (226, 222, 206))
    color = stage.pick("sidewalk")
    for side in (-1, 1):
        edges = sorted((middle + side * half, middle + side * (half + walk)))
        stage.fill("sidewalk", stage.quad_y(edges, 0, span), color)
        kerb = sorted((middle + side * half, middle + side * (half + 0.18)))
        stage.paint(stage.quad_y(kerb, 0, span), color, 1.2)
    _haze_ground(stage)
    items = []
    green_left, green_right = rng.random(2) < 0.4
    for side, green in ((-1, green_left), (1, green_right)):
        border = middle + side * (half + walk)
        items += _green_side(stage, side, border) if green else _town_side(stage, side, border)
        items += _street_furniture(stage, side, middle + side * half, walk)
        if rng.random() < 0.75:
            z = rng.uniform(6.0, 12)
            items.append((z, _car_away, (middle + side * (half - 1.1), z)))
    _draw_items(stage, items)


def _draw_items(stage: _Stage, items: list) -> None:
    for _, draw, arguments in sorted(items, key=lambda item: -item[0]):
        draw(stage, *arguments)


def _town_side(stage: _Stage, side: int, border: float) -> list:
    rng = stage.rng
    items, z = [], rng.uniform(5, 7)
    while z < 46:
        length, height = rng.uniform(7, 12), rng.uniform(5.0, 11)
        items.append((z + length * 0.5 + 3, _facade_along, (side, border, z, z + length, height)))
        z += length + (rng.uniform(2, 5) if rng.random() < 0.3 else 0)
    return items


def _green_side(stage: _Stage, side: int, border: float) -> list:
    rng = stage.rng
    items = []
    if rng.random() < 0.7:
        items.append((14.0, _fence_along, (border + side * 0.3, stage.near, 26.0)))
    for z in np.arange(rng.uniform(8, 11), 34, 6.5):
        items.append((z + 6, _tree, (border + side * rng.uniform(2.6, 5), z, rng.uniform(4.5, 7))))
    return items


def _street_furniture(stage: _Stage, side: int, kerb: float, walk: float) -> list:
    rng = stage.rng
    items = []
    near = rng.uniform(5.5, 8)
    kind = rng.random()
    if kind < 0.5:
        items.append((near, _streetlight, (kerb + side * 0.35, near, -side)))
    elif kind < 0.9:
        items.append((near, _pole, (kerb + side * 0.35, near)))
    if rng.random() < 0.7:
        z = rng.uniform(4.4, 6.5)
        items.append((z, _person, (kerb + side * rng.uniform(0.8, walk - 0.3), z)))
    if rng.random() < 0.3:
        z = rng.uniform(7, 11)
        items.append((z, _bin, (kerb + side * (walk - 0.5), z)))
    return items


def _facade_along(stage: _Stage, side: int, x: float, z0: float, z1: float, height: float) -> None:
    color, glass, frame = stage.pick("building"), stage.pick("windowpane"), stage.pick("door")
    lit = stage.rng.random(64)
    sunny = (side < 0) != stage.sun_left
    far_x = x + side * 9
    stage.face("building", [(x, 0, z0), (far_x, 0, z0), (far_x, height, z0), (x, height, z0)], color, 0.8)
    stage.face("building", [(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)], color, 1.1 if sunny else 0.86)
    depth = (z0 + z1) / 2
    stage.paint(stage.quad_x(x, (height - 0.45, height), (z0, z1)), stage.pick("roof"), 0.9, depth)
    stage.paint(stage.quad_x(x, (0, 0.5), (z0, z1)), color, 0.7, depth)
    door_at = int(stage.rng.integers(0, 3))
    for k, z in enumerate(np.arange(z0 + 0.7, z1 - 1.9, 2.6)):
        if k == door_at and z < 20:
            stage.fill("door", stage.quad_x(x, (0, 2.4), (z, z + 1.5)), frame, 1.0, z)
            stage.paint(stage.quad_x(x, (1.7, 2.2), (z + 0.4, z + 1.1)), frame, 1.5, z)
        for floor, y in enumerate(np.arange(0.9 if k != door_at else 3.4, height - 1.9, 2.5)):
            quad = stage.quad_x(x, (y, y + 1.6), (z, z + 1.6))
            if np.ptp(quad[:, 0]) > stage.width / 60:
                _window(stage, quad, glass, z, lit[(7 * k + floor) % 64])


def _window(
    stage: _Stage, quad: np.ndarray, glass: np.ndarray, depth: float, lit: float, curtainless: bool = True
) -> None:
    """A pane with a bright frame, a reflection and a crossbar; at dusk some of them are lit."""
    center = quad.mean(0)
    glowing = stage.dusk and not stage.indoor and lit < 0.45
    color = np.array((255, 206, 120)) if glowing else glass
    stage.fill("windowpane", quad, (236, 232, 224), 1.0, depth)
    pane = center + (quad - center) * 0.84
    stage.paint(pane, color, 1.6 if glowing else 1.0, 0 if glowing else depth)
    if glowing:
        stage.glows.append((*center, np.ptp(quad[:, 1]) * 0.55, 0.9))
    else:
        stage.paint(np.array([pane[0], pane[3], pane[2] * 0.6 + pane[3] * 0.4]), color, 1.18, depth)
    middle = [(pane[0] + pane[1]) / 2, (pane[3] + pane[2]) / 2]
    thick = max(1, round(np.ptp(pane[:, 0]) * 0.06))
    ends = [tuple(int(v) for v in np.clip(p, -8000, 8000)) for p in middle]
    cv2.line(stage.image, ends[0], ends[1], stage.tint((226, 222, 214), 1.0, depth), thick, cv2.LINE_AA)


def _tree(stage: _Stage, x: float, z: float, height: float) -> None:
    rng = stage.rng
    color, width = stage.pick("tree"), max(0.32, stage.at_least(9, z))
    stage.ground_shadow(x + (1 if stage.sun_left else -1) * 0.8, z, height * 0.33)
    stage.fill("tree", stage.quad_z((x - width / 2, x + width / 2), (0, height * 0.55), z), (104, 72, 48), 0.9, z)
    ((cx, cy),) = stage.project([(x, height * 0.68, z)])
    radius = stage.focal * height * 0.2 / z
    blobs = [(0, 0, 1.25)] + [(1.05 * np.cos(a), 0.85 * np.sin(a), rng.uniform(0.7, 0.95)) for a in np.arange(7) * 0.9]
    for dx, dy, r in blobs:
        stage.fill(
            "tree", _wobbly(rng, cx + dx * radius, cy + dy * radius, r * radius), color, rng.uniform(0.84, 1.0), z
        )
    lit = -1 if stage.sun_left else 1
    for _ in range(5):
        dx, dy = lit * rng.uniform(0, 1.2), rng.uniform(-1.3, 0.3)
        stage.paint(_wobbly(rng, cx + dx * radius, cy + dy * radius, 0.32 * radius), color, rng.uniform(1.15, 1.4), z)
    stage.shadow(_disc(cx - lit * 0.7 * radius, cy + 0.8 * radius, radius * 0.9), 92)


def _wobbly(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    outline = _disc(0, 0, radius, corners=14) * rng.uniform(0.86, 1.14, (14, 1))
    return outline + (x, y)


def _fence_along(stage: _Stage, x: float, z0: float, z1: float) -> None:
    color = stage.pick("fence")
    stage.fill("fence", stage.quad_x(x, (0, 1.15), (z0, z1)), color, 1.0, 8)
    boards = [stage.quad_x(x, (0, 1.15), (z, z + 0.06)) for z in np.geomspace(max(z0, 2), z1 * 0.8, 26)]
    stage.paint_many(boards, color, 0.62, 8)
    stage.paint(stage.quad_x(x, (1.05, 1.15), (z0, z1)), color, 1.25, 8)


def _fence_across(stage: _Stage, x0: float, x1: float, z: float) -> None:
    color = stage.pick("fence")
    stage.fill("fence", stage.quad_z((x0, x1), (0, 1.25), z), color, 1.0, z)
    boards = [stage.quad_z((x, x + 0.05), (0, 1.25), z) for x in np.arange(x0, x1, 0.42)]
    stage.paint_many(boards, color, 0.6, z)
    stage.paint(stage.quad_z((x0, x1), (1.12, 1.25), z), color, 1.25, z)


def _streetlight(stage: _Stage, x: float, z: float, toward: int) -> None:
    color = stage.pick("streetlight")
    width = max(0.14, stage.at_least(16, z))
    top = stage.eye + (stage.horizon * stage.rng.uniform(0.62, 0.86)) * z / stage.focal
    stage.ground_shadow(x, z, 0.5)
    stage.fill("streetlight", stage.quad_z((x - width, x + width), (0, 0.5), z), color, 0.8, z)
    stage.fill("streetlight", stage.quad_z((x - width / 2, x + width / 2), (0, top), z), color, 1.0, z)
    stage.paint(stage.quad_z((x - width / 2, x - width / 6), (0.5, top), z), color, 1.5, z)
    arm = sorted((x - toward * width / 2, x + toward * 1.3))
    stage.fill("streetlight", stage.quad_z(arm, (top - width, top), z), color, 1.0, z)
    head = sorted((x + toward * 0.7, x + toward * 1.9))
    stage.fill("streetlight", stage.quad_z(head, (top - 0.5, top + 0.02), z), color, 1.0, z)
    bulb = stage.quad_z((head[0] + 0.1, head[1] - 0.1), (top - 0.5, top - 0.26), z)
    stage.paint(bulb, (255, 226, 150), 2.0 if stage.dusk else 0.95)
    stage.glows.append((*bulb.mean(0), stage.focal * 1.1 / z, 0.8))
    if stage.dusk:
        stage.glows.append((*bulb.mean(0), stage.focal * 0.42 / z, 1.6))


def _pole(stage: _Stage, x: float, z: float) -> None:
    color = stage.pick("pole")
    width = max(0.15, stage.at_least(18, z))
    top = stage.eye + (stage.horizon * stage.rng.uniform(0.4, 0.75)) * z / stage.focal
    stage.ground_shadow(x, z, 0.4)
    stage.fill("pole", stage.quad_z((x - width / 2, x + width / 2), (0, top), z), color, 1.0, z)
    bands = np.arange(0.4, top - 0.3, 0.9)
    stage.paint_many(
        [stage.quad_z((x - width / 2, x + width / 2), (y, y + 0.35), z) for y in bands], (226, 60, 44), 1, z
    )
    stage.paint(stage.quad_z((x + width / 6, x + width / 2), (0, top), z), color * (0.72, 0.62, 0.62), 1.0, z)


def _person(stage: _Stage, x: float, z: float) -> None:
    rng = stage.rng
    shirt, trousers, skin = stage.pick("shirt"), stage.pick("trousers"), stage.pick("skin")
    tall, step = rng.uniform(1.65, 1.9), rng.uniform(0.08, 0.24)
    stage.ground_shadow(x, z, 0.5)
    for foot in (-step, step):
        leg = [(x + foot - 0.13, 0, z), (x + foot + 0.13, 0, z), (x + 0.22, 0.86, z), (x - 0.22, 0.86, z)]
        stage.face("person", leg, trousers)
    torso = [(x - 0.24, 0.78, z), (x + 0.24, 0.78, z), (x + 0.31, tall - 0.32, z), (x - 0.31, tall - 0.32, z)]
    stage.face("person", torso, shirt)
    for arm in (-1, 1):
        swing = arm * (0.34 + step * 0.5)
        limb = [(x + arm * 0.22, tall - 0.34, z), (x + arm * 0.36, tall - 0.4, z), (x + swing + 0.07, 0.78, z)]
        stage.face("person", [*limb, (x + swing - 0.07, 0.78, z)], shirt, 0.82)
    ((hx, hy),) = stage.project([(x, tall - 0.16, z)])
    size = stage.focal * 0.15 / z
    stage.fill("person", _disc(hx, hy, size, size * 1.2), skin, 1.0, z)
    stage.paint(_disc(hx, hy - size * 0.55, size * 1.05, size * 0.7), (52, 36, 28), 1.0, z)


def _car_away(stage: _Stage, x: float, z: float) -> None:
    """A parked car seen from behind."""
    color = stage.pick("car")
    left, right, back, front = x - 0.9, x + 0.9, z, z + 4.0
    stage.ground_shadow(x, z + 2, 1.3, 2.3, 52)
    for wheel in (left + 0.05, right - 0.4):
        stage.cuboid("car", (wheel, wheel + 0.35), (0, 0.55), (back + 0.2, back + 0.8), (30, 30, 34))
    stage.cuboid("car", (left, right), (0.3, 0.95), (back, front), color)
    roof = (left + 0.18, right - 0.18)
    stage.cuboid("car", roof, (0.95, 1.5), (back + 0.5, front - 1.2), color)
    stage.paint(stage.quad_z((roof[0] + 0.12, roof[1] - 0.12), (1.0, 1.42), back + 0.5), (40, 52, 66), 1.0, z)
    for lamp in (left + 0.06, right - 0.34):
        stage.paint(stage.quad_z((lamp, lamp + 0.28), (0.64, 0.82), back), (226, 30, 30), 1.3 if stage.dusk else 0.8)
    stage.paint(stage.quad_z((x - 0.25, x + 0.25), (0.46, 0.6), back), (236, 236, 228), 1.0, z)
    stage.paint(stage.quad_z((left, right), (0.3, 0.4), back), (38, 38, 42), 1.0, z)


def _car_across(stage: _Stage, x: float, z: float) -> None:
    """A car seen from the side."""
    color = stage.pick("car")
    facing = 1 if stage.rng.random() < 0.5 else -1

    def outline(points: Sequence[tuple[float, float]]) -> np.ndarray:
        return stage.project([(x + facing * px, py, z) for px, py in points])

    stage.ground_shadow(x, z + 0.3, 2.3, 0.9, 52)
    body = [(-2.1, 0.3), (2.1, 0.3), (2.1, 0.75), (1.3, 0.92), (0.7, 1.45), (-1.0, 1.5), (-1.7, 0.95), (-2.1, 0.85)]
    stage.fill("car", outline(body), color, 1.0, z)
    stage.paint(outline([(-2.1, 0.3), (2.1, 0.3), (2.1, 0.5), (-2.1, 0.5)]), color, 0.66, z)
    stage.paint(outline([(-0.2, 0.95), (1.05, 0.95), (0.6, 1.36), (-0.2, 1.4)]), (52, 66, 84), 1.0, z)
    stage.paint(outline([(-1.4, 0.95), (-0.32, 0.95), (-0.32, 1.4), (-0.95, 1.4)]), (52, 66, 84), 1.0, z)
    for wheel in (-1.3, 1.3):
        ((cx, cy),) = stage.project([(x + wheel, 0.34, z)])
        radius = stage.focal * 0.36 / z
        stage.fill("car", _disc(cx, cy, radius), (28, 28, 32), 1.0, z)
        stage.paint(_disc(cx, cy, radius * 0.5), (170, 172, 178), 1.0, z)
    stage.paint(outline([(1.95, 0.66), (2.1, 0.62), (2.1, 0.76), (1.95, 0.8)]), (255, 236, 180), 1.2)


def _bin(stage: _Stage, x: float, z: float) -> None:
    """A thing without a class: "other"."""
    stage.ground_shadow(x, z, 0.5)
    stage.cuboid("other", (x - 0.3, x + 0.3), (0, 0.95), (z, z + 0.5), stage.pick("other"))


def _draw_house_front(stage: _Stage) -> None:
    rng = stage.rng
    road = (stage.near, stage.near + rng.uniform(2.4, 3.4))
    walk = (road[1], road[1] + rng.uniform(1.5, 2.2))
    stage.fill("road", stage.quad_y((-40, 40), 0, road), stage.pick("road"))
    middle = road[0] * 0.45 + road[1] * 0.55
    dashes = [stage.quad_y((x, x + 1.1), 0, (middle - 0.07, middle + 0.07)) for x in np.arange(-8, 8, 2.2)]
    stage.paint_many(dashes, (226, 222, 206))
    color = stage.pick("sidewalk")
    stage.fill("sidewalk", stage.quad_y((-40, 40), 0, walk), color)
    stage.paint(stage.quad_y((-40, 40), 0, (walk[0], walk[0] + 0.15)), color, 1.2)
    z = walk[1] + rng.uniform(4.5, 7.5)
    half_view = z * stage.width / stage.focal / 2
    x = rng.uniform(-0.35, 0.35) * half_view
    half = rng.uniform(3.8, 5.2)
    stage.fill("sidewalk", stage.quad_y((x - 0.7, x + 0.7), 0, (walk[1] - 0.05, z)), color, 0.96)
    _haze_ground(stage)
    items = [(z + 2, _house, (x, half, z))]
    for side in (-1, 1):
        if rng.random() < 0.8:
            items.append((z + 3, _tree, (x + side * (half + rng.uniform(1.5, 3.5)), z + 2.5, rng.uniform(5, 7))))
        if rng.random() < 0.7:
            ends = sorted((x + side * 1.3, x + side * 16))
            items.append((walk[1] + 0.4, _fence_across, (*ends, walk[1] + 0.3)))
        items += _house_furniture(stage, side, road, walk)
    _draw_items(stage, items)


def _house_furniture(stage: _Stage, side: int, road: Sequence[float], walk: Sequence[float]) -> list:
    rng, items = stage.rng, []
    half_view = walk[0] * stage.width / stage.focal / 2
    kind = rng.random()
    if kind < 0.5:
        items.append((walk[0] + 0.3, _streetlight, (side * rng.uniform(0.45, 0.8) * half_view, walk[0] + 0.3, -side)))
    elif kind < 0.9:
        items.append((walk[0] + 0.3, _pole, (side * rng.uniform(0.35, 0.9) * half_view, walk[0] + 0.3)))
    if rng.random() < 0.65:
        z = walk[0] + 0.15
        items.append((z, _person, (side * rng.uniform(0.1, 0.8) * half_view, z)))
    if rng.random() < 0.4:
        z = (road[0] + road[1]) / 2 + 0.6
        items.append((z, _car_across, (side * rng.uniform(0.3, 0.9) * half_view, z)))
    if rng.random() < 0.25:
        items.append((walk[1] - 0.3, _bin, (side * rng.uniform(0.3, 0.9) * half_view, walk[1] - 0.3)))
    return items


def _house(stage: _Stage, x: float, half: float, z: float) -> None:
    rng = stage.rng
    color, glass, roof, frame = (stage.pick(name) for name in ("building", "windowpane", "roof", "door"))
    storeys = int(rng.integers(1, 3))
    height = 3.1 * storeys
    lit = rng.random(8)
    stage.shadow(stage.quad_y((x - half - 0.4, x + half + 0.4), 0, (z - 0.9, z)), 88)
    stage.cuboid("building", (x - half, x + half), (0, height), (z, z + 7), color)
    ridge = [(x - half - 0.5, height, z - 0.3), (x + half + 0.5, height, z - 0.3)]
    ridge += [(x + half * 0.55, height + 2.2, z + 3), (x - half * 0.55, height + 2.2, z + 3)]
    stage.face("building", ridge, roof)
    for k in range(1, 5):
        y, cut = height + 2.2 * k / 5, 0.45 * half * k / 5
        course = [(x - half + cut, y, z + 0.6 * k), (x + half - cut, y, z + 0.6 * k)]
        course += [(x + half - cut, y + 0.1, z + 0.6 * k), (x - half + cut, y + 0.1, z + 0.6 * k)]
        stage.paint(stage.project(course), roof, 0.8, z)
    stage.paint(stage.quad_z((x - half, x + half), (height - 0.3, height), z), color, 0.62, z)
    stage.paint(stage.quad_z((x - half, x + half), (0, 0.4), z), color, 0.72, z)
    stage.fill("door", stage.quad_z((x - 0.75, x + 0.75), (0, 2.35), z), frame, 1.0, z)
    stage.paint(stage.quad_z((x - 0.45, x + 0.45), (1.55, 2.1), z), frame, 1.5, z)
    places = [(-0.62, 0.85), (0.62, 0.85)] + [(u, 3.85) for u in (-0.62, 0, 0.62)] * (storeys - 1)
    for (u, y), light in zip(places, lit, strict=False):
        quad = stage.quad_z((x + u * half - 0.95, x + u * half + 0.95), (y, y + 1.5), z)
        _window(stage, quad, glass, z, light)


# --- Indoors -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Room:
    """The walls of a room in metres: X from `left` to `right`, back wall at Z = `back`, `top` above the floor."""

    left: float
    right: float
    back: float
    top: float


def _draw_room(stage: _Stage) -> None:
    rng = stage.rng
    room = _Room(-rng.uniform(2.0, 2.7), rng.uniform(2.0, 2.7), rng.uniform(4.6, 5.8), rng.uniform(2.6, 2.9))
    _draw_shell(stage, room)
    window_x = _back_wall(stage, room)
    if rng.random() < 0.85:
        _rug(stage, room)
    if rng.random() < 0.45:
        _bedroom(stage, room, window_x)
    else:
        _living_room(stage, room, window_x)


def _draw_shell(stage: _Stage, room: _Room) -> None:
    near = min(stage.near, 1.2) * 0.5
    color = stage.pick("wall")
    stage.fill("floor", stage.quad_y((room.left, room.right), 0, (near, room.back)), stage.pick("floor"))
    stage.fill(
        "ceiling", stage.quad_y((room.left, room.right), room.top, (near, room.back)), stage.pick("ceiling"), 0.97
    )
    bright, dim = (0.98, 0.84) if stage.sun_left else (0.84, 0.98)
    stage.fill("wall", stage.quad_x(room.left, (0, room.top), (near, room.back)), color, dim)
    stage.fill("wall", stage.quad_x(room.right, (0, room.top), (near, room.back)), color, bright)
    stage.fill("wall", stage.quad_z((room.left, room.right), (0, room.top), room.back), color, 0.92)
    skirting = color * 0.35 + 150
    for x in (room.left, room.right):
        stage.paint(stage.quad_x(x, (0, 0.1), (near, room.back)), skirting, 0.9)
    stage.paint(stage.quad_z((room.left, room.right), (0, 0.1), room.back), skirting, 0.95)
    for y, value in ((0.0, 100), (room.top, 108)):
        for x0, x1, z0, z1 in ((room.left, room.right, room.back - 0.25, room.back),):
            stage.shadow(stage.quad_y((x0, x1), y, (z0, z1)), value)
        stage.shadow(stage.quad_y((room.left, room.left + 0.22), y, (near, room.back)), value)
        stage.shadow(stage.quad_y((room.right - 0.22, room.right), y, (near, room.back)), value)


def _back_wall(stage: _Stage, room: _Room) -> float:
    """Window with curtains, painting on the back wall; door and more on the side walls. Returns the window's X."""
    rng = stage.rng
    x = rng.choice([-0.9, 0.9]) + rng.uniform(-0.15, 0.15)
    half, y0, y1 = rng.uniform(0.6, 0.75), rng.uniform(0.85, 1.0), rng.uniform(2.1, 2.3)
    _room_window(stage, stage.quad_z((x - half, x + half), (y0, y1), room.back))
    if rng.random() < 0.85:
        _curtains(stage, x, half, y0, y1, room.back)
    if rng.random() < 0.85:
        u = -x + rng.uniform(-0.1, 0.1)
        width, height = rng.uniform(0.42, 0.6), rng.uniform(0.3, 0.42)
        _painting(stage, stage.quad_z((u - width, u + width), (1.72 - height, 1.72 + height), room.back))
    side, wall = (-1, room.left) if rng.random() < 0.5 else (1, room.right)
    z = rng.uniform(2.6, 3.4)
    if rng.random() < 0.75:
        _side_door(stage, wall, z, side)
    if rng.random() < 0.5:
        other = room.right if side < 0 else room.left
        _painting(stage, stage.quad_x(other, (1.25, 2.0), (z - 0.3, z + 0.9)))
    return x


def _room_window(stage: _Stage, quad: np.ndarray) -> None:
    glass = stage.pick("windowpane")
    stage.fill("windowpane", quad, (244, 242, 236))
    center = quad.mean(0)
    pane = center + (quad - center) * 0.88
    stage.paint(pane, glass * 0.45 if stage.dusk else glass, 1.0 if stage.dusk else 1.12)
    (x0, y0), (x1, y1) = pane.min(0), pane.max(0)
    hill = np.array(
        [
            (x0, y1),
            (x0, y1 - 0.25 * (y1 - y0)),
            ((x0 + x1) / 2, y1 - 0.38 * (y1 - y0)),
            (x1, y1 - 0.2 * (y1 - y0)),
            (x1, y1),
        ]
    )
    stage.paint(hill, (60, 70, 96) if stage.dusk else (120, 172, 140))
    bars = [_bar(pane[0] * 0.5 + pane[1] * 0.5, pane[3] * 0.5 + pane[2] * 0.5, (x1 - x0) * 0.025)]
    bars.append(_bar(pane[0] * 0.5 + pane[3] * 0.5, pane[1] * 0.5 + pane[2] * 0.5, (x1 - x0) * 0.025))
    for bar in bars:
        stage.paint(bar, (240, 238, 232))
    if not stage.dusk:
        stage.glows.append((*center, np.ptp(quad[:, 0]) * 0.9, 0.5))


def _bar(start: np.ndarray, end: np.ndarray, half_width: float) -> np.ndarray:
    direction = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    normal = np.array((-direction[1], direction[0])) * half_width
    return np.array([start - normal, start + normal, end + normal, end - normal])


def _curtains(stage: _Stage, x: float, half: float, y0: float, y1: float, z: float) -> None:
    color = stage.pick("curtain")
    low = 0.08 if stage.rng.random() < 0.6 else y0 - 0.2
    width = stage.rng.uniform(0.42, 0.55)
    for side in (-1, 1):
        edges = sorted((x + side * (half - 0.12), x + side * (half - 0.12 + width)))
        stage.fill("curtain", stage.quad_z(edges, (low, y1 + 0.16), z - 0.02), color)
        folds = np.linspace(edges[0], edges[1], 6)[:-1]
        stage.paint_many([stage.quad_z((f, f + 0.035), (low, y1 + 0.16), z - 0.02) for f in folds], color, 0.7)
        stage.paint_many([stage.quad_z((f + 0.05, f + 0.075), (low, y1 + 0.16), z - 0.02) for f in folds], color, 1.2)
    stage.paint(stage.quad_z((x - half - width, x + half + width), (y1 + 0.14, y1 + 0.19), z - 0.02), (90, 70, 50))


def _painting(stage: _Stage, quad: np.ndarray) -> None:
    rng = stage.rng
    center = quad.mean(0)
    stage.shadow(quad + (3, 4), 96)
    stage.fill("painting", quad, (176, 132, 44))
    canvas = center + (quad - center) * 0.86
    hue = rng.choice([0, 1, 2])
    ground = [(40, 96, 150), (30, 120, 120), (190, 80, 50)][hue]
    stage.paint(canvas, ground)

    def at(u: float, v: float) -> np.ndarray:
        return (canvas[0] * (1 - u) + canvas[1] * u) * (1 - v) + (canvas[3] * (1 - u) + canvas[2] * u) * v

    stage.paint(np.array([at(0, 0), at(1, 0), at(1, 0.3), at(0.6, 0.42), at(0.25, 0.3), at(0, 0.38)]), (200, 190, 90))
    spot = at(rng.uniform(0.25, 0.75), 0.7)
    stage.paint(_disc(*spot, np.ptp(canvas[:, 0]) * 0.09), (250, 226, 140))
    stage.paint(np.array([at(0.15, 0.05), at(0.45, 0.05), at(0.3, 0.62)]), (130, 40, 60))


def _side_door(stage: _Stage, x: float, z: float, side: int) -> None:
    color = stage.pick("door")
    outer = stage.quad_x(x - side * 0.01, (0, 2.12), (z - 0.08, z + 1.08))
    stage.fill("door", outer, (236, 230, 220), 0.9)
    stage.paint(stage.quad_x(x - side * 0.01, (0, 2.04), (z, z + 1.0)), color)
    panels = [stage.quad_x(x - side * 0.01, (a, b), (z + 0.18, z + 0.82)) for a, b in ((0.2, 0.9), (1.1, 1.85))]
    stage.paint_many(panels, color, 0.72)
    ((kx, ky),) = stage.project([(x - side * 0.05, 1.0, z + 0.12)])
    stage.paint(_disc(kx, ky, stage.width / 160), (240, 206, 110))


def _rug(stage: _Stage, room: _Room) -> None:
    rng = stage.rng
    color = stage.pick("rug")
    half, z0, z1 = rng.uniform(1.0, 1.4), rng.uniform(1.9, 2.2), rng.uniform(3.6, 4.1)
    stage.fill("rug", stage.quad_y((-half, half), 0.01, (z0, z1)), color)
    edge = 0.12
    for inset, gain in ((edge, 1.9), (2 * edge, 1.0), (4 * edge, 1.5), (5 * edge, 0.9)):
        stage.paint(stage.quad_y((-half + inset, half - inset), 0.01, (z0 + inset, z1 - inset)), color, gain)


def _bedroom(stage: _Stage, room: _Room, window_x: float) -> None:
    rng = stage.rng
    left = window_x > 0
    x0 = room.left + 0.35 if left else room.right - 0.35 - 1.7
    items = [(room.back - 1.0, _bed, (x0, x0 + 1.7, room.back))]
    if rng.random() < 0.5:
        table_z = rng.uniform(3.4, 3.8)
        items.append((table_z, _table, ((0.95 if left else -0.95) + rng.uniform(-0.1, 0.1), table_z)))
    corner = room.right if left else room.left
    if rng.random() < 0.8:
        edges = sorted((corner, corner + (-0.6 if left else 0.6)))
        z = rng.uniform(2.7, 3.3)
        items.append((z + 0.3, _cabinet, (edges, rng.uniform(1.0, 1.9), (z, z + 1.2))))
    if rng.random() < 0.7:
        items.append((room.back - 0.3, _floor_lamp, (x0 + (2.05 if left else -0.35), room.back - 0.3)))
    if rng.random() < 0.6:
        items.append((2.4, _chair, ((0.55 if left else -0.55) + rng.uniform(-0.2, 0.3), 2.5)))
    _maybe_other(stage, items)
    _draw_items(stage, items)


def _living_room(stage: _Stage, room: _Room, window_x: float) -> None:
    rng = stage.rng
    x = -np.sign(window_x) * rng.uniform(0.5, 0.8)
    items = [(room.back - 0.6, _sofa, (x - 1.05, x + 1.05, room.back - 0.15))]
    if rng.random() < 0.85:
        table_x, table_z = rng.uniform(-0.5, 0.5), rng.uniform(2.5, 3.0)
        items.append((table_z, _table, (table_x, table_z)))
        if rng.random() < 0.75:
            side = 1 if table_x < 0 else -1
            items.append((table_z - 0.1, _chair, (table_x + side * 1.15, table_z)))
    if rng.random() < 0.7:
        edge = room.right if x < 0 else room.left
        edges = sorted((edge, edge + (-0.5 if x < 0 else 0.5)))
        z = rng.uniform(2.9, 3.4)
        items.append((z + 0.3, _cabinet, (edges, rng.uniform(0.9, 2.0), (z, z + 1.2))))
    if rng.random() < 0.8:
        items.append((room.back - 0.4, _floor_lamp, (x + np.sign(window_x) * 1.4, room.back - 0.4)))
    _maybe_other(stage, items)
    _draw_items(stage, items)


def _maybe_other(stage: _Stage, items: list) -> None:
    if stage.rng.random() < 0.4:
        z = stage.rng.uniform(2.0, 2.4)
        items.append((z, _box, (stage.rng.uniform(-1.3, 1.3), z)))


def _box(stage: _Stage, x: float, z: float) -> None:
    """A toy box, a thing without a class: "other"."""
    stage.ground_shadow(x, z + 0.15, 0.32)
    stage.cuboid("other", (x - 0.2, x + 0.2), (0, 0.28), (z, z + 0.35), stage.pick("other"))


def _bed(stage: _Stage, x0: float, x1: float, back: float) -> None:
    color, front = stage.pick("bed"), back - 2.1
    stage.shadow(stage.quad_y((x0 - 0.25, x1 + 0.25), 0, (front - 0.3, back)), 66)
    stage.cuboid("bed", (x0, x1), (0.3, 1.15), (back - 0.1, back), (120, 84, 60))
    stage.cuboid("bed", (x0, x1), (0.05, 0.32), (front, back - 0.1), (120, 84, 60))
    stage.cuboid("bed", (x0 + 0.02, x1 - 0.02), (0.3, 0.62), (front + 0.04, back - 0.1), color)
    stage.paint(stage.quad_y((x0 + 0.02, x1 - 0.02), 0.62, (back - 0.75, back - 0.1)), (240, 238, 232), 0.98)
    stripes = [stage.quad_y((x0 + 0.02, x1 - 0.02), 0.62, (front + d, front + d + 0.12)) for d in (0.25, 0.65, 1.05)]
    stage.paint_many(stripes, color, 1.4)
    for k in (0.08, 0.9):
        pillow = (x0 + k, x0 + k + 0.7)
        stage.cuboid("cushion", pillow, (0.62, 0.98), (back - 0.42, back - 0.2), stage.pick("cushion"))


def _sofa(stage: _Stage, x0: float, x1: float, back: float) -> None:
    color, front = stage.pick("sofa"), back - 0.95
    stage.shadow(stage.quad_y((x0 - 0.2, x1 + 0.2), 0, (front - 0.3, back)), 66)
    stage.cuboid("sofa", (x0, x1), (0.1, 0.92), (back - 0.25, back), color)
    stage.cuboid("sofa", (x0, x1), (0.08, 0.45), (front, back - 0.25), color)
    middle = (x0 + x1) / 2
    stage.paint(stage.quad_z((middle - 0.01, middle + 0.01), (0.1, 0.45), front), color, 0.6)
    colors = [stage.pick("cushion") for _ in range(2)]
    for k, edge in enumerate((x0 + 0.3, x1 - 0.82)):
        if k == 0 or stage.rng.random() < 0.7:
            stage.cuboid("cushion", (edge, edge + 0.52), (0.46, 0.86), (back - 0.45, back - 0.3), colors[k])
    for arm in (x0, x1 - 0.22):
        stage.cuboid("sofa", (arm, arm + 0.22), (0.08, 0.64), (front - 0.02, back), color * 0.92)


def _cabinet(stage: _Stage, x: Sequence[float], height: float, z: Sequence[float]) -> None:
    color = stage.pick("cabinet")
    stage.shadow(stage.quad_y((x[0] - 0.15, x[1] + 0.15), 0, (z[0] - 0.2, z[1])), 70)
    stage.cuboid("cabinet", x, (0, height), z, color)
    inner = x[0] if x[0] > 0 else x[1]
    gaps = np.linspace(0.06, height - 0.04, 4 if height > 1.3 else 3)
    for low, high in zip(gaps[:-1], gaps[1:], strict=True):
        for a, b in ((z[0] + 0.06, (z[0] + z[1]) / 2 - 0.03), ((z[0] + z[1]) / 2 + 0.03, z[1] - 0.06)):
            stage.paint(stage.quad_x(inner, (low + 0.03, high - 0.03), (a, b)), color, 1.05)
        ((kx, ky),) = stage.project([(inner, (low + high) / 2, (z[0] + z[1]) / 2 - 0.1)])
        stage.paint(_disc(kx, ky, stage.width / 220), (220, 190, 120))


def _table(stage: _Stage, x: float, z: float) -> None:
    color = stage.pick("table")
    half, height, depth = stage.rng.uniform(0.6, 0.75), stage.rng.uniform(0.48, 0.62), 0.7
    stage.ground_shadow(x, z + depth / 2, half * 1.15, 0.5, 64)
    for leg_z in (z + depth - 0.14, z):
        for leg_x in (x - half + 0.02, x + half - 0.14):
            stage.cuboid("table", (leg_x, leg_x + 0.12), (0, height), (leg_z, leg_z + 0.12), color * 0.75)
    stage.cuboid("table", (x - half, x + half), (height - 0.1, height), (z - 0.05, z + depth), color)
    if stage.rng.random() < 0.6:
        vase = stage.rng.uniform(-0.3, 0.2)
        stage.cuboid(
            "other", (x + vase, x + vase + 0.15), (height, height + 0.3), (z + 0.3, z + 0.45), stage.pick("other")
        )


def _chair(stage: _Stage, x: float, z: float) -> None:
    color = stage.pick("chair")
    stage.ground_shadow(x, z + 0.22, 0.36)
    stage.cuboid("chair", (x - 0.25, x + 0.25), (0.4, 1.0), (z + 0.44, z + 0.5), color)
    stage.paint(stage.quad_z((x - 0.16, x + 0.16), (0.6, 0.92), z + 0.44), color, 0.78)
    for leg_z in (z + 0.42, z):
        for leg_x in (x - 0.25, x + 0.16):
            stage.cuboid("chair", (leg_x, leg_x + 0.09), (0, 0.45), (leg_z, leg_z + 0.08), color * 0.8)
    stage.cuboid("chair", (x - 0.27, x + 0.27), (0.38, 0.48), (z - 0.02, z + 0.5), color)


def _floor_lamp(stage: _Stage, x: float, z: float) -> None:
    color = stage.pick("lamp")
    width = stage.at_least(13, z)
    stage.ground_shadow(x, z, 0.25)
    stage.fill("lamp", stage.quad_z((x - 0.16, x + 0.16), (0, 0.07), z), (120, 96, 60))
    stage.fill("lamp", stage.quad_z((x - width / 2, x + width / 2), (0, 1.4), z), (150, 120, 70))
    shade = stage.project([(x - 0.36, 1.24, z), (x + 0.36, 1.24, z), (x + 0.22, 1.86, z), (x - 0.22, 1.86, z)])
    stage.fill("lamp", shade, color, 1.6 if stage.dusk else 1.0)
    stage.glows.append((*shade.mean(0), stage.focal * (1.1 if stage.dusk else 0.5) / z, 0.9 if stage.dusk else 0.25))
    if stage.dusk:
        stage.glows.append((*shade.mean(0), stage.focal * 0.3 / z, 1.2))


# --- Texture, light, air -----------------------------------------------------------------------------------------


@cache
def _textures() -> dict[str, np.ndarray]:
    """Grey tiles, 1024 x 1024 uint8, mean 128 (`cloud`: 0..255). They wrap around, so that any offset fits."""
    rng = np.random.default_rng(512)
    noise = {scale: _noise(rng, scale) for scale in ((1, 1), (2, 2), (5, 5), (14, 14), (60, 60), (1, 24), (9, 1))}
    mix = {
        "grain": 5 * noise[1, 1] + 1.5 * noise[14, 14],
        "leaf": 20 * noise[2, 2] + 24 * noise[5, 5],
        "rock": 14 * noise[5, 5] + 16 * noise[14, 14],
        "wood": 16 * noise[1, 24] + 4 * noise[1, 1],
        "cloth": 9 * noise[2, 2] + 3 * noise[14, 14],
        "turf": 22 * noise[9, 1] + 16 * noise[14, 14],
        "asphalt": 14 * noise[2, 2] + 9 * noise[60, 60],
        "slabs": 7 * noise[2, 2] + _grid(64, 64, 3, 38),
        "planks": 12 * noise[9, 1] + _grid(256, 42, 2, 44),
        "weave": 12 * noise[2, 2] + _grid(16, 16, 4, 16),
    }
    tiles = {name: np.clip(value + _NEUTRAL, 0, 255).astype(np.uint8) for name, value in mix.items()}
    tiles["cloud"] = np.clip(noise[60, 60] * 110 + noise[14, 14] * 26 - 20, 0, 255).astype(np.uint8)
    tiles["sensor"] = np.clip(np.stack([noise[1, 1], _noise(rng, (1, 1)), _noise(rng, (1, 1))], -1) * 24 + 128, 0, 255)
    return tiles | {"sensor": tiles["sensor"].astype(np.uint8)}


def _noise(rng: np.random.Generator, scale: tuple[int, int], size: int = 1024) -> np.ndarray:
    """Smooth noise that wraps around, standard deviation 1; `scale` is the grain in pixels, (vertical, horizontal)."""
    values = rng.standard_normal((size, size)).astype(np.float32)
    pad = 3 * max(scale)
    padded = np.pad(values, pad, mode="wrap")
    smooth = cv2.GaussianBlur(padded, (0, 0), sigmaX=scale[1] / 2, sigmaY=scale[0] / 2) if max(scale) > 1 else padded
    smooth = smooth[pad : pad + size, pad : pad + size]
    return smooth / smooth.std()


def _grid(step_y: int, step_x: int, line: int, depth: float) -> np.ndarray:
    """Dark joints between slabs or planks, and a tone of its own for each of them."""
    y, x = np.mgrid[0:1024, 0:1024]
    row_shift = (x // step_x) % 2 * (step_y // 2)
    joints = ((x % step_x) < line) | (((y + row_shift) % step_y) < line)
    tone = np.random.default_rng(1).normal(0, depth / 4, (2048 // step_y + 2, 1024 // step_x + 1))
    return tone[(y + row_shift) // step_y, x // step_x] - depth * joints


def _finish(stage: _Stage, rng: np.random.Generator) -> np.ndarray:
    """Textures, soft shadows, light, air, lamps and camera, in this order. Returns RGB uint8."""
    texture = _texture_layer(stage, rng)
    blur = int(stage.width / 64) * 2 + 1
    light = cv2.blur(stage.light, (blur, blur))
    light = cv2.multiply(light, texture, scale=1 / _NEUTRAL)
    light = cv2.multiply(light, _room_light(stage), scale=1 / _NEUTRAL)
    image = cv2.multiply(stage.image, cv2.merge([light] * 3), scale=1 / _NEUTRAL)
    image = cv2.blur(image, (2, 2)) if stage.width > 500 else image
    image = _dusk_look(stage, image) if stage.dusk else _day_look(stage, image)
    return _sensor_noise(image, rng, (0.26 if stage.dusk else 0.1))


def _texture_layer(stage: _Stage, rng: np.random.Generator) -> np.ndarray:
    layer = np.full(stage.label.shape, _NEUTRAL, np.uint8)
    present = set(np.flatnonzero(cv2.calcHist([stage.label], [0], None, [256], [0, 256])))
    for name, classes in _TEXTURE_OF.items():
        if any(_ON_DISK[c] in present for c in classes):
            y, x = (int(v) for v in rng.integers(0, 1024 - 801, 2))
            tile = _textures()[name][y : y + stage.height, x : x + stage.width]
            cv2.copyTo(_fit(tile, layer.shape), _mask_of(stage.label, classes), layer)
    first = int(stage.horizon) + 1
    for name, classes in _GROUND_OF.items():
        if any(_ON_DISK[c] in present for c in classes):
            mask = _mask_of(stage.label[first:], classes)
            x, y, width, height = cv2.boundingRect(mask)
            part = np.s_[y : y + height, x : x + width]
            cv2.copyTo(_ground(stage, name, (x, y + first, width, height)), mask[part], layer[first:][part])
    return layer


def _fit(tile: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return tile if tile.shape == shape else cv2.resize(tile, shape[::-1])


def _mask_of(label: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[[_ON_DISK[name] for name in classes]] = 255
    return cv2.LUT(label, table)


def _ground(stage: _Stage, name: str, box: tuple[int, int, int, int]) -> np.ndarray:
    """A tile laid on the ground and seen in perspective, fading with distance; `box` is (x, y, width, height)."""
    texels = 110.0 if stage.indoor else 60.0
    eye, focal = stage.eye * texels, stage.focal
    center, lift = stage.center_x - box[0], stage.horizon - box[1]
    to_tile = np.array([[eye, 0, -center * eye], [0, 0, focal * eye], [0, 1, -lift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    tile = cv2.warpPerspective(_textures()[name], to_tile, box[2:], flags=flags, borderMode=cv2.BORDER_WRAP)
    rows = np.arange(box[3], dtype=np.float32) - lift
    fade = (np.clip(rows * rows / (focal * eye) * 1.6, 0, 1) * 256).astype(np.int16)[:, None]
    return (((tile.astype(np.int16) - _NEUTRAL) * fade >> 8) + _NEUTRAL).astype(np.uint8)


def _room_light(stage: _Stage) -> np.ndarray:
    """Light that falls off across the picture, `(H, W)` uint8, 128 = neutral."""
    y, x = np.mgrid[0:1:24j, 0:1:24j]
    if not stage.sun_left:
        x = 1 - x
    falloff = (1.12 - 0.26 * x) * (1.04 - 0.22 * (y - 0.45) ** 2) if stage.indoor else 1.06 - 0.14 * x
    return cv2.resize((falloff * _NEUTRAL).astype(np.uint8), (stage.width, stage.height))


def _glow(stage: _Stage, image: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """Add the halo of every lamp, drawn at an eighth of the size."""
    if not stage.glows:
        return image
    small = np.zeros((stage.height // 8 + 1, stage.width // 8 + 1), np.float32)
    y, x = np.mgrid[: small.shape[0], : small.shape[1]]
    for gx, gy, radius, strength in stage.glows:
        small += strength * np.exp(-((x - gx / 8) ** 2 + (y - gy / 8) ** 2) / (radius / 8) ** 2)
    halo = np.clip(small[..., None] * np.array(color), 0, 255).astype(np.uint8)
    return cv2.add(image, cv2.resize(halo, (stage.width, stage.height)))


def _day_look(stage: _Stage, image: np.ndarray) -> np.ndarray:
    return _glow(stage, image, (60, 56, 44)) if stage.indoor else image


def _dusk_look(stage: _Stage, image: np.ndarray) -> np.ndarray:
    """Dark, blue in the shadows, less contrast; lamps glow."""
    levels = np.arange(256)
    gain, lift = ((0.58, 0.52, 0.60), (10, 10, 30)) if stage.indoor else ((0.60, 0.53, 0.64), (12, 12, 32))
    table = np.stack([levels * g + b for g, b in zip(gain, lift, strict=True)], -1)
    image = cv2.LUT(image, table.astype(np.uint8)[None])
    return _glow(stage, image, (92, 64, 14))


def _sensor_noise(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    y, x = (int(v) for v in rng.integers(0, 1024 - 801, 2))
    tile = _textures()["sensor"][y : y + image.shape[0], x : x + image.shape[1]]
    if tile.shape != image.shape:
        tile = cv2.resize(tile, image.shape[1::-1])
    return cv2.addWeighted(image, 1.0, tile, strength, -_NEUTRAL * strength)
