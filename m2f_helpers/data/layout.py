"""The only reader of a data folder: its layout, its pairs, and the files that make none."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("training", "validation")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FOLDER = "ADEChallengeData2016"
OFFER = 'the demo profile needs no download: notebook 02 with DATA_DIR = "", or `m2f scenes DIR`'
_FULL_EDITIONS = ("ADE20K_2016_07_26", "ADE20K_2021_17_01")


@dataclass(frozen=True)
class Pair:
    """A picture and its label map; `name` is the file name without suffix."""

    name: str
    image: Path
    label: Path


# --- A data set on disk ------------------------------------------------------------------------------------------


def list_pairs(root: str | Path, split: str) -> list[Pair]:
    """The pairs of one split, sorted by name. Files without a partner are left out; `check_labels` names them.

    Args:
        root: folder with `images/<split>` and `annotations/<split>`.
        split: `"training"` or `"validation"`.

    Raises: FileNotFoundError saying what lies at `root` instead; ValueError for another split.
    """
    return scan(data_root(root), split)[0]


def scan(root: Path, split: str) -> tuple[list[Pair], list[LabelProblem]]:
    """The pairs of one split, and the files that make none. A split without any folder has neither."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}")
    images, problems = _by_stem(root / "images" / split, IMAGE_SUFFIXES)
    labels, more = _by_stem(root / "annotations" / split, (".png",))
    problems += more
    for name in sorted(images.keys() - labels.keys()):
        text = f"has no label map annotations/{split}/{name}.png: add it, or remove the picture"
        problems.append(LabelProblem(images[name], "no-label", text))
    for name in sorted(labels.keys() - images.keys()):
        text = f"has no picture images/{split}/{name}.jpg: add it, or remove the label map"
        problems.append(LabelProblem(labels[name], "no-picture", text))
    return [Pair(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())], problems


def _by_stem(folder: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[LabelProblem]]:
    found, problems = {}, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() not in suffixes:
            text = f"is not taken: only {', '.join(suffixes)} count in {folder.parent.name}/{folder.name}"
            problems.append(LabelProblem(path, "wrong-suffix", text))
        elif path.stem in found:
            text = f"has the same name as {found[path.stem].name}: rename or remove one of them"
            problems.append(LabelProblem(path, "same-name", text))
        else:
            found[path.stem] = path
    return found, problems


def data_root(path: str | Path) -> Path:
    """`path` itself if it holds a data set in ADE20K's layout (`images` and `annotations`, each with splits).

    Raises: FileNotFoundError saying what lies there instead (another edition, a folder too high or too low, an archive
        that is not unpacked) and what to do.
    """
    path = Path(path)
    if is_root(path):
        return path
    raise FileNotFoundError(f"{path}: {_explain(path)}")


def is_root(path: Path) -> bool:
    """Whether the folder holds `images` and `annotations`, each with a split of ADE20K."""
    return all(any((path / kind / split).is_dir() for split in SPLITS) for kind in ("images", "annotations"))


def _explain(path: Path) -> str:
    wanted = "expected a folder with images/training and annotations/training"
    if path.is_file():
        return explain_archive(path) if zipfile.is_zipfile(path) else f"is a file; {wanted}"
    if not path.exists():
        return f"does not exist; {wanted}. To get ADE20K: `m2f ade20k {path}`; {OFFER}"
    for parent in list(path.absolute().parents)[:3]:
        if is_root(parent):
            return f"lies inside a data set: pass {parent}"
    below = [child for child in sorted(path.iterdir()) if child.is_dir()]
    for child in below:
        if is_root(child):
            return f"is one level too high: pass {child}"
    if edition := full_edition([path.absolute().name, *(child.name for child in path.iterdir())], path):
        return wrong_edition(edition)
    archives = [child for child in path.glob("*.zip") if zipfile.is_zipfile(child)]
    if archives:
        return explain_archive(archives[0])
    names = ", ".join(child.name for child in sorted(path.iterdir())[:5]) or "nothing"
    return f"{wanted}, found {names}"


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


@dataclass(frozen=True)
class LabelProblem:
    """One fault of one file (or of a folder).

    `code` is a short fixed name such as `"rgb-mask"`; `message` says what is wrong and how to mend it; `severity` is
    `"error"` (training on the file would fail or learn nonsense) or `"warning"` (look at it, training works).
    """

    path: Path
    code: str
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.path}: {self.message} [{self.code}]"


class LabelError(ValueError):
    """A label map that cannot be read as class ids; `code` as in `LabelProblem`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


TRAINED_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_FOLDERS = ("annotations", "labels", "masks")
SPLIT_NAMES = (("training", "validation"), ("train", "val"), ("train", "validation"))


@dataclass(frozen=True)
class Part:
    """One split: folders relative to the root, the pictures in it, and which of them belong to it (None: all)."""

    images: str
    labels: str
    pictures: int
    indices: list[int] | None = None


@dataclass(frozen=True)
class Layout:
    """How a data folder is laid out: its name for people, the suffix of its pictures, the two splits."""

    name: str
    root: Path
    suffix: str
    train: Part
    val: Part


def find_layout(root: str | Path) -> Layout:
    """Recognise the layout of a data folder; see `set_data` for the three that are known.

    Raises: FileNotFoundError naming what was looked for.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the folder that holds images/ and annotations/")
    labels = next((name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if not (root / "images").is_dir() or labels is None:
        raise FileNotFoundError(f"{root}: expected the folders images/ and one of {', '.join(LABEL_FOLDERS)}")
    for train, val in SPLIT_NAMES:
        if all((root / kind / split).is_dir() for kind in ("images", labels) for split in (train, val)):
            suffix, count = _count(root / "images" / train)
            count_val = _count(root / "images" / val)[1]
            parts = (
                Part(f"images/{train}", f"{labels}/{train}", count),
                Part(f"images/{val}", f"{labels}/{val}", count_val),
            )
            return Layout(f"images/{train}, {labels}/{train}", root, suffix, *parts)
    return _flat_layout(root, labels)


def _flat_layout(root: Path, labels: str) -> Layout:
    suffix, count = _count(root / "images")
    if count < 2:
        raise FileNotFoundError(
            f"{root}/images: expected at least two pictures, one to train and one to validate, got {count}"
        )
    val = list(range(0, count, 5))
    train = [i for i in range(count) if i % 5]
    parts = (Part("images", labels, len(train), train), Part("images", labels, len(val), val))
    return Layout(f"images, {labels} (every fifth picture for validation)", root, suffix, *parts)


def _count(folder: Path) -> tuple[str, int]:
    """The suffix that most pictures in the folder have, and how many have it."""
    counts = {suffix: sum(1 for _ in folder.rglob(f"*{suffix}")) for suffix in TRAINED_SUFFIXES}
    suffix = max(counts, key=lambda name: counts[name])
    if not counts[suffix]:
        raise FileNotFoundError(f"{folder}: no picture with one of the suffixes {', '.join(TRAINED_SUFFIXES)}")
    return suffix, counts[suffix]
