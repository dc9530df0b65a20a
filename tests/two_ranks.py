"""Run by torchrun in test_training.py: `m2f train` on two processes, each of which writes its weights at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from m2f_helpers.quiet import quiet

quiet()

import torch  # noqa: E402

from m2f_helpers.cli import main  # noqa: E402
from m2f_helpers.finetune.runner import CarefulRunner  # noqa: E402

torch.set_num_threads(1)
out, train = Path(sys.argv[1]), CarefulRunner.train


def and_write(runner):
    train(runner)
    state = {name: value.detach() for name, value in runner.model.module.named_parameters()}
    torch.save(state, out / f"rank{os.environ['RANK']}.pt")


CarefulRunner.train = and_write
main(sys.argv[2:])
