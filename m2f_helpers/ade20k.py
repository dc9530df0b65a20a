"""Gets ADE20K (the SceneParse150 edition), checks it and finds its pairs. Used by notebook 02.

The archive has 150 classes, 20,210 training and 2,000 validation pairs. Two other editions carry the same name and do
not fit; they are recognised and named.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.labels import LabelError, LabelProblem, count_ids, read_label

SPLITS = ("training", "validation")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FOLDER = "ADEChallengeData2016"
URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
SHA256 = "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29"
ARCHIVE_BYTES = 967_382_037
COUNTS = {"training": 20210, "validation": 2000}
MIRRORS_VARIABLE = "M2F_ADE20K_MIRRORS"
ARCHIVE_VARIABLE = "M2F_ADE20K_ARCHIVE"
OFFER = 'the demo profile needs no download: notebook 02 with DATA_DIR = "", or `m2f scenes DIR`'
_FULL_EDITIONS = ("ADE20K_2016_07_26", "ADE20K_2021_17_01")
_CANDIDATES = 2000  # label maps looked at to choose a subset


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
    if _is_root(path):
        return path
    raise FileNotFoundError(f"{path}: {_explain(path)}")


def _is_root(path: Path) -> bool:
    return all(any((path / kind / split).is_dir() for split in SPLITS) for kind in ("images", "annotations"))


def _explain(path: Path) -> str:
    wanted = "expected a folder with images/training and annotations/training"
    if path.is_file():
        return _explain_archive(path) if zipfile.is_zipfile(path) else f"is a file; {wanted}"
    if not path.exists():
        return f"does not exist; {wanted}. To get ADE20K: `m2f ade20k {path}`; {OFFER}"
    for parent in list(path.absolute().parents)[:3]:
        if _is_root(parent):
            return f"lies inside a data set: pass {parent}"
    below = [child for child in sorted(path.iterdir()) if child.is_dir()]
    for child in below:
        if _is_root(child):
            return f"is one level too high: pass {child}"
    if edition := _full_edition([path.absolute().name, *(child.name for child in path.iterdir())], path):
        return _wrong_edition(edition)
    archives = [child for child in path.glob("*.zip") if zipfile.is_zipfile(child)]
    if archives:
        return _explain_archive(archives[0])
    names = ", ".join(child.name for child in sorted(path.iterdir())[:5]) or "nothing"
    return f"{wanted}, found {names}"


def _explain_archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if edition := _full_edition([part for name in names[:200] for part in name.split("/")]):
        return _wrong_edition(edition)
    return f"is not unpacked yet: `m2f ade20k DIR --archive {path}` checks and unpacks it"


def _full_edition(names: Iterable[str], folder: Path | None = None) -> str | None:
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


def _wrong_edition(edition: str) -> str:
    return (
        f"is the full edition {edition}, which has over 3,000 object names and no annotations folder; Mask2Former's "
        f"150 classes need {FOLDER} (SceneParse150): `m2f ade20k DIR`"
    )


# --- Getting it --------------------------------------------------------------------------------------------------


def get_ade20k(
    root: str | Path,
    subset: int | Sequence[int] | None = None,
    archive: str | Path | None = None,
    urls: Sequence[str] | None = None,
    sha256: str | None = SHA256,
    counts: dict[str, int] | None = None,
    retries: int = 5,
) -> Path:
    """Download, check and unpack ADE20K; does only what is missing, and goes on where a download broke off.

    Args:
        root: folder that gets the archive and, beside it, the data set.
        subset: N unpacks N training and N / 10 validation pairs, [N, M] so many of each, chosen so that as many
            classes as possible occur; always the same ones. None unpacks everything (about 1.2 GB).
        archive: a local copy of the zip file; also by the environment variable M2F_ADE20K_ARCHIVE.
        urls: where to download it, tried in turn; None takes M2F_ADE20K_MIRRORS (comma-separated), then the
            official address.
        sha256: checksum of the archive; None accepts any archive with the right layout.
        counts: expected pairs per split; None = 20210 and 2000.
        retries: broken connections to overcome per address.

    Returns: the data set's folder, with `images` and `annotations`.
    Raises: FileNotFoundError if no address answers; ValueError if the archive is damaged, of another edition or short.
    """
    root, counts = Path(root), counts or COUNTS
    wanted = _subset_counts(subset)
    target = root / (FOLDER if wanted is None else f"{FOLDER}_subset_{wanted[0]}_{wanted[1]}")
    if _is_root(target):  # unpacked in one step, so it is complete
        return target
    root.mkdir(parents=True, exist_ok=True)
    files.remove_orphans(root, f".{FOLDER}*.part")
    archive = archive or os.environ.get(ARCHIVE_VARIABLE)
    path = _check_local(Path(archive), sha256) if archive else _download(root, _addresses(urls), sha256, retries)
    with _open_archive(path) as opened:
        pairs = _archive_pairs(opened, path, counts)
        chosen = pairs if wanted is None else _choose(opened, pairs, wanted)
        _unpack(opened, chosen, target, everything=wanted is None)
    return target


def _subset_counts(subset: int | Sequence[int] | None) -> list[int] | None:
    if subset is None:
        return None
    wanted = [subset, max(1, subset // 10)] if isinstance(subset, int) else [int(n) for n in subset]
    if len(wanted) != 2 or min(wanted) < 1:
        raise ValueError(f"subset must be a number of training pairs from 1, or [training, validation], got {subset}")
    return wanted


def _addresses(urls: Sequence[str] | None) -> list[str]:
    if urls is not None:
        return list(urls)
    mirrors = [url.strip() for url in os.environ.get(MIRRORS_VARIABLE, "").split(",") if url.strip()]
    return [*mirrors, URL]


def _check_local(path: Path, sha256: str | None) -> Path:
    import pooch  # here, so that the workers of `prepare` start without it

    if not path.is_file():
        raise FileNotFoundError(f"the archive {path} does not exist")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is no complete zip file ({path.stat().st_size} of {ARCHIVE_BYTES} bytes): get it again"
        )
    if sha256 is not None and pooch.file_hash(str(path)) != sha256:
        raise ValueError(f"{path} is not the archive expected: it {_explain_wrong_archive(path)}")
    return path


def _explain_wrong_archive(path: Path) -> str:
    text = _explain_archive(path)
    return text if "full edition" in text else "differs in its checksum; download it again"


def _download(root: Path, urls: Sequence[str], sha256: str | None, retries: int) -> Path:
    """The archive, from the first address that delivers the right bytes."""
    import pooch

    reasons = []
    downloader = _ResumingDownloader(root / f"{FOLDER}.zip.part", retries)
    for url in urls:
        try:
            known = f"sha256:{sha256}" if sha256 else None
            return Path(pooch.retrieve(url, known, f"{FOLDER}.zip", str(root), downloader=downloader))
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {_one_line(error)}")
    raise FileNotFoundError(
        f"ADE20K could not be downloaded ({'; '.join(reasons)}). Its host has been down for weeks before: try later, "
        f"name a mirror in {MIRRORS_VARIABLE}, or a local copy in {ARCHIVE_VARIABLE}; {OFFER}"
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    text = " ".join(str(error).split())
    return "wrong bytes (the checksum differs)" if "hash" in text else text


class _ResumingDownloader:
    """A pooch downloader that keeps what it has in a .part file and asks for the rest (HTTP Range)."""

    def __init__(self, part: Path, retries: int) -> None:
        self.part, self.retries = part, retries

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` to `output_file`; `pooch` is part of the protocol and not used."""
        source = self.part.with_suffix(".url")
        if self.part.exists() and (not source.exists() or source.read_text(encoding="utf-8") != url):
            self.part.unlink()  # the rest of one file does not fit the beginning of another
        source.write_text(url, encoding="utf-8")
        for attempt in range(self.retries + 1):
            before = self.part.stat().st_size if self.part.exists() else 0
            try:
                self._fetch(url)
                break
            except (urllib.error.HTTPError, ConnectionRefusedError):
                raise
            except OSError:
                grown = self.part.exists() and self.part.stat().st_size > before
                if attempt == self.retries or (not grown and attempt >= 1):
                    raise
                time.sleep(min(2**attempt * 0.1, 5))
        source.unlink(missing_ok=True)
        os.replace(self.part, output_file)

    def _fetch(self, url: str) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: nothing is left to fetch; the checksum decides
                raise
            return
        with response:
            resumed = response.status == 206
            length = int(response.headers.get("Content-Length") or 0)
            have = have if resumed else 0
            with self.part.open("ab" if resumed else "wb") as file:
                self._copy(response, file, have, length)
        got = self.part.stat().st_size
        if length and got != have + length:
            raise ConnectionError(f"the connection broke after {got} of {have + length} bytes")

    def _copy(self, response, file, have: int, length: int) -> None:
        with tqdm(desc=f"{FOLDER}.zip", total=have + length or None, initial=have, unit="B", unit_scale=True) as bar:
            while chunk := response.read(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))


# --- The archive -------------------------------------------------------------------------------------------------


@contextmanager
def _open_archive(path: Path):
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no complete zip file ({error}): delete it and download it again") from None
    with archive:
        yield archive


def _archive_pairs(archive: zipfile.ZipFile, path: Path, counts: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Members (picture, label map) per split, after every name was found harmless and the numbers right."""
    names = set()
    for member in archive.infolist():
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if (
            parts.is_absolute()
            or ".." in parts.parts
            or ":" in member.filename
            or stat.S_ISLNK(member.external_attr >> 16)
        ):
            raise ValueError(f"{path} is not safe to unpack: {member.filename!r} would leave its folder")
        names.add(member.filename)
    pairs = {}
    for split in SPLITS:
        prefix = f"{FOLDER}/images/{split}/"
        stems = sorted(PurePosixPath(n).stem for n in names if n.startswith(prefix) and n.endswith(".jpg"))
        both = [(f"{prefix}{stem}.jpg", f"{FOLDER}/annotations/{split}/{stem}.png") for stem in stems]
        pairs[split] = [pair for pair in both if pair[1] in names]
        if len(pairs[split]) != counts[split]:
            edition = _full_edition([part for name in sorted(names)[:200] for part in name.split("/")])
            reason = _wrong_edition(edition) if edition else "get the archive again"
            raise ValueError(f"{path}: expected {counts[split]} {split} pairs, got {len(pairs[split])}; {reason}")
    return pairs


def _choose(archive: zipfile.ZipFile, pairs: dict, wanted: Sequence[int]) -> dict[str, list[tuple[str, str]]]:
    """For each split, pairs that show as many classes as possible; ties go to the first by name."""
    chosen = {}
    for split, number in zip(SPLITS, wanted, strict=True):
        candidates = pairs[split]
        if number > len(candidates):
            raise ValueError(f"subset asks for {number} {split} pairs, the archive has {len(candidates)}")
        if len(candidates) > max(_CANDIDATES, number):
            spread = np.linspace(0, len(candidates) - 1, max(_CANDIDATES, number)).astype(int)
            candidates = [candidates[k] for k in spread]
        bar = tqdm(candidates, desc=f"looking at {split} labels", disable=len(candidates) < 500)
        classes = {pair: _classes_of(archive, pair[1]) for pair in bar}
        chosen[split] = sorted(_greedy(classes, number))
    return chosen


def _classes_of(archive: zipfile.ZipFile, member: str) -> frozenset[int]:
    try:
        return frozenset(count_ids(read_label(archive.read(member)))) - {0}
    except (LabelError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive.filename}: {member} {error}") from None


def _greedy(classes: dict[tuple[str, str], frozenset[int]], number: int) -> list[tuple[str, str]]:
    """Take, again and again, the pair whose classes were shown least so far."""
    shown: Counter[int] = Counter()
    left = dict(classes)
    taken = []
    for _ in range(number):
        best = max(left, key=lambda pair: sum(0.25 ** shown[i] for i in left[pair]))
        shown.update(left.pop(best))
        taken.append(best)
    return taken


def _unpack(archive: zipfile.ZipFile, pairs: dict, target: Path, everything: bool) -> None:
    """Unpack into a folder beside `target`, then rename it: `target` is complete or absent."""
    members = [member for split in SPLITS for pair in pairs[split] for member in pair]
    if everything:
        members += [n for n in archive.namelist() if n.startswith(f"{FOLDER}/") and n.count("/") == 1 and n[-1] != "/"]
    temporary = Path(files.temporary_name(target))
    try:
        for member in tqdm(members, desc="unpacking", unit="file", disable=len(members) < 2000):
            place = temporary / PurePosixPath(member).relative_to(FOLDER)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as file:
                shutil.copyfileobj(source, file)
        os.replace(temporary, target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.filename} is damaged ({error}): delete it and download it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def class_counts(root: str | Path, split: str) -> dict[int, int]:
    """Number of pictures in which each id on disk occurs, `{id: pictures}`. Reads every label map of the split."""
    pictures: dict[int, int] = defaultdict(int)
    for pair in list_pairs(root, split):
        for i in count_ids(read_label(pair.label.read_bytes())):
            pictures[i] += 1
    return dict(sorted(pictures.items()))
