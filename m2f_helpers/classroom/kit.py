"""A folder for a memory stick, from which a laptop without network or administrator installs and runs everything.

pip resolves for another platform, but it judges environment markers (`; sys_platform == "win32"`) by the machine it
runs on. So each resolution is closed by hand: what the wheels require on the target comes in, what they require only
here goes out. torch is resolved as a stub and then fetched alone, because its CUDA libraries hang on it for Linux.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pooch
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tqdm.auto import tqdm

from m2f_helpers import files
from m2f_helpers.classroom.cells import without_solutions
from m2f_helpers.classroom.editions import student
from m2f_helpers.data.scenes.dataset import make_scenes
from m2f_helpers.execution import list_notebooks
from m2f_helpers.resources import resource

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# pip's platform tags, newest first; values of the markers that differ between systems
PLATFORMS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "linux": (
        (*(f"manylinux_2_{glibc}_x86_64" for glibc in range(34, 16, -1)), "manylinux2014_x86_64"),
        {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    ),
    "macos": (
        ("macosx_14_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
        {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    ),
    "windows": (
        ("win_amd64",),
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
    ),
}
PATCH = "{}.9"  # some packages ask for a later patch release than .0
CHECKOUT = Path(__file__).resolve().parents[2]
LIST = "SHA256SUMS"
TEXTS = "m2f_helpers/classroom/texts/"
WANTED = ("jupyterlab", "numba")  # beside the project itself: where students work, and the fast kernel
SCRIPTS = ("install.sh", "install.bat")  # in `texts`


@dataclass(frozen=True)
class Wheel:
    """One file to fetch: its address, its name, its SHA-256 and its size in bytes."""

    url: str
    name: str
    sha256: str
    size: int


def build_kit(
    out: str | Path,
    pythons: Sequence[str],
    platforms: Sequence[str],
    wheel: str | Path | None = None,
    torch_from: str | None = None,
    pages: str | Path | None = None,
) -> dict[str, int]:
    """Gather wheels, notebooks, data and pages. A broken run goes on where it was; files that are there stay.

    Args:
        out: the folder; made if needed. One that holds anything but a kit is refused.
        pythons, platforms: out of `PYTHONS` and `PLATFORMS`.
        wheel: this project's wheel; None builds it from the checkout.
        torch_from: where pip looks for torch first, an index address or a folder. Without it, the Linux build is the
            usual one, with CUDA beside it on the list of sizes.
        pages: a folder with executed notebooks (`m2f run`), whose HTML pages are put in as well.

    Returns: `{file relative to out: size in bytes}`, as in the list of hashes.
    Raises: ValueError for an unknown platform or Python, or a folder that is no kit; OSError if a file cannot be had.
    """
    out = Path(out)
    check_targets(pythons, platforms)
    check_wheel(wheel)
    if out.exists() and any(out.iterdir()) and not (out / "wheels").is_dir():
        raise ValueError(f"{out} holds other things than a kit; give a new or empty folder")
    (out / "wheels").mkdir(parents=True, exist_ok=True)
    files.remove_orphans(out / "wheels")
    own = place_own_wheel(out / "wheels", wheel)
    without_answers(own)
    targets = product(pythons, platforms)
    wanted = {item.name: item for target in targets for item in resolve(own, *target, torch_from)}
    print(sizes(wanted.values(), out / "wheels"), flush=True)
    fetch(wanted.values(), out / "wheels")
    for stale in {path.name for path in (out / "wheels").iterdir()} - {own.name, *wanted}:
        (out / "wheels" / stale).unlink()
    add_lessons(out, pythons, pages)
    return write_list(out)


def check_targets(pythons: Iterable[str], platforms: Iterable[str]) -> None:
    """ValueError unless there is a Python and a platform, and all are known."""
    for name, given, known in (("Python", list(pythons), PYTHONS), ("platform", list(platforms), tuple(PLATFORMS))):
        wrong = [value for value in given if value not in known]
        if wrong or not given:
            raise ValueError(f"expected a {name} out of {', '.join(known)}, got {', '.join(wrong) or 'none'}")


def check_wheel(wheel: str | Path | None) -> None:
    """ValueError if the file is no wheel of this project, or there is neither a file nor a checkout to build from."""
    if wheel is None and not (CHECKOUT / "pyproject.toml").is_file():
        raise ValueError("the package was not installed from a checkout, so give its wheel: --wheel FILE")
    if wheel is not None and not (zipfile.is_zipfile(wheel) and Path(wheel).name.startswith("m2f_helpers-")):
        raise ValueError(f"{wheel} is not a wheel of this project; expected m2f_helpers-VERSION-py3-none-any.whl")


def place_own_wheel(folder: Path, wheel: str | Path | None) -> Path:
    """Put this project's wheel into the folder, built from the checkout unless one is given."""
    for old in folder.glob("m2f_helpers-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        if wheel is None:
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", temporary]
            run([*command, str(CHECKOUT)])
            wheel = next(Path(temporary).glob("m2f_helpers-*.whl"))
        place = folder / Path(wheel).name
        files.write(place, Path(wheel).read_bytes())
    return place


def without_answers(wheel: Path) -> None:
    """Take out of this project's wheel what students are to find themselves: solutions and the teacher's texts."""
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.startswith(TEXTS)}
    for name in [name for name in members if name.endswith(".ipynb")]:
        notebook = nbformat.reads(members[name].decode(), as_version=4)
        members[name] = nbformat.writes(without_solutions(notebook)).encode()
    record = next(name for name in members if name.endswith(".dist-info/RECORD"))
    rows = [_record_row(member, content) for member, content in members.items() if member != record]
    members[record] = "".join([*rows, f"{record},,\n"]).encode()
    with files.replacing(wheel) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _record_row(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def resolve(own: Path, python: str, platform: str, torch_from: str | None = None) -> list[Wheel]:
    """All wheels that the project needs on a target, at the tested versions; `torch_from` as for `build_kit`."""
    environment = target_environment(python, platform)
    pins = target_pins(environment)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        stub = write_stub(work, "torch", pins["torch"])
        asked = [f"m2f-helpers @ {own.resolve().as_uri()}", *WANTED]
        index = ["--find-links" if Path(torch_from).is_dir() else "--index-url", torch_from] if torch_from else []
        found = report(work, ["--no-deps", *index, f"torch=={pins['torch']}"], python, platform, pins)
        while asked:
            asked = ["--find-links", str(work / "stub"), *asked]
            found = report(work, asked, python, platform, pins | {"torch": stub}) | found
            asked = sorted(needed_on_target(found, environment) - set(found))
    stay = needed_on_target(found, environment) - {"m2f-helpers"}
    return [as_wheel(entry) for name, entry in sorted(found.items()) if name in stay]


def target_environment(python: str, platform: str) -> dict[str, str]:
    """The values of environment markers on the target."""
    versions = {"python_version": python, "python_full_version": PATCH.format(python)}
    return default_environment() | PLATFORMS[platform][1] | versions


def target_pins(environment: dict[str, str]) -> dict[str, str]:
    """`{name: version}` of the tested set, as it reads on the target."""
    lines = resource("constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    kept = [entry for entry in entries if entry.marker is None or entry.marker.evaluate(environment)]
    return {canonicalize_name(entry.name): next(iter(entry.specifier)).version for entry in kept}


def report(work: Path, asked: Sequence[str], python: str, platform: str, pins: dict[str, str]) -> dict[str, dict]:
    """What pip would install for the target, by name; `asked` may hold options. Only metadata is downloaded."""
    (work / "pins.txt").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--python-version", PATCH.format(python), "--target", str(work / "target")]
    command += [word for tag in PLATFORMS[platform][0] for word in ("--platform", tag)]
    command += ["--constraint", str(work / "pins.txt"), "--report", str(work / "report.json")]
    run([*command, *asked])
    entries = json.loads((work / "report.json").read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(entry["metadata"]["name"]): entry for entry in entries}


def requires(entry: dict[str, Any], environment: dict[str, str], extras: set[str]) -> Iterator[Requirement]:
    """What a wheel requires on the target."""
    for line in entry["metadata"].get("requires_dist", []):
        requirement = Requirement(line)
        options = [environment | {"extra": extra} for extra in ("", *sorted(extras))]
        if requirement.marker is None or any(requirement.marker.evaluate(option) for option in options):
            yield requirement


def needed_on_target(found: dict[str, dict[str, Any]], environment: dict[str, str]) -> set[str]:
    """Names that the wanted packages lead to on the target; what only this machine needs is not among them."""
    seen: dict[str, set[str]] = {}
    queue = [(canonicalize_name(name), frozenset[str]()) for name in ("m2f-helpers", *WANTED)]
    while queue:
        name, extras = queue.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen[name] = seen.get(name, set()) | extras
        if name in found:
            for requirement in requires(found[name], environment, seen[name]):
                queue.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return set(seen)


def write_stub(work: Path, name: str, version: str) -> str:
    """A wheel with a name, a version and nothing in it; the version with a suffix, so that pip prefers no other."""
    version += "+stub"
    (work / "stub").mkdir()
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: m2f\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(work / "stub" / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in texts.items():
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)
    return version


def as_wheel(entry: dict[str, Any]) -> Wheel:
    """The file behind an entry of pip's report, with its size as the server or the disk tells it."""
    info = entry["download_info"]
    url = info["url"]
    sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
    request = url if url.startswith("file:") else urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=60) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
    return Wheel(url, urllib.request.unquote(url.rsplit("/", 1)[-1].split("#")[0]), sha256, size)


def sizes(wheels: Iterable[Wheel], folder: Path) -> str:
    """What is going to be fetched, and how much of it is there already: one line, and the five largest files."""
    wheels = sorted(wheels, key=lambda item: -item.size)
    rest = [item for item in wheels if not (folder / item.name).is_file()]
    total, open_ = sum(item.size for item in wheels), sum(item.size for item in rest)
    lines = [f"{len(wheels)} wheels, {total / 1e6:,.0f} MB; to fetch: {len(rest)}, {open_ / 1e6:,.0f} MB"]
    return "\n".join(lines + [f"  {item.size / 1e6:8,.1f} MB  {item.name}" for item in wheels[:5]])


def fetch(wheels: Iterable[Wheel], folder: Path) -> None:
    """Download what is missing, each file whole and with its hash checked, or not at all."""
    pooch.get_logger().setLevel("WARNING")  # the bar says enough
    for item in tqdm(list(wheels), desc="wheels", unit="file"):
        path = folder / item.name
        if path.is_file() and item.sha256 and pooch.file_hash(str(path)) == item.sha256:
            continue
        downloader = _copy if item.url.startswith("file:") else pooch.HTTPDownloader(timeout=180)
        known = f"sha256:{item.sha256}" if item.sha256 else None
        pooch.retrieve(item.url, known, item.name, folder, downloader=downloader)


def _copy(url: str, output_file: str, pooch: object) -> None:
    """A downloader for pooch that takes a file from this machine."""
    shutil.copyfile(urllib.request.url2pathname(url.removeprefix("file://")), output_file)


def add_lessons(out: Path, pythons: Sequence[str], pages: str | Path | None) -> None:
    """Students' notebooks, drawn data, scripts that install and, if there are any, the pages of an executed run."""
    shutil.copytree(resource("notebooks"), out / "notebooks", dirs_exist_ok=True)
    for name, path in list_notebooks().items():
        nbformat.write(student(nbformat.read(path, as_version=4), name), out / "notebooks" / path.name)
    for domain in ("day", "dusk"):
        make_scenes(out / "data" / domain, 48, 16, domain)
    for page in sorted(Path(pages).glob("*.html")) if pages else []:
        (out / "pages").mkdir(exist_ok=True)
        shutil.copy(page, out / "pages")
    words = {"pythons": " or ".join(pythons), "versions": " ".join(pythons)}
    words["candidates"] = " ".join(f"python{version}" for version in pythons)
    for name in SCRIPTS:
        lines = resource(f"classroom/texts/{name}").read_text(encoding="utf-8").format(**words)
        files.write(out / name, lines.replace("\n", "\r\n") if name.endswith(".bat") else lines)
        (out / name).chmod(0o755)


def write_list(out: Path) -> dict[str, int]:
    """Write the list of hashes, in the form that `sha256sum --check` reads; sizes by file."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LIST]
    names = {path.relative_to(out).as_posix(): path for path in paths if "venv" not in path.parts}
    files.write(out / LIST, "".join(f"{pooch.file_hash(str(path))}  {name}\n" for name, path in names.items()))
    return {name: path.stat().st_size for name, path in names.items()}


def run(command: list[str]) -> None:
    """Run pip; OSError with its first line of error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or [done.stderr[-300:]]
        reason = errors[0].removeprefix("ERROR: ").strip()
        raise OSError(f"pip could not do its part ({reason}); is there a network?")
