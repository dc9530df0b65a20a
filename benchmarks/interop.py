"""mmseg's weights in Hugging Face's Mask2Former (extra `interop`), for benchmarks/speed.py and tests/scratch."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from m2f_helpers.scratch import weights
from m2f_helpers.scratch.weights import Sizes

# Names of m2f_helpers.scratch -> names of transformers, without the prefix `model.`: applied in order.
RENAMES = (
    (r"^backbone\.stem\.conv", "pixel_level_module.encoder.embedder.embedder.convolution"),
    (r"^backbone\.stem\.norm", "pixel_level_module.encoder.embedder.embedder.normalization"),
    (
        r"^backbone\.layer(\d)\.(\d)",
        lambda m: f"pixel_level_module.encoder.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}",
    ),
    (r"\.downsample\.", ".shortcut."),
    (r"(stages.*)\.conv(\d)\.", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}."),
    (r"(stages.*)\.conv\.", r"\1.convolution."),
    (r"(stages.*)\.norm\.", r"\1.normalization."),
    (r"^pixel_decoder\.level_encoding\.weight", "pixel_level_module.decoder.level_embed"),
    (r"^pixel_decoder\.input_convs\.(\d)\.conv", r"pixel_level_module.decoder.input_projections.\1.0"),
    (r"^pixel_decoder\.input_convs\.(\d)\.norm", r"pixel_level_module.decoder.input_projections.\1.1"),
    (r"^pixel_decoder\.lateral\.conv", "pixel_level_module.decoder.adapter_1.0"),
    (r"^pixel_decoder\.lateral\.norm", "pixel_level_module.decoder.adapter_1.1"),
    (r"^pixel_decoder\.output\.conv", "pixel_level_module.decoder.layer_1.0"),
    (r"^pixel_decoder\.output\.norm", "pixel_level_module.decoder.layer_1.1"),
    (r"^pixel_decoder\.mask_feature", "pixel_level_module.decoder.mask_projection"),
    (r"^pixel_decoder\.encoder\.(\d+)\.norms\.0", r"pixel_level_module.decoder.encoder.layers.\1.self_attn_layer_norm"),
    (r"^pixel_decoder\.encoder\.(\d+)\.norms\.1", r"pixel_level_module.decoder.encoder.layers.\1.final_layer_norm"),
    (r"^pixel_decoder\.encoder\.", "pixel_level_module.decoder.encoder.layers."),
    (r"^decoder\.query_feat", "transformer_module.queries_features"),
    (r"^decoder\.query_embed", "transformer_module.queries_embedder"),
    (r"^decoder\.level_embed", "transformer_module.level_embed"),
    (r"^decoder\.post_norm", "transformer_module.decoder.layernorm"),
    (
        r"^decoder\.mask_embed\.(\d)",
        lambda m: f"transformer_module.decoder.mask_predictor.mask_embedder.{int(m[1]) // 2}.0",
    ),
    (r"^decoder\.cls_embed", "class_predictor"),
    (r"^decoder\.layers", "transformer_module.decoder.layers"),
    (r"\.norms\.0", ".cross_attn_layer_norm"),
    (r"\.norms\.1", ".self_attn_layer_norm"),
    (r"\.norms\.2", ".final_layer_norm"),
    (r"\.ffn\.0\.", ".fc1."),
    (r"\.ffn\.2\.", ".fc2."),
    (r"cross_attn\.in_proj\.", "cross_attn.in_proj_"),
)


def hugging_face(source: Any) -> nn.Module:
    """transformers' `Mask2FormerForUniversalSegmentation` with the weights of mmseg's model, in evaluation mode."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    state, sizes = weights.read(source, 32)
    backbone = ResNetConfig(
        embedding_size=64,
        hidden_sizes=list(sizes.backbone),
        depths=list(sizes.blocks),
        layer_type="bottleneck" if sizes.bottleneck else "basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, **_arguments(sizes)))
    for part in model.modules():
        if isinstance(part, nn.GroupNorm):
            part.num_groups = sizes.groups
    renamed = dict(pair for name, tensor in state.items() for pair in _rename(name, tensor))
    renamed["criterion.empty_weight"] = model.criterion.empty_weight
    model.to(next(iter(state.values())).dtype).load_state_dict(renamed)
    return model.eval()


def _arguments(sizes: Sizes) -> dict[str, Any]:
    return {
        "num_labels": sizes.classes,
        "feature_size": sizes.channels,
        "mask_feature_size": sizes.channels,
        "hidden_dim": sizes.channels,
        "encoder_feedforward_dim": sizes.encoder_hidden,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers + 1,  # counted with the prediction before the first
        "num_attention_heads": sizes.heads,
        "dim_feedforward": sizes.decoder_hidden,
        "num_queries": sizes.queries,
    }


def _rename(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    for pattern, theirs in RENAMES:
        name = re.sub(pattern, theirs, name)
    name = name if name.startswith("class_predictor") else f"model.{name}"
    if "self_attn.in_proj." not in name:
        return [(name, tensor)]
    return [(name.replace("in_proj", f"{part}_proj"), rows) for part, rows in zip("qkv", tensor.chunk(3), strict=True)]
