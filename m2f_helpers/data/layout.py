"""The only reader of a data folder: its layout, its pairs, its classes, and the files that make no pair.

Three layouts are known, all with `images` and one of `annotations`, `labels`, `masks` beside it: ADE20K's with the
splits `training` and `validation`, the same with `train` and `val`, and a flat one, in which every fifth image is for
validation. Folders may have sub-folders: an image and its label map have the same relative path and stem.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm

from m2f_helpers.data.labels import IGNORE, LabelError, LabelProblem, count_ids, read_label
from m2f_helpers.images import SUFFIXES
from m2f_helpers.palette import CLASSES_FILE, Palette, ade20k_palette, own_palette, read_classes

SPLITS = ("training", "validation")  # as ADE20K calls them
FOLDER = "ADEChallengeData2016"
OFFER = 'the demo profile needs no download: notebook 02 with DATA_DIR = "", or `m2f scenes DIR`'
LABEL_FOLDERS = ("annotations", "labels", "masks")
LABEL_SUFFIXES = (".png",)
ADE20K_LAYOUT = "images/training, annotations/training, images/validation, annotations/validation"
_HIDDEN = (".", "__MACOSX")
_SPLIT_NAMES = (("training", "train"), ("validation", "val", "valid"))
_FULL_EDITIONS = ("ADE20K_2016_07_26", "ADE20K_2021_17_01")


@dataclass(frozen=True)
class Pair:
    """An image and its label map; `name` is the path below the split's folder without suffix, such as `city/001`."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class DataFolder:
    """A data set on disk. `layout` says in words how it lies there; `problems` are the files that make no pair."""

    root: Path
    layout: str
    train: list[Pair]
    val: list[Pair]
    problems: list[LabelProblem]

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, those for training first."""
        return [*self.train, *self.val]

    @property
    def splits(self) -> dict[str, list[Pair]]:
        """The pairs by ADE20K's names of the splits."""
        return dict(zip(SPLITS, (self.train, self.val), strict=True))

    @cached_property
    def classes(self) -> Palette:
        """What the ids mean: `classes.json`; without it ADE20K in ADE20K's layout, else a class for each id found.

        Raises: ValueError if there is no `classes.json` and fewer than two ids are found.
        """
        if (self.root / CLASSES_FILE).is_file():
            return read_classes(self.root / CLASSES_FILE)
        of_ade20k = set(self.layout.split(", ")) <= set(ADE20K_LAYOUT.split(", "))
        if of_ade20k:
            return ade20k_palette()
        ids: set[int] = set()
        for pair in tqdm(self.pairs, desc="looking for classes", disable=len(self.pairs) < 500):
            with suppress(LabelError):  # `check` names the file
                ids |= count_ids(read_label(pair.label.read_bytes())).keys()
        found = sorted(ids - {IGNORE})
        if len(found) < 2:
            raise ValueError(
                f"{self.root}: at least two classes are needed, the label maps hold the ids {found}; name them in "
                f"{CLASSES_FILE} or with `m2f convert {self.root} NEW --classes ...`"
            )
        return own_palette([f"class {i}" for i in found], on_disk=found)

    def need(self, *splits: str) -> DataFolder:
        """Itself; ValueError if one of these splits (default: both) has no pair."""
        empty = [split for split in splits or SPLITS if not self.splits[split]]
        if not empty:
            return self
        folders = " and ".join(name for name in self.layout.split(", ") if "/" in name)
        where = f"; the folders read are {folders}" if folders else "; every fifth image is for validation"
        raise ValueError(f"{self.root}: {self.counts}; a {empty[0]} pair is needed{where}{self._left_out}")

    @property
    def counts(self) -> str:
        """The numbers of pairs, as every command says them."""
        return f"{len(self.train)} training and {len(self.val)} validation pairs"

    def __str__(self) -> str:
        return f"{self.counts} in {self.root} ({self.layout}){self._left_out}"

    @property
    def _left_out(self) -> str:
        return f"; {len(self.problems)} files make no pair, the first: {self.problems[0]}" if self.problems else ""


def read_data(root: str | Path) -> DataFolder:
    """Read a data folder: every entrance (check, prepare, train, evaluate, run, notebooks) sees what this returns.

    Returns: the pairs of a folder in one of the three layouts, sorted by name, at least one.
    Raises: FileNotFoundError saying what lies at `root` instead (another edition, a folder too high or too low, an
        archive that is not unpacked) and what to do; ValueError if nothing in it makes a pair.
    """
    root = Path(root)
    if not is_root(root):
        raise FileNotFoundError(f"{root}: {_explain(root)}")
    labels = next(name for name in LABEL_FOLDERS if (root / name).is_dir())
    there = {path.name for kind in ("images", labels) for path in (root / kind).iterdir() if path.is_dir()}
    names = [next((name for name in split if name in there), None) for split in _SPLIT_NAMES]
    if any(names):
        found = _read_splits(root, labels, names)
    else:
        pairs, problems = match(root / "images", root / labels)
        train = [pair for k, pair in enumerate(pairs) if k % 5]
        found = DataFolder(root, f"images, {labels}", train, pairs[::5], problems)
    if not found.pairs:
        reason = f"; {found.problems[0]}" if found.problems else ""
        raise ValueError(f"{root}: no image with a label map in {found.layout}{reason}")
    return found


def _read_splits(root: Path, labels: str, names: list[str | None]) -> DataFolder:
    parts = [match(root / "images" / name, root / labels / name) if name else ([], []) for name in names]
    layout = ", ".join(f"{kind}/{name}" for name in names if name for kind in ("images", labels))
    unread = [problem for kind in ("images", labels) for problem in _unread(root / kind, names)]
    return DataFolder(root, layout, parts[0][0], parts[1][0], [*parts[0][1], *parts[1][1], *unread])


def _unread(folder: Path, names: list[str | None]) -> Iterator[LabelProblem]:
    """What lies beside the splits."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in names and not path.name.startswith("."):
            text = f"is not read: only {' and '.join(filter(None, names))} count here"
            yield LabelProblem(path, "no-split", text, "warning")


def match(images: Path, labels: Path) -> tuple[list[Pair], list[LabelProblem]]:
    """The pairs of two folders by name, and the files that make none."""
    image_files, problems = _by_name(images, SUFFIXES)
    label_files, more = _by_name(labels, LABEL_SUFFIXES)
    problems += more
    for name in sorted(image_files.keys() - label_files.keys()):
        text = f"has no label map {labels.parent.name}/{labels.name}/{name}.png: add it, or remove the image"
        problems.append(LabelProblem(image_files[name], "no-label", text))
    for name in sorted(label_files.keys() - image_files.keys()):
        text = f"has no image {images.parent.name}/{images.name}/{name}.jpg: add it, or remove the label map"
        problems.append(LabelProblem(label_files[name], "no-image", text))
    both = sorted(image_files.keys() & label_files.keys())
    return [Pair(name, image_files[name], label_files[name]) for name in both], problems


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[LabelProblem]]:
    found, problems = {}, []
    for path in files_below(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in suffixes:
            text = f"is not taken: only {', '.join(suffixes)} count in {folder.parent.name}/{folder.name}"
            if path.suffix.lower() == ".json":
                text += "; `m2f convert` turns COCO or LabelMe JSON into label maps"
            problems.append(LabelProblem(path, "wrong-suffix", text))
        elif name in found:
            text = f"has the same name as {found[name].name}: rename or remove one of them"
            problems.append(LabelProblem(path, "same-name", text))
        else:
            found[name] = path
    return found, problems


def files_below(folder: Path) -> list[Path]:
    """Files in a folder and its sub-folders, hidden ones and a Mac's leftovers left out; links are followed, once."""
    found, seen = [], set()
    for base, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(base)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        found += [Path(base, name) for name in sorted(names) if not name.startswith(_HIDDEN)]
    return found


def is_root(path: Path) -> bool:
    """Whether the folder holds `images` and a folder of label maps."""
    return (path / "images").is_dir() and any((path / name).is_dir() for name in LABEL_FOLDERS)


def _explain(path: Path) -> str:
    wanted = f"expected the folders images and one of {', '.join(LABEL_FOLDERS)}"
    if path.is_file():
        return explain_archive(path) if zipfile.is_zipfile(path) else f"is a file; {wanted}"
    if not path.exists():
        return f"does not exist; {wanted}. To get ADE20K: `m2f ade20k {path}`; {OFFER}"
    for parent in list(path.absolute().parents)[:3]:
        if is_root(parent):
            return f"lies inside a data set: pass {parent}"
    for child in sorted(path.iterdir()):
        if child.is_dir() and is_root(child):
            return f"is one level too high: pass {child}"
    if edition := full_edition([path.absolute().name, *(child.name for child in path.iterdir())], path):
        return wrong_edition(edition)
    if archives := [child for child in path.glob("*.zip") if zipfile.is_zipfile(child)]:
        return explain_archive(archives[0])
    names = ", ".join(child.name for child in sorted(path.iterdir())[:5]) or "nothing"
    shapes = "COCO, VOC, Cityscapes, LabelMe, colours"
    return f"{wanted}, found {names}; `m2f convert {path} NEW` reads other shapes ({shapes})"


def explain_archive(path: Path) -> str:
    """What is in a zip file, and the command that unpacks it."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if edition := full_edition([part for name in names[:200] for part in name.split("/")]):
        return wrong_edition(edition)
    return f"is not unpacked yet: `m2f ade20k DIR --archive {path}` checks and unpacks it"


def full_edition(names: Iterable[str], folder: Path | None = None) -> str | None:
    """Name of the full edition these file names belong to, None if they belong to none."""
    names = list(names)
    for edition in _FULL_EDITIONS:
        if any(name.startswith(edition) for name in names):
            return edition
    if any(name in ("index_ade20k.mat", "index_ade20k.pkl") for name in names):
        return "ADE20K_2021_17_01" if "index_ade20k.pkl" in names else "ADE20K_2016_07_26"
    if folder is not None and (folder / "images" / "ADE").is_dir():
        return "ADE20K_2021_17_01"
    return None


def wrong_edition(edition: str) -> str:
    """Why the full edition does not fit, and the command that gets the right one."""
    return (
        f"is the full edition {edition}, which has over 3,000 object names and no annotations folder; Mask2Former's "
        f"150 classes need {FOLDER} (SceneParse150): `m2f ade20k DIR`"
    )
