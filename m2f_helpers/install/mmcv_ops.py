"""Makes mmcv-lite enough: a stand-in for the compiled extension `mmcv._ext`.

mmdet and mmseg import `mmcv.ops`, which needs this C++/CUDA extension. Only the full mmcv has it, and no wheel for
today's Python and torch (the fork onedl-mmcv has, from 2.3.0 on, which mmseg 1.2.2 and mmdet 3.3.0 refuse). Mask2Former
needs one of its functions, multi-scale deformable attention, which mmcv carries in PyTorch too. The import hook is
asked only after every regular way to find `mmcv._ext` has failed, so a compiled mmcv stays untouched.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

EXTENSION = "mmcv._ext"
ATTENTION_MODULE = "mmcv.ops.multi_scale_deform_attn"
DATASET_MODULE = "mmengine.dataset.base_dataset"
BUILD_COMMAND = 'pip install "setuptools<82" wheel ninja && pip install --no-build-isolation --no-cache-dir mmcv==2.1.0'


def register() -> None:
    """Put the import hooks in place, once. Called by `import m2f_helpers`.

    Raises: ImportError if mmseg or mmdet was imported before and there is no compiled extension for them.
    """
    if any(isinstance(finder, _StandInFinder) for finder in sys.meta_path):
        return
    early = [name for name in ("mmseg", "mmdet") if name in sys.modules]
    if early and EXTENSION not in sys.modules and is_stand_in():
        raise ImportError(
            f"{early[0]} was imported before m2f_helpers, without its compiled ops: restart Python (in a notebook, the "
            "kernel) and import m2f_helpers first"
        )
    sys.meta_path.insert(0, _AfterImportFinder())
    sys.meta_path.append(_StandInFinder())


def is_stand_in() -> bool:
    """True if `mmcv._ext` is, or would be, the stand-in of this module; False with a compiled mmcv."""
    if EXTENSION in sys.modules:
        return isinstance(sys.modules[EXTENSION], _StandIn)
    package = importlib.util.find_spec("mmcv")
    if package is None:
        return False
    return importlib.machinery.PathFinder.find_spec(EXTENSION, package.submodule_search_locations) is None


def deformable_attention(value: Any, shapes: Any, locations: Any, weights: Any) -> Any:
    """Multi-scale deformable attention by the fastest way installed: `kernels.deformable_attention`, or mmcv's own."""
    from m2f_helpers.install import kernels  # here, as it imports torch

    if kernels.usable(value):
        return kernels.deformable_attention(value, shapes, locations, weights)
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch as routed

    return getattr(routed, "__wrapped__", routed)(value, shapes, locations, weights)


def _attention_forward(value, shapes, starts, locations, weights, im2col_step=64):
    """Stands for `ms_deform_attn_forward`, which mmcv calls for CUDA tensors."""
    return deformable_attention(value, shapes, locations, weights)


def _attention_backward(
    value, shapes, starts, locations, weights, grad_output, grad_value, grad_locations, grad_weights, im2col_step=64
) -> None:
    """Stands for `ms_deform_attn_backward`: writes the three gradients in place, as mmcv expects."""
    import torch

    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with torch.enable_grad():
        output = deformable_attention(inputs[0], shapes, inputs[1], inputs[2])
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for target, gradient in zip((grad_value, grad_locations, grad_weights), gradients, strict=True):
        target.copy_(gradient)


class _StandIn(ModuleType):
    """A module that has every op: deformable attention works, any other raises when called."""

    ms_deform_attn_forward = staticmethod(_attention_forward)
    ms_deform_attn_backward = staticmethod(_attention_backward)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(
                f"the compiled op {name!r} is not part of mmcv-lite, and Mask2Former does not need it. If your own "
                f"code does, build the full mmcv against your torch: pip uninstall mmcv-lite && {BUILD_COMMAND}"
            )

        missing.__name__ = missing.__qualname__ = name
        return missing


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last in line: asked for `mmcv._ext` only when no compiled one was found, and then it makes the stand-in."""

    def find_spec(self, fullname, path=None, target=None):
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__) if fullname == EXTENSION else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, "Stand-in for mmcv's compiled ops, see m2f_helpers.install.mmcv_ops.")

    def exec_module(self, module: ModuleType) -> None:
        pass


class _AfterImportFinder(importlib.abc.MetaPathFinder):
    """First in line for two modules: lets the regular loader run, then makes one small change to the result."""

    def find_spec(self, fullname, path=None, target=None):
        change = {ATTENTION_MODULE: _route_attention, DATASET_MODULE: _make_spawn_safe}.get(fullname)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            regular = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                regular(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


def _route_attention(module: ModuleType) -> None:
    """With numba installed, CPU tensors take the kernels; without it, mmcv stays exactly as it is."""
    if importlib.util.find_spec("numba") is None:
        return
    original = module.multi_scale_deformable_attn_pytorch

    def multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, sampling_locations, attention_weights):
        return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)

    multi_scale_deformable_attn_pytorch.__wrapped__ = original
    module.multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn_pytorch


def _make_spawn_safe(module: ModuleType) -> None:
    """DataLoader workers that are spawned (macOS, Windows) import m2f_helpers before they import mmseg."""
    from multiprocessing.context import get_spawning_popen

    def __reduce_ex__(self, protocol):
        if get_spawning_popen() is None:
            return object.__reduce_ex__(self, protocol)
        return _blank_instance, (type(self).__module__, type(self).__qualname__), self.__dict__

    module.BaseDataset.__reduce_ex__ = __reduce_ex__


def _blank_instance(module_name: str, class_name: str) -> Any:
    """Unpickled in a spawned worker: by then `m2f_helpers` is imported and the stand-in registered."""
    module = importlib.import_module(module_name)
    cls = getattr(module, class_name)
    return cls.__new__(cls)
