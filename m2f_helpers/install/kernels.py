"""Deformable attention on the CPU in one pass over the data, with numba (extra `fast`). Taught in notebooks 01 and 07.

The PyTorch way makes a map of samples per level, head and point and adds them up afterwards; here each token's result
is added up while it lies in the cache. The loops run on torch's number of threads without locks: forward each thread
has tokens of its own, backward heads of its own, so no two ever write to the same place.

Shape letters: B images, L tokens, M heads, N feature levels, P points, c = C / M channels of a head.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from m2f_helpers.quiet import one_line

HINT = 'pip install "numba>=0.59"'
_enabled = True


def why_not() -> str:
    """Why the kernels cannot run here, in one sentence; empty if they can."""
    if importlib.util.find_spec("numba") is None:
        return f"numba is not installed, so deformable attention runs in PyTorch; for the fast way: {HINT}"
    try:
        _compiled()
    except Exception as error:  # numba raises its own kinds, and llvmlite OSError; whatever it is, PyTorch still works
        return f"numba does not work here ({one_line(error)}), so deformable attention runs in PyTorch"
    return ""


@cache
def available() -> bool:
    """True if numba is installed and loads."""
    return not why_not()


def usable(value: Tensor) -> bool:
    """True for a tensor that the kernels take: on the CPU, float32 or float64, and nobody switched them off.

    Not while torch records operations instead of doing them (tracing, fake tensors of an export): no numbers are there.
    """
    plain = type(value) in (Tensor, Parameter) and not torch.jit.is_tracing()
    fits = value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)
    return _enabled and plain and fits and available()


@contextmanager
def disabled():
    """Within the block, deformable attention runs in PyTorch even where the kernels are there."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def deformable_attention(value: Tensor, sizes: Any, locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3), differentiable.

    Args:
        value: `(B, L, M, c)` float32 or float64 on the CPU, the tokens of all levels one after the other.
        sizes: height and width of each level: `(N, 2)` tensor or pairs.
        locations: `(B, Q, M, N, P, 2)`, x then y, 0..1 over the level; outside, the maps count as 0.
        weights: `(B, Q, M, N, P)`, summing to 1 over N and P.

    Returns: `(B, Q, M c)`. Agrees with mmcv's `multi_scale_deformable_attn_pytorch` to 1e-5, gradients too.
    Raises: ValueError if the levels do not add up to the tokens: the loops check no bounds.
    """
    sizes = torch.as_tensor(sizes).cpu().numpy().astype(np.int64).reshape(-1, 2)
    batch, length, heads, _ = value.shape
    queries, points = locations.shape[1], weights.shape[-1]
    if int(sizes.prod(1).sum()) != length:
        raise ValueError(f"the levels {sizes.tolist()} have {sizes.prod(1).sum()} tokens, but value has {length}")
    expected = (batch, queries, heads, len(sizes), points)
    if tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, 2):
        raise ValueError(
            f"expected weights {expected} and locations {(*expected, 2)}, got {tuple(weights.shape)} and "
            f"{tuple(locations.shape)}"
        )
    return _Attention.apply(value, sizes, locations.to(value.dtype), weights.to(value.dtype))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: np.ndarray, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(value, locations, weights)
        batch, queries, heads = weights.shape[:3]
        out = value.new_empty((batch, queries, heads, value.shape[3]))
        arrays = _arrays(value, locations, weights, out)
        parts = _split(batch * queries, 4 * torch.get_num_threads())
        _in_threads(_compiled()[0], [(*part, sizes, *arrays) for part in parts])
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        results = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (value, locations, weights)]
        batch, _, heads, width = value.shape
        grad = grad.unflatten(2, (heads, width))
        arrays = _arrays(value, locations, weights, grad, *results)
        _in_threads(_compiled()[1], [(b, m, ctx.sizes, *arrays) for b in range(batch) for m in range(heads)])
        return results[0], None, results[1], results[2]


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _split(count: int, parts: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, count, min(count, parts) + 1).astype(int)
    return [(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _in_threads(kernel: Callable[..., None], calls: Sequence[tuple]) -> None:
    """Run the calls on torch's number of threads; the compiled loops release Python's lock."""
    threads = torch.get_num_threads()
    run = map if threads == 1 or len(calls) == 1 else _pool(threads).map
    list(run(lambda call: kernel(*call), calls))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="m2f-attention")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: the child makes its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """The two loops, compiled lazily, with their machine code kept in the user's cache folder."""
    import numba
    import pooch

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = before or str(pooch.os_cache("m2f") / "numba")
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
    try:
        return tuple(numba.njit(cache=True, **options)(loop) for loop in (_forward, _backward))
    except RuntimeError:  # no folder that can be written to: compile anew in each process
        return tuple(numba.njit(**options)(loop) for loop in (_forward, _backward))
    finally:
        numba.config.CACHE_DIR = before


def _forward(begin, end, sizes, value, locations, weights, out):
    """Tokens begin..end of all images in a row: `out[b, q, m]` = weighted sum of samples."""
    queries, heads, levels, points = weights.shape[1:]
    width, real = value.shape[3], value.dtype.type
    for i in range(begin, end):
        b, q = i // queries, i % queries
        for m in range(heads):
            total = out[b, q, m]
            total[:] = 0
            start = 0
            for n in range(levels):
                h, w = sizes[n, 0], sizes[n, 1]
                for p in range(points):
                    x = locations[b, q, m, n, p, 0] * real(w) - real(0.5)  # in pixels, 0 = middle of the first
                    y = locations[b, q, m, n, p, 1] * real(h) - real(0.5)
                    weight = weights[b, q, m, n, p]
                    if x >= 0 and y >= 0 and x < w - 1 and y < h - 1:  # nearly always: all four corners lie inside
                        left, top = int(x), int(y)
                        fx, fy = x - real(left), y - real(top)
                        above, below = weight * (real(1) - fy), weight * fy
                        part0, part1 = above * (real(1) - fx), above * fx
                        part2, part3 = below * (real(1) - fx), below * fx
                        at = start + top * w + left
                        tokens0, tokens1 = value[b, at, m], value[b, at + 1, m]
                        tokens2, tokens3 = value[b, at + w, m], value[b, at + w + 1, m]
                        for k in range(width):
                            total[k] += (
                                part0 * tokens0[k] + part1 * tokens1[k] + part2 * tokens2[k] + part3 * tokens3[k]
                            )
                    elif x > -1 and y > -1 and x < w and y < h:
                        left, top = int(x + real(1)) - 1, int(y + real(1)) - 1
                        fx, fy = x - real(left), y - real(top)
                        for corner in range(4):
                            column, row = left + corner % 2, top + corner // 2
                            if 0 <= column < w and 0 <= row < h:
                                part = weight * (fx if corner % 2 else real(1) - fx)
                                part = part * (fy if corner // 2 else real(1) - fy)
                                tokens = value[b, start + row * w + column, m]
                                for k in range(width):
                                    total[k] += part * tokens[k]
                start += h * w


def _backward(b, m, sizes, value, locations, weights, grad, grad_value, grad_locations, grad_weights):
    """All tokens of one image and head. `dot` is how much of a corner's value the gradient asks for."""
    queries, _, levels, points = weights.shape[1:]
    width, real = value.shape[3], value.dtype.type
    for q in range(queries):
        wanted = grad[b, q, m]
        start = 0
        for n in range(levels):
            h, w = sizes[n, 0], sizes[n, 1]
            for p in range(points):
                x = locations[b, q, m, n, p, 0] * real(w) - real(0.5)
                y = locations[b, q, m, n, p, 1] * real(h) - real(0.5)
                if x > -1 and y > -1 and x < w and y < h:
                    left, top = int(x + real(1)) - 1, int(y + real(1)) - 1
                    fx, fy = x - real(left), y - real(top)
                    weight = weights[b, q, m, n, p]
                    for corner in range(4):
                        column, row = left + corner % 2, top + corner // 2
                        if 0 <= column < w and 0 <= row < h:
                            along_x = fx if corner % 2 else real(1) - fx
                            along_y = fy if corner // 2 else real(1) - fy
                            part = weight * along_x * along_y
                            tokens = value[b, start + row * w + column, m]
                            target = grad_value[b, start + row * w + column, m]
                            dot = real(0)
                            for k in range(width):
                                dot += wanted[k] * tokens[k]
                                target[k] += part * wanted[k]
                            grad_weights[b, q, m, n, p] += along_x * along_y * dot
                            sign_x, sign_y = (1 if corner % 2 else -1), (1 if corner // 2 else -1)
                            grad_locations[b, q, m, n, p, 0] += weight * dot * along_y * real(sign_x * w)
                            grad_locations[b, q, m, n, p, 1] += weight * dot * along_x * real(sign_y * h)
            start += h * w
