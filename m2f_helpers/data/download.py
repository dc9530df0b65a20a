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
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.data.labels import LabelError, count_ids, read_label
from m2f_helpers.data.layout import (
    FOLDER,
    OFFER,
    SPLITS,
    explain_archive,
    full_edition,
    is_root,
    wrong_edition,
)
from m2f_helpers.quiet import one_line

URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
SHA256 = "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29"
ARCHIVE_BYTES = 967_382_037
COUNTS = {"training": 20210, "validation": 2000}
MIRRORS_VARIABLE = "M2F_ADE20K_MIRRORS"
ARCHIVE_VARIABLE = "M2F_ADE20K_ARCHIVE"
_CANDIDATES = 2000  # label maps looked at to choose a subset


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
    if is_root(target):  # unpacked in one step, so it is complete
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
    text = explain_archive(path)
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
    """Members (image, label map) per split, after every name was found harmless and the numbers right."""
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
            edition = full_edition([part for name in sorted(names)[:200] for part in name.split("/")])
            reason = wrong_edition(edition) if edition else "get the archive again"
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
