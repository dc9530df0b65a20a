"""The stage on which `scenes` draws: camera, layers, brushes, colours, textures, light and air.

Points in metres are (X, Y, Z): X to the right, Y up from the ground, Z away from the camera. Points in pixels: (x, y).
An object is painted on three layers at a time: the image, the label map, and a light layer that is blurred and
multiplied in at the end (soft shadows). Class textures, haze, light and noise come last, in `finish`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from m2f_helpers.palette import ade20k_palette

_DRAWN = """
wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person door table mountain curtain chair
car painting sofa rug fence lamp cushion streetlight pole
"""
CLASS_IDS = {name: ade20k_palette().id_of(name) for name in _DRAWN.split()}
ON_DISK = {"other": 0} | {name: class_id + 1 for name, class_id in CLASS_IDS.items()}
NEUTRAL = 128

# Colours of the materials by daylight, RGB. One is picked per object, then varied a little.
COLORS = {
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


@dataclass
class Stage:
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
        self.light = np.full((height, width), NEUTRAL, np.uint8)
        low, high = (1.35, 1.75) if self.indoor else (1.9, 2.9)
        self.eye = rng.uniform(low, high)
        focal = (0.7 if self.indoor else 0.8) * float(np.hypot(height, width) / np.sqrt(2))
        self.focal = focal * rng.uniform(0.95, 1.1)
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
        choices = COLORS[name]
        color = np.array(choices[int(self.rng.integers(len(choices)))], float)
        return np.clip(color * self.rng.uniform(0.92, 1.06) + self.rng.uniform(-5, 5, 3), 0, 255)

    def tint(self, color: Sequence[float], gain: float, depth: float) -> tuple[float, ...]:
        """The colour lit by `gain` and seen through `depth` metres of air."""
        clear = math.exp(-depth / self.haze_range)
        lit = (min(max(float(c) * gain, 0.0), 255.0) for c in color)
        return tuple(c * clear + air * (1 - clear) for c, air in zip(lit, self.haze_color, strict=True))

    def paint(self, polygon: np.ndarray, color: Sequence[float], gain: float = 1.0, depth: float = 0.0) -> None:
        """Fill pixels (x, y) in the image only: a detail of what is there already."""
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
        cv2.fillPoly(self.label, fixed, ON_DISK[name], cv2.LINE_8, 4)
        cv2.fillPoly(self.light, fixed, NEUTRAL, cv2.LINE_8, 4)

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
        rim = disc(x, z, radius, depth, corners=20)
        self.shadow(self.project((px, 0, max(pz, self.near * 0.5)) for px, pz in rim), value)

    def cuboid(self, name: str, x: Sequence[float], y: Sequence[float], z: Sequence[float], color) -> None:
        """A box between two X, two Y and two Z values, with the faces that the camera sees."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        if x0 > 0 or x1 < 0:
            side, gain = x0 if x0 > 0 else x1, 0.78 if (x0 > 0) == self.sun_left else 0.66
            self.face(name, [(side, y0, z0), (side, y0, z1), (side, y1, z1), (side, y1, z0)], color, gain)
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

    def draw(self, items: list) -> None:
        """Call `function(stage, *arguments)` for each item (Z, function, arguments), from far to near."""
        for _, function, arguments in sorted(items, key=lambda item: -item[0]):
            function(self, *arguments)

    def at_least(self, pixels_at_512: float, depth: float) -> float:
        """The width in metres that covers so many pixels at this depth once the image is 512 wide."""
        return pixels_at_512 * self.width / 512 * depth / self.focal


def disc(x: float, y: float, radius_x: float, radius_y: float | None = None, corners: int = 18) -> np.ndarray:
    """Corners of an ellipse in pixels, `(corners, 2)`."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + (radius_y or radius_x) * np.sin(angle)], axis=1)


# --- Texture, light, air -----------------------------------------------------------------------------------------


@cache
def textures() -> dict[str, np.ndarray]:
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
    tiles = {name: np.clip(value + NEUTRAL, 0, 255).astype(np.uint8) for name, value in mix.items()}
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


def finish(stage: Stage, rng: np.random.Generator) -> np.ndarray:
    """Textures, soft shadows, light, air, lamps and camera, in this order. Returns RGB uint8."""
    texture = _texture_layer(stage, rng)
    blur = int(stage.width / 64) * 2 + 1
    light = cv2.blur(stage.light, (blur, blur))
    light = cv2.multiply(light, texture, scale=1 / NEUTRAL)
    light = cv2.multiply(light, _room_light(stage), scale=1 / NEUTRAL)
    image = cv2.multiply(stage.image, cv2.merge([light] * 3), scale=1 / NEUTRAL)
    image = cv2.blur(image, (2, 2)) if stage.width > 500 else image
    image = _darkened(image, stage.indoor) if stage.dusk else image
    if stage.glows and (stage.dusk or stage.indoor):
        image = _glow(stage, image, (92, 64, 14) if stage.dusk else (60, 56, 44))
    strength = 0.26 if stage.dusk else 0.1
    return cv2.addWeighted(image, 1.0, _tile("sensor", rng, image.shape), strength, -NEUTRAL * strength)


def _texture_layer(stage: Stage, rng: np.random.Generator) -> np.ndarray:
    layer = np.full(stage.label.shape, NEUTRAL, np.uint8)
    present = set(np.flatnonzero(cv2.calcHist([stage.label], [0], None, [256], [0, 256])))
    for name, classes in _TEXTURE_OF.items():
        if any(ON_DISK[c] in present for c in classes):
            cv2.copyTo(_tile(name, rng, layer.shape), _mask_of(stage.label, classes), layer)
    first = int(stage.horizon) + 1
    for name, classes in _GROUND_OF.items():
        if any(ON_DISK[c] in present for c in classes):
            mask = _mask_of(stage.label[first:], classes)
            x, y, width, height = cv2.boundingRect(mask)
            part = np.s_[y : y + height, x : x + width]
            cv2.copyTo(_ground(stage, name, (x, y + first, width, height)), mask[part], layer[first:][part])
    return layer


def _tile(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Some part of a texture in the shape of an image; above 801 pixels it is stretched."""
    y, x = (int(v) for v in rng.integers(0, 1024 - 801, 2))
    tile = textures()[name][y : y + shape[0], x : x + shape[1]]
    return tile if tile.shape == shape else cv2.resize(tile, shape[1::-1])


def _mask_of(label: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[[ON_DISK[name] for name in classes]] = 255
    return cv2.LUT(label, table)


def _ground(stage: Stage, name: str, box: tuple[int, int, int, int]) -> np.ndarray:
    """A tile laid on the ground and seen in perspective, fading with distance; `box` is (x, y, width, height)."""
    texels = 110.0 if stage.indoor else 60.0
    eye, focal = stage.eye * texels, stage.focal
    center, lift = stage.center_x - box[0], stage.horizon - box[1]
    to_tile = np.array([[eye, 0, -center * eye], [0, 0, focal * eye], [0, 1, -lift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    tile = cv2.warpPerspective(textures()[name], to_tile, box[2:], flags=flags, borderMode=cv2.BORDER_WRAP)
    rows = np.arange(box[3], dtype=np.float32) - lift
    fade = (np.clip(rows * rows / (focal * eye) * 1.6, 0, 1) * 256).astype(np.int16)[:, None]
    return (((tile.astype(np.int16) - NEUTRAL) * fade >> 8) + NEUTRAL).astype(np.uint8)


def _room_light(stage: Stage) -> np.ndarray:
    """Light that falls off across the image, `(H, W)` uint8, 128 = neutral."""
    y, x = np.mgrid[0:1:24j, 0:1:24j]
    if not stage.sun_left:
        x = 1 - x
    falloff = (1.12 - 0.26 * x) * (1.04 - 0.22 * (y - 0.45) ** 2) if stage.indoor else 1.06 - 0.14 * x
    return cv2.resize((falloff * NEUTRAL).astype(np.uint8), (stage.width, stage.height))


def _glow(stage: Stage, image: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """Add the halo of every lamp, drawn at an eighth of the size."""
    small = np.zeros((stage.height // 8 + 1, stage.width // 8 + 1), np.float32)
    y, x = np.mgrid[: small.shape[0], : small.shape[1]]
    for gx, gy, radius, strength in stage.glows:
        small += strength * np.exp(-((x - gx / 8) ** 2 + (y - gy / 8) ** 2) / (radius / 8) ** 2)
    halo = np.clip(small[..., None] * np.array(color), 0, 255).astype(np.uint8)
    return cv2.add(image, cv2.resize(halo, (stage.width, stage.height)))


def _darkened(image: np.ndarray, indoor: bool) -> np.ndarray:
    """Dusk: dark, blue in the shadows, less contrast."""
    levels = np.arange(256)
    gain, lift = ((0.58, 0.52, 0.60), (10, 10, 30)) if indoor else ((0.60, 0.53, 0.64), (12, 12, 32))
    table = np.stack([levels * g + b for g, b in zip(gain, lift, strict=True)], -1)
    return cv2.LUT(image, table.astype(np.uint8)[None])
