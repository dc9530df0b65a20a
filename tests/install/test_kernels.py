import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

from m2f_helpers.install import kernels

SIZES = [(3, 5), (6, 9), (12, 18)]
reference = getattr(multi_scale_deformable_attn_pytorch, "__wrapped__", multi_scale_deformable_attn_pytorch)
needs_numba = pytest.mark.skipif(not kernels.available(), reason="numba is not installed (extra: fast)")


def inputs(seed=0, dtype=torch.float32, batch=2, queries=50, heads=4, width=8, sizes=SIZES, points=4):
    """Random values, places in and around the maps, weights that sum to 1; leaves that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in sizes)
    value = torch.randn(batch, tokens, heads, width, generator=generator, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(sizes), points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weights = torch.randn(batch, queries, heads, len(sizes) * points, generator=generator, dtype=dtype).softmax(-1)
    weights = weights.view(batch, queries, heads, len(sizes), points)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)], torch.tensor(sizes)


def both(dtype=torch.float32, **shape):
    """Output and three gradients: the kernel's, and those of autograd through mmcv's PyTorch code."""
    results = []
    for function in (kernels.deformable_attention, reference):
        (value, locations, weights), sizes = inputs(dtype=dtype, **shape)
        out = function(value, sizes, locations, weights)
        wanted = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
        results.append([out, *torch.autograd.grad(out, (value, locations, weights), wanted)])
    return zip(*results, strict=True)


@needs_numba
@pytest.mark.parametrize(
    "shape", [{}, {"batch": 1, "heads": 1, "width": 1}, {"sizes": [(1, 1)], "queries": 3}], ids=str
)
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_output_and_each_gradient_equal_mmcv(dtype, bar, shape):
    for name, (ours, theirs) in zip(["output", "value", "locations", "weights"], both(dtype, **shape), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        scale = theirs.abs().max().clamp_min(1)
        assert (ours - theirs).abs().max() <= bar * scale, name
        assert theirs.abs().max() > 0.01, f"{name}: nothing to compare"


@needs_numba
def test_ten_percent_in_one_gradient_would_be_noticed():
    """The bar above is far below an error that mmcv's own tests let pass."""
    for ours, theirs in both():
        assert (1.1 * ours - theirs).abs().max() > 1e-5 * 100 * theirs.abs().max().clamp_min(1)


@needs_numba
def test_gradcheck():
    leaves, sizes = inputs(dtype=torch.float64, batch=1, queries=4, heads=2, width=3, sizes=[(3, 4), (5, 6)], points=2)
    assert torch.autograd.gradcheck(
        lambda v, loc, w: kernels.deformable_attention(v, sizes, loc, w), leaves, eps=1e-7, atol=1e-5
    )


@needs_numba
def test_a_place_in_the_middle_of_a_pixel_reads_that_pixel():
    value = torch.arange(6.0).view(1, 6, 1, 1)  # one map of 2 x 3
    locations = torch.tensor([[2.5 / 3, 0.25], [0.5 / 3, 0.75], [1.0, 0.25], [5.0, 5.0]]).view(1, 4, 1, 1, 1, 2)
    out = kernels.deformable_attention(value, [(2, 3)], locations, torch.ones(1, 4, 1, 1, 1))
    assert out.flatten().tolist() == pytest.approx([2, 3, 1, 0], abs=1e-6)  # the third half outside, the last far out


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_result(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for ours, theirs in both():
            assert torch.allclose(ours, theirs, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@needs_numba
def test_tensors_that_are_not_contiguous():
    (value, locations, weights), sizes = inputs()
    expected = kernels.deformable_attention(value, sizes, locations, weights)
    turned = value.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not turned.is_contiguous()
    assert torch.equal(kernels.deformable_attention(turned, sizes, locations, weights), expected)


@needs_numba
def test_wrong_sizes_are_refused_before_the_loops_read_beyond():
    (value, locations, weights), _ = inputs()
    with pytest.raises(ValueError, match="have 6 tokens, but value has 285"):
        kernels.deformable_attention(value, [(1, 1), (1, 2), (1, 3)], locations, weights)
    with pytest.raises(ValueError, match="expected weights"):
        kernels.deformable_attention(value, SIZES, locations[:, :1], weights)


@needs_numba
def test_usable_only_where_it_works():
    value = torch.zeros(1, 1, 1, 1)
    assert kernels.usable(value) and kernels.usable(value.double())
    assert not kernels.usable(value.half()) and not kernels.usable(value.to("meta"))
    with kernels.disabled():
        assert not kernels.usable(value)
    assert kernels.usable(value)


@needs_numba
def test_a_traced_model_keeps_the_pytorch_code():
    (value, locations, weights), sizes = inputs(batch=1)
    traced = torch.jit.trace(lambda v: v * float(kernels.usable(v)), value.detach(), check_trace=False)
    assert traced(value).abs().sum() == 0
    with torch._subclasses.FakeTensorMode():
        assert not kernels.usable(torch.zeros(1))


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    code = (
        "import os, torch; torch.set_num_threads(2); from m2f_helpers.install import kernels\n"
        "def run(): kernels._in_threads(print, [('x', i) for i in range(4)])\n"
        "run(); child = os.fork()\n"
        "if not child: run(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)


def test_without_numba_there_is_a_sentence_and_pytorch_runs(monkeypatch):
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert "numba is not installed" in kernels.why_not() and "pip install" in kernels.why_not()


def test_a_broken_numba_is_a_sentence_too(monkeypatch):
    def broken():
        raise OSError("libllvm is missing\nmore")

    monkeypatch.setattr(kernels, "_compiled", broken)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: True)
    assert kernels.why_not() == (
        "numba does not work here (libllvm is missing more), so deformable attention runs in PyTorch"
    )


@needs_numba
def test_compiled_loops_are_kept_in_the_users_cache_folder(tmp_path):
    code = (
        "import torch; from m2f_helpers.install import kernels; import numba; before = numba.config.CACHE_DIR\n"
        "kernels.deformable_attention(torch.ones(1, 1, 1, 1), [(1, 1)], torch.full((1, 1, 1, 1, 1, 2), 0.5), "
        "torch.ones(1, 1, 1, 1, 1)); assert numba.config.CACHE_DIR == before\n"
        "print(sum(kernels._compiled()[0].stats.cache_hits.values()))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    hits = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        hits.append(int(done.stdout))
    assert hits == [0, 1]
    assert list((tmp_path / "m2f" / "numba").rglob("*.nbc"))


def test_split_covers_everything_once():
    parts = kernels._split(10, 4)
    assert np.concatenate([np.arange(*part) for part in parts]).tolist() == list(range(10))
    assert kernels._split(2, 8) == [(0, 1), (1, 2)]
