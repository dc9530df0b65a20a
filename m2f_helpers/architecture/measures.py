"""How the statements about Mask2Former are measured: on a run's evidence, or on the installed libraries.

A function's name says what it measures; `statements` says in words what must come out.
"""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import inspect
import io
import itertools
import re
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmdet
import mmengine
import mmseg
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.optim import PolyLR, build_optim_wrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.apis import init_model
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, Resize
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import nn

from m2f_helpers.architecture.reference import Evidence
from m2f_helpers.architecture.tracing import FunctionTrace, function_source
from m2f_helpers.checkpoints import Published, published

IDLE = ("loss", "forward", "preprocess_gt", "predict", "_get_targets_single", "_loss_by_feat_single")
PREFIXES = ("", *(f"d{layer}." for layer in range(9)))
ENCODER = "Mask2FormerTransformerEncoder.forward"
PRODUCTS = {"convolution", "addmm", "mm", "bmm", "baddbmm"}
FORWARD = ("EncoderDecoder.backbone", "EncoderDecoder.decode_head")
PIXEL = "MSDeformAttnPixelDecoder.forward"
ATTENTION = "MultiScaleDeformableAttention.forward"
POINTS = "get_uncertain_point_coords_with_randomness"
HEAD = "Mask2FormerHead.forward"
TARGETS = "dense_heads.mask2former_head.Mask2FormerHead._get_targets_single"
LOSS = "dense_heads.mask2former_head.Mask2FormerHead._loss_by_feat_single"
PAPER = "arXiv 2112.01527"


def head(evidence: Evidence) -> nn.Module:
    return evidence.model.decode_head


def pixel(evidence: Evidence) -> nn.Module:
    return evidence.model.decode_head.pixel_decoder


def attention(evidence: Evidence) -> nn.Module:
    return pixel(evidence).encoder.layers[0].self_attn


def class_name(thing: Any) -> str:
    return f"{type(thing).__module__.partition('.')[0]}.{type(thing).__name__}"


def class_names(modules: Iterable[Any]) -> list[str]:
    return [type(module).__name__ for module in modules]


def calls(evidence: Evidence, *names: str) -> dict[str, int]:
    return {name: evidence.record[name].calls for name in names}


def per_call(trace: FunctionTrace, anchor: str) -> float:
    return trace.count(trace.source.line_of(anchor)) / trace.calls


def text(evidence: Evidence, function: str, anchor: str, name: str | None = None) -> str:
    return evidence.record[function].texts(anchor, name)[0]


def shape(evidence: Evidence, function: str, anchor: str, name: str | None = None) -> tuple[int, ...]:
    return evidence.record[function].shapes(anchor, name)[0]


def order(trace: FunctionTrace) -> list[str]:
    """Submodules in the order in which the first call's lines used them, as written after `self.`."""
    lines = trace.source.lines
    used = [re.findall(r"self\.(\w+(?:\[\d\])?)\(", lines[line - trace.source.first]) for line in trace.path]
    return [name for names in used for name in names]


def head_order(evidence: Evidence) -> list[str]:
    bases = [base for base in type(head(evidence)).__mro__ if "Head" in base.__name__]
    return [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in bases[:4]]


def own_methods(evidence: Evidence) -> list[str]:
    return sorted(name for name, value in vars(type(head(evidence))).items() if inspect.isfunction(value))


def file_of_maskformer(evidence: Evidence) -> str:
    parent = next(base for base in type(head(evidence)).__mro__ if base.__name__ == "MaskFormerHead")
    return inspect.getfile(parent).replace("\\", "/").rpartition("/")[2]


def argument_names(function: Any) -> tuple[set[str], set[str]]:
    """Names of a function's arguments, and names that its body reads."""
    source = function_source(function)
    tree = ast.parse(textwrap.dedent("\n".join(source.lines)))
    reads = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return set(source.parameters), reads


def ratio(evidence: Evidence, inner: str, outer: str) -> float:
    """How often one function ran per call of another."""
    return evidence.record[inner].calls / evidence.record[outer].calls


def run_lines(function: str, evidence: Evidence, anchors: list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Execute a few lines of the installed source on values of our own."""
    source = evidence.record[function].source
    text = "\n".join(source.lines[source.line_of(anchor) - source.first].strip() for anchor in anchors)
    exec(compile(text, source.file, "exec"), {"torch": torch, "F": F}, names)
    return names


def rescue(evidence: Evidence) -> list[list[bool]]:
    mask = torch.tensor([[[True, True, True], [True, False, True]]])
    anchors = ["mask_sum = (", "attn_mask = attn_mask & mask_sum"]
    return run_lines(HEAD, evidence, anchors, {"attn_mask": mask})["attn_mask"][0].tolist()


def attend_with_blocked_row(rescued: bool) -> bool:
    """Does torch's attention give NaN if one query may look nowhere?"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 1)
        mask = torch.tensor([[True, True, True], [True, False, True]])
        mask = mask & ~mask.all(-1, keepdim=True) if rescued else mask
        out = attention(torch.randn(2, 1, 8), torch.randn(3, 1, 8), torch.randn(3, 1, 8), attn_mask=mask)[0]
    return bool(out.isnan().any())


@torch.no_grad()
def one_prediction(evidence: Evidence, zero: bool = False) -> dict[str, torch.Tensor]:
    """`_forward_head` on random queries and a random image of 8x8 pixels."""
    decode, channels = head(evidence), head(evidence).query_feat.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 5, channels, generator=generator)
    pixels = torch.randn(1, channels, 8, 8, generator=generator) * (0 if zero else 1)
    classes, masks, blocked = decode._forward_head(queries, pixels, (4, 4))
    embedded = decode.mask_embed(decode.transformer_decoder.post_norm(queries))
    return {"queries": embedded, "pixels": pixels, "classes": classes, "masks": masks, "blocked": blocked}


def mask_is_dot_product(evidence: Evidence) -> bool:
    found = one_prediction(evidence)
    products = [(query[:, None, None] * found["pixels"][0]).sum(0) for query in found["queries"][0]]
    return torch.allclose(torch.stack(products), found["masks"][0], atol=1e-4)


def mask_values(evidence: Evidence) -> str:
    masks = one_prediction(evidence)["masks"]
    return "real numbers of both signs" if masks.min() < 0 < masks.max() and masks.unique().numel() > 2 else "boolean"


def heads_agree(evidence: Evidence) -> bool:
    blocked = one_prediction(evidence)["blocked"]
    return bool((blocked == blocked[:1]).all())


def reference_points_differ(evidence: Evidence) -> float:
    """Largest difference between the pixel decoder's grid centres and those of the Deformable DETR encoder."""
    decoder, shapes = pixel(evidence), torch.tensor(evidence.encoder["spatial_shapes"])
    grids = []
    for index, (height, width) in enumerate(shapes.tolist()):
        level = decoder.num_input_levels - 1 - index
        points = decoder.point_generator.single_level_grid_priors((height, width), level, device="cpu")
        grids.append(points / (torch.tensor([width, height]) * decoder.strides[level]))
    ours = torch.cat(grids)[None, :, None]
    theirs = decoder.encoder.get_encoder_reference_points(shapes, torch.ones(1, len(shapes), 2), "cpu")
    return float((ours - theirs).abs().max())


def first_offsets(evidence: Evidence) -> list[list[float]]:
    first = attention(evidence)
    bias = first.sampling_offsets.bias.detach()
    return bias.view(first.num_heads, first.num_levels, first.num_points, 2)[0, 0].round().tolist()


def zero_at_start(evidence: Evidence) -> bool:
    first = attention(evidence)
    return not (first.sampling_offsets.weight.any() or first.attention_weights.weight.any())


def gradient(parameter: nn.Parameter) -> float:
    return float(parameter.grad.abs().max())


def embeddings(evidence: Evidence) -> dict[str, tuple[int, ...]]:
    named = head(evidence).named_modules()
    return {name: tuple(module.weight.shape) for name, module in named if isinstance(module, nn.Embedding)}


def largest_dropout(evidence: Evidence) -> float:
    drops = [module.p for module in evidence.model.modules() if isinstance(module, nn.Dropout)]
    return max([*drops, *[m.dropout for m in evidence.model.modules() if isinstance(m, nn.MultiheadAttention)]])


def instances(evidence: Evidence) -> dict[str, Any]:
    """A 2x3 label map with an ignored pixel, through the installed conversion."""
    label_map = torch.tensor([[[3, 3, 5], [17, 255, 5]]])
    sample = SegDataSample(metainfo={"img_shape": (2, 3)})
    sample.gt_sem_seg = PixelData(data=label_map)
    (found,), _ = head(evidence)._seg_data_to_instance_data([sample])
    ignored = int(found.masks[:, label_map[0] == 255].sum())
    return {"labels": found.labels.tolist(), "masks": tuple(found.masks.shape), "ignored pixels in masks": ignored}


def class_loss_is_weighted_mean(evidence: Evidence) -> bool:
    loss, generator = head(evidence).loss_cls, torch.Generator().manual_seed(0)
    weights = torch.tensor(loss.class_weight)
    logits = torch.randn(20, len(weights), generator=generator)
    labels = torch.randint(0, len(weights), (20,), generator=generator)
    ours = loss(logits, labels, torch.ones(20), avg_factor=weights[labels].sum())
    return torch.allclose(ours, loss.loss_weight * F.cross_entropy(logits, labels, weights), atol=1e-5)


def parameters(*modules: nn.Module, trainable: bool = False) -> int:
    found = [p for module in modules for p in module.parameters() if p.requires_grad or not trainable]
    return sum(parameter.numel() for parameter in found)


def without_gradient(evidence: Evidence) -> tuple[int, list[str]]:
    named = {name: parameter for name, parameter in evidence.model.named_parameters() if parameter.requires_grad}
    return len(named), [name for name, parameter in named.items() if parameter.grad is None]


def giga(evidence: Evidence, *names: str) -> float:
    return sum(evidence.macs[name] for name in names) / 1e9


def last_einsum(evidence: Evidence) -> float:
    """Multiply-adds of the sum over queries at full size: not in the modules' forward, but in `predict`."""
    return giga(evidence, "Global") - giga(evidence, *FORWARD)


def transforms(pipeline: list[dict[str, Any]]) -> list[str]:
    return [step["type"] for step in pipeline]


def padded(evidence: Evidence) -> tuple[int, ...]:
    image = torch.full((3, 300, 400), 200, dtype=torch.uint8)
    data = {"inputs": [image], "data_samples": [SegDataSample(metainfo={"img_shape": (300, 400)})]}
    data["data_samples"][0].gt_sem_seg = PixelData(data=torch.zeros(1, 300, 400, dtype=torch.int64))
    batch = evidence.model.data_preprocessor(data, True)["inputs"]
    inside, outside = batch[0, :, :300, :400], batch[0, :, 300:]
    return (*batch.shape[-2:], bool((inside != 0).all()), bool((outside == 0).all()))


# ------------------------------------------------------------------------------------------------ installed libraries


def installed(*parts: str) -> Path:
    """A file of mmseg's installed package."""
    return Path(mmseg.__file__).parent.joinpath(*parts)


def error_of(run: Callable[[], Any]) -> str:
    """Name of the error that something raises."""
    try:
        run()
    except Exception as error:
        return type(error).__name__
    return "no error"


def without_mmdet(evidence: Evidence) -> str:
    """Read the config while `import mmdet.models` fails, as it does where mmdet is not installed."""
    kept = sys.modules["mmdet.models"]
    sys.modules["mmdet.models"] = None  # what Python takes for "cannot be imported"
    try:
        return error_of(lambda: Config.fromfile(evidence.config.filename))
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


# ------------------------------------------------------------------------------------------------- config and training


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
    return [name for name in runner_arguments() if name in before and before[name] != after[name]]


def runner_arguments() -> list[str]:
    return [name for name in inspect.signature(Runner.__init__).parameters if name not in ("self", "cfg")]


def silent(evidence: Evidence) -> dict[str, list[str]]:
    edits = {"dataset_type": "Ade20KDataset", "data_root": "elsewhere", "crop_size": (64, 64), "num_classes": 7}
    edits |= {"train_pipeline": [], "test_pipeline": [], "optimizer": {"type": "SGD", "lr": 9}, "embed_multi": {}}
    return {key: changed_arguments(evidence, key, value) for key, value in edits.items()}


def start_without_folder(evidence: Evidence) -> str:
    """What `Runner.from_cfg` says to a config without `work_dir`."""
    try:
        Runner.from_cfg(evidence.config)
    except KeyError as error:
        return f"KeyError: {error}"
    return "no error"


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
    samples = [SegDataSample(metainfo={"img_shape": image.shape[1:]}) for image in images]
    for sample, image in zip(samples, images, strict=True):
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *image.shape[1:], dtype=torch.int64))
    return error_of(lambda: evidence.model.data_preprocessor({"inputs": images, "data_samples": samples}, True))


def wrong_class_weights(evidence: Evidence) -> tuple[str, str]:
    """What the head says where `class_weight` was not changed with 7 classes, and where it lacks "no object"."""
    loss = head(evidence).loss_cls
    logits, labels = torch.zeros(4, 8), torch.tensor([0, 1, 2, 7])
    short_list = torch.ones(7)  # the loss divides by class_weight[labels].sum(), as `_loss_by_feat_single` does
    return error_of(lambda: loss(logits, labels, torch.ones(4))), error_of(lambda: short_list[labels].sum())


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


# ------------------------------------------------------------------------------------------- ignored pixels, inference


def loss_with_ignored_logits(evidence: Evidence) -> list[float]:
    """The mask loss of one prediction while only logits under ignored pixels change: -5, 0, 5.

    The left half of the label map is class 3, the right half 255. The query's mask is right on the left half.
    """
    label_map = torch.full((1, 64, 64), 255)
    label_map[:, :, :32] = 3
    sample = SegDataSample(metainfo={"img_shape": (64, 64)})
    sample.gt_sem_seg = PixelData(data=label_map)
    instances, metas = head(evidence)._seg_data_to_instance_data([sample])
    losses = []
    for value in (-5.0, 0.0, 5.0):
        masks = torch.full((1, head(evidence).num_queries, 16, 16), 5.0)  # (B, Q, H, W) at stride 4
        masks[..., 8:] = value
        classes = torch.zeros(1, head(evidence).num_queries, head(evidence).num_classes + 1)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # the same random points each time
            losses.append(float(head(evidence)._loss_by_feat_single(classes, masks, instances, metas)[1]))
    return [round(loss, 2) for loss in losses]


def judged_pixels() -> list[int]:
    """Pixels that mmseg's metric counts in a label map of four, one of them 255, whatever is predicted there."""
    label = torch.tensor([0, 1, 1, 255])
    areas = [IoUMetric.intersect_and_union(torch.tensor([0, 1, 1, last]), label, 2, 255)[3] for last in (0, 1)]
    return [int(area.sum()) for area in areas]


def two_regions_of_one_class(evidence: Evidence) -> tuple[int, int]:
    """Masks and their pixels for a label map with two separate regions of one class."""
    sample = SegDataSample(metainfo={"img_shape": (1, 5)})
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[7, 7, 255, 7, 7]]]))
    (found,), _ = head(evidence)._seg_data_to_instance_data([sample])
    return len(found.masks), int(found.masks.sum())


def history_refused() -> str:
    """What torch says to a Runner's checkpoint, which holds a log, when it may load numbers only."""
    file = io.BytesIO()
    torch.save({"message_hub": HistoryBuffer()}, file)
    file.seek(0)
    return error_of(lambda: torch.load(file, weights_only=True))


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


def inherited(evidence: Evidence) -> list[list[str]]:
    """Methods that Mask2Former's encoder, decoder and decoder layer define themselves."""
    decoder = head(evidence).transformer_decoder
    classes = [type(thing) for thing in (pixel(evidence).encoder, decoder, decoder.layers[0])]
    return [[name for name, value in vars(cls).items() if inspect.isfunction(value)] for cls in classes]


def attentions(evidence: Evidence) -> tuple[int, set[str], set[int]]:
    layers = head(evidence).transformer_decoder.layers
    inner = [block.attn for layer in layers for block in (layer.cross_attn, layer.self_attn)]
    return len(inner), {f"{type(a).__module__.partition('.')[0]}.{type(a).__name__}" for a in inner}, {
        a.num_heads for a in inner
    }  # fmt: skip


def maskformer_starts_at_zero(evidence: Evidence) -> bool:
    source = evidence.record["MaskFormerHead.forward"].source
    return any("torch.zeros_like(query_embed)" in line for line in source.lines)


def lines_with(evidence: Evidence, pattern: str) -> list[str]:
    """Lines of all traced functions that match."""
    if not evidence.record:
        raise ValueError("nothing was traced")
    sources = [(trace.source, line) for trace in evidence.record.values() for line in trace.source.lines]
    return [f"{source.name}: {line.strip()}" for source, line in sources if re.search(pattern, line)]


def things_and_stuff(evidence: Evidence) -> tuple[int, int]:
    base = next(base for base in type(head(evidence)).__mro__ if base.__module__.startswith("mmdet"))
    defaults = inspect.signature(base.__init__).parameters
    return defaults["num_things_classes"].default, defaults["num_stuff_classes"].default


def batch_norms(evidence: Evidence) -> tuple[str, int, int]:
    modules = list(evidence.model.modules())
    plain = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    synchronised = sum(isinstance(module, nn.SyncBatchNorm) for module in modules)
    return evidence.config.model.backbone.norm_cfg.type, plain - synchronised, synchronised


def levels_in_config(evidence: Evidence) -> tuple[int, int, int]:
    settings = evidence.config.model.decode_head
    own = settings.pixel_decoder
    return own.encoder.layer_cfg.self_attn_cfg.num_levels, settings.num_transformer_feat_level, own.num_outs


def rises(values: list[float]) -> bool:
    return all(low < high for low, high in itertools.pairwise(values))


def point_shares(evidence: Evidence) -> tuple[float, float]:
    """How much of all loss points, and of all candidates, the unsure points are."""
    unsure = shape(evidence, POINTS, "point_coords = point_coords.view(-1, 2)")[1]
    candidates = shape(evidence, POINTS, "point_coords = torch.rand(")[1]
    return unsure / shape(evidence, LOSS, "mask_point_preds = point_sample(")[1], unsure / candidates


def published_entry(evidence: Evidence) -> Published:
    return published(Path(evidence.config.filename).stem)


def base_files(evidence: Evidence) -> list[str]:
    tree = ast.parse(Path(evidence.config.filename).read_text(encoding="utf-8"))
    bases = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_base_")
    return [Path(name).name for name in ast.literal_eval(bases)]


def loss_without_annotations(evidence: Evidence) -> str:
    """What the conversion of the ground truth misses in a sample that only has an image."""
    convert = head(evidence)._seg_data_to_instance_data
    try:
        convert([SegDataSample()])
    except AttributeError as error:
        return str(error)
    return "no error"


def inference_reads(text: str) -> bool:
    return text in installed("apis/utils.py").read_text(encoding="utf-8")


def saving(evidence: Evidence) -> tuple[int, int, str, str]:
    hooks = evidence.config.default_hooks
    settings = {key: value for key, value in hooks.checkpoint.items() if key != "type"}
    return hooks.logger.interval, settings["interval"], settings["save_best"], CheckpointHook(**settings).filename_tmpl


def draws_by_default() -> bool:
    return inspect.signature(SegVisualizationHook.__init__).parameters["draw"].default


def versions() -> tuple[str, ...]:
    return tuple(module.__version__ for module in (mmseg, mmdet, mmcv, mmengine))


def mmcv_bounds() -> tuple[str, str]:
    return mmseg.MMCV_MIN, mmseg.MMCV_MAX


def without_mim(evidence: Evidence) -> tuple[bool, str]:
    entry = published_entry(evidence)
    return entry.config.is_relative_to(installed()), entry.file_name


def in_packages(evidence: Evidence) -> tuple[bool, bool]:
    source = Path(inspect.getfile(type(head(evidence))))
    return Path(evidence.config.filename).is_file(), source.is_relative_to(installed())


def palette_sizes() -> tuple[int, int]:
    return len(ADE20KDataset.METAINFO["classes"]), len(ADE20KDataset.METAINFO["palette"])
