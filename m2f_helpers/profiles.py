"""Settings of the two profiles, `demo` and `ade20k`, as data. Taught in notebook 04.

Both profiles go through the same functions. What differs between them (how wide the model is, how many pixels, how many
iterations) stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Any

PUBLISHED = "mask2former_r50_8xb2-160k_ade20k-512x512"

# The published model made narrow: the same parts in the same order, fewer and thinner layers.
# Reason -> {dotted key: value}. `finetune.differences` groups by the words before the colon.
_NARROW = {
    "model size: 64 channels in place of 256, in the backbone 16 in place of 64; a layer costs about a sixteenth": {
        "model.backbone.base_channels": 16,
        "model.decode_head.in_channels": [16, 32, 64, 128],
        "model.decode_head.feat_channels": 64,
        "model.decode_head.out_channels": 64,
        "model.decode_head.pixel_decoder.norm_cfg.num_groups": 16,
        "model.decode_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg.embed_dims": 64,
        "model.decode_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg.num_heads": 4,
        "model.decode_head.pixel_decoder.encoder.layer_cfg.ffn_cfg.embed_dims": 64,
        "model.decode_head.pixel_decoder.encoder.layer_cfg.ffn_cfg.feedforward_channels": 128,
        "model.decode_head.pixel_decoder.positional_encoding.num_feats": 32,
        "model.decode_head.positional_encoding.num_feats": 32,
        "model.decode_head.transformer_decoder.layer_cfg.self_attn_cfg.embed_dims": 64,
        "model.decode_head.transformer_decoder.layer_cfg.self_attn_cfg.num_heads": 4,
        "model.decode_head.transformer_decoder.layer_cfg.cross_attn_cfg.embed_dims": 64,
        "model.decode_head.transformer_decoder.layer_cfg.cross_attn_cfg.num_heads": 4,
        "model.decode_head.transformer_decoder.layer_cfg.ffn_cfg.embed_dims": 64,
        "model.decode_head.transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels": 256,
    },
    "model size: fewer layers of each kind, so that a laptop trains it in minutes": {
        "model.backbone.depth": 18,
        "model.decode_head.pixel_decoder.encoder.num_layers": 2,
        "model.decode_head.transformer_decoder.num_layers": 3,
    },
    "model size: fewer queries and points, because a drawn scene has few regions": {
        "model.decode_head.num_queries": 20,
        "model.decode_head.train_cfg.num_points": 1024,
    },
    "batch norm: one device, so no SyncBN; and trained, because drawings have other statistics than ImageNet": {
        "model.backbone.norm_cfg": {"type": "BN", "requires_grad": True},
    },
    "start weights: all from load_from, so the backbone needs no download from ImageNet": {
        "model.backbone.init_cfg": None,
    },
    "optimiser: the full rate for the backbone too, which has no ImageNet weights to protect": {
        "optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult": 1.0,
    },
    "optimiser: gradients clipped at 1; clipped at 0.01, some of so small a model come near the eps of AdamW": {
        "optim_wrapper.clip_grad.max_norm": 1.0,
    },
}


@dataclass(frozen=True)
class Profile:
    """One set of settings."""

    name: str  #: what `PROFILE` in a notebook and `--profile` on the command line say
    title: str  #: one line for people
    weights: str  #: that fine-tuning starts from: `"demo_day"` (in the package) or a name in mmseg's metafile
    crop_size: tuple[int, int]  #: training crop, `[H, W]` pixels
    scales: tuple[int, ...]  #: shorter sides, pixels; one is drawn at random for a training image before the crop
    max_size: int  #: largest longer side after that resize, pixels
    #: `[shorter, longer]` side limit at inference, pixels; the aspect ratio stays. The class map is scaled back and
    #: compared with the labels at their full size.
    test_size: tuple[int, int]
    batch_size: int  #: training images per step and device
    learning_rate: float  #: of AdamW at the start; a polynomial schedule takes it to 0
    iterations: int  #: steps of a fine-tune when there is enough data
    max_epochs: int  #: no more steps than this many passes over the data
    log_interval: int  #: steps between two lines of the log file
    learning_reason: str = ""  #: why this batch and this rate
    dropped_steps: Mapping[str, str] = field(default_factory=dict)  #: steps of the training pipeline left out, and why
    max_val: int = 0  #: validate on at most this many images; 0 means all
    train_scenes: int = 48  #: drawn when there is no data set
    val_scenes: int = 16  #: likewise
    published: str = PUBLISHED  #: the config in mmseg's own metafile that everything starts from
    model_changes: Mapping[str, Any] = field(default_factory=dict)  #: from that one: reason -> dotted key -> value

    def iterations_for(self, images: int) -> int:
        """Steps of a fine-tune on that many images: `iterations`, but at most `max_epochs` passes over the data.

        Raises: ValueError if there is no image.
        """
        if images < 1:
            raise ValueError(f"expected at least one training image, got {images}")
        return min(self.iterations, max(2, ceil(self.max_epochs * images / self.batch_size)))


_PROFILES = (
    Profile(
        name="demo",
        title="narrow Mask2Former (ResNet-18, 1.1 M parameters) on drawn scenes, minutes on two CPU cores",
        weights="demo_day",
        crop_size=(192, 192),
        scales=(160, 176, 192, 208, 224, 256),
        max_size=1024,
        test_size=(192, 768),
        batch_size=8,
        learning_rate=1e-3,
        learning_reason=(
            "8 images per step in place of 16 on 8 GPUs, and ten times the rate: found by trial, for a small model "
            "and a short run"
        ),
        iterations=110,
        max_epochs=25,
        log_interval=5,
        dropped_steps=MappingProxyType({"PhotoMetricDistortion": "in drawn scenes the colour tells the class"}),
        model_changes=MappingProxyType(_NARROW),
    ),
    Profile(
        name="ade20k",
        title="the published Mask2Former R50 (44.0 M parameters) on ADE20K, a GPU is advised",
        weights=PUBLISHED,
        crop_size=(512, 512),
        scales=tuple(512 * x // 10 for x in range(5, 21)),
        max_size=2048,
        test_size=(512, 2048),
        batch_size=2,
        learning_rate=1e-4,
        learning_reason="2 images per step, as many as one GPU holds, at the published rate",
        iterations=1000,
        max_epochs=2,
        max_val=200,
        log_interval=10,
    ),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _PROFILES})


def get_profile(name: str | Profile) -> Profile:
    """The profile of that name; a `Profile` is handed back as it is.

    Raises: ValueError if there is no such profile.
    """
    if isinstance(name, Profile):
        return name
    if name not in PROFILES:
        raise ValueError(f"expected a profile out of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
