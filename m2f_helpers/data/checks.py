"""Checks a data set: every pair by itself, and all of them together. Used by notebook 02 and `m2f check --data`.

Label maps that are legal one by one can be wrong as a set: all ids one too low, a class in one split only, the same
street in both splits. So the checks here also look at all files at once, and each line names the command that helps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from m2f_helpers.data.formats.source import some, spread
from m2f_helpers.data.labels import IGNORE, LabelProblem, check_pair, read_label
from m2f_helpers.data.layout import DataFolder, Pair, read_data
from m2f_helpers.images import dropped
from m2f_helpers.palette import CLASSES_FILE, UNKNOWN, Palette, ade20k_palette

_NEAR = 24  # of 256 bits in which near-duplicates differ at most; drawn scenes differ in 57 and more
_COUNTED = {"id-out-of-range", "id-equals-num-classes"}  # errors of label maps whose ids count all the same
SURELY_TURNED = 1.5  # times as strong along the label's borders: edges of the image as stored and as seen
_FEW = 5  # below so many label maps nothing is concluded from what is missing


@dataclass(frozen=True)
class CheckReport:
    """What `check_data` looked at and found; `problems` has the errors first."""

    data: DataFolder
    classes: Palette
    looked: int
    problems: list[LabelProblem]

    @property
    def errors(self) -> int:
        """Number of problems on which training would fail or learn nonsense."""
        return sum(problem.severity == "error" for problem in self.problems)

    def __str__(self) -> str:
        """The first 20 problems, one line each, and a closing line with numbers."""
        lines = [str(problem) for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"... and {len(self.problems) - 20} more")
        counts = f"{self.errors} errors, {len(self.problems) - self.errors} warnings"
        lines.append(f"{self.data.counts}, {self.looked} looked at, {len(self.classes)} classes: {counts}")
        return "\n".join(lines)


@dataclass
class _Seen:
    """What the files looked at hold together. `files` counts, for each id on disk, the label maps that show it."""

    looked: int = 0
    files: Counter[int] = field(default_factory=Counter)
    splits: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    left_out: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))


def check_data(root: str | Path, classes: Palette | None = None, limit: int | None = None) -> CheckReport:
    """Check a data set, ADE20K itself or a learner's own.

    `root` is a folder that `layout.read_data` can read, `classes` what the ids mean; None takes the folder's own. Of
    each split `limit` pairs are looked at, spread evenly; None looks at all.

    Raises: FileNotFoundError if `root` is not such a folder; ValueError if it has no pair, or for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    data = read_data(root)
    classes = classes or data.classes
    problems, seen = list(data.problems), _Seen()
    chosen = {split: spread(pairs, limit) for split, pairs in data.splits.items()}
    everything = [(split, pair) for split, pairs in chosen.items() for pair in pairs]
    for split, pair in tqdm(everything, desc="checking", unit="pair", disable=len(everything) < 500):
        counts, found = check_pair(pair.image, pair.label, classes)
        problems += found
        seen.looked += 1
        if not {problem.code for problem in found if problem.severity == "error"} - _COUNTED:
            seen.files.update(counts.keys())
            seen.splits[split].update(counts.keys())
        _note_dropped(pair.image, seen)
    numbering = list(_numbering(data, classes, seen))
    problems += numbering
    for look in (_one_class, _never_seen, _one_split) if not numbering else ():
        problems += look(data, classes, seen)
    problems += _left_out(seen)
    problems += _never_turned([pair for _, pair in everything])
    problems += _near_duplicates(data.root, *chosen.values())
    problems.sort(key=lambda problem: problem.severity != "error")
    return CheckReport(data, classes, seen.looked, problems)


# --- All label maps together -------------------------------------------------------------------------------------


def _numbering(data: DataFolder, classes: Palette, seen: _Seen) -> Iterator[LabelProblem]:
    """Ids that mean nothing, or are counted from another start than the classes."""
    ids = sorted(seen.files.keys() - {IGNORE})
    unknown = [i for i in ids if classes.from_disk[i] == UNKNOWN]
    known = sorted(i for entry in classes.classes for i in entry.on_disk)
    zero_is_other = 0 in classes.ignored
    if unknown:
        text = (
            f"the label maps hold {len(ids)} ids: {some(ids, 8)}; no class has {some(unknown, 8)}. With names for all, "
            f"in the order of the ids, `m2f convert {data.root} NEW --from ids --classes NAME,NAME,...` counts them "
            f'anew; `--map "{unknown[0]}=255"` leaves one out'
        )
        yield LabelProblem(data.root, "unknown-ids", text)
    elif zero_is_other and ids and ids == list(range(known[-1])):
        text = (
            f"ids run 0..{ids[-1]} and {known[-1]} never occurs: they seem to count from 0, and then class 0 is thrown "
            f"away; `m2f prepare {data.root} NEW --zero-is-class --classes {len(classes)}` reads them so"
        )
        yield LabelProblem(data.root, "counts-from-zero", text, "warning")
    elif zero_is_other and known[-1] not in ids and 5 * seen.files[IGNORE] >= seen.looked >= _FEW:
        text = (
            f"255 occurs in {seen.files[IGNORE]} of {seen.looked} label maps and {known[-1]} in none: they seem to "
            "count from 0 already, so that every class would be taken for its neighbour; "
            f"`m2f prepare {data.root} NEW --zero-is-class` reads them so"
        )
        yield LabelProblem(data.root, "already-shifted", text)
    elif _looks_like_own(data, classes, ids) and seen.looked >= _FEW:
        text = (
            f"only the ids {ids[0]}..{ids[-1]} occur, taken for ADE20K's ({', '.join(classes.names[:3])}, ...): if "
            f"they are classes of your own, name them: `m2f convert {data.root} NEW --from ids --classes NAME,NAME,...`"
        )
        yield LabelProblem(data.root, "few-ids", text, "warning")


def _looks_like_own(data: DataFolder, classes: Palette, ids: list[int]) -> bool:
    """ADE20K is only assumed, and the ids run without a gap from 0 or 1 to a small number."""
    assumed = classes is ade20k_palette() and not (data.root / CLASSES_FILE).is_file()
    return assumed and 2 <= len(ids) <= 20 and ids[0] <= 1 and ids == list(range(ids[0], ids[-1] + 1))


def _one_class(data: DataFolder, classes: Palette, seen: _Seen) -> Iterator[LabelProblem]:
    shown = {int(classes.from_disk[i]) for i in seen.files} - {IGNORE, UNKNOWN}
    if len(shown) > 1 or not seen.files:
        return
    name = f"only the class {classes.names[shown.pop()]!r}" if shown else "no class at all"
    text = (
        f"the {seen.looked} label maps show {name}, so nothing can be told apart; if 0 or 255 stands for a class, "
        f"`m2f convert {data.root} NEW --from binary` (or ids, with --map) makes one of it"
    )
    yield LabelProblem(data.root, "one-class", text)


def _never_seen(data: DataFolder, classes: Palette, seen: _Seen) -> Iterator[LabelProblem]:
    """Own classes between the others that have no pixel. ADE20K's 150 are rarely all there."""
    if classes.names == ade20k_palette().names or seen.looked < len(data.pairs):
        return
    gone = [entry.name for entry in classes.classes if not seen.files.keys() & set(entry.on_disk)]
    if gone and len(gone) < len(classes) - 1:
        text = (
            f"no label map shows {some(gone, 8)}: add images of it, or leave it out with "
            f"`m2f convert {data.root} NEW --ignore {gone[0]!r}`"
        )
        yield LabelProblem(data.root, "never-seen", text, "warning")


def _one_split(data: DataFolder, classes: Palette, seen: _Seen) -> Iterator[LabelProblem]:
    """Classes that can only be learnt, or only be measured."""
    train, val = ({int(classes.from_disk[i]) for i in seen.splits[split]} - {IGNORE, UNKNOWN} for split in data.splits)
    if not train or not val or seen.looked < len(data.pairs):
        return
    mend = f"`m2f convert {data.root} NEW --val 0.2` splits anew"
    if only := [classes.names[i] for i in sorted(val - train)]:
        text = f"{some(only, 8)} occurs in validation only and is never learnt: {mend}"
        yield LabelProblem(data.root, "validation-only", text, "warning")
    if (only := [classes.names[i] for i in sorted(train - val)]) and classes.names != ade20k_palette().names:
        text = f"{some(only, 8)} occurs in training only and is never measured: {mend}"
        yield LabelProblem(data.root, "training-only", text, "warning")


# --- All images together -----------------------------------------------------------------------------------------


def _note_dropped(image: Path, seen: _Seen) -> None:
    try:
        for text in dropped(image):
            seen.left_out[text].append(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # `check_pair` has named it


def _left_out(seen: _Seen) -> Iterator[LabelProblem]:
    """What is not read of the images, one line for each kind."""
    for text, paths in seen.left_out.items():
        more = f" (and {len(paths) - 1} more images like it)" if len(paths) > 1 else ""
        yield LabelProblem(paths[0], "left-out", text + more, "warning")


def _never_turned(pairs: list[Pair]) -> Iterator[LabelProblem]:
    """Masks drawn on what the sensor saw, beside images that EXIF turns without changing their shape."""
    scores = {}
    for pair in pairs:
        try:
            if fits := turn_scores(pair.image, read_label(pair.label.read_bytes())):
                scores[pair.label] = fits
        except (OSError, ValueError, SyntaxError, cv2.error, Image.DecompressionBombError):
            continue  # `check_pair` has named it
    sure = [label for label, (seen, stored) in scores.items() if stored > SURELY_TURNED * seen]
    mean = np.mean([*scores.values()], axis=0) if scores else (1, 0)
    if np.mean([stored > seen for seen, stored in scores.values()] or 0) > 0.5 and mean[1] > 1.2 * mean[0]:
        sure = [*scores]  # none may be clear by itself, and all together are
    if sure:
        more = f"; so do {len(sure)} in all" if len(sure) > 1 else ""
        text = (
            f"EXIF turns the image, but this mask fits it better unturned{more}: turn the masks likewise, or save the "
            "images without EXIF"
        )
        yield LabelProblem(sure[0], "never-turned", text)


def turn_scores(path: Path, label_map: np.ndarray) -> tuple[float, float] | None:
    """How well a label map fits an image that EXIF turns: as people see the image, and as it is stored.

    `label_map` holds any ids, `(H, W)` uint8.

    Returns: the strength of the image's edges along the label's borders, in parts of its mean, both ways; None if EXIF
        turns nothing, or if the sizes tell already.
    """
    with Image.open(path) as opened:
        if opened.getexif().get(274, 1) == 1:
            return None
        if opened.width != opened.height and opened.getexif()[274] > 4:
            return None  # a quarter turn: `check_sizes` compares the sizes
        opened.draft("L", (256, 256))
        stored = opened.convert("L")
        seen = ImageOps.exif_transpose(opened).convert("L")
    label_map = cv2.resize(label_map, (256, 256), interpolation=cv2.INTER_NEAREST_EXACT)
    border = cv2.morphologyEx(label_map, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return _edges_at(seen, border), _edges_at(stored, border)


def _edges_at(image: Image.Image, border: np.ndarray) -> float:
    """Mean strength of the edges on the border, in parts of the mean everywhere."""
    grey = np.asarray(image.resize((256, 256), Image.Resampling.BOX), np.float32)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return float(strength[border].mean() / max(strength.mean(), 1e-6)) if border.any() else 0.0


def _near_duplicates(root: Path, train: list[Pair], val: list[Pair]) -> Iterator[LabelProblem]:
    """Images of one split that look like one of the other: what was learnt by heart is measured then."""
    here, there = _fingerprints(train), _fingerprints(val)
    if not here or not there:
        return
    known, found = np.array([row for _, row in here]), []
    for pair, row in there:
        distance = np.bitwise_count(known ^ row).sum(1, dtype=np.int32)
        if distance.min() <= _NEAR:
            found.append((pair, here[int(distance.argmin())][0]))
    if found:
        pair, twin = found[0]
        text = (
            f"looks like {twin.image} of the training split ({len(found)} of {len(there)} validation images have a "
            f"twin), so that the mIoU is too good: `m2f convert {root} NEW --val 0.2 --group REGEX` keeps what belongs "
            "together in one split"
        )
        yield LabelProblem(pair.image, "near-duplicate", text, "warning")


def _fingerprints(pairs: list[Pair]) -> list[tuple[Pair, np.ndarray]]:
    """256 bits for each image: is a part brighter than the one right of it? Images without contrast have none."""
    found = []
    for pair in pairs:
        try:
            with Image.open(pair.image) as opened:
                opened.draft("L", (64, 64))
                small = np.asarray(opened.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if small.std() > 8:
            found.append((pair, np.packbits(small[:, 1:] > small[:, :-1])))
    return found
