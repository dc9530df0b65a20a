"""Weights: where they come from, and reading them without running what is inside. Taught in notebook 04.

A `.pth` file is a pickle, which can name any function to be called while it is read. Everything here reads with
`weights_only=True`, which refuses all but tensors and plain values. Checkpoints that MMEngine writes hold a little more
(the loss history): a short list says what may be in a file of others, and a hook keeps it out of our own.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import mmseg
import numpy as np
import torch
from mmengine.fileio import load as load_file
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from m2f_helpers import files
from m2f_helpers.quiet import one_line
from m2f_helpers.resources import resource

LAST = "last_checkpoint"  # MMEngine's name for the file that says where a run stands


def newest_checkpoint(work_dir: str | Path) -> Path:
    """The checkpoint that a folder stands at. Only whole files have such a name, whatever happened to the run.

    Raises: FileNotFoundError if there is none.
    """
    found = all_checkpoints(work_dir)
    if not found:
        raise FileNotFoundError(f"{work_dir}: no checkpoint iter_*.pth to go on from; start without resume")
    return found[0]


def all_checkpoints(work_dir: str | Path) -> list[Path]:
    """The checkpoints in a folder: first the one it stands at (`last_checkpoint`), then those with the most steps."""
    folder, pointer = Path(work_dir), Path(work_dir) / LAST
    steps = {path: int(path.stem[5:]) for path in folder.glob("iter_*.pth") if path.stem[5:].isdecimal()}
    text = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    last = Path(text.replace("\\", "/")).name  # the folder may have been moved since
    return sorted(steps, key=lambda path: (path.name == last, steps[path]), reverse=True)


CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"
METAFILE = CONFIGS / "mask2former" / "metafile.yaml"
ADDRESS_VARIABLE = "M2F_WEIGHTS"
DEMO = "demo_day"


@dataclass(frozen=True)
class Published:
    """One entry of mmseg's metafile: config and weights as OpenMMLab published them.

    `config` is the installed config file, `url` and `file_name` belong to the weights, `sha256` is the start of their
    hash (it stands in the file name), `miou` their published mIoU in percent.
    """

    name: str
    config: Path
    url: str
    file_name: str
    sha256: str
    miou: float


@dataclass(frozen=True)
class LoadReport:
    """What `load_state` did: names of tensors loaded, not in the file, not in the model, of another shape."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def text(self) -> str:
        """One sentence for people."""
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        parts = [f"{name} {_shape(old)} -> {_shape(new)}" for name, (old, new) in self.reshaped.items()]
        if parts and all(".cls_embed." in name for name in self.reshaped):
            parts[-1] += " (the class layer starts new)"
        for names, where in ((self.missing, "not in the file"), (self.unexpected, "only in the file")):
            if names:
                few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {where} ({few})")
        rest = f"; not loaded: {'; '.join(parts)}" if parts else ""
        return f"loaded {len(self.loaded)} of {total} tensors{rest}"


_AGAIN = "copy or download it again"
_NOT_WEIGHTS = {  # how files begin that people take for weights
    b"<": f"is a web page (or XML), not weights: a login, a licence or an error page came instead; {_AGAIN}",
    b"version https://git-lfs": "is a Git LFS pointer, which only names the file: `git lfs pull` in its repository",
    b"\x89png": "is a PNG image, not weights",
    b"\xff\xd8\xff": "is a JPEG image, not weights",
    b"\x89hdf": "is an HDF5 file, as Keras writes them, not weights of PyTorch",
    b"gguf": "is a GGUF file, a language model, not a Mask2Former's weights",
    b"%pdf": "is a PDF, not weights",
    b"\x1f\x8b": "is a gzip archive: unpack it, and give the file in it",
}


def published(name: str) -> Published:
    """Look a config up in mmseg's own metafile, the file that `mim download` reads too.

    Raises: ValueError if the metafile has no such name.
    """
    models = load_file(METAFILE)["Models"]
    for entry in models:
        if entry["Name"] == name:
            url, config = entry["Weights"], CONFIGS.parent / entry["Config"]
            file_name, miou = url.rsplit("/", 1)[1], entry["Results"]["Metrics"]["mIoU"]
            return Published(name, config, url, file_name, _hash_in(file_name), miou)
    known = ", ".join(sorted(entry["Name"] for entry in models))
    raise ValueError(f"mmseg's metafile has no {name!r}; it has {known}")


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """The published weights, downloaded once, verified by the hash in their file name, and kept.

    The environment variable `M2F_WEIGHTS` may name a local file or another address (a mirror) to take them from.

    Args:
        name: config name in mmseg's metafile.
        folder: where to keep the file; None means the user's cache folder.

    Raises: ConnectionError with what to do if there is no network; ValueError if the hash does not fit.
    """
    import pooch

    entry = published(name)
    source = os.environ.get(ADDRESS_VARIABLE, entry.url)
    if Path(source).is_file():
        return _verified(Path(source), entry)
    if "://" not in source:
        raise FileNotFoundError(f"{ADDRESS_VARIABLE}={source}: no such file; give a file, an address, or unset it")
    folder = Path(folder) if folder else Path(pooch.os_cache("m2f"))
    kept = folder / entry.file_name
    if kept.is_file() and pooch.file_hash(str(kept)).startswith(entry.sha256):
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{entry.file_name}.part"
    try:
        pooch.HTTPDownloader(progressbar=True, timeout=30)(source, str(part), None)
    except Exception as error:
        part.unlink(missing_ok=True)
        raise ConnectionError(
            f"could not fetch {source} ({type(error).__name__}). Without a network: copy {entry.file_name} here from "
            f"another machine and set {ADDRESS_VARIABLE} to its path, or use PROFILE = 'demo', whose "
            "weights are in the package"
        ) from None
    try:
        _verified(part, entry)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, kept)
    return kept


def demo_weights() -> Path:
    """The weights of the demo profile, which travel with the package: trained on day scenes by `m2f pretrain`."""
    return resource(f"weights/{DEMO}.pth")


def start_weights(choice: str | Path, name: str) -> Path | None:
    """The file that a fine-tune starts from: `choice`, None if that is `"random"`, or `profile_weights` if empty."""
    if choice == "random":
        return None
    return Path(choice) if choice else profile_weights(name)


def profile_weights(name: str) -> Path:
    """The file that a profile's `weights` names: the shipped one, or a published one (fetched when it is not there)."""
    return demo_weights() if name == DEMO else fetch(name)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `torch.save`, MMEngine or safetensors wrote; nothing in it is executed.

    Returns: its content, with the weights under `"state_dict"` and information under `"meta"`.
    Raises: FileNotFoundError; ValueError if the file is damaged, holds no weights, or wants to do more than store
        values.
    """
    path = Path(path)
    if not path.is_file():
        hint = "; it is a folder, give one of its files" if path.is_dir() else ""
        raise FileNotFoundError(f"{path}: no such checkpoint file{hint}")
    with path.open("rb") as file:
        start = file.read(512)
    if what := _what_it_is(path, start):
        raise ValueError(f"{path} {what}")
    # safetensors: the length of the header, 8 bytes, then the header, which is JSON
    header = start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 27
    read = _read_safetensors if path.suffix == ".safetensors" or header else _read_pickle
    return _with_state_dict(read(path), path)


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        patterns = (r"GLOBAL ([\w.]+)", r"refused ([^\n]+)", r"(Unsupported (?:global|class|operand)[^\n]*)")
        found = next((match for pattern in patterns if (match := re.search(pattern, text))), None)
        what = found[1] if found else text.split("\n")[0][:120]
        if what.startswith(("ultralytics.", "models.yolo")):
            raise ValueError(f"{path} is a YOLO model of Ultralytics ({what}), not a Mask2Former's weights") from None
        raise ValueError(
            f"{path}: refused, the file wants more than to store weights ({what}); get it from a source you trust"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable checkpoint, perhaps cut off while it was copied ({str(error)[:80]})"
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is a damaged safetensors file ({one_line(error)}): {_AGAIN}") from None


def _what_it_is(path: Path, start: bytes) -> str:
    """What a file is instead of a checkpoint, and what to do; empty if it may be one."""
    if not start:
        return f"is empty (0 bytes): {_AGAIN}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, what in _NOT_WEIGHTS.items():
        if text.startswith(signature.lower()):
            return what
    return _what_zip_it_is(path) if start.startswith(b"PK") else ""


def _what_zip_it_is(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
            if any(len(name.parts) > 1 and name.parts[1] == "code" for name in names):
                return "is a TorchScript program, not weights: load it with torch.jit.load, save its state_dict()"
            if not any(name.name == "data.pkl" for name in names):
                return f"is a zip archive without weights (it holds {', '.join(map(str, names[:3]))}): unpack it"
            damaged = archive.testzip()  # every part has a checksum, which torch.load does not look at
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        return f"is cut off or damaged, it has {path.stat().st_size} bytes ({one_line(error)}): {_AGAIN}"
    return f"is damaged in the middle (the checksum of {damaged} is wrong): {_AGAIN}" if damaged else ""


def load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> LoadReport:
    """Copy those tensors into the model that have the same name and shape; leave the others as they are.

    Raises: ValueError if not a single tensor fits, or one holds whole numbers where the model has none.
    """
    own = model.state_dict()
    state = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    real = {name for name in own if own[name].is_floating_point()}
    if whole := next((n for n in state if n in real and not state[n].is_floating_point()), ""):
        said = f"{whole} holds {state[whole].dtype}, expected floating-point numbers"
        raise ValueError(f"{said}: these weights were made smaller (quantised), take the original ones")
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ValueError("none of the file's tensors fits the model: these are weights of another model")
    model.load_state_dict(fitting, strict=False)
    others = [name for name in own if name in state and name not in fitting]
    reshaped = {name: (tuple(state[name].shape), tuple(own[name].shape)) for name in others}
    missing, unexpected = (tuple(n for n in a if n not in b) for a, b in ((own, state), (state, own)))
    return LoadReport(tuple(fitting), missing, unexpected, reshaped)


def clean(checkpoint: dict[str, Any]) -> None:
    """Take out of an MMEngine checkpoint, in place, what a plain `torch.load` would refuse. Weights stay untouched.

    The smoothed loss history goes (a resumed run starts a new one); numpy numbers become Python numbers.
    """
    hub = checkpoint.get("message_hub", {})
    info, keys = hub.get("runtime_info", {}), hub.get("resumed_keys", {})
    hub["log_scalars"] = {}
    hub["resumed_keys"] = {key: value for key, value in keys.items() if key in info}
    hub["runtime_info"] = {key: value.item() if isinstance(value, np.generic) else value for key, value in info.items()}


class CleanCheckpointHook(Hook):
    """Cleans every checkpoint before it is written, so that anybody's `torch.load` and `init_model` read it."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Called by MMEngine with the content that is about to be written."""
        clean(checkpoint)


def save_atomically(content: Any, path: str | Path) -> Path:
    """`torch.save` under a temporary name in the same folder, then a rename: the file is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        torch.save(content, temporary)
    return path


def _refusing_getattr(owner: Any, name: str) -> Callable:
    """Stands for `getattr` in MMEngine's files: HistoryBuffer pickles four of its own methods that way, and only it."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"refused getattr({owner!r}, {name!r})")


def _allowed() -> list:
    """What a checkpoint of others may hold beyond tensors; with names of numpy 1 and 2."""
    core = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    allowed = [HistoryBuffer, np.ndarray, np.dtype]
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(core._reconstruct, f"{package}._reconstruct"), (core.scalar, f"{package}.scalar")]
    allowed += [(_refusing_getattr, name) for name in ("builtins.getattr", "__builtin__.getattr", "getattr")]
    return allowed + [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "bool")]


def _with_state_dict(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a checkpoint (a dict), got {type(content).__name__}")
    state = content.get("state_dict", content.get("model", content))
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: no weights in this file; its entries are {', '.join(map(str, list(content)[:5]))}")
    if other := next((name for name in state if not isinstance(name, str)), None):
        raise ValueError(f"{path}: expected names of tensors under state_dict, got {other!r}: not a model's weights")
    if state is content:
        content = {}
    meta = content.get("meta")
    return {**content, "meta": meta if isinstance(meta, dict) else {}, "state_dict": state}


def _verified(path: Path, entry: Published) -> Path:
    import pooch

    found = pooch.file_hash(str(path))
    if not found.startswith(entry.sha256):
        raise ValueError(
            f"{path}: its SHA-256 starts with {found[:8]}, the file name promises {entry.sha256}: "
            "damaged or another file; delete it and fetch again"
        )
    return path


def _hash_in(file_name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.pth$", file_name)
    if found is None:
        raise ValueError(f"{file_name}: expected a name that ends in -<hash>.pth")
    return found.group(1)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
