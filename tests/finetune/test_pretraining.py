from __future__ import annotations

import hashlib
import json

import pytest
import torch
from click.testing import CliRunner

from m2f_helpers.cli import main
from m2f_helpers.finetune import pretraining


def test_recipe_and_shipped_weights_belong_together():
    """The numbers beside the weights are the defaults of the command that makes them."""
    from m2f_helpers.checkpoints import demo_weights

    facts = json.loads(demo_weights().with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["recipe"] == json.loads(json.dumps(vars(pretraining.Recipe())))


@pytest.mark.slow
def test_the_whole_way_on_a_tiny_scale(tmp_path, monkeypatch):
    recipe = pretraining.Recipe(scenes=4, val_scenes=1, iterations=1, crop=64, scales=(64,))
    monkeypatch.setattr(pretraining, "Recipe", lambda: recipe)
    out = tmp_path / "w.pth"
    words = ["pretrain", "--work", str(tmp_path / "work"), "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    facts = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and facts["recipe"]["scenes"] == 4
    content = torch.load(out, weights_only=True)
    kinds = {value.dtype for value in content["state_dict"].values()}
    assert kinds == {torch.float16, torch.int64} and out.stat().st_size < 5_000_000
