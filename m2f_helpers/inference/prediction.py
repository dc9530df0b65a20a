"""Segments files and folders, and writes overlays, label PNGs and a table. Taught in notebook 05."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

import m2f_helpers  # noqa: F401  first: registers the stand-in for mmcv's compiled ops
from m2f_helpers import files
from m2f_helpers.images import dropped, list_images
from m2f_helpers.inference.segment import Segmentation, segment_each
from m2f_helpers.palette import IGNORE_COLOR, Palette, ade20k_palette
from m2f_helpers.plotting import overlay
from m2f_helpers.quiet import one_line

COLUMNS = ["file", "id", "name", "share", "confidence"]
TABLE = "shares.csv"
MARK = "m2f predict"  # "Software" in every PNG written here: by it a result is known, whatever it is called


@dataclass(frozen=True)
class PredictReport:
    """What `predict` wrote: class shares of all images and the files.

    `failed` has the reason for each input that failed, `skipped` the results of an earlier `predict` that lay among the
    inputs, `notes` a sentence for whatever was left out of an image, such as the other pages of a TIFF.
    """

    table: pd.DataFrame
    files: tuple[Path, ...]
    failed: dict[str, str]
    skipped: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def predict(model: Any, inputs: Iterable[str | Path], out: str | Path, *, alpha: float = 0.55) -> PredictReport:
    """Segment files and folders and write the results. Whatever is wrong with one image costs only this one.

    Per image two files: `NAME_overlay.png`, and `NAME_labels.png` with the palette in it and ids as in the label files
    that the model was trained on. For all images together `shares.csv`, written as it grows. Files in several folders
    are told apart by the folders they do not have in common, in the table and below `out`.

    Args:
        model: from `load`.
        inputs: images and folders of images. Results of `predict` in them are left out.
        out: folder for the results, made if need be; no file is overwritten that `predict` did not write.
        alpha: weight of the class colours in the overlay, 0..1.

    Raises: ValueError if there is nothing to do, `alpha` is none, or a file in `out` is in the way; an input that does
        not exist counts as failed.
    """
    out, failed = Path(out), {}
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
    found = list(dict.fromkeys(_expand(inputs, failed)))
    skipped = tuple(path for path in found if is_result(path))
    paths = [path for path in found if path not in skipped]
    if not paths and not failed:
        what = f"nothing but results of an earlier predict ({len(skipped)})" if skipped else "none"
        raise ValueError(f"expected at least one image or folder of images, got {what}")
    if not paths:
        return PredictReport(pd.DataFrame(columns=COLUMNS), (), failed, skipped)
    names = row_names(paths)
    targets = _targets(names, out)
    _refuse_foreign_files(out, targets)
    written, tables, notes = [], [], []
    with files.locked(out):
        for path, result in segment_each(model, paths):
            if isinstance(result, Exception):
                failed[printable(path)] = printable(one_line(result, None))
                continue
            try:
                rows = _write(result, targets[path], alpha).assign(file=printable(names[path].as_posix()))
                _append(rows[COLUMNS], out / TABLE, first=not tables)
            except (ValueError, OSError, MemoryError) as error:
                failed[printable(path)] = _fault(error, targets[path][0])
                continue
            notes += [f"{printable(path)}: {text}" for text in dropped(path)]
            tables.append(rows[COLUMNS])
            written += targets[path]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    return PredictReport(table, (*written, *([out / TABLE] if tables else [])), failed, skipped, tuple(notes))


def save_labels(label_map: np.ndarray, path: str | Path, palette: Palette | None = None) -> Path:
    """Write a label map `(H, W)` of ids in memory as a PNG with the palette, ids as the classes have them on disk.

    Without a palette ADE20K is meant: class + 1, and 255 = ignore becomes 0. mmseg's `LoadAnnotations` with
    `reduce_zero_label` reads back the same label map.
    """
    palette = palette or ade20k_palette()
    colors = np.full((256, 3), IGNORE_COLOR, dtype=np.uint8)
    colors[palette.to_disk[: len(palette)]] = palette.colors
    image = Image.fromarray(palette.to_disk[np.asarray(label_map)])
    image.putpalette(colors.ravel().tolist())
    return _save(image, Path(path))


def is_result(path: str | Path) -> bool:
    """Whether a file is one that `predict` wrote."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def row_names(paths: Sequence[Path]) -> dict[Path, Path]:
    """Each path without the folders that all have in common: short, and two of them never equal."""
    full = [Path(os.path.abspath(path)) for path in paths]
    if len({path.drive for path in full}) > 1:  # on Windows
        return {path: Path(own.drive.strip(":\\/"), *own.parts[1:]) for path, own in zip(paths, full, strict=True)}
    common = os.path.commonpath([path.parent for path in full]) if full else ""
    return {path: own.relative_to(common) for path, own in zip(paths, full, strict=True)}


def printable(text: Any) -> str:
    """A file name in words: bytes that are no UTF-8, as old Latin-1 names have, become `\\xe9`."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _expand(inputs: Iterable[str | Path], failed: dict[str, str]) -> Iterator[Path]:
    for path in map(Path, inputs):
        if path.is_file():
            yield path
            continue
        if not path.exists():
            failed[printable(path)] = printable(f"the image {path} does not exist")
            continue
        try:
            yield from list_images(path)
        except (ValueError, OSError) as error:
            failed[printable(path)] = printable(error)


def _targets(names: dict[Path, Path], out: Path) -> dict[Path, tuple[Path, Path]]:
    """Overlay and label file of each image: named by its stem; with suffix or a number where two would be equal."""
    taken: set[str] = set()
    found = {}
    for path, name in names.items():
        options = [name.with_suffix(""), name, *(f"{name}-{n}" for n in range(2, len(names) + 2))]
        chosen = next(str(option) for option in options if str(option).casefold() not in taken)
        taken.add(chosen.casefold())
        found[path] = (out / f"{chosen}_overlay.png", out / f"{chosen}_labels.png")
    return found


def _refuse_foreign_files(out: Path, targets: dict[Path, tuple[Path, Path]]) -> None:
    table = out / TABLE
    foreign = [file for pair in targets.values() for file in pair if file.exists() and not is_result(file)]
    if table.exists() and not table.read_bytes().startswith(",".join(COLUMNS).encode()):
        foreign.append(table)
    if foreign:
        raise ValueError(f"{printable(foreign[0])} is there and was not written by m2f predict: give another --out")


def _write(result: Segmentation, targets: tuple[Path, Path], alpha: float) -> pd.DataFrame:
    """Overlay and label map of one image; returns its rows of the table."""
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    files.remove_orphans(targets[0].parent)
    _save(Image.fromarray(overlay(result.image, result.label_map, alpha, palette=result.palette)), targets[0])
    save_labels(result.label_map, targets[1], result.palette)
    return result.table


def _save(image: Image.Image, path: Path) -> Path:
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    with files.replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=mark)
    return path


def _append(rows: pd.DataFrame, path: Path, first: bool) -> None:
    """Add rows to the table; a table of an earlier run is replaced by the first ones, and only by them."""
    text = rows.round(6).to_csv(index=False, header=first, lineterminator="\n")
    if first:
        files.write(path, text)
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        try:
            file.write(text.encode())
            file.flush()
        except OSError:
            os.truncate(path, end)  # the disk is full: no half row
            raise


def _fault(error: BaseException, target: Path) -> str:
    """A fault while writing in one sentence, with what to do."""
    if isinstance(error, MemoryError):
        return "there is no memory left to draw its overlay: make the image smaller, or close other programs"
    words = files.sentence(error, target.parent) if isinstance(error, OSError) else one_line(error, None)
    return f"its results cannot be written: {printable(words)}"
