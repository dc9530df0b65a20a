"""Faults that `m2f train` meets: weights that are none, folders that do not fit, settings that cannot work."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from m2f_helpers import config
from m2f_helpers.checkpoints import clean, demo_weights
from tests.faults.table import Fault, data, flat, pair, write, write_image

TRAIN = "train --data data --out out --crop 64 64 --batch-size 2 --iterations 2 --device cpu --weights "


# --- Weights ---------------------------------------------------------------------------------------------------------


def weights(content: bytes | Callable[[], bytes], name: str = "w.pth") -> Callable[[Path], object]:
    """The data, and a file in place of a checkpoint."""

    def build(folder: Path) -> None:
        data(folder)
        write(folder / name, content() if callable(content) else content)

    return build


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def checkpoint() -> bytes:
    return saved({"state_dict": {"a": torch.arange(5000.0), "b": torch.ones(3)}})


def one_bit_wrong() -> bytes:
    content = bytearray(checkpoint())
    content[content.index(torch.arange(900.0, 901.0).numpy().tobytes())] ^= 1
    return bytes(content)


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def quantised() -> bytes:
    """The demo's own weights as whole numbers, which torch would turn back without a word."""
    state = torch.load(demo_weights(), weights_only=True)["state_dict"]
    return saved({"state_dict": {name: tensor.to(torch.int8) for name, tensor in state.items()}})


def yolo() -> bytes:
    """A file of Ultralytics holds a whole model, which names their class."""
    module = types.ModuleType("ultralytics.nn.tasks")
    module.DetectionModel = type("DetectionModel", (), {"__module__": module.__name__})
    with mock.patch.dict(sys.modules, {"ultralytics": module, "ultralytics.nn": module, module.__name__: module}):
        return saved({"model": module.DetectionModel()})


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("PWNED"),)


NOT_WEIGHTS = {
    "a web page": (b"<!DOCTYPE html><html>log in</html>", r"w.pth is a web page \(or XML\), not weights: a login"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "an empty file": (b"", r"w.pth is empty \(0 bytes\): copy or download it again"),
    "a checkpoint cut off": (lambda: checkpoint()[:-400], r"w.pth is cut off or damaged, it has \d+ bytes"),
    "a checkpoint with one wrong bit": (
        one_bit_wrong,
        r"w.pth is damaged in the middle \(the checksum of .* is wrong\)",
    ),
    "TorchScript": (
        zip_of("m/code/__torch__.py", "m/data.pkl"),
        "is a TorchScript program, not weights.*torch.jit.load",
    ),
    "another zip": (zip_of("a.txt", "b.txt"), r"is a zip archive without weights \(it holds a.txt, b.txt\): unpack it"),
    "a model of Ultralytics": (yolo, "is a YOLO model of Ultralytics .*not a Mask2Former's weights"),
    "a JPEG": (b"\xff\xd8\xff\xe0", "is a JPEG image, not weights"),
    "a file of Keras": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them"),
    "a gzip archive": (b"\x1f\x8b\x08\x00", "is a gzip archive: unpack it"),
    "text": (b"my weights\n", "w.pth: (not a readable checkpoint|refused)"),
    "code in a pickle": (
        lambda: pickle.dumps({"state_dict": Evil()}, 2),
        "refused, the file wants more than to store weights",
    ),
    "a checkpoint without weights": (lambda: saved({"epoch": 3}), "no weights in this file; its entries are epoch"),
    "quantised weights": (quantised, r"holds torch.int8, expected floating-point numbers: .*take the original"),
    "another model's weights": (checkpoint, "none of the file's tensors fits the model"),
}
ROWS = [
    Fault(f"--weights: {name}", weights(content), TRAIN + "w.pth", sentence)
    for name, (content, sentence) in NOT_WEIGHTS.items()
]
ROWS += [
    Fault(
        "--weights: damaged safetensors",
        weights(b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1', "w.safetensors"),
        TRAIN + "w.safetensors",
        "w.safetensors is a damaged safetensors file",
    ),
    Fault("--weights: no such file", data, TRAIN + "gone.pth", "gone.pth: no such checkpoint file"),
    Fault("--weights: a folder", data, TRAIN + "data", "data: no such checkpoint file"),
]


# --- Settings --------------------------------------------------------------------------------------------------------

RANDOM = TRAIN + "random "
ROWS += [
    Fault("--iterations below 1", data, RANDOM + "--iterations -3", "expected at least one iteration, got -3"),
    Fault("--crop of 16 pixels", data, RANDOM + "--crop 16 16", "whole numbers of at least 32 pixels, got .16, 16."),
    Fault("--batch-size 0", data, RANDOM + "--batch-size 0", "Invalid value for '--batch-size'", status=2),
    Fault(
        "a batch of one small crop", data, RANDOM + "--batch-size 1 --crop 32 32", "leaves batch norm a single value"
    ),
    Fault("--device cpu:7", data, RANDOM + "--device cpu:7", "expected a device out of .*cpu, got 'cpu:7'"),
    Fault("--device cuda:99", data, RANDOM + "--device cuda:99", "expected a device out of .*cpu, got 'cuda:99'"),
    Fault("--profile huge", data, RANDOM + "--profile huge", "expected a profile out of demo, ade20k, got 'huge'"),
    Fault("--classes with one name", data, RANDOM + "--classes sky", "expected 2 to 254 classes, got 1"),
    Fault("--classes with a name twice", data, RANDOM + "--classes a,b,a", "class names must differ, got 'a'"),
    Fault("too few --classes", data, RANDOM + "--classes a,b --zz", "No such option", status=2),
]


# --- Data ------------------------------------------------------------------------------------------------------------


def with_label(array: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: write_image(data(folder) / "annotations/training/p2.png", array)


def with_classes(content: dict | str) -> Callable[[Path], object]:
    return lambda folder: write(flat(folder) / "classes.json", content)


def labels(value: int) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        for path in (data(folder) / "annotations/training").iterdir():
            write_image(path, np.full((64, 80), value, np.uint8))

    return build


def no_validation(folder: Path) -> None:
    pair(folder / "data", "images/training/p.jpg", "annotations/training/p.png")


def damaged_image(folder: Path) -> None:
    write(data(folder) / "images/training/p2.jpg", b"no image")


TWO = {"classes": [{"name": "a", "on_disk": [1]}, {"name": "b", "on_disk": [2]}]}
ROWS += [
    Fault("no such data", lambda f: None, RANDOM, "data: does not exist; expected the folders images"),
    Fault(
        "data is an empty folder",
        lambda f: (f / "data").mkdir(),
        RANDOM,
        "data: expected the folders images .*found nothing",
    ),
    Fault("data one level too high", lambda f: data(f, "data/inner"), RANDOM, "is one level too high: pass data/inner"),
    Fault("no validation pairs", no_validation, RANDOM, "1 training and 0 validation pairs"),
    Fault(
        "a label map of colours",
        with_label(np.full((64, 80, 3), (90, 20, 7), np.uint8)),
        RANDOM,
        "p2.png: holds colours",
    ),
    Fault(
        "a label map of another size",
        with_label(np.ones((32, 40), np.uint8)),
        RANDOM,
        "p2.png: is 40 x 32 .*its image is 80 x 64",
    ),
    Fault("ids that no class has", with_label(np.full((64, 80), 200, np.uint8)), RANDOM, "p2.png: holds ids? 200"),
    Fault("all labels ignored", labels(0), RANDOM, "in all 2 training label maps every pixel is ignored"),
    Fault("an image that is none", damaged_image, RANDOM, "p2.jpg: is not an image that can be read"),
    Fault("classes.json is no JSON", with_classes("{"), RANDOM, "classes.json: expected JSON"),
    Fault(
        "classes.json with one class",
        with_classes({"classes": [{"name": "a"}]}),
        RANDOM,
        "classes.json: expected 2 to 254",
    ),
    Fault(
        "classes.json names too few ids",
        with_classes({"classes": [{"name": "a"}, {"name": "b"}]}),
        RANDOM,
        "p1.png: holds id",
    ),
    Fault(
        "more --classes than classes.json",
        with_classes(TWO),
        RANDOM + "--classes a,b,c",
        "has 2 classes, 3 names were given",
    ),
]


# --- The output folder, and going on ---------------------------------------------------------------------------------


@cache
def finished() -> bytes:
    """The checkpoint of a run of 3 steps on `data`, crops of 64 x 64 in batches of 2; its data lies elsewhere."""
    edited = config.set_schedule(config.set_crop(config.profile_edits("demo"), [64, 64]), 3)
    cfg = config.set_batch(edited, 2).cfg
    content = {
        "meta": {"iter": 3, "cfg": cfg.pretty_text},
        "state_dict": config.build_model(cfg).state_dict(),
        "message_hub": {},
    }
    clean(content)
    return saved(content)


def run_before(change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        data(folder)
        write(folder / "out/iter_3.pth", change(finished()))

    return build


ROWS += [
    Fault("--out inside --data", data, RANDOM + "--out data/out", "must not contain each other"),
    Fault("--data inside --out", data, RANDOM + "--out .", "must not contain each other"),
    Fault("--out is a file", lambda f: write(data(f).parent / "out", "x"), RANDOM, "out is a file: choose another"),
    Fault("nothing to resume", data, RANDOM + "--resume", "out: no checkpoint iter_.*; start without resume"),
    Fault(
        "resume: only a cut checkpoint",
        run_before(lambda b: b[:-900]),
        RANDOM + "--resume",
        "no checkpoint can be read; .*is cut off",
    ),
    Fault(
        "resume: an empty checkpoint",
        run_before(lambda b: b""),
        RANDOM + "--resume",
        "no checkpoint can be read; .*is empty",
    ),
    Fault(
        "resume with fewer steps", run_before(), RANDOM + "--resume", "the run has done 3 steps already, more than 2"
    ),
    Fault(
        "resume with another crop",
        run_before(),
        RANDOM + "--resume --iterations 3 --crop 96 96",
        "not resumed, .*crop 64 x 64 -> 96 x 96",
    ),
    Fault(
        "resume with another batch",
        run_before(),
        RANDOM + "--resume --iterations 3 --batch-size 3",
        "not resumed, .*batch size 2 -> 3",
    ),
    Fault(
        "resume with other data", run_before(), RANDOM + "--resume --iterations 3", "not resumed, .*data .* -> .*data"
    ),
    Fault(
        "resume with other classes",
        run_before(),
        RANDOM + "--resume --iterations 3 --classes sky,sea",
        "has another model .*start anew",
    ),
    Fault(
        "overwrite the run that gives the start weights",
        run_before(),
        TRAIN + "out/iter_3.pth --overwrite",
        "the start weights lie in .*copy them elsewhere",
    ),
    Fault(
        "overwrite with bad weights",
        lambda f: (run_before()(f), write(f / "w.pth", b"<html>")),
        TRAIN + "w.pth --overwrite",
        "is a web page",
    ),
]


def meta_is_text(folder: Path) -> None:
    data(folder)
    write(folder / "out/iter_3.pth", saved({"state_dict": {"a": torch.ones(3)}, "meta": "mine"}))


ROWS += [
    Fault(
        "--weights: numbers in place of names",
        weights(lambda: saved({"state_dict": {"a": torch.ones(3), 5: torch.ones(3)}})),
        TRAIN + "w.pth",
        "expected names of tensors under state_dict, got 5",
    ),
    Fault("resume: meta is a text", meta_is_text, RANDOM + "--resume", "holds weights and no run to go on with"),
]
