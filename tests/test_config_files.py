"""A config file is code: what assigns is read, what does more is refused, and junk gets one sentence."""

from __future__ import annotations

import json

import pytest

from m2f_helpers import config, config_files
from m2f_helpers.checkpoints import CONFIGS

MODEL = "model = dict(type='EncoderDecoder', decode_head=dict(num_classes=3))\n"

ATTACKS = {  # each would write the file PWNED when the config is read or its model built
    "import": "import os\nos.system('touch PWNED')\n",
    "call": "x = __import__('os').system('touch PWNED')\n",
    "open": "open('PWNED', 'w')\n",
    "attribute chain": "x = ().__class__.__base__.__subclasses__()\n",
    "function": "def f():\n    return 1\nx = f()\n",
    "lambda": "x = (lambda: 1)()\n",
    "a harmless name bound anew": "dict = eval\nx = dict('1')\n",
    "comprehension variable": "x = [len('1') for len in [eval]]\n",
    "callback": "x = sorted([\"open('PWNED', 'w')\"], key=eval)\n",
    "format string": 'x = f\'{open("PWNED", "w")}\'\n',
    "type that is a function": "hook = dict(type='subprocess.Popen', args=['touch', 'PWNED'])\n",
    "custom import": "custom_imports = dict(imports=['antigravity'])\n",
    "scope": "default_scope = 'antigravity'\n",
    "environment": "x = '{{$HOME:1}}'\n",
    "method": "x = '{0}'.format(1)\n",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_file_that_does_more_than_assign_is_refused_before_it_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(MODEL + ATTACKS[name])
    with pytest.raises(ValueError, match="evil.py: refused, .*--trust-config") as caught:
        config.as_config(tmp_path / "evil.py")
    assert "\n" not in str(caught.value) and not (tmp_path / "PWNED").exists()


def test_a_base_file_is_looked_at_too(tmp_path):
    (tmp_path / "base.py").write_text(ATTACKS["open"])
    (tmp_path / "child.py").write_text("_base_ = ['base.py']\n" + MODEL)
    with pytest.raises(ValueError, match="base.py: refused, line 1"):
        config.as_config(tmp_path / "child.py")


def test_trust_runs_it(tmp_path):
    (tmp_path / "own.py").write_text("import math\nx = math.pi\ndel math\n" + MODEL)
    assert round(config.as_config(tmp_path / "own.py", trust=True).x, 2) == 3.14


def test_every_config_of_mmseg_assigns_only():
    paths = sorted(CONFIGS.glob("*/*.py"))
    assert len(paths) > 600
    for path in paths:
        config_files.check_file(path)


def test_inheritance_and_arithmetic_pass(tmp_path):
    (tmp_path / "base.py").write_text(MODEL + "scales = [int(512 * x * 0.1) for x in range(5, 21)]\n")
    (tmp_path / "child.py").write_text("_base_ = './base.py'\nmodel = dict(decode_head=dict(num_classes=2 + 2))\n")
    cfg = config.as_config(tmp_path / "child.py")
    assert cfg.model.decode_head.num_classes == 4 and cfg.scales[-1] == 1024


JUNK = {
    "text.py": "this is a letter, not a config\n",
    "empty.py": "",
    "page.py": "<!DOCTYPE html><html></html>\n",
    "name.py": "model = unknown_name\n",
    "list.json": json.dumps([1, 2]),
    "broken.json": '{"model": ',
    "call.yaml": "model: !!python/object/apply:os.system ['true']\n",
    "other.py": "model = dict(type='FasterRCNN')\n",
    "config.txt": MODEL,
    "bytes.py": "\x00\x01",
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_is_one_sentence_with_the_file(tmp_path, name):
    (tmp_path / name).write_text(JUNK[name])
    with pytest.raises(ValueError, match=rf"{name} is not (a config that MMEngine can read|the config of)") as caught:
        config.as_config(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_missing_file_and_wrong_kind():
    with pytest.raises(FileNotFoundError, match="the config gone.py does not exist"):
        config.as_config("gone.py")
    with pytest.raises(ValueError, match="expected an mmengine Config or the path of one, got int"):
        config.as_config(3)
