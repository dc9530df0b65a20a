"""How the statements about Mask2Former are measured: on a run's evidence, or on the installed libraries.

A function's name says what it measures; `statements` says in words what must come out.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from m2f_helpers.architecture.reference import Evidence, sample_of
from m2f_helpers.architecture.tracing import FunctionTrace, function_source

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


def own_methods(cls: type) -> list[str]:
    return [name for name, value in vars(cls).items() if inspect.isfunction(value)]


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
    (found,), _ = head(evidence)._seg_data_to_instance_data([sample_of(label_map)])
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


def loss_with_ignored_logits(evidence: Evidence) -> list[float]:
    """The mask loss of one prediction while only logits under ignored pixels change: -5, 0, 5.

    The left half of the label map is class 3, the right half 255. The query's mask is right on the left half.
    """
    label_map = torch.full((1, 64, 64), 255)
    label_map[:, :, :32] = 3
    instances, metas = head(evidence)._seg_data_to_instance_data([sample_of(label_map)])
    losses = []
    for value in (-5.0, 0.0, 5.0):
        masks = torch.full((1, head(evidence).num_queries, 16, 16), 5.0)  # (B, Q, H, W) at stride 4
        masks[..., 8:] = value
        classes = torch.zeros(1, head(evidence).num_queries, head(evidence).num_classes + 1)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # the same random points each time
            losses.append(float(head(evidence)._loss_by_feat_single(classes, masks, instances, metas)[1]))
    return [round(loss, 2) for loss in losses]


def two_regions_of_one_class(evidence: Evidence) -> tuple[int, int]:
    """Masks and their pixels for a label map with two separate regions of one class."""
    sample = sample_of(torch.tensor([[[7, 7, 255, 7, 7]]]))
    (found,), _ = head(evidence)._seg_data_to_instance_data([sample])
    return len(found.masks), int(found.masks.sum())


def inherited(evidence: Evidence) -> list[list[str]]:
    """Methods that Mask2Former's encoder, decoder and decoder layer define themselves."""
    decoder = head(evidence).transformer_decoder
    return [own_methods(type(thing)) for thing in (pixel(evidence).encoder, decoder, decoder.layers[0])]


def attentions(evidence: Evidence) -> tuple[int, set[str], set[int]]:
    layers = head(evidence).transformer_decoder.layers
    inner = [block.attn for layer in layers for block in (layer.cross_attn, layer.self_attn)]
    return len(inner), set(map(class_name, inner)), {attention.num_heads for attention in inner}


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


def rises(values: list[float]) -> bool:
    return all(low < high for low, high in itertools.pairwise(values))


def point_shares(evidence: Evidence) -> tuple[float, float]:
    """How much of all loss points, and of all candidates, the unsure points are."""
    unsure = shape(evidence, POINTS, "point_coords = point_coords.view(-1, 2)")[1]
    candidates = shape(evidence, POINTS, "point_coords = torch.rand(")[1]
    return unsure / shape(evidence, LOSS, "mask_point_preds = point_sample(")[1], unsure / candidates


def error_of(run: Callable[[], Any]) -> str:
    """Name and text of the error that something raises."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
