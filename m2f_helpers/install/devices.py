"""The one place where a device is chosen."""

from __future__ import annotations

import torch


def choose_device(device: str | None = None) -> str:
    """The device to train on: the given one if it is there, else cuda, mps or cpu, in this order.

    Raises: ValueError if the given one is not there.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if device is None:
        return there[0]
    if device.split(":")[0] not in there:
        raise ValueError(f"expected a device out of {', '.join(there)}, got {device!r}; leave it out to choose one")
    return device.split(":")[0]
