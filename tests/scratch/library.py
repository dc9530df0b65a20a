"""mmseg's Mask2Former to compare with: built from the profiles' configs, with every number in it made to count."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from m2f_helpers.architecture.reference import build_model
from m2f_helpers.config import base_config

# weights that start at 0 or in a pattern
PLAIN = ("embed.weight", "query_feat", "level_encoding", "sampling_offsets.weight", "attention_weights.weight")


@cache
def randomised(profile: str) -> nn.Module:
    """A float64 model in evaluation mode in which no norm, bias or embedding is 0 or 1, as they are at the start."""
    config = base_config(profile)
    config.model.backbone.init_cfg = None
    model = build_model(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if tensor.dim() == 1 and name.endswith(("running_var", "weight")):
                tensor.copy_(noise + 0.5)
            elif tensor.dim() == 1 or any(part in name for part in PLAIN):
                strength = 15 if name.endswith("mask_feature.bias") else 1  # some masks are empty, some full
                tensor.add_(strength * (0.6 * noise - 0.3))
    return model


def images(batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normalised noise, the same every time: `(batch, 3, height, width)`."""
    generator = torch.Generator().manual_seed(batch * height + width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=dtype)


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """All predictions of mmseg's model, as pairs of class logits and mask logits."""
    return list(zip(*model.decode_head(model.extract_feat(x), None), strict=True))


def difference(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest difference between two lists of predictions of the same length and shapes."""
    assert len(ours) == len(theirs)
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs)
