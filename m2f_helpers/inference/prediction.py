"""Segments files and folders, and writes overlays, label PNGs and a table. Taught in notebook 05."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers import files
from m2f_helpers.images import list_images
from m2f_helpers.inference.segment import Segmentation, segment_each
from m2f_helpers.palette import IGNORE, ade20k_palette
from m2f_helpers.plotting import overlay


@dataclass(frozen=True)
class PredictReport:
    """What `predict` wrote: class shares of all pictures, the files, and per failed picture the reason."""

    table: pd.DataFrame
    files: tuple[Path, ...]
    failed: dict[str, str] = field(default_factory=dict)


def predict(model: Any, inputs: Iterable[str | Path], out: str | Path, *, alpha: float = 0.55) -> PredictReport:
    """Segment files and folders and write the results. A file that cannot be read does not stop the rest.

    Per picture two files: `NAME_overlay.png`, and `NAME_labels.png` with the palette in it and ids as ADE20K has them
    on disk (class + 1; 0 = other). For all pictures together `shares.csv`: file, id, name, share, confidence.

    Args:
        model: from `load`.
        inputs: pictures and folders of pictures.
        out: folder for the results, made if need be.
        alpha: weight of the class colours in the overlay, 0..1.

    Returns: the table, the files written, and the reason for each picture that failed.
    Raises: ValueError if there is nothing to do; an input that does not exist counts as failed.
    """
    out, failed, tables, written = Path(out), {}, [], []
    paths = list(_expand(inputs, failed))
    if not paths and not failed:
        raise ValueError("expected at least one picture or folder of pictures, got none")
    out.mkdir(parents=True, exist_ok=True)
    names = _unique_names(paths)
    for path, result in segment_each(model, paths):
        if not isinstance(result, Segmentation):
            failed[str(path)] = str(result)
            continue
        written += _write(result, out, names[path], alpha)
        tables.append(result.table.assign(file=path.name))
    table = pd.concat(tables) if tables else pd.DataFrame(columns=["file", "id", "name", "share", "confidence"])
    table = table[["file", "id", "name", "share", "confidence"]].reset_index(drop=True)
    files.write(out / "shares.csv", table.round(6).to_csv(index=False))
    return PredictReport(table, (*written, out / "shares.csv"), failed)


def save_labels(label_map: np.ndarray, path: str | Path) -> Path:
    """Write a label map `(H, W)` of ids in memory as a PNG with the palette, ids as on disk: class + 1, 0 = other.

    255 = ignore becomes 0. mmseg's `LoadAnnotations` with `reduce_zero_label` reads back the same label map.
    """
    label_map = np.asarray(label_map)
    on_disk = np.where(label_map == IGNORE, 0, label_map.astype(np.int16) + 1).astype(np.uint8)
    picture = Image.fromarray(on_disk)
    picture.putpalette([128, 128, 128, *ade20k_palette().colors.ravel().tolist()])
    with files.replacing(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)


def _expand(inputs: Iterable[str | Path], failed: dict[str, str]) -> Iterator[Path]:
    for path in map(Path, inputs):
        if not path.is_dir():
            yield path
            continue
        try:
            yield from list_images(path)
        except ValueError as error:
            failed[str(path)] = str(error)


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for the results of each picture: its stem; with suffix or a number where two would be equal."""
    names: dict[Path, str] = {}
    for path in paths:
        options = [path.stem, path.name, *(f"{path.name}-{n}" for n in range(2, len(paths) + 2))]
        names[path] = next(name for name in options if name not in names.values())
    return names


def _write(result: Segmentation, out: Path, name: str, alpha: float) -> list[Path]:
    mixed = Image.fromarray(overlay(result.image, result.label_map, alpha))
    overlay_file = out / f"{name}_overlay.png"
    with files.replacing(overlay_file) as temporary:
        mixed.save(temporary, format="PNG")
    return [overlay_file, save_labels(result.label_map, out / f"{name}_labels.png")]
