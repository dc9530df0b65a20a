"""Runs a command again and again, and lets one of its writes go wrong each time: test helper for `tests/faults`.

`try_every_write` starts a process of its own, which imports everything once and forks a child for each trial. In the
child all that writes below the trial's folder is counted; at the n-th write the disk is full once (`fail`), full from
then on (`full`), or the process is killed (`kill`). Half of the bytes are written before. Then the command runs again,
undisturbed, and must leave the same bytes as a run that was never disturbed.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HOWS = ("fail", "full", "kill")
LOCK = ".m2f.lock"  # holds the time of its use


def try_every_write(
    given: Path,
    command: Sequence[str],
    ignore: Sequence[str] = (),
    hows: Sequence[str] = HOWS,
    preload: Sequence[str] = (),
    every: int = 1,
    only: Sequence[str] = ("*",),
    timeout: float = 600,
) -> dict[str, Any]:
    """Try `m2f COMMAND` in copies of a folder.

    Args:
        given: folder with the input; the command runs inside a copy of it, so its paths are relative.
        command: words after `m2f`.
        ignore: ends of paths (with * and ?) that may differ between two runs, because they hold times.
        hows: kinds of faults.
        preload: modules to import before the first trial.
        every: try each write, or only every second, ...
        only: try only writes of these forms, such as `replace *.png`.
        timeout: seconds for all trials.

    Returns: `writes`, what the undisturbed run wrote, in order; `trials`, for each a dict with `how`, `at`, `write`,
        `status` and `output` of the disturbed run, `again` and `again_output` of the next one, and `differs`, the files
        that are not as after an undisturbed run, or `input`, those of the input that have changed.
    """
    settings = {"given": str(given), "command": list(command), "ignore": [LOCK, *ignore], "hows": list(hows)}
    settings |= {"preload": ["m2f_helpers.cli", *preload], "every": every, "only": list(only)}
    words = [sys.executable, "-m", "tests.faults.injector", json.dumps(settings)]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check_trials(report: dict[str, Any], sentence: str = "the disk is full") -> None:
    """Every fault was one sentence with exit status 1, or a kill; the input is whole; the next run made it good."""
    assert report["trials"]
    for trial in report["trials"]:
        case = json.dumps(trial, indent=1)
        assert trial["input"] == [], case
        if trial["how"] == "kill":
            assert trial["status"] == -signal.SIGKILL, case
        else:
            assert "Traceback" not in trial["output"], case
            assert trial["status"] == 0 or (trial["status"] == 1 and sentence in trial["output"]), case
        assert trial["again"] == 0 and trial["differs"] == [], case


# --- In the process that forks ---------------------------------------------------------------------------------------


class _Faults:
    """Counts the writes below `root`, and makes one of them go wrong."""

    def __init__(self, root: Path, at: int | None, how: str) -> None:
        self.root, self.at, self.how = str(root), at, how
        self.seen: list[str] = []
        self.paths: dict[int, str] = {}
        self.real = {name: getattr(os, name) for name in ("open", "write", "close", "replace", "rename", "mkdir")}
        self.deletes = {name: getattr(os, name) for name in ("unlink", "remove", "rmdir")}

    def inside(self, path: Any) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def event(self, name: str, path: Any, half: Any = lambda: None, may_fail: bool = True) -> None:
        """Count a write; if it is the one, do half of it and fail."""
        number = len(self.seen)
        self.seen.append(f"{name} {os.path.relpath(os.fsdecode(path), self.root)}")
        due = self.at is not None and (number == self.at or (self.how == "full" and number > self.at))
        if not due or (self.how != "kill" and not may_fail):
            return
        half()
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def install(self) -> None:
        os.open, os.write, os.close = self.open, self.write, self.close
        os.replace, os.rename, os.mkdir = (self.moving(name) for name in ("replace", "rename", "mkdir"))
        for name in self.deletes:
            setattr(os, name, self.deleting(name))
        self.real_open = io.open
        builtins.open = io.open = self.open_file
        shutil._USE_CP_SENDFILE = False  # copies go through `write` too
        if "cv2" in sys.modules:
            self.wrap_imwrite(sys.modules["cv2"])

    def open(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR) and self.inside(path) and os.path.basename(path) != LOCK
        if writes:
            self.event("open", path)
        file = self.real["open"](path, flags, *args, **options)
        if writes:
            self.paths[file] = os.fsdecode(path)
        return file

    def close(self, file: int) -> None:
        self.paths.pop(file, None)
        self.real["close"](file)

    def write(self, file: int, data: Any) -> int:
        if file in self.paths:
            self.event("write", self.paths[file], lambda: self.real["write"](file, bytes(data)[: len(data) // 2]))
        return self.real["write"](file, data)

    def moving(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if self.inside(args[-1] if name != "mkdir" else args[0]):
                self.event(name, args[1] if name != "mkdir" else args[0])
            return self.real[name](*args, **options)

        return call

    def deleting(self, name: str) -> Any:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            if self.inside(path) and os.path.lexists(path):
                self.event(name, path, may_fail=False)  # a full disk still lets go
            return self.deletes[name](path, *args, **options)

        return call

    def open_file(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or not self.inside(file) or os.path.basename(file) == LOCK:
            return self.real_open(file, mode, buffering, *args, **options)
        self.event("open", file)
        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                faults.event("write", file, lambda: io.FileIO.write(self, bytes(data)[: len(data) // 2]))
                return super().write(data)

        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *args, **options)

    def wrap_imwrite(self, cv2: Any) -> None:
        real = cv2.imwrite

        def imwrite(path: str, image: Any, *args: Any) -> bool:
            try:
                if self.inside(path):
                    self.event("imwrite", path, lambda: self.truncated(path, lambda: real(path, image, *args)))
            except OSError:
                return False  # that is all that OpenCV says
            return real(path, image, *args)

        cv2.imwrite = imwrite

    @staticmethod
    def truncated(path: str, write: Any) -> None:
        write()
        os.truncate(path, os.path.getsize(path) // 2)


def _trial(root: Path, command: list[str], at: int | None = None, how: str = "") -> tuple[int, str, list[str]]:
    """Run the command in a forked child: status (minus the signal that killed it), output, writes."""
    log, counts = root.with_suffix(".log"), root.with_suffix(".json")
    child = os.fork()
    if child == 0:
        status, faults = 70, _Faults(root, at, how)
        try:
            screen = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(screen, 1)
            os.dup2(screen, 2)
            os.chdir(root)
            faults.install()
            status = _command(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            faults.at = None
            counts.write_text(json.dumps(faults.seen))
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    writes = json.loads(counts.read_text()) if status >= 0 else []
    return status, log.read_text(errors="replace"), writes


def _command(words: list[str]) -> int:
    import traceback

    from m2f_helpers.cli import main

    sys.argv = ["m2f", *words]
    try:
        main(words, prog_name="m2f")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _snapshot(root: Path, ignore: Sequence[str]) -> dict[str, bytes]:
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    kept = {name: path for name, path in found.items() if not any(fnmatch(name, f"*{pattern}") for pattern in ignore)}
    return {name: path.read_bytes() for name, path in kept.items()}


def _fresh(given: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(given, root)


def _main(settings: dict[str, Any]) -> dict[str, Any]:
    for module in settings["preload"]:
        importlib.import_module(module)
    given, command, ignore = Path(settings["given"]), settings["command"], settings["ignore"]
    root = given.with_name(f"{given.name}_trial")
    _fresh(given, root)
    before = _snapshot(root, ignore)
    status, output, writes = _trial(root, command)
    assert status == 0, output
    wanted, trials = _snapshot(root, ignore), []
    for how in settings["hows"]:
        wanted_writes = [i for i, write in enumerate(writes) if any(fnmatch(write, form) for form in settings["only"])]
        for at in wanted_writes[:: settings["every"]]:
            _fresh(given, root)
            status, output, _ = _trial(root, command, at, how)
            after = _snapshot(root, ignore)
            again, again_output, _ = _trial(root, command)
            found = _snapshot(root, ignore)
            differs = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            changed = sorted(name for name, data in before.items() if after.get(name) != data)
            trial = {"how": how, "at": at, "write": writes[at], "status": status, "output": output[-2000:]}
            trials.append(
                trial | {"again": again, "again_output": again_output[-2000:], "differs": differs, "input": changed}
            )
    shutil.rmtree(root)
    return {"writes": writes, "trials": trials}


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
