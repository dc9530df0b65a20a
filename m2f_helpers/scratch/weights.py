"""mmseg's weights for the model of `scratch.model`: other names, the same tensors. Taught in notebook 07."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2f_helpers.checkpoints import read_checkpoint

LEVELS, POINTS = 3, 4  # feature levels and sampling points, the same in every published Mask2Former


@dataclass(frozen=True)
class Sizes:
    """How deep and wide the parts are. The defaults are the published R50 model for ADE20K."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    backbone: tuple[int, ...] = (256, 512, 1024, 2048)
    channels: int = 256
    groups: int = 32
    heads: int = 8
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    decoder_layers: int = 9
    decoder_hidden: int = 2048
    queries: int = 100
    classes: int = 150


# Names in mmseg's state dict -> names here: regular expressions, applied in order.
RENAMES = (
    (r"^decode_head\.pixel_decoder\.", "pixel_decoder."),
    (r"^decode_head\.(transformer_decoder\.)?", "decoder."),
    (r"^backbone\.conv1\.", "backbone.stem.conv."),
    (r"^backbone\.bn1\.", "backbone.stem.norm."),
    (r"(\.layer.*)\.conv(\d)\.", r"\1.conv\2.conv."),
    (r"(\.layer.*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.norm."),
    (r"\.(lateral|output)_convs\.0\.", r".\1."),
    (r"\.gn\.", ".norm."),
    (r"\.encoder\.layers\.", ".encoder."),
    (r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
    (r"\.ffn\.layers\.1\.", ".ffn.2."),
    (r"\.attn\.in_proj_", ".in_proj."),
    (r"\.attn\.out_proj\.", ".out_proj."),
)


def read(source: Any, groups: int) -> tuple[dict[str, Tensor], Sizes]:
    """Weights and sizes of a Mask2Former from mmseg.

    Args:
        source: a model of mmseg, its state dict, or the path of a checkpoint (read with `weights_only=True`).
        groups: of the group norms, where `source` is no model: they leave no trace in the weights.

    Returns: the state dict with the names of `scratch.model`, every tensor in it, and the sizes of the model.
    Raises: ValueError if these are not the weights of a Mask2Former.
    """
    if isinstance(source, nn.Module):
        groups = next((m.num_groups for m in source.modules() if isinstance(m, nn.GroupNorm)), groups)
        source = source.state_dict()
    elif isinstance(source, (str, Path)):
        source = read_checkpoint(source)
    state = rename(source.get("state_dict", source))
    try:
        return state, _sizes(state, groups)
    except KeyError as error:
        raise ValueError(f"expected the weights of a Mask2Former from mmseg, but there is no {error}") from None


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmseg's state dict with the names of `scratch.model`, every tensor in it, half precision made single."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        half = tensor.dtype in (torch.float16, torch.bfloat16)  # saved small; computed with in full
        renamed[name] = tensor.float() if half else tensor
    return renamed


def _sizes(state: Mapping[str, Tensor], groups: int) -> Sizes:
    """Depths and widths, read off the names and shapes of a renamed state dict."""

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    bottleneck = "backbone.layer1.0.conv3.conv.weight" in state
    last = f"conv{3 if bottleneck else 2}.conv.weight"
    return Sizes(
        blocks=tuple(count(f"backbone.layer{stage}.") for stage in range(1, 5)),
        bottleneck=bottleneck,
        backbone=tuple(len(state[f"backbone.layer{stage}.0.{last}"]) for stage in range(1, 5)),
        channels=state["decoder.query_feat.weight"].shape[1],
        groups=groups,
        heads=len(state["pixel_decoder.encoder.0.self_attn.attention_weights.weight"]) // (LEVELS * POINTS),
        encoder_layers=count("pixel_decoder.encoder."),
        encoder_hidden=len(state["pixel_decoder.encoder.0.ffn.0.weight"]),
        decoder_layers=count("decoder.layers."),
        decoder_hidden=len(state["decoder.layers.0.ffn.0.weight"]),
        queries=len(state["decoder.query_feat.weight"]),
        classes=len(state["decoder.cls_embed.weight"]) - 1,
    )
