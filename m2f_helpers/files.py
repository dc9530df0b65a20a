"""Whole files or none: everything is written under a temporary name beside the final one, then renamed.

A temporary name is `.NAME.PID.part`, so that what a killed process left behind can be told from what another one is
writing at this moment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

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
    """Write a file whole, or leave everything as it was.

    Args:
        path: the final name, in an existing folder.
        data: text (UTF-8), bytes, or a `(N,)` uint8 array.

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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """For libraries that write files themselves: the body of the `with` writes to the name it gets.

    At the end the file is renamed to `path`; after an error it is removed, and what lay at `path` stays.
    """
    temporary = Path(temporary_name(path))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: str | Path) -> str:
    """`.NAME.PID.part` in the folder of `path`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.part")


def orphans(folder: str | Path, pattern: str = ".*.part") -> list[Path]:
    """Temporary files (or folders) below `folder` whose process no longer lives."""
    parts = [(path, path.name.split(".")[-2]) for path in Path(folder).glob(pattern)]
    return [path for path, pid in parts if pid.isdigit() and not _lives(int(pid))]


def remove_orphans(folder: str | Path, pattern: str = ".*.part") -> None:
    """Clear up `orphans`, files as well as folders."""
    for path in orphans(folder, pattern):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """False too for a process that has ended but whose parent never asked: in containers such may stay for ever."""
    import psutil  # here, because worker processes start without it

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
