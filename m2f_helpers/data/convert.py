"""Turns a folder of any usual shape into one that everything here reads: `images`, `annotations`, `classes.json`.

Each half has `training` and `validation`; label maps are PNGs with ids 0..num_classes-1 and 255 = ignore. All is made
in a hidden folder beside the destination, which gets its name at the very end; a stopped run goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.data.checks import SURELY_TURNED, turn_scores
from m2f_helpers.data.formats.detection import open_source
from m2f_helpers.data.formats.mapping import Mapped, map_categories
from m2f_helpers.data.formats.source import UNLABELLED, Item, Source, some
from m2f_helpers.data.formats.tables import Table, class_table
from m2f_helpers.data.splits import choose_validation, group_keys
from m2f_helpers.images import dropped, read_image
from m2f_helpers.palette import CLASSES_FILE, IGNORE, write_classes

REPORT = "convert.json"
SHARE = 0.2  # of the images that validate, where the source says nothing
_VERSION = 1
_PARTS = ("training", "validation")
_TURNED = range(2, 9)  # EXIF orientations (tag 274) in which a sensor's pixels lie otherwise than a viewer shows them


@dataclass
class Conversion:
    """What was made: format and why it was taken for that, number of pairs by split, classes, sentences to read.

    `classes` gives for each name the images it lies in, by split, and its `share` of all labelled pixels, 0..1.
    """

    root: Path
    format: str
    why: str
    pairs: dict[str, int]
    classes: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        pairs = " and ".join(f"{number} {split}" for split, number in self.pairs.items())
        made = f"{pairs} pairs, {len(self.classes)} classes in {self.root}: {', '.join(self.classes)}"
        return "\n".join([f"{self.format}: {self.why}", made, *(f"- {note}" for note in self.notes)])


def convert(
    src: str | Path,
    dst: str | Path,
    form: str = "auto",
    classes: str | Path | Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    ignore: Iterable[str | int] = (),
    val: float | None = None,
    group: str | None = None,
    progress: bool = True,
) -> Conversion:
    """Convert a data set. Whole or not at all: `dst` appears when everything is right.

    Images become upright RGB of 8 bits, as `images.read_image` gives them; plain JPEG and PNG files are copied.

    Args:
        src: folder with images and labels, or a COCO JSON.
        dst: folder for the result; it must not exist, be empty, or be the result of the same call.
        form: one of `formats.detection.FORMATS`; `"auto"` finds out.
        classes: names in the order of their ids, or a file with names (see `class_table`); None takes the source's.
        mapping: what becomes of a category: `{"4": "255", "raod": "road"}`, see `map_categories`.
        ignore: categories, by name or id, that become 255.
        val: share of the images that validate, 0..1. None keeps the split of the source, or takes `SHARE`.
        group: regular expression over the image's path below `src`, without suffix; images for which it finds the same
            text stay in one part.

    Raises: ValueError or OSError: one sentence with the file and the fix; nothing is left behind, except after a full
        disk, where the next run goes on.
    """
    if val is not None and not 0 < val < 1:
        raise ValueError(f"--val must lie between 0 and 1, got {val}")
    src, dst = Path(src), Path(dst).absolute()
    files.check_apart(src, dst)
    table = class_table(classes) if isinstance(classes, (str, Path)) else Table(list(classes)) if classes else None
    source = open_source(src, form, table)
    ignore = [str(word) for word in ignore]
    mapped = map_categories(source.categories, source.names, mapping, ignore)
    items, splits = _parts(source, val)
    _check_names(items)
    if group and splits:
        raise ValueError(f"{src} has its own split, which --group cannot change: add --val to part the images anew")
    groups = group_keys([item.key for item in items], group) if group else None
    request = {"version": _VERSION, "format": source.format, "val": val, "group": group, "splits": bool(splits)}
    request |= {"classes": mapped.palette.names, "table": [*mapped.table.items()], "files": _fingerprint(items)}
    request = json.loads(json.dumps(request))
    if dst.exists() and any(dst.iterdir()):
        return _earlier(dst, request)
    with _staging(dst, request) as stage:
        records = _convert_items(items, source, mapped, stage, progress)
        if not any(map(_useful, records)):
            raise ValueError("every pixel of every label is ignored: nothing can be learnt; look at --map and --ignore")
        splits = splits or _choose(records, SHARE if val is None else val, groups)
        report = _report(dst, source, mapped, records, splits)
        _finish(stage, mapped, records, splits, report, request)
    return report


# --- Before anything is written ----------------------------------------------------------------------------------


def _parts(source: Source, val: float | None) -> tuple[list[Item], dict[str, str]]:
    """The items that take part, and the split of each by key where the source's own is kept."""
    found = {item.split for item in source.items}
    if "validation" not in found and {"training", "test"} <= found:
        source.notes.append("there is no validation split: the test split validates")
        source.items = [replace(i, split="validation" if i.split == "test" else i.split) for i in source.items]
        found = {item.split for item in source.items}
    if not set(_PARTS) <= found:
        return source.items, {}
    if rest := [item.key for item in source.items if item.split not in _PARTS]:
        source.notes.append(f"{len(rest)} pairs outside training and validation are left out: {some(rest)}")
        source.items = [item for item in source.items if item.split in _PARTS]
    return source.items, {item.key: item.split for item in source.items} if val is None else {}


def _check_names(items: list[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        if (other := seen.setdefault(item.name.casefold(), item)) is not item:
            raise ValueError(f"{item.image} and {other.image} would get the same name: rename one of them")


def _fingerprint(items: list[Item]) -> str:
    """Changes when a file of the source does."""
    paths = {item.key: (item.image, *item.labels) for item in items}
    stamps = [[key, *([path.name, *files.stamp(path)] for path in found)] for key, found in paths.items()]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


def _earlier(dst: Path, request: dict) -> Conversion:
    """The result of the same call, or a refusal."""
    try:
        content = json.loads((dst / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{dst} is not empty: give a new folder") from None
    if content.get("request") != request:
        raise ValueError(f"{dst} holds another conversion: give a new folder, or remove it")
    return Conversion(dst, **content["report"])


# --- The hidden folder -------------------------------------------------------------------------------------------


@contextmanager
def _staging(dst: Path, request: dict) -> Iterator[Path]:
    """A folder beside `dst` to work in, for one process; what an equal run left there is taken up."""
    stage = dst.parent / f".{dst.name}.convert"
    lock = files.make_folder(dst.parent) / f"{stage.name}.lock"
    with files.holding(lock, dst):
        try:
            _take_up(stage, request)
            yield stage
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(f"the disk is full; make room and run again, {dst} goes on from here") from None
            shutil.rmtree(stage, ignore_errors=True)
            raise
        finally:
            lock.unlink(missing_ok=True)


def _take_up(stage: Path, request: dict) -> None:
    header = stage / "request.json"
    if not header.exists() or json.loads(header.read_text(encoding="utf-8")) != request:
        shutil.rmtree(stage, ignore_errors=True)
    for name in ("images", "labels"):
        (stage / name).mkdir(parents=True, exist_ok=True)
    for part in stage.glob("**/.*.part"):  # the folder is ours alone: a killed run left it
        part.unlink()
    files.write(header, json.dumps(request))


# --- One pair ----------------------------------------------------------------------------------------------------


def _convert_items(items: list[Item], source: Source, mapped: Mapped, stage: Path, progress: bool) -> list[dict]:
    """A record of each pair. All that is wrong is found before it is told."""
    path, wrong = stage / "items.jsonl", {}
    done = {record["key"]: record for record, _ in files.json_lines(path) if "key" in record}
    with open(path, "a", encoding="utf-8") as log:
        log.write("\n")  # ends a line that was cut
        for item in tqdm(items, desc="converting", unit="pair", disable=not progress, delay=2):
            if item.key in done:
                continue
            try:
                done[item.key] = _convert_item(item, source, mapped, stage)
            except (ValueError, FileNotFoundError, PermissionError) as error:
                wrong[item.image.name] = str(error)
                continue
            log.write(json.dumps(done[item.key]) + "\n")
            log.flush()
    if wrong:
        first, *others = wrong
        more = f" ({len(others)} more have a fault: {some(others)})" if others else ""
        raise ValueError(wrong[first] + more)
    return [done[item.key] for item in items]


def _convert_item(item: Item, source: Source, mapped: Mapped, stage: Path) -> dict:
    image = _take_image(item.image)
    ids, turned = _fit(source.read(item, image.size), image, item)
    try:
        label_map = mapped.apply(ids)
    except ValueError as error:
        text = f"{error}: give them one with --map, or leave them out with --ignore"
        raise ValueError(f"{item.labels[0]} {text}") from None
    values, pixels = np.unique(label_map, return_counts=True)
    files.write(stage / "images" / f"{item.name}{image.suffix}", image.data)
    files.write(stage / "labels" / f"{item.name}.png", cv2.imencode(".png", label_map)[1])
    record = {"key": item.key, "name": item.name, "suffix": image.suffix, "lost": image.lost, "turned": turned}
    fits = turn_scores(item.image, label_map) if image.turn in _TURNED and not turned else None
    record |= {"unlabelled": int((ids == UNLABELLED).sum()), "askew": bool(fits and fits[1] > SURELY_TURNED * fits[0])}
    return record | {"pixels": {str(v): int(n) for v, n in zip(values, pixels, strict=True)}}


@dataclass(frozen=True)
class _Image:
    """A file to write; `size` `(H, W)` is upright, `raw` as it lies in the source; `turn` is the EXIF orientation."""

    suffix: str
    data: bytes
    size: tuple[int, int]
    raw: tuple[int, int]
    turn: int
    lost: list[str]


def _take_image(path: Path) -> _Image:
    """Reads an image, whole, so that a damaged one is noticed, and copies the file where nothing has to change."""
    image, lost = read_image(path), dropped(path)
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as header:
        turn = header.getexif().get(274, 1)
        raw = (header.height, header.width)
        jpeg = header.format in ("JPEG", "MPO")
        plain = (jpeg or header.format == "PNG") and header.mode in ("RGB", "L") and turn not in _TURNED and not lost
    suffix = ".jpg" if jpeg else ".png"
    if not plain:
        buffer = io.BytesIO()
        options = {"format": "JPEG", "quality": 95, "subsampling": 0} if jpeg else {"format": "PNG"}
        Image.fromarray(image).save(buffer, **options)
        data = buffer.getvalue()
    return _Image(suffix, data, image.shape[:2], raw, turn, lost)


def _fit(ids: np.ndarray, image: _Image, item: Item) -> tuple[np.ndarray, bool]:
    """The label as upright as its image, and whether it was turned for that."""
    if ids.shape == image.size:
        return ids, False
    if ids.shape == image.raw and image.turn in _TURNED:
        lying = Image.fromarray(ids)
        lying.getexif()[274] = image.turn
        return np.array(ImageOps.exif_transpose(lying)), True
    (height, width), (high, wide) = ids.shape, image.size
    fix = "turn one of them" if (width, height) == (high, wide) else "make both in one size"
    raise ValueError(f"the label of {item.image} is {width} x {height}, the image {wide} x {high}: {fix}")


# --- The end -----------------------------------------------------------------------------------------------------


def _useful(record: dict) -> set[int]:
    return {int(value) for value in record["pixels"]} - {IGNORE}


def _choose(records: list[dict], val: float, groups: dict[str, str] | None) -> dict[str, str]:
    classes = {record["key"]: _useful(record) for record in records if _useful(record)}
    chosen = choose_validation(classes, val, groups)
    return {key: "validation" if key in chosen else "training" for key in classes}


def _report(dst: Path, source: Source, mapped: Mapped, records: list[dict], splits: dict[str, str]) -> Conversion:
    pixels, images = Counter(), Counter()
    for record in records:
        pixels.update({int(value): number for value, number in record["pixels"].items()})
        images.update((splits.get(record["key"]), i) for i in _useful(record))
    labelled = sum(number for value, number in pixels.items() if value != IGNORE)
    classes = {
        name: {split: images[split, i] for split in _PARTS} | {"share": round(pixels[i] / labelled, 6)}
        for i, name in enumerate(mapped.palette.names)
    }
    used = Counter(splits[record["key"]] for record in records if _useful(record))
    if lacking := [split for split in _PARTS if not used[split]]:
        raise ValueError(f"no image with a label is left for {lacking[0]}: give --val to part the images anew")
    notes = [*source.notes, *_notes(records, mapped), *_misspelt(classes), *_one_sided(classes)]
    return Conversion(dst, source.format, source.why, {split: used[split] for split in _PARTS}, classes, notes)


def _notes(records: list[dict], mapped: Mapped) -> Iterator[str]:
    for lost in sorted({sentence for record in records for sentence in record["lost"]}):
        keys = [record["key"] for record in records if lost in record["lost"]]
        yield f"{some(keys)}: {lost}"
    if turned := [record["key"] for record in records if record["turned"]]:
        yield f"{len(turned)} labels lay as the sensor does and were turned with their image: {some(turned)}"
    if askew := [record["key"] for record in records if record["askew"]]:
        yield f"EXIF turns {some(askew)}, but the label fits better unturned: turn it likewise, or save without EXIF"
    total = sum(sum(record["pixels"].values()) for record in records)
    rest = sum(record["unlabelled"] for record in records) / total
    if rest > 0.01 and mapped.table.get(UNLABELLED) == IGNORE:
        yield (
            f"{rest:.0%} of all pixels have no label and are ignored, so the model may call them anything; "
            '--map "unlabelled=background" makes them a class'
        )
    if empty := [record["key"] for record in records if not _useful(record)]:
        yield f"{len(empty)} images with nothing but ignored pixels are left out: {some(empty)}"


def _misspelt(classes: dict[str, dict]) -> Iterator[str]:
    """Rare classes whose names look like that of a class in at least five times as many images."""
    images = {name: sum(found[split] for split in _PARTS) for name, found in classes.items()}
    for name, number in images.items():
        common = [other for other in images if images[other] >= 5 * max(number, 1)]
        for other in get_close_matches(name, common, n=1, cutoff=0.75):
            merge = f'if they are one class, --map "{name}={other}"'
            yield f"{name!r} ({number} images) looks like {other!r} ({images[other]}): {merge}"


def _one_sided(classes: dict[str, dict]) -> Iterator[str]:
    for name, found in classes.items():
        if not any(found[split] for split in _PARTS):
            yield f"the class {name!r} has no pixel"
        elif lacking := [split for split in _PARTS if not found[split]]:
            yield f"the class {name!r} does not occur in {lacking[0]}"


def _finish(stage: Path, mapped: Mapped, records: list[dict], splits: dict, report: Conversion, request: dict) -> None:
    """Give every file its place, and the folder its name."""
    for kind, part in product(("images", "annotations"), _PARTS):
        (stage / kind / part).mkdir(parents=True, exist_ok=True)
    for record in records:
        source_image, source_label = f"images/{record['name']}{record['suffix']}", f"labels/{record['name']}.png"
        if _useful(record):
            part = splits[record["key"]]
            _move(stage / source_image, stage / "images" / part)
            _move(stage / source_label, stage / "annotations" / part)
        else:
            (stage / source_image).unlink(missing_ok=True)
    shutil.rmtree(stage / "labels")
    write_classes(stage / CLASSES_FILE, mapped.palette)
    content = {key: value for key, value in asdict(report).items() if key != "root"}
    text = json.dumps({"report": content, "request": request}, indent=1, ensure_ascii=False)
    files.write(stage / REPORT, text + "\n")
    for name in ("items.jsonl", "request.json"):
        (stage / name).unlink()
    if report.root.exists():
        report.root.rmdir()
    os.replace(stage, report.root)


def _move(path: Path, folder: Path) -> None:
    if path.exists():  # a run that was stopped here may have moved it already
        os.replace(path, folder / path.name)
