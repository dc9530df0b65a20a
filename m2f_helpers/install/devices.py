"""The one place where a device is chosen, and where memory that is free is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_CGROUPS = (  # limit and use of a container's memory, version 2 and version 1 of Linux' control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def devices() -> list[str]:
    """The devices that are here, fastest first, each by every name it goes by: `cuda`, `cuda:0`, `cuda:1`, `cpu`."""
    found = []
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(device: str | None = None) -> str:
    """The given device (`"cuda"`, `"cuda:1"`, ...) if it is here; for none the first of cuda, mps and cpu that is.

    Raises: ValueError naming the devices that are here.
    """
    here = devices()
    if device and str(device) not in here:
        raise ValueError(f"expected a device out of {', '.join(here)}, got {str(device)!r}; leave it out to choose one")
    return str(device) if device else here[0]


@contextmanager
def missing_operators_explained() -> Iterator[None]:
    """Turns torch's NotImplementedError for an operator that a device lacks into a ValueError with the way out."""
    try:
        yield
    except NotImplementedError as error:
        if "MPS" not in str(error):
            raise
        name = str(error).split("'")[1] if str(error).count("'") > 1 else "one that is needed"
        raise ValueError(
            f"torch has no operator {name} for Apple's GPU (mps): set the environment variable "
            "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts, and it runs on the CPU instead; or take --device cpu"
        ) from None


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be had on a device: what the system has free, or a container or `ulimit -v` leaves."""
    if device.startswith("cuda"):
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, free again
        return torch.cuda.mem_get_info(device)[0] + reserved
    return min([psutil.virtual_memory().available, *_container_leaves(), *_ulimit_leaves()])


def _container_leaves() -> Iterator[int]:
    for limit, used in _CGROUPS:
        try:
            yield max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file; or the word "max"
            continue


def _ulimit_leaves() -> Iterator[int]:
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield max(0, limit - psutil.Process().memory_info().vms)
