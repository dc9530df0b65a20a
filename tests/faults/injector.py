"""Lets every write of a command go wrong, one after the other: test helper for `tests/faults`.

`try_every_write` starts a process of its own, which imports everything once and runs the command once in a forked
child. There all that writes below the trial's folder is counted. Before each write the child forks: in the fork half of
the bytes are written, and then the disk is full once (`fail`), full from then on (`full`), or the process is killed
(`kill`). What the fork leaves behind is kept, the folder is put back, and the undisturbed run goes on to its next
write. So a trial costs what the command still does after the fault. Then the command runs again on each of the folders
that were left behind, equal ones once, and must leave the same as a run that was never disturbed.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import hashlib
import importlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HOWS = ("fail", "full", "kill")
LOCK = ".lock"  # ends the names of files that hold the time of their use; no fork while one is taken
State = dict[str, "tuple[bytes, int] | None"]  # what lies in a folder: bytes and time of a file, None for a folder


def try_every_write(
    given: Path,
    command: Sequence[str],
    *,
    again: Sequence[str] = (),
    logs: Sequence[str] = (),
    hows: Sequence[str] = HOWS,
    preload: Sequence[str] = (),
    results: Sequence[str] = (),
    holds: str = "",
    timeout: float = 600,
) -> dict[str, Any]:
    """Try `m2f COMMAND` in copies of a folder, with a fault at each of its writes.

    Args:
        given: folder with the input; the command runs inside a copy of it, so its paths are relative.
        command: words after `m2f`.
        again: words of the run after the fault; without them, those of `command`.
        logs: forms of paths that nobody reads, with * and ?: what they hold is free, and only the first write of each
            kind to each of them goes wrong.
        hows: kinds of faults.
        preload: modules to import before the first trial.
        results: forms of paths in `given` that are not input but an earlier result.
        holds: `module:function` of something that is true for a folder at any moment; it raises where it is not.
        timeout: seconds for all trials.

    Returns: `writes`, what the undisturbed run wrote, in order; `runs`, how often the command ran after a fault;
        `trials`, for each a dict with `how`, `at`, `write`, `status` and `output` of the disturbed run, `again` and
        `again_output` of the next one, `differs`, the files that do not hold what they hold after an undisturbed run
        (see `_meaning`), `input`, files of the input that have changed, and `broken`, what `holds` raised.
    """
    settings = {"given": str(given), "command": list(command), "again": list(again or command), "hows": list(hows)}
    settings |= {"preload": ["m2f_helpers.cli", *preload], "logs": [f"*{LOCK}", *logs], "holds": holds}
    settings["results"] = list(results)
    words = [sys.executable, "-m", "tests.faults.injector", json.dumps(settings)]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_trials(report: dict[str, Any], sentence: str = "the disk is full") -> None:
    """Every fault was one sentence with exit status 1, or a kill; the input is whole; the next run made it good."""
    assert len(report["trials"]) >= len(set(report["writes"])) > 0
    for trial in report["trials"]:
        case = json.dumps(trial, indent=1)
        assert trial["input"] == [] and not trial["broken"], case
        if trial["how"] == "kill":
            assert trial["status"] == -signal.SIGKILL, case
        else:
            assert "Traceback" not in trial["output"], case
            assert trial["status"] == 0 or (trial["status"] == 1 and sentence in trial["output"]), case
        assert trial["again"] == 0 and trial["differs"] == [], case


# --- In the process that forks ---------------------------------------------------------------------------------------


class _Faults:
    """Counts the writes below `root`; `at_write` is called before each with its number and a way to write half."""

    def __init__(self, root: Path) -> None:
        self.root, self.how, self.due = str(root), "", False
        self.at_write: Callable[[str], None] = lambda write: None
        self.seen: list[str] = []
        self.paths: dict[int, str] = {}
        self.files: weakref.WeakSet[io.FileIO] = weakref.WeakSet()
        names = ("open", "write", "close", "replace", "rename", "mkdir", "link", "symlink")
        self.real = {name: getattr(os, name) for name in names}
        self.deletes = {name: getattr(os, name) for name in ("unlink", "remove", "rmdir", "truncate")}

    def inside(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)) or os.fsdecode(path).endswith(LOCK):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.root + os.sep)

    def event(self, name: str, path: Any, half: Any = lambda: None, may_fail: bool = True) -> None:
        """Count a write; in the fork whose write it is, do half of it and fail."""
        if not self.due:
            self.seen.append(f"{name} {os.path.relpath(os.fsdecode(path), self.root)}")
            self.at_write(self.seen[-1])  # returns in the forks too, and there `due` is set
        if not self.due or (self.how != "kill" and not may_fail):
            return
        half()
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.due = self.how == "full"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def install(self) -> None:
        os.open, os.write, os.close, os.mkdir = self.open, self.write, self.close, self.mkdir
        for name in ("replace", "rename", "link", "symlink"):
            setattr(os, name, self.moving(name))
        for name in self.deletes:
            setattr(os, name, self.deleting(name))
        self.real_open = io.open
        builtins.open = io.open = self.open_file
        shutil._USE_CP_SENDFILE = False  # copies go through `write` too
        if "cv2" in sys.modules:
            self.wrap_imwrite(sys.modules["cv2"])

    def open_numbers(self) -> list[tuple[int, str, int, int]]:
        """Files being written at this moment: number, path, flags, place in the file."""
        found = {file: path for file, path in self.paths.items()}
        found |= {raw.fileno(): raw.name for raw in self.files if not raw.closed}
        there = [(file, os.path.abspath(os.fsdecode(path))) for file, path in found.items()]
        return [(f, path, fcntl.fcntl(f, fcntl.F_GETFL), os.lseek(f, 0, os.SEEK_CUR)) for f, path in there]

    def reopen(self, numbers: list[tuple[int, str, int, int]]) -> None:
        """Put them back, after a fork has written through them too."""
        for file, path, flags, place in numbers:
            if os.path.exists(path):
                again = self.real["open"](path, flags & (os.O_WRONLY | os.O_RDWR | os.O_APPEND))
                os.dup2(again, file, inheritable=False)
                self.real["close"](again)
                os.lseek(file, place, os.SEEK_SET)

    def open(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR) and self.inside(path)
        if writes:
            self.event("open", path)
        file = self.real["open"](path, flags, *args, **options)
        if writes:
            self.paths[file] = os.path.abspath(os.fsdecode(path))
        return file

    def close(self, file: int) -> None:
        self.paths.pop(file, None)
        self.real["close"](file)

    def write(self, file: int, data: Any) -> int:
        if file in self.paths:
            self.event("write", self.paths[file], lambda: self.real["write"](file, bytes(data)[: len(data) // 2]))
        return self.real["write"](file, data)

    def mkdir(self, path: Any, *args: Any, **options: Any) -> None:
        if self.inside(path) and not os.path.lexists(path):
            self.event("mkdir", path)
        self.real["mkdir"](path, *args, **options)

    def moving(self, name: str) -> Any:
        def call(source: Any, target: Any, **options: Any) -> Any:
            if self.inside(target):
                self.event(name, target)
            return self.real[name](source, target, **options)

        return call

    def deleting(self, name: str) -> Any:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            whole = path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            if self.inside(whole) and os.path.lexists(whole):
                self.event(name, whole, may_fail=False)  # a full disk still lets go
            return self.deletes[name](path, *args, **options)

        return call

    def open_file(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or not self.inside(file):
            return self.real_open(file, mode, buffering, *args, **options)
        self.event("open", file)
        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                faults.event("write", file, lambda: io.FileIO.write(self, bytes(data)[: len(data) // 2]))
                return super().write(data)

        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        self.files.add(raw)
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

    def truncated(self, path: str, write: Any) -> None:
        write()
        self.deletes["truncate"](path, os.path.getsize(path) // 2)


class _Keeper:
    """In the child that runs the command: forks before each write, keeps what the fork leaves, and puts it right."""

    def __init__(self, faults: _Faults, root: Path, hows: Sequence[str], logs: Sequence[str]) -> None:
        self.faults, self.root, self.hows, self.logs = faults, root, hows, logs
        self.trials: list[dict[str, Any]] = []
        self.before: State = {}
        faults.at_write = self.at_write

    def at_write(self, write: str) -> None:
        if any(fnmatch(write.split(" ", 1)[1], form) for form in self.logs) and write in self.faults.seen[:-1]:
            return
        before, numbers = _state(self.root, self.faults.real_open, self.before), self.faults.open_numbers()
        self.before = before
        log = self.root.with_suffix(".fork")
        for how in self.hows:
            sys.stdout.flush()
            sys.stderr.flush()
            logging._at_fork_reinit_lock_weakset.clear()  # a fork within a log line still has to let go of its lock
            fork = os.fork()
            if fork == 0:
                _screen_to(log, self.faults.real["open"])
                self.faults.how, self.faults.due, self.faults.at_write = how, True, lambda write: None
                return
            status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
            with self.faults.real_open(log, errors="replace") as file:
                output = file.read()
            found = {"how": how, "at": len(self.faults.seen) - 1, "write": write, "status": status}
            left = _state(self.root, self.faults.real_open, before)
            self.trials.append(found | {"output": output, "state": left})
            if left != before:
                self.restore(before, left)
            self.faults.reopen(numbers)

    def restore(self, before: State, left: State) -> None:
        for name in sorted(left.keys() - before.keys(), reverse=True):
            self.faults.deletes["rmdir" if left[name] is None else "unlink"](self.root / name)
        _write_state(self.root, {n: before[n] for n in before if before[n] != left.get(n, "")}, self.faults)


def _state(root: Path, real_open: Any = open, known: State | None = None) -> State:
    """All that lies below a folder; `known` is what lay there before."""
    found: State = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            found[name] = None
            continue
        with real_open(path, "rb") as file:
            now = (file.read(), os.stat(path).st_mtime_ns)
        before = (known or {}).get(name)
        found[name] = before if before == now else now  # equal ones share their memory
    return found


def _write_state(root: Path, state: State, faults: _Faults | None = None) -> None:
    real_open, mkdir = (faults.real_open, faults.real["mkdir"]) if faults else (open, os.mkdir)
    for name, content in sorted(state.items()):
        if content is None:
            mkdir(root / name)
            continue
        with real_open(root / name, "wb") as file:
            file.write(content[0])
        os.utime(root / name, ns=(content[1], content[1]))


def _screen_to(log: Path, real_open: Any = os.open) -> None:
    screen = real_open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(screen, 1)
    os.dup2(screen, 2)


def _trial(
    root: Path, command: list[str], hows: Sequence[str] = (), logs: Sequence[str] = ()
) -> tuple[int, str, list[str], list[dict]]:
    """Run the command in a forked child: status, output, writes, and what came of a fault at each of them."""
    log, result = root.with_suffix(".log"), root.with_suffix(".pickle")
    child = os.fork()
    if child == 0:
        status, faults = 70, _Faults(root)
        try:
            _screen_to(log)
            os.chdir(root)
            keeper = _Keeper(faults, root, hows, logs)
            if hows:
                faults.install()
            status = _command(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if not faults.how:  # not in a fork
                result.write_bytes(pickle.dumps((faults.seen, keeper.trials)))
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, log.read_text(errors="replace"), *pickle.loads(result.read_bytes())


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


def _meaning(name: str, data: bytes) -> Any:
    """What a file says, without the times in it."""
    if name.endswith(".pth"):
        import torch

        content = torch.load(io.BytesIO(data), weights_only=True)
        buffer = io.BytesIO()
        torch.save([content["meta"].get("iter"), content["state_dict"], content.get("optimizer")], buffer)
        return hashlib.sha256(buffer.getvalue()).hexdigest()
    if name.endswith("config.py"):
        return re.sub(rb"experiment_name = .*\n", b"", data)
    if name.endswith((".ipynb", ".html")):  # papermill's own cell has a new id each time
        return re.sub(rb'"(start_time|end_time|duration|id)": .*\n|cell-id=\w+', b"", data)
    if name.endswith("manifest.jsonl"):
        return re.sub(rb"\b\d{15,}\b", b"", data)
    return data


def _meanings(state: State, logs: Sequence[str]) -> dict[str, Any]:
    kept = {name: found for name, found in state.items() if not any(fnmatch(name, form) for form in logs)}
    return {name: found and _meaning(name, found[0]) for name, found in kept.items()}


def _key(state: State, logs: Sequence[str]) -> str:
    kept = sorted((name, found) for name, found in state.items() if not any(fnmatch(name, form) for form in logs))
    return hashlib.sha256(pickle.dumps([(n, f and hashlib.sha256(f[0]).digest()) for n, f in kept])).hexdigest()


def _fresh(root: Path, state: State) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    _write_state(root, state)


def _main(settings: dict[str, Any]) -> dict[str, Any]:
    for module in settings["preload"]:
        importlib.import_module(module)
    module, _, name = settings["holds"].partition(":")
    holds = getattr(importlib.import_module(module), name) if module else lambda root: None
    given, logs = Path(settings["given"]), settings["logs"]
    root, given = given.with_name(f"{given.name}_trial"), _state(given)
    _warm_up(root, given, settings["command"])
    _fresh(root, given)
    status, output, writes, trials = _trial(root, settings["command"], settings["hows"], logs)
    assert status == 0, output
    wanted, known = _meanings(_state(root), logs), {}
    no_inputs = [*logs, *settings["results"]]
    inputs = _meanings(given, no_inputs)
    for trial in trials:
        state = trial.pop("state")
        trial["output"] = trial["output"][-2000:]
        trial["input"] = _changed(inputs, _meanings(state, no_inputs))
        if (key := _key(state, logs)) not in known:
            known[key] = _run_again(root, settings["again"], state, wanted, logs, holds)
        trial |= known[key]
    shutil.rmtree(root)
    return {"writes": writes, "trials": trials, "runs": len(known)}


def _warm_up(root: Path, given: State, command: list[str]) -> None:
    """Run the command here once: what it imports and keeps in memory is there in every child then."""
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # no thread, which a fork would lose
    _fresh(root, given)
    screens, home = [os.dup(1), os.dup(2)], os.getcwd()
    _screen_to(root.with_suffix(".log"))
    os.chdir(root)
    status = _command(command)
    sys.stdout.flush()
    os.chdir(home)
    for number, screen in enumerate(screens, 1):
        os.dup2(screen, number)
    assert status == 0, root.with_suffix(".log").read_text()


def _run_again(
    root: Path, command: list[str], left: State, wanted: dict[str, Any], logs: Sequence[str], holds: Callable
) -> dict[str, Any]:
    """Run the command on what a fault left behind, and compare."""
    _fresh(root, left)
    try:
        broken = holds(root) or ""
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"
    status, output, *_ = _trial(root, command)
    found = _meanings(_state(root), logs)
    differs = sorted({*_changed(wanted, found), *(found.keys() - wanted.keys())})
    return {"broken": broken, "again": status, "again_output": output[-2000:], "differs": differs}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name, meaning in before.items() if name not in after or after[name] != meaning]


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
