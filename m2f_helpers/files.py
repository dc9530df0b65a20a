"""Whole files or none: everything is written under a temporary name beside the final one, then renamed.

A temporary name is `.NAME.PID.part`, so that what a killed process left behind can be told from what another one is
writing at this moment.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

LOCK = ".m2f.lock"
_BINARY = getattr(os, "O_BINARY", 0)  # only Windows tells text files from others


def read(path: str | Path) -> tuple[bytes, list[int]]:
    """Bytes of a file, and the `stamp` of the very file they came from."""
    file = os.open(path, os.O_RDONLY | _BINARY)  # a third of the time of Path.read_bytes
    try:
        found = stamp(file)
        data = os.read(file, found[0])
        while len(data) < found[0] and (more := os.read(file, found[0] - len(data))):
            data += more
        return data, found
    finally:
        os.close(file)


def stamp(path: str | Path | int) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds, of a path or an open file's number."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def write(path: str | Path, data: str | bytes | np.ndarray) -> list[int]:
    """Write text (UTF-8), bytes or a `(N,)` uint8 array to a file in an existing folder, whole or not at all.

    Returns: the new file's `stamp`.
    Raises: OSError if the folder is missing or the disk is full.
    """
    temporary = temporary_name(path)
    rest = memoryview(data.encode() if isinstance(data, str) else data)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        try:
            while rest:  # a disk that is nearly full takes a part and complains only at the next call
                rest = rest[os.write(file, rest) :]
            result = stamp(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
        return result
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def json_lines(path: Path) -> Iterator[tuple[dict, str]]:
    """Each record of a file that holds one JSON object a line, and the line; one that was cut off is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record, line


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """For what writes a file or a folder by itself: the body of the `with` makes it under the name that it gets.

    At the end that is renamed to `path`; after an error it is removed, and what lay at `path` stays.
    """
    temporary, aside = Path(temporary_name(path)), Path(temporary_name(f"{path}.old"))
    try:
        yield temporary
        if temporary.is_dir() and Path(path).exists():  # a full folder cannot be replaced in one step
            os.rename(path, aside)
        os.replace(temporary, path)
        _remove(aside)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def temporary_name(path: str | Path) -> str:
    """`.NAME.PID.part` in the folder of `path`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.part")


def remove_orphans(folder: str | Path, pattern: str = ".*.part") -> None:
    """Clear up temporary files and folders below `folder` whose process no longer lives."""
    for path in Path(folder).glob(pattern):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not _lives(int(pid)):
            _remove(path)


def _lives(pid: int) -> bool:
    """False too for a process that has ended but whose parent never asked: in containers such may stay for ever."""
    import psutil  # here, because worker processes start without it

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class InUse(ValueError):
    """Another process is writing into the folder."""


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep an output folder, made if needed, for this process as long as the `with` lasts.

    Raises: InUse, which says who holds the folder.
    """
    with holding(make_folder(folder) / LOCK, folder):
        yield


@contextmanager
def holding(path: Path, folder: str | Path) -> Iterator[None]:
    """Hold a lock file that speaks for `folder`. The system lets go of it when the process ends, however that happens.

    Raises: InUse, which says who holds it.
    """
    from filelock import FileLock, Timeout  # here, because worker processes start without it

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        fix = "wait until it has ended, stop it, or choose another folder"
        raise InUse(f"{folder} is in use by {_holder(path)}: {fix}") from None
    try:
        command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        path.write_text(f"process {os.getpid()} ({command[:200]}) since {since}\n", "utf-8")
        yield
    finally:
        with suppress(OSError):
            os.truncate(path, 0)
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8").strip() or "another process"
    return "another process"


def make_folder(path: str | Path) -> Path:
    """The folder, made if it is not there. OSError says in a sentence why not."""
    _check_place(path)
    os.makedirs(path, exist_ok=True)
    return Path(path)


def check_apart(data: str | Path, out: str | Path) -> None:
    """ValueError if one of the two folders is the other or lies in it: results would be taken for data.

    OSError if `out` can be no folder.
    """
    _check_place(out)
    a, b = Path(data).resolve(), Path(out).resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ValueError(f"the data {data} and {out} must not contain each other: choose another output folder")


def _check_place(path: str | Path) -> None:
    """What stands where a folder is wanted is one, or nothing."""
    if os.path.islink(path) and not os.path.exists(path):  # from Python 3.13 on, `resolve` takes a loop without a word
        raise FileNotFoundError(f"{path} is a link that leads back to itself, or to nothing: choose another folder")
    if os.path.exists(path) and not os.path.isdir(path):
        raise FileExistsError(f"{path} is a file: choose another folder")


_FIXES = {
    errno.ENOSPC: "the disk is full: make room and call again",
    errno.EDQUOT: "your quota on this disk is used up: make room and call again",
    errno.EACCES: "permission denied: choose another folder, or change its rights",
    errno.EPERM: "permission denied: choose another folder, or change its rights",
    errno.EROFS: "this disk cannot be written to: choose a folder on another one",
    errno.ENOENT: "no such file or folder: check the name",
    errno.ENOTDIR: "a file is in the place of a folder: choose another name",
    errno.EISDIR: "is a folder, a file is needed: choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "the link leads back to itself: choose another file or folder",
    errno.EMFILE: "too many files are open: use fewer workers, or raise `ulimit -n`",
    errno.EIO: "the disk reports an error: copy the file again, or choose another disk",
}


def sentence(error: OSError, path: str | Path | None = None) -> str:
    """An error of the system as one sentence with the file and a fix; one that is a sentence already stays.

    `path` is the file or folder that it is about, where the error itself names none.
    """
    if error.errno is None or error.strerror != os.strerror(error.errno):  # a sentence already
        return " ".join(str(error.strerror or error).split())
    name = error.filename if error.filename is not None else path
    text = _FIXES.get(error.errno, (error.strerror or str(error)).lower())
    return f"{os.fsdecode(name)}: {text}" if isinstance(name, (str, bytes, os.PathLike)) else text
