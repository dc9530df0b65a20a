"""Statements about Mask2Former's code and paper that are tests: each measures, and each can turn out false.

Built for notebook 03. `check` measures every statement on the reference run (or on another model's `Evidence`) and
compares with what the statement says. Several name what is easy to believe instead, from reading a neighbouring file.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from m2f_helpers.reference import Evidence, reference_run
from m2f_helpers.tracing import FunctionTrace, function_source

GROUPS = {
    "classes": "Which classes and methods run",
    "backbone": "Backbone",
    "pixel decoder": "Pixel decoder",
    "transformer decoder": "Transformer decoder and masked attention",
    "head": "Head",
    "targets": "Targets and matching",
    "losses": "Losses",
    "inference": "From predictions to a class map",
    "size": "Parameters and multiply-adds",
    "config": "Config",
    "easy to believe": "Easy to believe: four differences from the paper that are not there",
}


IDLE = ("loss", "forward", "preprocess_gt", "predict", "_get_targets_single", "_loss_by_feat_single")
PREFIXES = ("", *(f"d{layer}." for layer in range(9)))
ENCODER = "Mask2FormerTransformerEncoder.forward"


@dataclass(frozen=True)
class Claim:
    """A statement, what measuring must give for it to hold, and how to measure.

    `expected` is compared with `==`; for a float, `tolerance` is the largest allowed absolute difference.
    """

    name: str
    group: str
    statement: str
    expected: Any
    measure: Callable[[Evidence], Any]
    believed: str = ""
    source: str = ""
    tolerance: float = 0.0


@dataclass(frozen=True)
class Checked:
    """A claim after measuring. A measurement that raised counts as false, with the error as its value."""

    claim: Claim
    measured: Any
    holds: bool


def check(evidence: Evidence | None = None, claims: Iterable[Claim] | None = None) -> list[Checked]:
    """Measure the claims.

    Args:
        evidence: of a traced run; default: the reference run of the R50 model, made now if need be.
        claims: default: all.
    """
    evidence = reference_run() if evidence is None else evidence
    return [check_one(claim, evidence) for claim in (CLAIMS if claims is None else claims)]


def claims_of(group: str | None = None) -> tuple[Claim, ...]:
    """All claims, or those of one group.

    Raises: ValueError for a group that `GROUPS` does not have.
    """
    if group is not None and group not in GROUPS:
        raise ValueError(f"there is no group {group!r} of claims; there are {', '.join(GROUPS)}")
    return tuple(claim for claim in CLAIMS if group in (None, claim.group))


def check_one(claim: Claim, evidence: Evidence) -> Checked:
    """Measure one claim."""
    try:
        measured = claim.measure(evidence)
    except Exception as error:  # a measurement that cannot be made refutes its claim, and says why
        return Checked(claim, f"{type(error).__name__}: {error}", False)
    if claim.tolerance:
        return Checked(claim, measured, abs(measured - claim.expected) <= claim.tolerance)
    return Checked(claim, measured, bool(measured == claim.expected))


def claims_table(checked: Iterable[Checked], group: str | None = None) -> pd.DataFrame:
    """One row per claim: group, statement, what was believed, what was measured, whether it holds.

    Args:
        checked: from `check`.
        group: only this group, a key of `GROUPS`.
    """
    chosen = [entry for entry in checked if group in (None, entry.claim.group)]
    rows = [
        {
            "group": entry.claim.group,
            "statement": entry.claim.statement,
            "easy to believe": entry.claim.believed,
            "measured": short(entry.measured),
            "holds": entry.holds,
            "source": entry.claim.source,
        }
        for entry in chosen
    ]
    return pd.DataFrame(rows, index=pd.Index([entry.claim.name for entry in chosen], name="claim"))


def claims_text(checked: Iterable[Checked], width: int = 110) -> str:
    """The table for a terminal: `ok` or `FALSE`, the statement, and below it what was measured."""
    checked = list(checked)
    lines = []
    for group, title in GROUPS.items():
        if any(entry.claim.group == group for entry in checked):
            lines.append(f"\n{title}")
        for entry in (entry for entry in checked if entry.claim.group == group):
            mark = "ok   " if entry.holds else "FALSE"
            lines += textwrap.wrap(f"{mark} {entry.claim.statement}", width, subsequent_indent=" " * 6)
            if entry.claim.believed:
                lines.append(f"      easy to believe: {entry.claim.believed}")
            wanted = "" if entry.holds else f" (expected {short(entry.claim.expected)})"
            lines += textwrap.wrap(
                f"measured: {short(entry.measured)}{wanted}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    false = [entry for entry in checked if not entry.holds]
    return "\n".join([*lines, f"\n{len(checked)} claims, {len(false)} false"]).strip()


def short(value: Any, limit: int = 160) -> str:
    """A value as text of at most `limit` characters."""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _head(evidence: Evidence) -> nn.Module:
    return evidence.model.decode_head


def _pixel(evidence: Evidence) -> nn.Module:
    return evidence.model.decode_head.pixel_decoder


def _attention(evidence: Evidence) -> nn.Module:
    return _pixel(evidence).encoder.layers[0].self_attn


def _class(thing: Any) -> str:
    return f"{type(thing).__module__.partition('.')[0]}.{type(thing).__name__}"


def _classes(modules: Iterable[Any]) -> list[str]:
    return [type(module).__name__ for module in modules]


def _calls(evidence: Evidence, *names: str) -> dict[str, int]:
    return {name: evidence.record[name].calls for name in names}


def _per_call(trace: FunctionTrace, anchor: str) -> float:
    return trace.count(trace.source.line_of(anchor)) / trace.calls


def _text(evidence: Evidence, function: str, anchor: str, name: str | None = None) -> str:
    return evidence.record[function].texts(anchor, name)[0]


def _shape(evidence: Evidence, function: str, anchor: str, name: str | None = None) -> tuple[int, ...]:
    return evidence.record[function].shapes(anchor, name)[0]


def _order(trace: FunctionTrace) -> list[str]:
    """Submodules in the order in which the first call's lines used them, as written after `self.`."""
    lines = trace.source.lines
    used = [re.findall(r"self\.(\w+(?:\[\d\])?)\(", lines[line - trace.source.first]) for line in trace.path]
    return [name for names in used for name in names]


def _head_order(evidence: Evidence) -> list[str]:
    bases = [base for base in type(_head(evidence)).__mro__ if "Head" in base.__name__]
    return [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in bases[:4]]


def _own_methods(evidence: Evidence) -> list[str]:
    return sorted(name for name, value in vars(type(_head(evidence))).items() if inspect.isfunction(value))


def _file_of_maskformer(evidence: Evidence) -> str:
    parent = next(base for base in type(_head(evidence)).__mro__ if base.__name__ == "MaskFormerHead")
    return inspect.getfile(parent).replace("\\", "/").rpartition("/")[2]


def _argument_names(function: Any) -> tuple[set[str], set[str]]:
    """Names of a function's arguments, and names that its body reads."""
    source = function_source(function)
    tree = ast.parse(textwrap.dedent("\n".join(source.lines)))
    reads = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return set(source.parameters), reads


def _ratio(evidence: Evidence, inner: str, outer: str) -> float:
    """How often one function ran per call of another."""
    return evidence.record[inner].calls / evidence.record[outer].calls


def _run_lines(function: str, evidence: Evidence, anchors: list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Execute a few lines of the installed source on values of our own."""
    source = evidence.record[function].source
    text = "\n".join(source.lines[source.line_of(anchor) - source.first].strip() for anchor in anchors)
    exec(compile(text, source.file, "exec"), {"torch": torch, "F": F}, names)
    return names


def _rescue(evidence: Evidence) -> list[list[bool]]:
    mask = torch.tensor([[[True, True, True], [True, False, True]]])
    anchors = ["mask_sum = (", "attn_mask = attn_mask & mask_sum"]
    return _run_lines(HEAD, evidence, anchors, {"attn_mask": mask})["attn_mask"][0].tolist()


def _attend_with_blocked_row(rescued: bool) -> bool:
    """Does torch's attention give NaN if one query may look nowhere?"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 1)
        mask = torch.tensor([[True, True, True], [True, False, True]])
        mask = mask & ~mask.all(-1, keepdim=True) if rescued else mask
        out = attention(torch.randn(2, 1, 8), torch.randn(3, 1, 8), torch.randn(3, 1, 8), attn_mask=mask)[0]
    return bool(out.isnan().any())


@torch.no_grad()
def _one_prediction(evidence: Evidence, zero: bool = False) -> dict[str, torch.Tensor]:
    """`_forward_head` on random queries and a random picture of 8x8 pixels."""
    head, channels = _head(evidence), _head(evidence).query_feat.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 5, channels, generator=generator)
    pixels = torch.randn(1, channels, 8, 8, generator=generator) * (0 if zero else 1)
    classes, masks, blocked = head._forward_head(queries, pixels, (4, 4))
    embedded = head.mask_embed(head.transformer_decoder.post_norm(queries))
    return {"queries": embedded, "pixels": pixels, "classes": classes, "masks": masks, "blocked": blocked}


def _mask_is_dot_product(evidence: Evidence) -> bool:
    found = _one_prediction(evidence)
    products = [(query[:, None, None] * found["pixels"][0]).sum(0) for query in found["queries"][0]]
    return torch.allclose(torch.stack(products), found["masks"][0], atol=1e-4)


def _mask_values(evidence: Evidence) -> str:
    masks = _one_prediction(evidence)["masks"]
    return "real numbers of both signs" if masks.min() < 0 < masks.max() and masks.unique().numel() > 2 else "boolean"


def _heads_agree(evidence: Evidence) -> bool:
    blocked = _one_prediction(evidence)["blocked"]
    return bool((blocked == blocked[:1]).all())


def _reference_points_differ(evidence: Evidence) -> float:
    """Largest difference between the pixel decoder's grid centres and those of the Deformable DETR encoder."""
    decoder, shapes = _pixel(evidence), torch.tensor(evidence.encoder["spatial_shapes"])
    grids = []
    for index, (height, width) in enumerate(shapes.tolist()):
        level = decoder.num_input_levels - 1 - index
        points = decoder.point_generator.single_level_grid_priors((height, width), level, device="cpu")
        grids.append(points / (torch.tensor([width, height]) * decoder.strides[level]))
    ours = torch.cat(grids)[None, :, None]
    theirs = decoder.encoder.get_encoder_reference_points(shapes, torch.ones(1, len(shapes), 2), "cpu")
    return float((ours - theirs).abs().max())


def _first_offsets(evidence: Evidence) -> list[list[float]]:
    attention = _attention(evidence)
    bias = attention.sampling_offsets.bias.detach()
    return bias.view(attention.num_heads, attention.num_levels, attention.num_points, 2)[0, 0].round().tolist()


def _zero_at_start(evidence: Evidence) -> bool:
    attention = _attention(evidence)
    return not (attention.sampling_offsets.weight.any() or attention.attention_weights.weight.any())


def _gradient(parameter: nn.Parameter) -> float:
    return float(parameter.grad.abs().max())


def _embeddings(evidence: Evidence) -> dict[str, tuple[int, ...]]:
    named = _head(evidence).named_modules()
    return {name: tuple(module.weight.shape) for name, module in named if isinstance(module, nn.Embedding)}


def _largest_dropout(evidence: Evidence) -> float:
    drops = [module.p for module in evidence.model.modules() if isinstance(module, nn.Dropout)]
    return max([*drops, *[m.dropout for m in evidence.model.modules() if isinstance(m, nn.MultiheadAttention)]])


def _instances(evidence: Evidence) -> dict[str, Any]:
    """A 2x3 label map with an ignored pixel, through the installed conversion."""
    label_map = torch.tensor([[[3, 3, 5], [17, 255, 5]]])
    sample = SegDataSample(metainfo={"img_shape": (2, 3)})
    sample.gt_sem_seg = PixelData(data=label_map)
    (found,), _ = _head(evidence)._seg_data_to_instance_data([sample])
    ignored = int(found.masks[:, label_map[0] == 255].sum())
    return {"labels": found.labels.tolist(), "masks": tuple(found.masks.shape), "ignored pixels in masks": ignored}


def _class_loss_is_weighted_mean(evidence: Evidence) -> bool:
    loss, generator = _head(evidence).loss_cls, torch.Generator().manual_seed(0)
    weights = torch.tensor(loss.class_weight)
    logits = torch.randn(20, len(weights), generator=generator)
    labels = torch.randint(0, len(weights), (20,), generator=generator)
    ours = loss(logits, labels, torch.ones(20), avg_factor=weights[labels].sum())
    return torch.allclose(ours, loss.loss_weight * F.cross_entropy(logits, labels, weights), atol=1e-5)


def _parameters(*modules: nn.Module, trainable: bool = False) -> int:
    found = [p for module in modules for p in module.parameters() if p.requires_grad or not trainable]
    return sum(parameter.numel() for parameter in found)


def _without_gradient(evidence: Evidence) -> tuple[int, list[str]]:
    named = {name: parameter for name, parameter in evidence.model.named_parameters() if parameter.requires_grad}
    return len(named), [name for name, parameter in named.items() if parameter.grad is None]


def _giga(evidence: Evidence, *names: str) -> float:
    return sum(evidence.macs[name] for name in names) / 1e9


def _last_einsum(evidence: Evidence) -> float:
    """Multiply-adds of the sum over queries at full size: not in the modules' forward, but in `predict`."""
    return _giga(evidence, "Global") - _giga(evidence, *FORWARD)


def _transforms(pipeline: list[dict[str, Any]]) -> list[str]:
    return [step["type"] for step in pipeline]


def _padded(evidence: Evidence) -> tuple[int, ...]:
    picture = torch.full((3, 300, 400), 200, dtype=torch.uint8)
    data = {"inputs": [picture], "data_samples": [SegDataSample(metainfo={"img_shape": (300, 400)})]}
    data["data_samples"][0].gt_sem_seg = PixelData(data=torch.zeros(1, 300, 400, dtype=torch.int64))
    batch = evidence.model.data_preprocessor(data, True)["inputs"]
    inside, outside = batch[0, :, :300, :400], batch[0, :, 300:]
    return (*batch.shape[-2:], bool((inside != 0).all()), bool((outside == 0).all()))


PRODUCTS = {"convolution", "addmm", "mm", "bmm", "baddbmm"}
FORWARD = ("EncoderDecoder.backbone", "EncoderDecoder.decode_head")
PIXEL = "MSDeformAttnPixelDecoder.forward"
ATTENTION = "MultiScaleDeformableAttention.forward"
POINTS = "get_uncertain_point_coords_with_randomness"
HEAD = "Mask2FormerHead.forward"
TARGETS = "dense_heads.mask2former_head.Mask2FormerHead._get_targets_single"
LOSS = "dense_heads.mask2former_head.Mask2FormerHead._loss_by_feat_single"
PAPER = "arXiv 2112.01527"

CLAIMS = (
    # --- classes
    Claim(
        "segmentor",
        "classes",
        "The model is mmseg's EncoderDecoder.",
        "mmseg.EncoderDecoder",
        lambda e: _class(e.model),
    ),
    Claim(
        "parts",
        "classes",
        "The model has two parts: backbone and decode head. Both decoders are inside the head.",
        ["data_preprocessor", "backbone", "decode_head"],
        lambda e: [name for name, _ in e.model.named_children()],
    ),
    Claim(
        "head_order",
        "classes",
        "The head is mmseg's Mask2FormerHead, on mmdet's of the same name, on MaskFormerHead.",
        ["mmseg.Mask2FormerHead", "mmdet.Mask2FormerHead", "mmdet.MaskFormerHead", "mmdet.AnchorFreeHead"],
        _head_order,
        believed="MaskFormerHead is the class to read",
    ),
    Claim(
        "own_methods",
        "classes",
        "mmseg overrides the constructor, loss and predict, and adds one conversion; the rest is inherited.",
        ["__init__", "_seg_data_to_instance_data", "loss", "predict"],
        _own_methods,
        believed="only mmdet's class matters",
    ),
    Claim(
        "maskformer_file",
        "classes",
        "MaskFormerHead stands in maskformer_head.py, not in mask2former_head.py.",
        "maskformer_head.py",
        _file_of_maskformer,
    ),
    Claim(
        "parents_idle",
        "classes",
        "MaskFormerHead's loss, forward, preprocess_gt, predict and its own target and loss methods never run.",
        dict.fromkeys([f"MaskFormerHead.{name}" for name in IDLE], 0),
        lambda e: _calls(e, *[f"MaskFormerHead.{name}" for name in IDLE]),
        believed="loss calls preprocess_gt",
    ),
    Claim(
        "parents_busy",
        "classes",
        "Of MaskFormerHead, loss_by_feat runs once per training step and get_targets once per prediction.",
        {"MaskFormerHead.loss_by_feat": 1, "MaskFormerHead.get_targets": 10},
        lambda e: _calls(e, "MaskFormerHead.loss_by_feat", "MaskFormerHead.get_targets"),
    ),
    Claim(
        "one_forward",
        "classes",
        "Training and prediction go through the same forward of the head: one call each.",
        2,
        lambda e: e.record[HEAD].calls,
    ),
    # --- backbone
    Claim(
        "plain_resnet",
        "backbone",
        "The backbone is the plain ResNet with one 7x7 convolution as stem, not ResNetV1c.",
        ("ResNet", (7, 7)),
        lambda e: (type(e.model.backbone).__name__, e.model.backbone.conv1.kernel_size),
    ),
    Claim(
        "four_maps",
        "backbone",
        "It hands on four maps, strides 4, 8, 16, 32, with 256 to 2048 channels.",
        "tuple of 4: (1, 256, 128, 128) float32, (1, 512, 64, 64) float32, "
        "(1, 1024, 32, 32) float32, (1, 2048, 16, 16) float32",
        lambda e: _text(e, PIXEL, "def forward", "feats"),
        believed="one feature matrix",
    ),
    Claim(
        "frozen_norms",
        "backbone",
        "Scale and shift of the batch norms are frozen: 53,120 numbers in 53 layers, the only frozen ones.",
        53_120,
        lambda e: _parameters(e.model) - _parameters(e.model, trainable=True),
    ),
    Claim(
        "moving_statistics",
        "backbone",
        "The running statistics of these batch norms still move in training.",
        True,
        lambda e: e.running_mean_moved,
        believed="frozen means frozen",
    ),
    # --- pixel decoder
    Claim(
        "pixel_class",
        "pixel decoder",
        "The pixel decoder is mmdet's MSDeformAttnPixelDecoder.",
        "mmdet.MSDeformAttnPixelDecoder",
        lambda e: _class(_pixel(e)),
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "three_convs",
        "pixel decoder",
        "Three 1x1 convolutions bring 2048, 1024 and 512 channels to 256.",
        [(2048, 256, (1, 1)), (1024, 256, (1, 1)), (512, 256, (1, 1))],
        lambda e: [(c.conv.in_channels, c.conv.out_channels, c.conv.kernel_size) for c in _pixel(e).input_convs],
        believed="one for each of the four maps",
    ),
    Claim(
        "convs_change_channels",
        "pixel decoder",
        "They keep height and width, not the channels.",
        [(1, 2048, 16, 16), (1, 256, 16, 16)],
        lambda e: [_shape(e, PIXEL, "feat = feats["), _shape(e, PIXEL, "feat_projected = self.input_convs[i](feat)")],
        believed="kernel size 1 keeps the dimensions",
    ),
    Claim(
        "conv_norm",
        "pixel decoder",
        "Each is followed by a group norm of 32 groups and no activation.",
        [("GroupNorm", 32, False)] * 3,
        lambda e: [(type(c.norm).__name__, c.norm.num_groups, c.with_activation) for c in _pixel(e).input_convs],
    ),
    Claim(
        "tokens",
        "pixel decoder",
        "At 512x512 the encoder sees 16*16 + 32*32 + 64*64 = 5376 tokens of 256 numbers.",
        (1, 5376, 256),
        lambda e: e.encoder["query"],
    ),
    Claim(
        "level_starts",
        "pixel decoder",
        "The levels lie one after the other in the list of tokens, coarsest first.",
        [0, 256, 1280],
        lambda e: e.encoder["level_start_index"],
    ),
    Claim(
        "one_encoder",
        "pixel decoder",
        "One encoder with six layers, called once per forward, for all levels together.",
        (1, 6),
        lambda e: (_ratio(e, ENCODER, PIXEL), _ratio(e, "DetrTransformerEncoderLayer.forward", ENCODER)),
        believed="one encoder per level",
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "encoder_overrides",
        "pixel decoder",
        "The encoder's forward is its own; the Deformable DETR encoder's forward and reference points never run.",
        {"DeformableDetrTransformerEncoder.forward": 0, "get_encoder_reference_points": 0},
        lambda e: _calls(e, "DeformableDetrTransformerEncoder.forward", "get_encoder_reference_points"),
        believed="it only calls its parent",
    ),
    Claim(
        "same_points",
        "pixel decoder",
        "Both ways of computing reference points give the same numbers (largest difference).",
        0.0,
        _reference_points_differ,
        tolerance=1e-6,
    ),
    Claim(
        "points_shape",
        "pixel decoder",
        "Reference points: for every token, on every level, x and y.",
        (1, 5376, 3, 2),
        lambda e: e.encoder["reference_points"],
    ),
    Claim(
        "points_range",
        "pixel decoder",
        "They are centres of grid cells, between 0.0078 and 0.9922 of the picture.",
        [0.0078, 0.9922],
        lambda e: [round(value, 4) for value in e.encoder["reference_range"]],
    ),
    Claim(
        "points_fixed",
        "pixel decoder",
        "Reference points are not learnt.",
        False,
        lambda e: e.encoder["reference_requires_grad"],
    ),
    Claim(
        "sine_fixed",
        "pixel decoder",
        "The two sine encodings have no parameters.",
        0,
        lambda e: _parameters(_pixel(e).postional_encoding, _head(e).decoder_positional_encoding),
        believed="position encodings are learnt",
        source="arXiv 2005.12872, appendix A.4",
    ),
    Claim(
        "level_encoding",
        "pixel decoder",
        "The learnt part of the position is one vector per level.",
        ((3, 256), True),
        lambda e: (tuple(_pixel(e).level_encoding.weight.shape), _pixel(e).level_encoding.weight.requires_grad),
    ),
    Claim(
        "level_gradient",
        "pixel decoder",
        "Its gradient is exactly 0 on the very first step ...",
        0.0,
        lambda e: _gradient(_pixel(e).level_encoding.weight),
    ),
    Claim(
        "offsets_start_at_zero",
        "pixel decoder",
        "... because the layers that turn a query into offsets and weights start with zero weights.",
        True,
        _zero_at_start,
    ),
    Claim(
        "first_offsets",
        "pixel decoder",
        "What is left at the start is a fixed star: head 1 looks 1, 2, 3 and 4 cells to the right.",
        [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]],
        _first_offsets,
        source="arXiv 2010.04159, appendix A.4",
    ),
    Claim(
        "no_key_projection",
        "pixel decoder",
        "Deformable attention has four linear layers, and none for keys.",
        ["sampling_offsets", "attention_weights", "value_proj", "output_proj"],
        lambda e: [name for name, module in _attention(e).named_children() if isinstance(module, nn.Linear)],
        believed="tokens plus positions are the key",
        source="arXiv 2010.04159, section 4.1",
    ),
    Claim(
        "key_unread",
        "pixel decoder",
        "Its forward takes an argument named key and never reads it.",
        (True, False),
        lambda e: tuple("key" in names for names in _argument_names(_attention(e).forward)),
    ),
    Claim(
        "sampling",
        "pixel decoder",
        "Every token samples 8 heads x 3 levels x 4 points.",
        (1, 5376, 8, 3, 4, 2),
        lambda e: _shape(e, ATTENTION, "sampling_offsets = self.sampling_offsets(query)"),
        source="arXiv 2010.04159, section 4.1",
    ),
    Claim(
        "softmax_over_levels",
        "pixel decoder",
        "The softmax runs over the 12 points of all three levels together.",
        (1, 5376, 8, 12),
        lambda e: _shape(e, ATTENTION, "attention_weights = attention_weights.softmax(-1)"),
    ),
    Claim(
        "encoder_order",
        "pixel decoder",
        "An encoder layer: attention, norm, feed-forward (1024), norm.",
        (["self_attn", "norms[0]", "ffn", "norms[1]"], 1024),
        lambda e: (
            _order(e.record["DetrTransformerEncoderLayer.forward"]),
            _pixel(e).encoder.layers[0].ffn.feedforward_channels,
        ),
    ),
    Claim(
        "no_padding",
        "pixel decoder",
        "The padding mask is there but blocks nothing.",
        False,
        lambda e: e.encoder["padded"],
    ),
    Claim(
        "fpn_step",
        "pixel decoder",
        "The stride-4 map joins by one lateral convolution after the encoder, not through it.",
        (1, 1.0, 256),
        lambda e: (
            len(_pixel(e).lateral_convs),
            _per_call(e.record[PIXEL], "for i in range(self.num_input_levels - self.num_encoder_levels - 1"),
            _pixel(e).lateral_convs[0].conv.in_channels,
        ),
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "pixel_output",
        "pixel decoder",
        "Out come a 256-channel embedding at stride 4 and three memories, coarsest first; no masks yet.",
        "tuple of 2: (1, 256, 128, 128) float32, list of 3: "
        "(1, 256, 16, 16) float32, (1, 256, 32, 32) float32, (1, 256, 64, 64) float32",
        lambda e: _text(e, PIXEL, "return mask_feature, multi_scale_features"),
        believed="it puts out masks",
    ),
    # --- transformer decoder
    Claim(
        "decoder_layers",
        "transformer decoder",
        "Nine decoder layers.",
        9,
        lambda e: len(_head(e).transformer_decoder.layers),
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "head_loops",
        "transformer decoder",
        "The decoder's inherited forward never runs; the head loops over its layers, nine times per forward.",
        (0, 9.0),
        lambda e: (
            e.record["DetrTransformerDecoder.forward"].calls,
            _per_call(e.record[HEAD], "for i in range(self.num_transformer_decoder_layers)"),
        ),
        believed="the decoder calls its layers",
    ),
    Claim(
        "levels_in_turn",
        "transformer decoder",
        "The layers look at 16x16, 32x32, 64x64 pixels in turn, three rounds.",
        [256, 1024, 4096] * 3,
        lambda e: [mask["keys"] for mask in e.attention_masks[:9]],
        believed="one memory for all layers",
        source=f"{PAPER}, section 3.2.2",
    ),
    Claim(
        "key_is_value",
        "transformer decoder",
        "Key and value are the same tensor; the sine code is added to the key only.",
        {(True, True)},
        lambda e: {(mask["key_is_value"], mask["key_pos"]) for mask in e.attention_masks},
    ),
    Claim(
        "identity_projections",
        "transformer decoder",
        "The decoder's input projections are three identities.",
        ["Identity"] * 3,
        lambda e: _classes(_head(e).decoder_input_projs),
    ),
    Claim(
        "learnt_embeddings",
        "transformer decoder",
        "Learnt tables: 100 query features, 100 query positions, and two codes for the three levels.",
        {
            "pixel_decoder.level_encoding": (3, 256),
            "query_embed": (100, 256),
            "query_feat": (100, 256),
            "level_embed": (3, 256),
        },
        _embeddings,
        source=f"{PAPER}, section 3.2.3",
    ),
    Claim(
        "queries_not_zero",
        "transformer decoder",
        "Queries do not start at zero, and both query tables get a gradient from the first step on.",
        (True, True, True),
        lambda e: (
            bool(_head(e).query_feat.weight.any()),
            _gradient(_head(e).query_feat.weight) > 0,
            _gradient(_head(e).query_embed.weight) > 0,
        ),
        believed="queries start as zeros",
        source=f"{PAPER}, section 3.2.3",
    ),
    Claim(
        "no_decoder_pe",
        "transformer decoder",
        "There is no decoder_pe, MaskFormer's name; here it is decoder_positional_encoding.",
        (False, True),
        lambda e: (hasattr(_head(e), "decoder_pe"), hasattr(_head(e), "decoder_positional_encoding")),
    ),
    Claim(
        "feed_forward",
        "transformer decoder",
        "The decoder's feed-forward blocks have 2048 hidden channels.",
        {2048},
        lambda e: {layer.ffn.feedforward_channels for layer in _head(e).transformer_decoder.layers},
    ),
    Claim(
        "no_dropout",
        "transformer decoder",
        "No dropout anywhere in the model (largest rate).",
        0.0,
        _largest_dropout,
        source=f"{PAPER}, section 3.2.3",
    ),
    Claim(
        "mask_targets_sizes",
        "transformer decoder",
        "Each prediction makes the mask for the level of the next layer; the tenth mask has no reader.",
        [f"Size [{size}, {size}]" for size in [16, 32, 64] * 3 + [16]],
        lambda e: e.record["Mask2FormerHead._forward_head"].texts("attn_mask_target_size: Tuple")[:10],
    ),
    Claim(
        "heads_share_mask",
        "transformer decoder",
        "All 8 heads get the same mask.",
        True,
        _heads_agree,
    ),
    Claim(
        "zero_is_open",
        "transformer decoder",
        "A mask logit of exactly 0 stays open: blocked is sigmoid below one half (share blocked for zeros).",
        0.0,
        lambda e: float(_one_prediction(e, zero=True)["blocked"].float().mean()),
        source=f"{PAPER}, equation 3",
    ),
    Claim(
        "no_gradient_through_mask",
        "transformer decoder",
        "No gradient flows through the attention masks.",
        {False},
        lambda e: {mask["requires_grad"] for mask in e.attention_masks},
    ),
    Claim(
        "rescue",
        "transformer decoder",
        "A row that blocks everything is opened completely, other rows stay (the installed lines, run on two rows).",
        [[False, False, False], [True, False, True]],
        _rescue,
    ),
    Claim(
        "why_rescue",
        "transformer decoder",
        "Without the rescue torch's attention gives NaN, with it numbers.",
        (True, False),
        lambda e: (_attend_with_blocked_row(False), _attend_with_blocked_row(True)),
    ),
    Claim(
        "rescued_in_run",
        "transformer decoder",
        "In the 18 layer calls of this run no query arrived with everything blocked.",
        (18, 0),
        lambda e: (len(e.attention_masks), sum(mask["all_blocked_rows"] for mask in e.attention_masks)),
    ),
    # --- head
    Claim(
        "ten_predictions",
        "head",
        "Ten predictions per forward: before the first layer and after each of the nine.",
        10,
        lambda e: _ratio(e, "Mask2FormerHead._forward_head", HEAD),
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "forward_returns",
        "head",
        "forward returns two lists of ten: class logits and mask logits.",
        "tuple of 2: list of 10: (1, 100, 151) float32, list of 10: (1, 100, 128, 128) float32",
        lambda e: _text(e, HEAD, "return cls_pred_list, mask_pred_list"),
        believed="it returns classes and masks",
    ),
    Claim(
        "class_layer",
        "head",
        'Classes come from one linear layer with 151 outputs; the last is "no object".',
        ("Linear", 256, 151),
        lambda e: (_classes([_head(e).cls_embed])[0], _head(e).cls_embed.in_features, _head(e).cls_embed.out_features),
    ),
    Claim(
        "mask_layers",
        "head",
        "The query side of the masks: three linear layers with two ReLUs.",
        ["Linear", "ReLU", "Linear", "ReLU", "Linear"],
        lambda e: _classes(_head(e).mask_embed),
    ),
    Claim(
        "dot_product",
        "head",
        "A mask is the dot product of a query's vector with every pixel's (recomputed in a loop).",
        True,
        _mask_is_dot_product,
        believed="an xor of both decoders' outputs",
        source=f"{PAPER}, section 3.1",
    ),
    Claim(
        "mask_logits",
        "head",
        "Mask predictions are logits, not boolean.",
        "real numbers of both signs",
        _mask_values,
    ),
    # --- targets
    Claim(
        "masks_per_class",
        "targets",
        "Ground truth: one binary mask per class that is present, at full size.",
        "InstanceData(labels (5,) int64, masks (5, 512, 512) int64)",
        lambda e: _text(e, TARGETS, "gt_instances: InstanceData"),
        source=f"{PAPER}, section 3.1",
    ),
    Claim(
        "ignored",
        "targets",
        "255 becomes no mask, and ignored pixels are background in every mask (a 2x3 label map, converted).",
        {"labels": [3, 5, 17], "masks": (3, 2, 3), "ignored pixels in masks": 0},
        _instances,
        believed="ignored pixels do not count",
    ),
    Claim(
        "assignments",
        "targets",
        "Matching is done anew for each of the ten predictions.",
        10,
        lambda e: e.record["HungarianAssigner.assign"].calls,
    ),
    Claim(
        "matching_points",
        "targets",
        "It compares at 12544 random points, one set for all predictions and masks of an image.",
        (1, 12544, 2),
        lambda e: _shape(e, TARGETS, "point_coords = torch.rand("),
        source=f"{PAPER}, section 3.3",
    ),
    Claim(
        "costs",
        "targets",
        "Costs: class 2, cross-entropy 5, Dice 5.",
        [("ClassificationCost", 2.0), ("CrossEntropyLossCost", 5.0), ("DiceCost", 5.0)],
        lambda e: [(type(cost).__name__, cost.weight) for cost in _head(e).assigner.match_costs],
    ),
    Claim(
        "cost_matrix",
        "targets",
        "The cost matrix has a row per query and a column per mask.",
        (100, 5),
        lambda e: _shape(e, "HungarianAssigner.assign", "cost = torch.stack(cost_list)"),
    ),
    Claim(
        "one_to_one",
        "targets",
        'Every mask gets exactly one query: 5 matched, 95 "no object", in all ten matchings.',
        {((5,), (95,))},
        lambda e: set(
            zip(
                e.record[TARGETS].shapes("pos_inds = sampling_result.pos_inds"),
                e.record[TARGETS].shapes("neg_inds = sampling_result.neg_inds"),
                strict=True,
            )
        ),
    ),
    # --- losses
    Claim("thirty", "losses", "Three losses x ten predictions = 30 terms.", 30, lambda e: len(e.losses)),
    Claim(
        "names",
        "losses",
        "They are called decode.loss_*, and decode.d0.loss_* to decode.d8.loss_*.",
        [f"decode.{prefix}loss_{kind}" for prefix in PREFIXES for kind in ("cls", "mask", "dice")],
        lambda e: list(e.losses),
    ),
    Claim(
        "sum",
        "losses",
        "The total is their plain sum (difference).",
        0.0,
        lambda e: e.total - sum(e.losses.values()),
        tolerance=1e-3,
    ),
    Claim(
        "class_weights",
        "losses",
        "Class loss: weight 2, and 151 class weights, the last 0.1.",
        (2.0, 151, {1.0}, 0.1),
        lambda e: (
            _head(e).loss_cls.loss_weight,
            len(_head(e).loss_cls.class_weight),
            set(_head(e).loss_cls.class_weight[:-1]),
            _head(e).loss_cls.class_weight[-1],
        ),
        believed="weight 1 and 134 class weights",
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "class_mean",
        "losses",
        "It is torch's weighted mean: divided by the sum of the class weights, not by 100.",
        True,
        _class_loss_is_weighted_mean,
    ),
    Claim(
        "mask_loss",
        "losses",
        "Mask loss: binary cross-entropy, weight 5.",
        ("CrossEntropyLoss", True, 5.0),
        lambda e: (type(_head(e).loss_mask).__name__, _head(e).loss_mask.use_sigmoid, _head(e).loss_mask.loss_weight),
        believed="focal loss, weight 20",
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "dice_loss",
        "losses",
        "Dice loss: the form without squares, eps 1, weight 5.",
        ("DiceLoss", True, 1.0, 5.0),
        lambda e: (
            type(_head(e).loss_dice).__name__,
            _head(e).loss_dice.naive_dice,
            _head(e).loss_dice.eps,
            _head(e).loss_dice.loss_weight,
        ),
        believed="weight 1",
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "candidates",
        "losses",
        "Loss points are chosen from 37632 random candidates per mask.",
        (5, 37632, 2),
        lambda e: _shape(e, POINTS, "point_coords = torch.rand("),
        source=f"{PAPER}, section 3.3",
    ),
    Claim(
        "hard_points",
        "losses",
        "9408 of them are the least sure, 3136 more are uniform.",
        [(5, 9408, 2), (5, 3136, 2)],
        lambda e: [
            _shape(e, POINTS, "point_coords = point_coords.view(-1, 2)"),
            _shape(e, POINTS, "rand_roi_coords = torch.rand("),
        ],
    ),
    Claim(
        "points_per_mask",
        "losses",
        "Mask and Dice loss see 12544 values per mask, never a whole map.",
        {(5, 12544)},
        lambda e: set(e.record[LOSS].shapes("mask_point_preds = point_sample(")),
    ),
    Claim(
        "gradients",
        "losses",
        "After one step every one of the 345 trainable parameter tensors has a gradient (and names without).",
        (345, []),
        _without_gradient,
    ),
    # --- inference
    Claim(
        "no_object_dropped",
        "inference",
        'At test time the softmax runs over 151 classes, then "no object" is cut off.',
        (1, 100, 150),
        lambda e: _shape(e, "Mask2FormerHead.predict", "cls_score = F.softmax("),
        source="arXiv 2107.06278, section 3.4",
    ),
    Claim(
        "class_map_sum",
        "inference",
        "Class and mask probabilities are multiplied and summed over the queries.",
        (1, 150, 512, 512),
        lambda e: _shape(e, "Mask2FormerHead.predict", "seg_logits = torch.einsum("),
    ),
    Claim(
        "not_logits",
        "inference",
        "What is called seg_logits is never negative: sums of products of probabilities.",
        True,
        lambda e: e.prediction["logit_range"][0] >= 0,
    ),
    Claim(
        "class_map",
        "inference",
        "The result: one class id per pixel of the picture.",
        (1, 512, 512),
        lambda e: e.prediction["classes"],
    ),
    Claim(
        "whole",
        "inference",
        "The picture is predicted whole; the sliding window never runs.",
        ("whole", 0),
        lambda e: (e.model.test_cfg["mode"], e.record["EncoderDecoder.slide_inference"].calls),
    ),
    # --- size
    Claim("parameters", "size", "44,041,367 parameters.", 44_041_367, lambda e: _parameters(e.model)),
    Claim(
        "trainable", "size", "43,988,247 of them trainable.", 43_988_247, lambda e: _parameters(e.model, trainable=True)
    ),
    Claim(
        "halves",
        "size",
        "Backbone 23,508,032, head 20,533,335.",
        (23_508_032, 20_533_335),
        lambda e: (_parameters(e.model.backbone), _parameters(_head(e))),
    ),
    Claim(
        "head_parts",
        "size",
        "Of the head, the transformer decoder is larger than the pixel decoder (millions).",
        (6.04, 14.21),
        lambda e: tuple(round(_parameters(part) / 1e6, 2) for part in (_pixel(e), _head(e).transformer_decoder)),
    ),
    Claim(
        "macs_forward",
        "size",
        "torch's counter finds 66.3 billion multiply-adds in backbone and head at 512x512.",
        66.3,
        lambda e: _giga(e, *FORWARD),
        tolerance=0.05,
    ),
    Claim(
        "macs_backbone",
        "size",
        "21.4 billion of them are the backbone's.",
        21.4,
        lambda e: _giga(e, "EncoderDecoder.backbone"),
        tolerance=0.05,
    ),
    Claim(
        "macs_einsum",
        "size",
        "The sum over queries in predict adds 100 x 150 x 512 x 512 = 3.93 billion, outside the modules.",
        100 * 150 * 512 * 512 / 1e9,
        _last_einsum,
        tolerance=1e-6,
    ),
    Claim(
        "macs_paper",
        "size",
        "With it 70.3: within 1 of the paper's 71, which also counts things the counter leaves out.",
        71.0,
        lambda e: _giga(e, "Global"),
        source=f"{PAPER}, table 3",
        tolerance=1.0,
    ),
    Claim(
        "counter_counts",
        "size",
        "The counter sees convolutions and matrix products only: no norm, interpolation or grid_sample (others seen).",
        (True, []),
        lambda e: (bool(e.macs_by_operation), sorted(set(e.macs_by_operation) - PRODUCTS)),
    ),
    # --- config
    Claim(
        "no_resize_to_512",
        "config",
        "Training resizes the shorter side to 256..1024 at random and crops 512x512; nothing is squeezed.",
        (256, 1024, (512, 512)),
        lambda e: (
            min(e.config.train_pipeline[2].scales),
            max(e.config.train_pipeline[2].scales),
            tuple(e.config.train_pipeline[3].crop_size),
        ),
        believed="images are converted to 512x512",
    ),
    Claim(
        "steps",
        "config",
        "The training pipeline has seven steps.",
        ["LoadImageFromFile", "LoadAnnotations", "RandomChoiceResize", "RandomCrop", "RandomFlip"]
        + ["PhotoMetricDistortion", "PackSegInputs"],
        lambda e: _transforms(e.config.train_dataloader.dataset.pipeline),
    ),
    Claim(
        "size_pads",
        "config",
        "The preprocessor's size pads only: a 300x400 picture keeps its pixels, zeros fill the rest.",
        (512, 512, True, True),
        _padded,
        believed="it sets the image size",
    ),
    Claim(
        "weights_match_classes",
        "config",
        "class_weight has one entry more than there are classes.",
        1,
        lambda e: len(e.config.model.decode_head.loss_cls.class_weight) - e.config.model.decode_head.num_classes,
    ),
    # --- easy to believe
    Claim(
        "three_levels",
        "easy to believe",
        "Three levels go through the encoder, as in the paper: the loop over levels runs 3 times per forward.",
        3.0,
        lambda e: _per_call(e.record[PIXEL], "for i in range(self.num_encoder_levels):"),
        believed="unlike the paper, the code passes all four maps through the encoder",
        source=f"{PAPER}, section 4.1",
    ),
    Claim(
        "own_decoder",
        "easy to believe",
        "The decoder and its layers are Mask2Former's own, as in the paper.",
        ("Mask2FormerTransformerDecoder", {"Mask2FormerTransformerDecoderLayer"}, 0),
        lambda e: (
            type(_head(e).transformer_decoder).__name__,
            set(_classes(_head(e).transformer_decoder.layers)),
            e.record["DetrTransformerDecoderLayer.forward"].calls,
        ),
        believed="the code uses DETR's decoder, unlike the paper",
        source=f"{PAPER}, section 3.2",
    ),
    Claim(
        "cross_first",
        "easy to believe",
        "Cross-attention comes before self-attention, as in the paper (order seen by hooks on layer 1).",
        ["cross_attn", "norms.0", "self_attn", "norms.1", "ffn", "norms.2"],
        lambda e: e.layer_order[:6],
        believed="self-attention comes first, unlike the paper",
        source=f"{PAPER}, section 3.2.3",
    ),
    Claim(
        "masked_attention",
        "easy to believe",
        "Masked attention is in the code: all nine cross-attentions get a boolean mask, one row per query and head.",
        [((8, 100, keys), "torch.bool", True) for keys in [256, 1024, 4096] * 3],
        lambda e: [(mask["shape"], mask["dtype"], 0 < mask["blocked"] < 1) for mask in e.attention_masks[:9]],
        believed="masked attention is missing, since no class of that name exists",
        source=f"{PAPER}, section 3.2.1",
    ),
)
