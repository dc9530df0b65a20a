"""What the optimiser section of the config does to which weights, shown on one step. Taught in notebook 04."""

from __future__ import annotations

import copy
import math
from typing import Any

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from m2f_helpers.config import Edited, as_config
from m2f_helpers.finetune.batches import Batch

GROUPS = ("backbone weights", "backbone norms", "head weights", "head norms", "embeddings")


def parameter_groups(source: Config | Edited, model: Any) -> pd.DataFrame:
    """Learning rate and weight decay of each kind of parameter, as MMEngine's constructor hands them out.

    Returns: one row per kind in `GROUPS`: `values` (trainable numbers), `rate` (at the start), `decay`.
    """
    rows = {name: {"values": 0, "rate": 0.0, "decay": 0.0} for name in GROUPS}
    kinds = _kinds(model)
    for group in _optimizer(source, model).optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in kinds and parameter.requires_grad:
                row = rows[kinds[id(parameter)]]
                row["values"] += parameter.numel()
                row["rate"], row["decay"] = group["lr"], group["weight_decay"]
    return pd.DataFrame(rows).T.astype({"values": int})


def left_by_decay(rate: float, decay: float, steps: int, power: float = 0.9) -> float:
    """What AdamW leaves of a weight that no gradient touches, 0..1, over a polynomial schedule from `rate` to 0.

    Each step multiplies the weight by `1 - rate * decay`, whatever the gradient is.
    """
    return math.prod(1 - rate * (1 - step / steps) ** power * decay for step in range(steps))


def first_step(source: Config | Edited, model: Any, batch: Batch) -> tuple[pd.Series, float]:
    """Take one step of the config's `optim_wrapper`, clipping included, on a copy of the model.

    Returns: the mean distance that a weight of each kind moved, without what decay alone does to it, and the norm of
        the whole gradient before clipping.
    """
    trained = copy.deepcopy(model).train()
    wrapper = _optimizer(source, trained)
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    torch.manual_seed(0)  # the points that the mask losses look at
    losses = trained.loss(batch.inputs, batch.samples)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    norm = float(torch.stack([p.grad.norm() for p in trained.parameters() if p.grad is not None]).norm())
    if wrapper.clip_grad_kwargs:
        torch.nn.utils.clip_grad_norm_(trained.parameters(), **wrapper.clip_grad_kwargs)
    shrunk = {id(p): 1 - g["lr"] * g["weight_decay"] for g in wrapper.optimizer.param_groups for p in g["params"]}
    wrapper.optimizer.step()
    kinds, moved = _kinds(trained), {name: [] for name in GROUPS}
    for name, value in trained.named_parameters():
        if id(value) in kinds and value.grad is not None:
            moved[kinds[id(value)]].append((value.detach() - before[name] * shrunk[id(value)]).abs().flatten())
    return pd.Series({kind: float(torch.cat(parts).mean()) for kind, parts in moved.items() if parts}), norm


def _optimizer(source: Config | Edited, model: Any) -> Any:
    return build_optim_wrapper(model, copy.deepcopy(as_config(source).optim_wrapper))


def _kinds(model: Any) -> dict[int, str]:
    """Which kind of parameter each tensor is, by its identity."""
    kinds = {}
    for path, module in model.named_modules():
        part = "backbone" if path.startswith("backbone") else "head"
        kind = f"{part} norms" if "Norm" in type(module).__name__ else f"{part} weights"
        kind = "embeddings" if isinstance(module, torch.nn.Embedding) else kind
        kinds |= {id(value): kind for value in module.parameters(recurse=False)}
    return kinds
