"""Drawn scenes with ADE20K's class ids, for work without a download. Used by notebook 02.

A scene is set up in metres and seen through a pinhole camera, so perspective, occlusion and labels are right by
construction. The two domains `day` and `dusk` share layouts and classes, seed by seed, and differ only in their looks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.data.scenes.indoors import draw_room
from m2f_helpers.data.scenes.outdoors import draw_outdoors
from m2f_helpers.data.scenes.stage import Stage, finish

DOMAINS = ("day", "dusk")
VERSION = 2
_VAL_OFFSET = 500_000
_LARGEST = 8192  # pixels


@dataclass(frozen=True)
class Scene:
    """A drawn image with its labels.

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
        size: `[H, W]` in pixels, 64 to 8192 each; None lets the seed choose both between 300 and 800.

    Raises: ValueError for a negative seed, an unknown domain or a size that is too small.
    """
    _check(seed, domain, size)
    rng = np.random.default_rng([seed, 20210])
    drawn_size = _random_size(rng)
    height, width = (int(v) for v in size) if size is not None else drawn_size
    indoor = rng.random() < 0.5
    stage = Stage(height, width, rng, dusk=domain == "dusk", indoor=indoor)
    draw_room(stage) if indoor else draw_outdoors(stage)
    return Scene(finish(stage, np.random.default_rng([seed, 2000])), stage.label)


def _check(seed: int, domain: str, size: Sequence[int] | None) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {list(DOMAINS)}, got {domain!r}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or larger, got {seed}")
    if size is not None and not 64 <= min(size) <= max(size) <= _LARGEST:
        raise ValueError(f"size must be [H, W] with 64 to {_LARGEST} pixels each, got {list(size)}")


def make_scenes(
    root: str | Path, train: int, val: int, domain: str = "day", seed: int = 0, size: Sequence[int] | None = None
) -> Path:
    """Draw a data set in the layout of ADEChallengeData2016; only pairs that are missing are drawn.

    If the folder holds more scenes of the same kind, the rest is removed: it can be drawn again, the same to the byte.

    Args:
        root: folder to fill with `images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png`.
        train, val: number of pairs; the seeds of the two never meet.
        domain, seed, size: as for `draw_scene`, for all images.

    Returns: `root`.
    Raises: ValueError if `root` already holds scenes of another domain, seed or size, or for impossible counts.
    """
    if not (0 <= train < _VAL_OFFSET and 0 <= val < _VAL_OFFSET):
        raise ValueError(f"train and val must lie between 0 and {_VAL_OFFSET - 1}, got {train} and {val}")
    if not train + val:
        raise ValueError("expected at least one pair to draw, got train 0 and val 0")
    _check(seed, domain, size)
    root = Path(root)
    _check_description(root, {"domain": domain, "seed": seed, "size": list(size) if size else None, "version": VERSION})
    first = seed * 2 * _VAL_OFFSET
    jobs = [("training", f"scene_train_{i + 1:08d}", first + i) for i in range(train)]
    jobs += [("validation", f"scene_val_{i + 1:08d}", first + _VAL_OFFSET + i) for i in range(val)]
    _remove_others(root, {name for _, name, _ in jobs})
    todo = [job for job in jobs if not all(path.exists() for path in _pair_paths(root, *job[:2]))]
    for split, name, scene_seed in tqdm(todo, desc=f"drawing {domain} scenes", disable=len(todo) < 50):
        _write_pair(_pair_paths(root, split, name), draw_scene(scene_seed, domain, size))
    return root


def _remove_others(root: Path, names: set[str]) -> None:
    """Scenes of a larger data set that was drawn here before, and what killed runs left behind."""
    files.remove_orphans(root, "**/.*.part")
    for path in root.glob("*/*/scene_*"):
        if path.stem not in names:
            path.unlink(missing_ok=True)


def _check_description(root: Path, description: dict) -> None:
    path = root / "scenes.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != description:
            raise ValueError(f"{root} holds scenes drawn with {found}, wanted {description}: choose another folder")
        return
    files.make_folder(root)
    files.write(path, json.dumps(description))


def _pair_paths(root: Path, split: str, name: str) -> tuple[Path, Path]:
    return root / "images" / split / f"{name}.jpg", root / "annotations" / split / f"{name}.png"


def _write_pair(paths: tuple[Path, Path], scene: Scene) -> None:
    encoded = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    for path, data in zip(paths, (encoded, cv2.imencode(".png", scene.label_map)[1]), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    """`(H, W)`, long side 420..800, short side 300 or more, mostly landscape as in ADE20K."""
    ratio = rng.choice([1.0, 4 / 3, 4 / 3, 3 / 2, 3 / 2, 16 / 9, 3 / 4, 2 / 3])
    long_side = int(rng.integers(420, 801))
    short_side = max(300, round(long_side / max(ratio, 1 / ratio)))
    return (short_side, long_side) if ratio >= 1 else (long_side, short_side)
