"""The stand-in for mmcv's compiled ops: asked last, computes right, explains the rest."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from m2f_helpers.install import kernels, mmcv_ops
from tests.conftest import ROOT


def python(code: str, *, path: str = "", timeout: float = 120) -> subprocess.CompletedProcess:
    """Run code in a fresh Python that finds the package and, first of all, whatever lies in `path`."""
    setup = f"import sys; sys.path[:0] = {[p for p in (path, str(ROOT)) if p]!r}\n"
    command = [sys.executable, "-c", setup + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def random_inputs(seed: int = 0, requires_grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.tensor([[6, 5], [3, 4], [2, 2]])
    value = torch.randn(2, 46, 4, 8, generator=generator)
    locations = torch.rand(2, 7, 4, 3, 4, 2, generator=generator) * 1.4 - 0.2  # some points lie outside
    weights = torch.rand(2, 7, 4, 12, generator=generator).softmax(-1).view(2, 7, 4, 3, 4)
    for tensor in (value, locations, weights):
        tensor.requires_grad_(requires_grad)
    return [value, shapes, locations, weights]


def by_hand(value, shapes, locations, weights):
    """Deformable attention written as loops (Deformable DETR, equation 3), independent of grid_sample."""
    batch, _, heads, depth = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, depth)
    starts = [0, *torch.as_tensor(shapes).prod(1).cumsum(0).tolist()]
    for b, q, m, lv, p in torch.cartesian_prod(*(torch.arange(n) for n in locations.shape[:5])).tolist():
        rows, columns = (int(n) for n in shapes[lv])
        level = value[b, starts[lv] : starts[lv + 1], m].view(rows, columns, depth)
        x, y = (float(c) * n - 0.5 for c, n in zip(locations[b, q, m, lv, p], (columns, rows), strict=True))
        x0, y0 = int(x // 1), int(y // 1)
        for row, column in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
            if 0 <= row < rows and 0 <= column < columns:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                out[b, q, m] += weights[b, q, m, lv, p] * share * level[row, column]
    return out.flatten(2)


def test_importing_the_package_imports_neither_torch_nor_openmmlab():
    code = "import m2f_helpers; print([n for n in ('torch', 'mmcv', 'mmengine', 'numpy') if n in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_attention_agrees_with_loops():
    inputs = random_inputs()
    assert torch.allclose(mmcv_ops.deformable_attention(*inputs), by_hand(*inputs), atol=1e-5)


def test_function_that_mmcv_calls_on_cuda_gives_value_and_gradients():
    """`MultiScaleDeformableAttnFunction` is what mmcv runs for CUDA tensors; its arithmetic is the same on a CPU."""
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    value, shapes, locations, weights = random_inputs(requires_grad=True)
    starts = torch.tensor([0, 30, 42])
    through_stand_in = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    with kernels.disabled():
        expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    assert torch.allclose(through_stand_in, expected, atol=1e-5)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    tensors = [value, locations, weights]
    for got, want in zip(
        torch.autograd.grad(through_stand_in, tensors, pull), torch.autograd.grad(expected, tensors, pull), strict=True
    ):
        assert want.abs().max() > 1e-2
        assert torch.allclose(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_attention_module_runs_on_cuda():
    from mmcv.ops import MultiScaleDeformableAttention

    module = MultiScaleDeformableAttention(embed_dims=32, num_levels=1, batch_first=True)
    tokens, points = torch.randn(1, 16, 32), torch.rand(1, 16, 1, 2)
    arguments = {"spatial_shapes": torch.tensor([[4, 4]]), "level_start_index": torch.tensor([0])}
    on_cpu = module(tokens, reference_points=points, **arguments)
    module.cuda()
    arguments = {name: tensor.cuda() for name, tensor in arguments.items()}
    on_cuda = module(tokens.cuda(), reference_points=points.cuda(), **arguments)
    assert torch.allclose(on_cpu, on_cuda.cpu(), atol=1e-4)


@pytest.mark.skipif(not kernels.available(), reason="numba is not installed (extra: fast)")
def test_fast_op_agrees_with_pytorch_path():
    inputs = random_inputs(requires_grad=True)
    tensors = [inputs[0], inputs[2], inputs[3]]
    fast = mmcv_ops.deformable_attention(*inputs)
    with kernels.disabled():
        slow = mmcv_ops.deformable_attention(*inputs)
    assert type(fast.grad_fn) is not type(slow.grad_fn), "both took the same path"
    assert torch.allclose(fast, slow, atol=1e-5)
    pull = torch.randn(slow.shape, generator=torch.Generator().manual_seed(1))
    for got, want in zip(
        torch.autograd.grad(fast, tensors, pull), torch.autograd.grad(slow, tensors, pull), strict=True
    ):
        assert torch.allclose(got, want, atol=1e-5, rtol=1e-4)


def test_without_fast_op_mmcv_stays_as_it_is():
    from mmcv.ops import multi_scale_deform_attn as module

    wrapped = hasattr(module.multi_scale_deformable_attn_pytorch, "__wrapped__")
    assert wrapped == kernels.available()


def test_any_other_op_names_itself_and_what_to_install():
    from mmcv.ops import RoIAlign

    with pytest.raises(NotImplementedError, match=r"'roi_align_forward' is not part of mmcv-lite.*mmcv==2.1.0"):
        RoIAlign(2)(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]))


def test_models_import_and_sync_batchnorm_reverts():
    import mmdet.models  # noqa: F401
    from mmengine.model import revert_sync_batchnorm

    model = revert_sync_batchnorm(torch.nn.Sequential(torch.nn.SyncBatchNorm(2)))
    assert model(torch.ones(1, 2, 3, 3)).shape == (1, 2, 3, 3)


def test_compiled_extension_stays_untouched(tmp_path):
    """A package `mmcv` with its own `_ext` is found first, so the stand-in is never asked."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    (tmp_path / "mmcv" / "_ext.py").write_text("compiled = True\n")
    code = """
        import mmcv                                # even before m2f_helpers
        import m2f_helpers, mmcv._ext
        from m2f_helpers.install import mmcv_ops
        print(mmcv._ext.compiled, mmcv_ops.is_stand_in())
    """
    assert python(code, path=str(tmp_path)).stdout.split() == ["True", "False"]


def test_wrong_import_order_gets_one_sentence():
    done = python("import mmseg; import m2f_helpers")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: mmseg was imported before m2f_helpers") and "restart Python" in last


WORKERS = """
    import m2f_helpers
    from torch.utils.data import DataLoader
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmseg.datasets import ADE20KDataset

    init_default_scope("mmseg")
    loaded = ADE20KDataset(data_root={root!r}, data_prefix=dict(img_path="images", seg_map_path="annotations"),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")])
    loader = DataLoader(loaded, num_workers=1, collate_fn=pseudo_collate, multiprocessing_context={method!r})
    for batch in loader:
        print({method!r}, tuple(batch["inputs"][0].shape), batch["data_samples"][0].gt_sem_seg.data.unique().tolist())
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers(tmp_path, method):
    """No `__main__` file here, as in a notebook: a spawned worker must find the stand-in by itself."""
    import numpy as np
    from PIL import Image

    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "images" / "a.jpg")
    Image.fromarray(np.array([[0, 1, 150]] * 8, np.uint8).repeat(3, 1)).save(tmp_path / "annotations" / "a.png")
    done = python(WORKERS.format(root=str(tmp_path), method=method))
    assert f"{method} (3, 8, 9) [0, 149, 255]" in done.stdout, done.stderr[-2000:]
