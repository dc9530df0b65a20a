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
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.data.formats.source import spread
from m2f_helpers.data.labels import LabelError, count_ids, read_label
from m2f_helpers.data.layout import FOLDER, OFFER, SPLITS, explain_archive, full_edition, is_root, wrong_edition
from m2f_helpers.quiet import one_line

URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
SHA256 = "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29"
ARCHIVE_BYTES = 967_382_037
COUNTS = {"training": 20210, "validation": 2000}
MIRRORS_VARIABLE = "M2F_ADE20K_MIRRORS"
ARCHIVE_VARIABLE = "M2F_ADE20K_ARCHIVE"
_RETRIES = 5  # broken connections to overcome per address
_CANDIDATES = 2000  # label maps looked at to choose a subset


def get_ade20k(root: str | Path, subset: int | Sequence[int] | None = None, archive: str | Path | None = None) -> Path:
    """Download, check and unpack ADE20K; does only what is missing, and goes on where a download broke off.

    It comes from the mirrors in M2F_ADE20K_MIRRORS (comma-separated), tried in turn, then from the official address.

    Args:
        root: folder that gets the archive and, beside it, the data set.
        subset: N unpacks N training and N / 10 validation pairs, [N, M] so many of each, chosen so that as many
            classes as possible occur; always the same ones. None unpacks everything (about 1.2 GB).
        archive: a local copy of the zip file; also by the environment variable M2F_ADE20K_ARCHIVE.

    Returns: the data set's folder, with `images` and `annotations`.
    Raises: FileNotFoundError if no address answers; ValueError if the archive is damaged, of another edition or short.
    """
    root, wanted = Path(root), _subset_counts(subset)
    target = root / (FOLDER if wanted is None else f"{FOLDER}_subset_{wanted[0]}_{wanted[1]}")
    if is_root(target):  # unpacked in one step, so it is complete
        return target
    archive = archive or os.environ.get(ARCHIVE_VARIABLE)
    local = _check_local(Path(archive)) if archive else None
    root.mkdir(parents=True, exist_ok=True)
    files.remove_orphans(root, f".{FOLDER}*.part")
    path = local or _download(root)
    try:
        with zipfile.ZipFile(path) as opened:
            pairs = _archive_pairs(opened)
            chosen = pairs if wanted is None else _choose(opened, pairs, wanted)
            _unpack(opened, chosen, target, everything=wanted is None)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and download it again") from None
    return target


def _subset_counts(subset: int | Sequence[int] | None) -> list[int] | None:
    if subset is None:
        return None
    wanted = [subset, max(1, subset // 10)] if isinstance(subset, int) else [int(n) for n in subset]
    if len(wanted) != 2 or min(wanted) < 1:
        raise ValueError(f"subset must be a number of training pairs from 1, or [training, validation], got {subset}")
    return wanted


def _check_local(path: Path) -> Path:
    import pooch  # here, so that the workers of `prepare` start without it

    if not path.is_file():
        raise FileNotFoundError(f"the archive {path} does not exist")
    if not zipfile.is_zipfile(path):
        size = f"{path.stat().st_size} of {ARCHIVE_BYTES} bytes"
        raise ValueError(f"{path} is no complete zip file ({size}): get it again")
    if pooch.file_hash(str(path)) != SHA256:
        text = explain_archive(path)
        text = text if "full edition" in text else "differs in its checksum; download it again"
        raise ValueError(f"{path} is not the archive expected: it {text}")
    return path


def _download(root: Path) -> Path:
    """The archive, from the first address that delivers the right bytes."""
    import pooch

    reasons = []
    downloader = partial(_go_on, root / f"{FOLDER}.zip.part")
    mirrors = [url.strip() for url in os.environ.get(MIRRORS_VARIABLE, "").split(",") if url.strip()]
    for url in [*mirrors, URL]:
        try:
            return Path(pooch.retrieve(url, f"sha256:{SHA256}", f"{FOLDER}.zip", str(root), downloader=downloader))
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {_reason(error)}")
    raise FileNotFoundError(
        f"ADE20K could not be downloaded ({'; '.join(reasons)}). Its host has been down for weeks before: try later, "
        f"name a mirror in {MIRRORS_VARIABLE}, or a local copy in {ARCHIVE_VARIABLE}; {OFFER}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    text = one_line(error)
    return "wrong bytes (the checksum differs)" if "hash" in text else text


def _go_on(part: Path, url: str, output_file: str, pooch: object) -> None:
    """A downloader for pooch that keeps what it has in `part` and asks for the rest (HTTP Range)."""
    source = part.with_suffix(".url")
    if part.exists() and (not source.exists() or source.read_text(encoding="utf-8") != url):
        part.unlink()  # the rest of one file does not fit the beginning of another
    source.write_text(url, encoding="utf-8")
    for attempt in range(_RETRIES + 1):
        before = _size(part)
        try:
            _fetch_rest(url, part)
            break
        except (urllib.error.HTTPError, ConnectionRefusedError):
            raise
        except OSError:
            if attempt == _RETRIES or (_size(part) <= before and attempt >= 1):
                raise
            time.sleep(min(2**attempt * 0.1, 5))
    source.unlink(missing_ok=True)
    os.replace(part, output_file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(url: str, part: Path) -> None:
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to fetch; the checksum decides
            raise
        return
    with response:
        have = have if response.status == 206 else 0  # else the server begins anew
        length = int(response.headers.get("Content-Length") or 0)
        bar = {"desc": f"{FOLDER}.zip", "total": have + length or None, "initial": have}
        with part.open("ab" if have else "wb") as file, tqdm.wrapattr(response, "read", **bar) as stream:
            shutil.copyfileobj(stream, file, 1 << 18)
    if length and _size(part) != have + length:
        raise ConnectionError(f"the connection broke after {_size(part)} of {have + length} bytes")


def _archive_pairs(archive: zipfile.ZipFile) -> dict[str, list[tuple[str, str]]]:
    """Members (image, label map) per split, after every name was found harmless and the numbers right."""
    names = set()
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        leaves = name.is_absolute() or ".." in name.parts or ":" in member.filename
        if leaves or stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{archive.filename} is not safe to unpack: {member.filename!r} would leave its folder")
        names.add(member.filename)
    pairs = {}
    for split in SPLITS:
        prefix = f"{FOLDER}/images/{split}/"
        stems = sorted(PurePosixPath(n).stem for n in names if n.startswith(prefix) and n.endswith(".jpg"))
        both = [(f"{prefix}{stem}.jpg", f"{FOLDER}/annotations/{split}/{stem}.png") for stem in stems]
        pairs[split] = [pair for pair in both if pair[1] in names]
        if len(pairs[split]) != COUNTS[split]:
            edition = full_edition([part for name in sorted(names)[:200] for part in name.split("/")])
            reason = wrong_edition(edition) if edition else "get the archive again"
            expected = f"expected {COUNTS[split]} {split} pairs, got {len(pairs[split])}"
            raise ValueError(f"{archive.filename}: {expected}; {reason}")
    return pairs


def _choose(archive: zipfile.ZipFile, pairs: dict, wanted: Sequence[int]) -> dict[str, list[tuple[str, str]]]:
    """For each split, pairs that show as many classes as possible; ties go to the first by name."""
    chosen = {}
    for split, number in zip(SPLITS, wanted, strict=True):
        candidates = pairs[split]
        if number > len(candidates):
            raise ValueError(f"subset asks for {number} {split} pairs, the archive has {len(candidates)}")
        candidates = spread(candidates, max(_CANDIDATES, number))
        bar = tqdm(candidates, desc=f"looking at {split} labels", disable=len(candidates) < 500)
        classes = {pair: _classes_of(archive, pair[1]) for pair in bar}
        chosen[split] = sorted(_greedy(classes, number))
    return chosen


def _classes_of(archive: zipfile.ZipFile, member: str) -> frozenset[int]:
    try:
        return frozenset(count_ids(read_label(archive.read(member)))) - {0}
    except LabelError as error:
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
    """Unpack: `target` is complete or absent."""
    members = [member for split in SPLITS for pair in pairs[split] for member in pair]
    if everything:
        members += [n for n in archive.namelist() if n.startswith(f"{FOLDER}/") and n.count("/") == 1 and n[-1] != "/"]
    with files.replacing(target) as temporary:
        for member in tqdm(members, desc="unpacking", unit="file", disable=len(members) < 2000):
            place = temporary / PurePosixPath(member).relative_to(FOLDER)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as file:
                shutil.copyfileobj(source, file)
