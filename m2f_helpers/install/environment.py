"""What is installed, what is wrong with it, and the one command that mends it.

The libraries it vouches for are really imported, in a child process: a broken one cannot take the check down. It starts
on the standard library alone, where everything is missing: `m2f check`, or `python -m m2f_helpers.install.environment`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from itertools import takewhile, zip_longest

from m2f_helpers.install import mmcv_ops
from m2f_helpers.quiet import one_line

PYTHON_RANGE = ((3, 10), (3, 15))  # first included, last excluded; pyproject says the same
EXACT = {"mmengine": "0.10.7", "mmdet": "3.3.0", "mmsegmentation": "1.2.2"}
MMCV_LITE = "2.1.0"
TORCH_FROM = "2.5"  # the oldest that was run; 2.1 to 2.4 lack `torch.serialization.safe_globals`
UNDECLARED = {  # imported by mmseg or mmdet, and what breaks without them
    "ftfy": "mmseg imports it without declaring it",
    "regex": "mmseg imports it without declaring it",
    "pycocotools": "mmdet needs it",
    "shapely": "mmdet needs it",
    "terminaltables": "mmdet needs it",
    "scipy": "mmdet needs it",
}
_OTHERS = """
numpy pillow matplotlib pandas tqdm click pooch colorcet filelock psutil packaging pygments ipywidgets ipykernel ipython
papermill nbclient nbformat nbconvert beautifulsoup4 latex2mathml safetensors
"""
OTHERS = _OTHERS.split()  # as in pyproject.toml
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
# module: the distributions that can bring it; each needs those before it
IMPORTS = {
    "cv2": OPENCV,
    "torch": ("torch",),
    "mmcv.ops": ("mmcv", "mmcv-lite"),
    "mmdet.models": ("mmdet",),
    "mmseg.apis": ("mmsegmentation",),
}
PATIENCE = 300  # seconds for all of them; a cold disk needs most of a minute

# Runs in a child process, on the modules named as arguments. One line of JSON for each: its error, or "" and a remark.
PROBE = """
import importlib, json, os, sys
import m2f_helpers
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
def say(name, error, remark=""):
    print(json.dumps([name, error, remark]), file=answers, flush=True)
def device(torch):
    if torch.cuda.is_available():
        return f"device: CUDA, {torch.cuda.get_device_name(0)}"
    return "device: MPS" if torch.backends.mps.is_available() else f"device: CPU, {torch.get_num_threads()} threads"
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        say(name, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}")
        break
    say(name, "", device(module) if name == "torch" else "")
"""


@dataclass(frozen=True)
class Finding:
    """One row of the check. `verdict` is "ok", "note" (works, worth knowing) or "wrong"; `fix` is a command or ""."""

    component: str
    found: str
    wanted: str
    verdict: str
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """What the check looks at, gathered once; a test changes one field to make a fault.

    `distributions` maps lower-case names of installed distributions to versions, `loaded` names of loaded modules to
    their `__version__` (or ""), `extension` says what stands behind `mmcv._ext`: "absent", "compiled" or an error text.
    `fast_op`: "" without numba, "loads", or why it does not.
    `imports` maps each module that was tried to "" or its error; after an error no further one is tried.
    """

    python: tuple[int, ...]
    distributions: dict[str, str]
    loaded: dict[str, str]
    environ: dict[str, str]
    torch: str
    extension: str
    fast_op: str
    imports: dict[str, str] = field(default_factory=dict)


def gather(path: Iterable[str] | None = None) -> Machine:
    """Look at this machine, or at the distributions in some folders."""
    found = metadata.distributions(path=list(path)) if path is not None else metadata.distributions()
    names = {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in found}
    modules = {name: sys.modules[name] for name in ("numpy", "google.colab") if name in sys.modules}
    imports, torch = try_imports(_importable(names))
    return Machine(
        python=sys.version_info[:3],
        distributions=names,
        loaded={name: str(getattr(module, "__version__", "")) for name, module in modules.items()},
        environ=dict(os.environ),
        torch=torch,
        extension=_probe_extension() if "mmcv" in names or "mmcv-lite" in names else "absent",
        fast_op=_probe_fast_op() if names.keys() >= {"numba", "torch"} else "",
        imports=imports,
    )


def try_imports(modules: Iterable[str] = IMPORTS) -> tuple[dict[str, str], str]:
    """Import modules in a child, up to the first that fails: `{module: error, or ""}`, and torch's device (or "")."""
    wanted, asked = list(modules), time.monotonic()
    if not wanted:
        return {}, ""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        command = [sys.executable, "-c", PROBE, *wanted]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=PATIENCE)
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        status = f"ended with status {done.returncode}: {last[:200]}"
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        status, said = f"not done after {time.monotonic() - asked:.0f} seconds", (error.stdout or b"").decode()
    answers = [json.loads(line) for line in said.splitlines()]
    tried = {name: error for name, error, _ in answers}
    if len(tried) < len(wanted) and not any(tried.values()):
        tried[wanted[len(tried)]] = status
    return tried, "".join(remark for _, _, remark in answers)


def check_environment(machine: Machine | None = None) -> list[Finding]:
    """Judge this machine, or the one described: a finding per component, in the order in which to mend them."""
    machine = gather() if machine is None else machine
    findings = [_judge_python(machine), _judge_runtime(machine), _judge_torch(machine), _judge_numpy(machine)]
    findings += [_judge_mmcv(machine), _judge_extension(machine)]
    findings += [_judge_exact(machine, name, version) for name, version in EXACT.items()]
    findings += [_judge_fork(machine)]
    findings += [_judge_present(machine, name, reason) for name, reason in UNDECLARED.items()]
    findings += [_judge_opencv(machine), _judge_imports(machine), _judge_others(machine)]
    backend = machine.environ.get("MPLBACKEND", "") or "chosen by the notebook or the terminal"
    return [*findings, _row("matplotlib", f"backend: {backend}", "any: nothing here opens a window")]


def as_text(findings: list[Finding], width: int = 44) -> str:
    """The findings as a table in plain text: `found` and `wanted` at most `width` wide, each fix below its row."""
    first = max(len(finding.component) for finding in findings)
    lines = [f"{'':5}  {'component':{first}}  {'found':{width}}  wanted"]
    for finding in findings:
        mark = "WRONG" if finding.verdict == "wrong" else finding.verdict
        cells = [textwrap.wrap(text, width) or [""] for text in (finding.found, finding.wanted)]
        for k, (found, wanted) in enumerate(zip_longest(*cells, fillvalue="")):
            head = f"{mark:5}  {finding.component:{first}}" if k == 0 else " " * (7 + first)
            lines.append(f"{head}  {found:{width}}  {wanted}".rstrip())
        if finding.fix:
            lines.append(f"{' ' * (7 + first)}  fix: {finding.fix}")
    wrong = sum(finding.verdict == "wrong" for finding in findings)
    lines.append(f"{wrong} of {len(findings)} wrong: mend them from the top" if wrong else "all that is needed is here")
    return "\n".join(lines)


def main() -> int:
    """Print the table; the exit status is 0 if nothing is wrong, else 1."""
    findings = check_environment()
    print(as_text(findings))
    return int(any(finding.verdict == "wrong" for finding in findings))  # notes do not count


def _row(component: str, found: str, wanted: str, fix: str = "") -> Finding:
    """A row that is wrong if there is a command that mends it."""
    return Finding(component, found, wanted, "wrong" if fix else "ok", fix)


def _judge_python(machine: Machine) -> Finding:
    low, high = PYTHON_RANGE
    again = f"python{low[0]}.{low[1] + 1} -m venv .venv, or conda env create -f environment.yml"
    wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
    return _row("Python", ".".join(map(str, machine.python)), wanted, "" if low <= machine.python[:2] < high else again)


def _judge_runtime(machine: Machine) -> Finding:
    release = machine.environ.get("COLAB_RELEASE_TAG", "")
    colab = release or "google.colab" in machine.loaded
    return _row("runtime", f"Colab {release}".strip() if colab else f"{platform.system()} {platform.machine()}", "any")


def _judge_torch(machine: Machine) -> Finding:
    version, wanted = machine.distributions.get("torch"), f"{TORCH_FROM} or newer"
    if version is None:
        return _row("torch", "missing", wanted, f'pip install "torch>={TORCH_FROM}"')
    if _numbers(version) < _numbers(TORCH_FROM):
        return _row("torch", version, wanted, f'pip install -U "torch>={TORCH_FROM}"')
    if error := machine.imports.get("torch"):
        again = f"pip install --force-reinstall torch=={version.split('+')[0]}"
        return _row("torch", f"{version} does not load: {error}", "loads", again)
    return _row("torch", ", ".join(filter(None, [version, machine.torch])), wanted)


def _judge_numpy(machine: Machine) -> Finding:
    installed, running = machine.distributions.get("numpy"), machine.loaded.get("numpy")
    if installed and running and installed != running:
        restart = "restart Python (in a notebook: restart the kernel or runtime)"
        return _row("numpy", f"{running} is loaded, {installed} installed", "one version", restart)
    old = bool(installed) and _numbers(installed) < (2, 0)
    fix = 'pip install -U "numpy>=2.0"' if old else "" if installed else "pip install numpy"
    return _row("numpy", installed or "missing", "2.0 or newer", fix)


def _judge_mmcv(machine: Machine) -> Finding:
    full, lite = machine.distributions.get("mmcv"), machine.distributions.get("mmcv-lite")
    wanted = f"mmcv-lite {MMCV_LITE}, or mmcv from 2.0.0 to below 2.2.0"
    install = f"pip install --only-binary :all: mmcv-lite=={MMCV_LITE}"
    if full and lite:
        found = f"mmcv {full} and mmcv-lite {lite}, which overwrite each other"
        return _row("mmcv", found, wanted, f"pip uninstall -y mmcv mmcv-lite && {install}")
    if not full and not lite:
        return _row("mmcv", "missing", wanted, install)
    name, version = ("mmcv", full) if full else ("mmcv-lite", lite)
    fits = (2, 0, 0) <= _numbers(version) < (2, 2, 0)
    return _row("mmcv", f"{name} {version}", wanted, "" if fits else f"pip uninstall -y {name} && {install}")


def _judge_extension(machine: Machine) -> Finding:
    fast, wanted = machine.fast_op, "compiled or stand-in"
    if machine.extension == "compiled":
        return _row("mmcv ops", "compiled", wanted)
    if machine.extension != "absent":
        again = f"pip uninstall -y mmcv && pip install --only-binary :all: mmcv-lite=={MMCV_LITE}"
        return _row("mmcv ops", f"compiled for another torch: {machine.extension}", wanted, again)
    if fast and fast != "loads":
        return Finding("mmcv ops", fast, wanted, "note", "pip install --upgrade numba")
    how = "through numba on a CPU" if fast else "in PyTorch"
    return _row("mmcv ops", f"stand-in, deformable attention runs {how}", wanted)


def _judge_exact(machine: Machine, name: str, version: str) -> Finding:
    found = machine.distributions.get(name)
    return _row(name, found or "missing", version, "" if found == version else f"pip install {name}=={version}")


def _judge_fork(machine: Machine) -> Finding:
    forks = sorted(name for name in machine.distributions if name.startswith("onedl-mm"))
    if not forks:
        return _row("onedl fork", "absent", "absent")
    names = {"onedl-mmcv": "mmcv-lite", "onedl-mmsegmentation": "mmsegmentation"}
    again = [names.get(name, name.removeprefix("onedl-")) for name in forks]
    pins = EXACT | {"mmcv-lite": MMCV_LITE}
    fix = f"pip uninstall -y {' '.join(forks)} && pip install --force-reinstall --no-deps "
    fix += " ".join(f"{name}=={pins[name]}" for name in again if name in pins)
    return _row("onedl fork", ", ".join(forks), "absent: it overwrites mmcv, mmdet, mmseg", fix)


def _judge_present(machine: Machine, name: str, reason: str) -> Finding:
    found = machine.distributions.get(name)
    return _row(name, found or "missing", reason, "" if found else f"pip install {name}")


def _judge_opencv(machine: Machine) -> Finding:
    here = [name for name in OPENCV if name in machine.distributions]
    found = ", ".join(f"{name} {machine.distributions[name]}" for name in here) or "missing"
    if not here:
        return _row("opencv", found, "opencv-python", "pip install opencv-python")
    again = f"pip uninstall -y {' '.join(here)} && pip install opencv-python"
    if error := machine.imports.get("cv2"):
        if "libGL" in error:
            again = "pip uninstall -y opencv-python && pip install opencv-python-headless"
        return _row("opencv", f"{found}; cv2 does not load: {error}", "loads", again)
    if len(here) > 1:
        return Finding("opencv", found, "one flavour; these overwrite each other, but cv2 loads", "note")
    return _row("opencv", found, "one flavour")


def _judge_imports(machine: Machine) -> Finding:
    """What the rows of cv2 and torch do not already say."""
    wanted = "OpenMMLab's libraries load"
    for name, error in machine.imports.items():
        if error and name not in ("cv2", "torch"):
            project = {"mmcv": f"mmcv-lite=={MMCV_LITE}", "mmdet": f"mmdet=={EXACT['mmdet']}"}
            again = project.get(name.split(".")[0], f"mmsegmentation=={EXACT['mmsegmentation']}")
            return _row("imports", f"{name}: {error}", wanted, f"pip install --force-reinstall --no-deps {again}")
    done = [name.split(".")[0] for name, error in machine.imports.items() if not error]
    return _row("imports", ", ".join(done) or "not tried", wanted)


def _judge_others(machine: Machine) -> Finding:
    missing = [name for name in OTHERS if name not in machine.distributions]
    found = "missing: " + ", ".join(missing) if missing else f"all {len(OTHERS)} are here"
    fix = f"pip install {' '.join(missing)}" if missing else ""
    return _row("other packages", found, f"{len(OTHERS)} packages", fix)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _importable(names: dict[str, str]) -> list[str]:
    """Out of IMPORTS, what the installed distributions should make possible; the missing have rows of their own."""
    return list(takewhile(lambda module: any(name in names for name in IMPORTS[module]), IMPORTS))


def _probe_extension() -> str:
    if mmcv_ops.is_stand_in():
        return "absent"
    try:
        importlib.import_module("torch")
        importlib.import_module(mmcv_ops.EXTENSION)
    except (ImportError, OSError, AttributeError) as error:
        return one_line(error)
    return "compiled"


def _probe_fast_op() -> str:
    try:
        from m2f_helpers.install import kernels  # here, not above: it imports torch, which may be missing
    except (ImportError, OSError) as error:
        return one_line(error)
    return kernels.why_not() or "loads"


if __name__ == "__main__":
    sys.exit(main())
