"""Mask2Former in plain PyTorch, to read in one sitting: it computes what mmseg's computes. Taught in notebook 07.

Paper: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", arXiv 2112.01527. Each part
names its section there and the class of mmdet 3.3.0 or mmcv 2.1.0 that it stands for. The image goes through

    backbone -> pixel decoder -> Transformer decoder, with a prediction before its first and after each of its layers

Shape letters: B images, C channels, H W height and width, L tokens (pixels of a feature map in a row), Q queries,
K classes, M heads, P sampling points, N feature levels. Levels run from coarse to fine: strides 32, 16, 8; then 4.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2f_helpers.install import kernels
from m2f_helpers.scratch.weights import LEVELS, POINTS, Sizes, read


class ConvNorm(nn.Sequential):
    """A convolution and its norm: batch norm, or group norm if there are groups. mmcv: `ConvModule`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 0, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(groups, outputs) if groups else nn.BatchNorm2d(outputs)


class Block(nn.Module):
    """A residual block (He et al., arXiv 1512.03385, fig. 5). mmdet: `BasicBlock`, and `Bottleneck` of style "pytorch".

    The bottleneck narrows to a quarter, convolves 3x3 and widens; the stride sits in its 3x3 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.conv1 = ConvNorm(inputs, outputs // 4, 1)
            self.conv2 = ConvNorm(outputs // 4, outputs // 4, 3, stride)
            self.conv3 = ConvNorm(outputs // 4, outputs, 1)
        else:
            self.conv1 = ConvNorm(inputs, outputs, 3, stride)
            self.conv2 = ConvNorm(outputs, outputs, 3)
            self.conv3 = None
        self.downsample = ConvNorm(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` -> `(B, outputs, H / stride, W / stride)`."""
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        if self.conv3 is not None:
            y = self.conv3(F.relu(y, inplace=True))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """ResNet-18 or -50 without its classifier (section 4.1, "Backbone"). mmseg: `ResNet`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 64, 7, 2)
        inputs = 64
        for stage, (blocks, outputs) in enumerate(zip(sizes.blocks, sizes.backbone, strict=True), start=1):
            first = Block(inputs, outputs, 1 if stage == 1 else 2, sizes.bottleneck)
            rest = [Block(outputs, outputs, 1, sizes.bottleneck) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            inputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)`, normalised -> four feature maps, strides 4, 8, 16, 32."""
        x = F.relu(self.stem(images), inplace=True)  # (B, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, H/4, W/4)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


def sine_positions(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Positions as sines and cosines: `(1, L, channels)`, the first half from y, the second from x.

    mmdet: `SinePositionalEncoding(normalize=True)`, which computes in float32 whatever the type of the model.
    """
    count = channels // 2
    index = torch.arange(count, dtype=torch.float32, device=like.device)
    waves = 10000 ** (2 * (index // 2) / count)
    parts = []
    for length in size:
        steps = torch.arange(1, length + 1, dtype=torch.float32, device=like.device)
        angles = (steps / (length + 1e-6) * 2 * torch.pi)[:, None] / waves  # (H or W, count)
        parts.append(torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), 2).flatten(1))
    y, x = parts[0][:, None].expand(*size, -1), parts[1][None].expand(*size, -1)
    return torch.cat((y, x), 2).flatten(0, 1)[None].to(like.dtype)


def sample_levels(value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Read each feature level at the given places, bilinearly, and add up (Deformable DETR, arXiv 2010.04159, eq. 3).

    mmcv: `multi_scale_deformable_attn_pytorch`. On a CPU with the extra `fast`, a kernel does the same in one pass.

    `value` `(B, L, M, C / M)`, the tokens of all levels in a row; `locations` `(B, L, M, N, P, 2)`, x then y, 0..1 over
    the level; `weights` `(B, L, M, N, P)`, sum 1 over N and P -> `(B, L, C)`.
    """
    if kernels.usable(value):
        return kernels.deformable_attention(value, sizes, locations, weights)
    batch, _, heads, width = value.shape
    sampled = []
    for level, (tokens, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], 1), sizes, strict=True)):
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # (B M, L, P, 2), -1..1
        sampled.append(F.grid_sample(maps, grid, align_corners=False))  # (B M, C / M, L, P)
    weights = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]  # (B M, 1, L, N P)
    summed = (torch.cat(sampled, 3) * weights).sum(3)  # (B M, C / M, L)
    return summed.view(batch, heads * width, -1).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each token looks at P places per head and level, which it chooses itself (section 3.2.1).

    mmcv: `MultiScaleDeformableAttention`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(channels, heads * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(channels, heads * LEVELS * POINTS)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """`x` `(B, L, C)`, `positions` `(1, L, C)`, `centres` `(L, 2)` of the tokens' own pixels -> `(B, L, C)`."""
        value = self.value_proj(x).unflatten(2, (self.heads, -1))  # (B, L, M, C / M)
        query = x + positions
        offsets = self.sampling_offsets(query).unflatten(2, (self.heads, LEVELS, POINTS, 2))  # in pixels
        weights = self.attention_weights(query).unflatten(2, (self.heads, -1)).softmax(3)
        weights = weights.unflatten(3, (LEVELS, POINTS))  # (B, L, M, N, P)
        scale = torch.tensor([[w, h] for h, w in sizes], device=x.device)[:, None]  # (N, 1, 2)
        locations = centres[:, None, None, None] + offsets / scale  # (B, L, M, N, P, 2)
        return self.output_proj(sample_levels(value, sizes, locations, weights))


def feed_forward(channels: int, hidden: int) -> nn.Sequential:
    """Two linear layers on each token by itself. mmcv: `FFN`."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then feed-forward. mmdet: `DeformableDetrTransformerEncoderLayer`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(sizes.channels, sizes.heads)
        self.ffn = feed_forward(sizes.channels, sizes.encoder_hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.channels) for _ in range(2))

    def forward(self, x: Tensor, *where: Any) -> Tensor:
        """`(B, L, C)` -> `(B, L, C)`; the norms come after the sums."""
        x = self.norms[0](x + self.self_attn(x, *where))
        return self.norms[1](x + self.ffn(x))


class PixelDecoder(nn.Module):
    """Lets the levels talk to each other and makes the per-pixel embeddings (section 3.2.1, "Pixel decoder").

    mmdet: `MSDeformAttnPixelDecoder`.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, groups = sizes.channels, sizes.groups
        coarse_first = sizes.backbone[:0:-1]
        self.input_convs = nn.ModuleList(ConvNorm(inputs, width, 1, 1, groups, bias=True) for inputs in coarse_first)
        self.level_encoding = nn.Embedding(LEVELS, width)
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.encoder_layers))
        self.lateral = ConvNorm(sizes.backbone[0], width, 1, 1, groups)
        self.output = ConvNorm(width, width, 3, 1, groups)
        self.mask_feature = nn.Conv2d(width, width, 1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Feature maps of strides 4, 8, 16, 32 -> mask features `(B, C, H/4, W/4)` and levels `(B, C, h, w)`."""
        tokens, positions, centres, sizes = [], [], [], []
        for i, feature in enumerate(features[:0:-1]):
            x = self.input_convs[i](feature)  # (B, C, h, w)
            size = (x.shape[2], x.shape[3])
            tokens.append(x.flatten(2).transpose(1, 2))  # (B, h w, C)
            positions.append(sine_positions(size, x.shape[1], x) + self.level_encoding.weight[i])
            centres.append(pixel_centres(size, x))
            sizes.append(size)
        x = torch.cat(tokens, 1)  # (B, L, C)
        where = torch.cat(positions, 1), torch.cat(centres), sizes
        for layer in self.encoder:
            x = layer(x, *where)
        parts = x.split([h * w for h, w in sizes], 1)
        levels = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.lateral(features[0])  # (B, C, H/4, W/4): the finest level joins by addition only
        fine = fine + resize(levels[-1].clone(memory_format=torch.channels_last), fine.shape[2:])
        return self.mask_feature(F.relu(self.output(fine), inplace=True)), levels


def pixel_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """Where the middle of each pixel lies, x then y, 0..1: `(h w, 2)`. mmdet: `MlvlPointGenerator`, in float32 too."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=like.device) + 0.5) / n for n in size)
    return torch.stack((x.repeat(size[0]), y.repeat_interleave(size[1])), 1).to(like.dtype)


def resize(maps: Tensor, size: Any) -> Tensor:
    """Bilinear, corners not aligned, as everywhere in mmseg's config."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class Attention(nn.Module):
    """Multi-head attention. mmcv: `MultiheadAttention`, around torch's."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(channels, 3 * channels)  # query, key and value, one above the other
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        """`query` `(B, Q, C)`, `key` and `value` `(B, L, C)`, `blocked` `(B, Q, L)` bool -> `(B, Q, C)`."""
        parts = zip((query, key, value), self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3), strict=True)
        q, k, v = (F.linear(*part).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, M, ., C / M)
        allowed = None if blocked is None else ~blocked[:, None]  # the same for all heads
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (B, M, Q, C / M)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked attention, self-attention, feed-forward, in this order (section 3.2.2).

    mmdet: `Mask2FormerTransformerDecoderLayer`.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cross_attn = Attention(sizes.channels, sizes.heads)
        self.self_attn = Attention(sizes.channels, sizes.heads)
        self.ffn = feed_forward(sizes.channels, sizes.decoder_hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.channels) for _ in range(3))

    def forward(self, x: Tensor, query_pos: Tensor, tokens: Tensor, key_pos: Tensor, blocked: Tensor) -> Tensor:
        """Queries `x` `(B, Q, C)` read `tokens` `(B, L, C)` where not `blocked` `(B, Q, L)` -> `(B, Q, C)`."""
        x = self.norms[0](x + self.cross_attn(x + query_pos, tokens + key_pos, tokens, blocked))
        placed = x + query_pos
        x = self.norms[1](x + self.self_attn(placed, placed, x))
        return self.norms[2](x + self.ffn(x))


class TransformerDecoder(nn.Module):
    """Queries that read the image where their own masks are, coarse to fine (section 3.2). mmdet: `Mask2FormerHead`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.channels
        self.query_feat = nn.Embedding(sizes.queries, width)
        self.query_embed = nn.Embedding(sizes.queries, width)  # their positions
        self.level_embed = nn.Embedding(LEVELS, width)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.decoder_layers))
        self.post_norm = nn.LayerNorm(width)
        self.cls_embed = nn.Linear(width, sizes.classes + 1)  # the last class is "no object"
        hidden = [part for _ in range(2) for part in (nn.Linear(width, width), nn.ReLU(inplace=True))]
        self.mask_embed = nn.Sequential(*hidden, nn.Linear(width, width))

    def forward(self, mask_features: Tensor, levels: list[Tensor], every: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Mask features `(B, C, H/4, W/4)` and levels `(B, C, h, w)` -> predictions, see `Mask2Former.forward`."""
        tokens = [x.flatten(2).transpose(1, 2) + e for x, e in zip(levels, self.level_embed.weight, strict=True)]
        positions = [sine_positions(tuple(x.shape[2:]), x.shape[1], x) for x in levels]
        small = [resize(mask_features.detach(), x.shape[2:]).flatten(2) for x in levels]  # (B, C, h w)
        x = self.query_feat.weight.expand(len(mask_features), -1, -1)  # (B, Q, C)
        predictions = []
        for i in range(len(self.layers) + 1):
            last = i == len(self.layers)
            queries = self.post_norm(x)
            embeddings = self.mask_embed(queries)  # (B, Q, C)
            if every or last:
                masks = (embeddings @ mask_features.flatten(2)).unflatten(2, mask_features.shape[2:])
                predictions.append((self.cls_embed(queries), masks))  # (B, Q, K + 1), (B, Q, H/4, W/4)
            if not last:
                level = i % LEVELS
                blocked = self.blocked(embeddings, small[level])
                x = self.layers[i](x, self.query_embed.weight, tokens[level], positions[level], blocked)
        return predictions

    @staticmethod
    @torch.no_grad()
    def blocked(embeddings: Tensor, small: Tensor) -> Tensor:
        """Where each query must not look: outside its mask (eq. 2); a query with an empty mask may look everywhere.

        The paper makes the mask at stride 4 and shrinks it. Shrinking and the dot product are both linear, so the
        features can be shrunk instead, once for all layers: `(B, Q, C)` times `(B, C, L)` -> `(B, Q, L)` bool.
        """
        outside = (embeddings @ small).sigmoid() < 0.5
        return outside & ~outside.all(-1, keepdim=True)


class Mask2Former(nn.Module):
    """The whole network (section 3.1, fig. 2). mmseg: `EncoderDecoder` with `Mask2FormerHead`."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes = sizes or Sizes()
        self.backbone = ResNet(sizes)
        self.pixel_decoder = PixelDecoder(sizes)
        self.decoder = TransformerDecoder(sizes)

    def forward(self, images: Tensor, every: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Normalised images `(B, 3, H, W)` -> class logits `(B, Q, K + 1)` and mask logits `(B, Q, H/4, W/4)`.

        One such pair before the first decoder layer and after each; only the last one if not `every`.
        """
        return self.decoder(*self.pixel_decoder(self.backbone(images)), every)

    @classmethod
    def from_mmseg(cls, source: Any, groups: int = 32) -> Mask2Former:
        """The same network with mmseg's weights, in evaluation mode.

        Args:
            source: a model of mmseg, its state dict, or the path of a checkpoint.
            groups: of the group norms, where `source` is no model and so does not tell: 32 as published, 16 for demo.

        Raises: ValueError if these are not the weights of a Mask2Former: every tensor must find its place.
        """
        state, sizes = read(source, groups)
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            model = cls(sizes)
        try:
            model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        except RuntimeError as error:
            raise ValueError(f"these weights are not of a Mask2Former with {sizes}: {error}") from None
        return model.eval()


def fused(model: Mask2Former) -> Mask2Former:
    """A copy for inference: batch norms folded into their convolutions, weights laid out channels-last."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return model.to(memory_format=torch.channels_last)
