"""Faults of a `--config`: code, junk, another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.table import Fault, write, write_image

MODEL = "model = dict(type='EncoderDecoder', decode_head=dict(num_classes=3))\n"
PREDICT = "predict a.jpg --out out --device cpu --config "


def config_file(text: str, name: str = "c.py") -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        write_image(folder / "a.jpg", np.full((64, 80, 3), 90, np.uint8))
        write(folder / name, text)

    return build


CODE = {
    "imports and calls": "import os\nos.system('touch PWNED')\n",
    "opens a file": "open('PWNED', 'w')\n",
    "climbs to a class": "x = ().__class__.__base__\n",
    "hands eval to sorted": "x = sorted([\"open('PWNED', 'w')\"], key=eval)\n",
    "names a function as a type": "x = dict(type='subprocess.Popen', args=['touch', 'PWNED'])\n",
    "imports a module by name": "custom_imports = dict(imports=['antigravity'])\n",
}
ROWS = [
    Fault(f"a config that {name}", config_file(MODEL + text), PREDICT + "c.py", "c.py: refused, .*--trust-config")
    for name, text in CODE.items()
]
ROWS += [
    Fault(
        "a config that is a letter",
        config_file("dear reader\n"),
        PREDICT + "c.py",
        "c.py is not a config that MMEngine can read",
    ),
    Fault(
        "a config that is a web page",
        config_file("<html></html>\n"),
        PREDICT + "c.py",
        "c.py is not a config that MMEngine can read",
    ),
    Fault(
        "an unknown name in a config",
        config_file("model = x\n"),
        PREDICT + "c.py",
        "c.py is not a config that MMEngine can read: name 'x'",
    ),
    Fault("an empty config", config_file(""), PREDICT + "c.py", "c.py is not the config of a segmentation model"),
    Fault(
        "a config of a detector",
        config_file("model = dict(type='RPN')\n"),
        PREDICT + "c.py",
        "it has no model.decode_head",
    ),
    Fault(
        "YAML that calls a function",
        config_file("model: !!python/object/apply:os.getcwd []\n", "c.yaml"),
        PREDICT + "c.yaml",
        "c.yaml is not a config",
    ),
    Fault(
        "a config of another kind of file",
        config_file(MODEL, "c.txt"),
        PREDICT + "c.txt",
        "expected a name that ends in .py or .json",
    ),
    Fault(
        "a config without a backbone",
        config_file(MODEL),
        PREDICT + "c.py",
        "the config describes no model that can be built: .*'backbone'",
    ),
    Fault("no such config", config_file(""), PREDICT + "gone.py", "the config gone.py does not exist"),
    Fault(
        "weights that are not in the metafile",
        lambda f: None,
        "fetch mask2former_r9",
        "mmseg's metafile has no 'mask2former_r9'",
    ),
]
