"""How the statements about installing, the config and training are measured: on the installed libraries.

Companion of `measures`, which measures on the run. A function's name says what it measures.
"""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import inspect
import io
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmdet
import mmengine
import mmseg
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import PolyLR, build_optim_wrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.apis import init_model
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, Resize
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import nn

from m2f_helpers.architecture.measures import attention, error_of, head
from m2f_helpers.architecture.reference import Evidence, sample_of
from m2f_helpers.architecture.tracing import function_source
from m2f_helpers.checkpoints import published
from m2f_helpers.finetune import differences


def transforms(pipeline: list[dict[str, Any]]) -> list[str]:
    return [step["type"] for step in pipeline]


def padded(evidence: Evidence) -> tuple[int, ...]:
    image = torch.full((3, 300, 400), 200, dtype=torch.uint8)
    data = {"inputs": [image], "data_samples": [sample_of(torch.zeros(1, 300, 400, dtype=torch.int64))]}
    batch = evidence.model.data_preprocessor(data, True)["inputs"]
    inside, outside = batch[0, :, :300, :400], batch[0, :, 300:]
    return (*batch.shape[-2:], bool((inside != 0).all()), bool((outside == 0).all()))


def installed(*parts: str) -> Path:
    """A file of mmseg's installed package."""
    return Path(mmseg.__file__).parent.joinpath(*parts)


def kind_of_error(run: Callable[[], Any]) -> str:
    """Name of the error that something raises."""
    return error_of(run).partition(":")[0]


def without_mmdet(evidence: Evidence) -> str:
    """Read the config while `import mmdet.models` fails, as it does where mmdet is not installed."""
    kept = sys.modules["mmdet.models"]
    sys.modules["mmdet.models"] = None  # what Python takes for "cannot be imported"
    try:
        return kind_of_error(lambda: Config.fromfile(evidence.config.filename))
    finally:
        sys.modules["mmdet.models"] = kept


def undeclared_imports() -> tuple[list[str], list[str]]:
    """What mmseg's tokenizer, imported with mmseg.apis, needs; and which of it `pip install mmsegmentation` brings."""
    tree = ast.parse(installed("utils/tokenizer.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    needed = sorted(imported & {"ftfy", "regex"})
    required = [line for line in importlib.metadata.requires("mmsegmentation") or [] if "extra ==" not in line]
    return needed, [name for name in needed if any(line.startswith(name) for line in required)]


def papers_named(evidence: Evidence) -> tuple[bool, ...]:
    maskformer = next(base for base in type(head(evidence)).__mro__ if base.__name__ == "MaskFormerHead")
    mask2former = next(base for base in type(head(evidence)).__mro__ if "mmdet" in base.__module__)
    pairs = ((maskformer, "2107.06278"), (mask2former, "2112.01527"), (type(attention(evidence)), "2010.04159"))
    return tuple(number in (cls.__doc__ or "") for cls, number in pairs)


def lines_in_config(evidence: Evidence) -> dict[str, str]:
    """First and last line of some parts of the config file."""
    tree = ast.parse(Path(evidence.config.filename).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and isinstance(node.value, ast.Call)]
    wanted = ("backbone", "decode_head", "pixel_decoder")
    return {node.arg: f"{node.lineno} to {node.end_lineno}" for node in found if node.arg in wanted}


def parameter_groups(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every trainable parameter, as MMEngine's constructor hands them out."""
    optimizer = build_optim_wrapper(evidence.model, copy.deepcopy(evidence.config.optim_wrapper)).optimizer
    rates = {id(group["params"][0]): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    named = evidence.model.named_parameters()
    return {name: rates[id(parameter)] for name, parameter in named if parameter.requires_grad}


def group_sizes(evidence: Evidence) -> dict[tuple[float, float], int]:
    return dict(sorted(Counter(parameter_groups(evidence).values()).items(), reverse=True))


def without_decay(evidence: Evidence) -> set[str]:
    """Kinds of parameters that do not decay: norm layers, and tables by name."""
    modules = dict(evidence.model.named_modules())
    names = [name for name, (_, decay) in parameter_groups(evidence).items() if decay == 0]
    owners = [(name, modules[name.rpartition(".")[0]]) for name in names]
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    return {"norm layers" if isinstance(owner, norms) else name.split(".")[-2] for name, owner in owners}


def gradient_norm(evidence: Evidence) -> float:
    """Length of the whole gradient of the reference step; clipping scales it to the config's `max_norm`."""
    grads = [parameter.grad.norm() for parameter in evidence.model.parameters() if parameter.grad is not None]
    return float(torch.stack(grads).norm())


def rate_after(evidence: Evidence, steps: int, end: int | None = None) -> float:
    """Learning rate after some steps of the config's schedule, by MMEngine's own scheduler on a bare parameter."""
    schedule = {key: value for key, value in evidence.config.param_scheduler[0].items() if key != "type"}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=evidence.config.optim_wrapper.optimizer.lr)
    scheduler = PolyLR(optimizer, **(schedule | ({"end": end} if end else {})))
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return optimizer.param_groups[0]["lr"]


def changed_arguments(evidence: Evidence, key: str, value: Any) -> list[str]:
    """Which arguments of the Runner differ after an edit of one top-level value."""
    before, after = (Config.fromfile(evidence.config.filename) for _ in range(2))
    after[key] = value
    return [name for name in differences.RUNNER if name in before and before[name] != after[name]]


def silent(evidence: Evidence) -> dict[str, list[str]]:
    edits = {"dataset_type": "Ade20KDataset", "data_root": "elsewhere", "crop_size": (64, 64), "num_classes": 7}
    edits |= {"train_pipeline": [], "test_pipeline": [], "optimizer": {"type": "SGD", "lr": 9}, "embed_multi": {}}
    return {key: changed_arguments(evidence, key, value) for key, value in edits.items()}


def start_without_folder(evidence: Evidence) -> str:
    """What `Runner.from_cfg` says to a config without `work_dir`."""
    return error_of(lambda: Runner.from_cfg(evidence.config))


def ids_in_memory() -> list[int]:
    """The ids 0, 1, 13 and 150 of a label PNG after mmseg has loaded them for ADE20KDataset."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "label.png")
        cv2.imwrite(path, np.array([[0, 1, 13, 150]] * 2, np.uint8))
        results = {"seg_map_path": path, "seg_fields": [], "reduce_zero_label": zero_label_defaults()[0]}
        return LoadAnnotations()(results)["gt_seg_map"][0].tolist()


def zero_label_defaults() -> tuple[bool, bool]:
    return tuple(inspect.signature(c.__init__).parameters["reduce_zero_label"].default
                 for c in (ADE20KDataset, BaseSegDataset))  # fmt: skip


def batch_of_two_sizes(evidence: Evidence) -> str:
    """What the preprocessor says to two images that no crop has made equal."""
    images = [torch.zeros(3, size, size, dtype=torch.uint8) for size in (600, 640)]
    samples = [sample_of(torch.zeros(1, *image.shape[1:], dtype=torch.int64)) for image in images]
    return kind_of_error(lambda: evidence.model.data_preprocessor({"inputs": images, "data_samples": samples}, True))


def wrong_class_weights(evidence: Evidence) -> tuple[str, str]:
    """What the head says where `class_weight` was not changed with 7 classes, and where it lacks "no object"."""
    loss = head(evidence).loss_cls
    logits, labels = torch.zeros(4, 8), torch.tensor([0, 1, 2, 7])
    short_list = torch.ones(7)  # the loss divides by class_weight[labels].sum(), as `_loss_by_feat_single` does
    return kind_of_error(lambda: loss(logits, labels, torch.ones(4))), kind_of_error(lambda: short_list[labels].sum())


def resized_for_test(evidence: Evidence) -> tuple[int, ...]:
    """Height and width of a 300x400 image after the test pipeline's Resize."""
    step = {key: value for key, value in evidence.config.test_pipeline[1].items() if key != "type"}
    return Resize(**step)({"img": np.zeros((300, 400, 3), np.uint8)})["img"].shape[:2]


def padded_for_test(evidence: Evidence) -> tuple[int, ...]:
    image = torch.zeros(3, *resized_for_test(evidence), dtype=torch.uint8)
    data = {"inputs": [image], "data_samples": [SegDataSample()]}
    return tuple(evidence.model.data_preprocessor(data, False)["inputs"].shape[-2:])


def folder_names(evidence: Evidence) -> list[str]:
    prefixes = [evidence.config[f"{split}_dataloader"].dataset.data_prefix for split in ("train", "val")]
    return [prefix[kind] for prefix in prefixes for kind in ("img_path", "seg_map_path")]


def judged_pixels() -> list[int]:
    """Pixels that mmseg's metric counts in a label map of four, one of them 255, whatever is predicted there."""
    label = torch.tensor([0, 1, 1, 255])
    areas = [IoUMetric.intersect_and_union(torch.tensor([0, 1, 1, last]), label, 2, 255)[3] for last in (0, 1)]
    return [int(area.sum()) for area in areas]


def history_refused() -> str:
    """What torch says to a Runner's checkpoint, which holds a log, when it may load numbers only."""
    file = io.BytesIO()
    torch.save({"message_hub": HistoryBuffer()}, file)
    file.seek(0)
    return kind_of_error(lambda: torch.load(file, weights_only=True))


def drawn_person() -> tuple[list[int], list[int]]:
    """The colour of "person" as mmseg's visualizer draws it, and after `bgr2rgb` was applied on top."""
    names, palette = ADE20KDataset.METAINFO["classes"], ADE20KDataset.METAINFO["palette"]
    visualizer = SegLocalVisualizer(alpha=1.0)
    person = PixelData(data=torch.full((1, 4, 4), names.index("person")))
    black = np.zeros((4, 4, 3), np.uint8)
    drawn = visualizer._draw_sem_seg(black, person, names, palette, with_labels=False)
    return drawn[0, 0].tolist(), drawn[0, 0, ::-1].tolist()


def init_model_edits() -> list[str]:
    """Statements of mmseg's `init_model` that write into the config it was given."""
    lines = [line.strip() for line in function_source(init_model).lines]
    return [line for line in lines if re.match(r"config\.model\.\w+(\.init_cfg)? = None$", line)]


def batch_norms(evidence: Evidence) -> tuple[str, int, int]:
    modules = list(evidence.model.modules())
    plain = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    synchronised = sum(isinstance(module, nn.SyncBatchNorm) for module in modules)
    return evidence.config.model.backbone.norm_cfg.type, plain - synchronised, synchronised


def levels_in_config(evidence: Evidence) -> tuple[int, int, int]:
    settings = evidence.config.model.decode_head
    own = settings.pixel_decoder
    return own.encoder.layer_cfg.self_attn_cfg.num_levels, settings.num_transformer_feat_level, own.num_outs


def base_files(evidence: Evidence) -> list[str]:
    tree = ast.parse(Path(evidence.config.filename).read_text(encoding="utf-8"))
    bases = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_base_")
    return [Path(name).name for name in ast.literal_eval(bases)]


def saving(evidence: Evidence) -> tuple[int, int, str, str]:
    hooks = evidence.config.default_hooks
    settings = {key: value for key, value in hooks.checkpoint.items() if key != "type"}
    return hooks.logger.interval, settings["interval"], settings["save_best"], CheckpointHook(**settings).filename_tmpl


def versions() -> tuple[str, ...]:
    return tuple(module.__version__ for module in (mmseg, mmdet, mmcv, mmengine))


def without_mim(evidence: Evidence) -> tuple[bool, str]:
    entry = published(Path(evidence.config.filename).stem)
    return entry.config.is_relative_to(installed()), entry.file_name


def in_packages(evidence: Evidence) -> tuple[bool, bool]:
    source = Path(inspect.getfile(type(head(evidence))))
    return Path(evidence.config.filename).is_file(), source.is_relative_to(installed())
