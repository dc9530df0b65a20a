"""Figures of notebook 03: the whole model with the shapes of a run, and a look inside its parts.

All functions return a `plotting.Figure` and show nothing. Shapes on arrows come from the record of a run, never typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from m2f_helpers.architecture.reference import Evidence, check_mask2former
from m2f_helpers.architecture.tracing import ShapeRecord
from m2f_helpers.plotting import DPI, SERIES, WIDTH, Figure, draw_image, style

INK = "#1a1a1a"
DASHED = "#a05200"
PARTS = {  # fill and edge: told apart by lightness as well as by hue
    "backbone": ("#d6e6f7", "#1f5a99"),
    "pixel decoder": ("#d9f0dc", "#1d6b34"),
    "transformer decoder": ("#fde7cf", "#a05200"),
    "head": ("#ece0f5", "#5f3594"),
    "training": ("#f1f1f1", "#555555"),
}


@dataclass(frozen=True)
class Sampling:
    """Where one token's deformable attention looks.

    `point` is the token's own place (x, y), 0..1; `locations` `(heads, levels, points, 2)`, x then y, 0..1 (outside is
    allowed); `weights` `(heads, levels, points)`, adding up to 1 per head; `sizes` the levels' `[H, W]`.
    """

    point: tuple[float, float]
    locations: Tensor
    weights: Tensor
    sizes: tuple[tuple[int, int], ...]


def architecture(evidence: Evidence) -> Figure:
    """Mask2Former from image to label map, with the shapes of a run on its arrows (the batch dimension left out)."""
    shapes = _flow(evidence.record)
    with style():
        figure = Figure(figsize=(12.5, 7.4))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, 140), ylim=(0, 82))
        ax.axis("off")
        _draw_backbone(ax, shapes)
        _draw_pixel_decoder(ax, shapes)
        _draw_decoder(ax, shapes)
        _draw_head(ax, shapes)
    figure.alt = f"Mask2Former, from image {shapes['image']} to label map {shapes['label map']}, parts and shapes"
    return figure


def sine_encodings(encoding: nn.Module, size: int = 32) -> Figure:
    """Four channels of mmdet's `SinePositionalEncoding`, and how much the code of one place resembles all others.

    `size` is height and width of the map, pixels.
    """
    with torch.no_grad():
        code = encoding(torch.zeros(1, size, size, dtype=torch.bool))[0]  # (C, H, W): the padding mask is empty
    half = len(code) // 2  # the first half of the channels is for the row, the second for the column
    middle = code[:, size // 2, size // 3]  # (C,)
    likeness = torch.einsum("c,chw->hw", middle, code) / middle.square().sum()  # (H, W), 1 at the place itself
    slow, fast = half // 16 * 5, max(half // 32, 2)
    channels = {"row, slow": slow, "row, fast": fast, "column, slow": half + slow, "column, fast": half + fast}
    with style():
        figure = Figure(figsize=(7, 1.85), layout="constrained")
        axes = figure.subplots(1, 5)
        for ax, (name, channel) in zip(axes, channels.items(), strict=False):
            ax.imshow(code[channel], cmap="RdBu_r", vmin=-1, vmax=1)
            ax.set_title(f"{name}\nchannel {channel}", fontsize=8.5)
        axes[4].imshow(likeness, cmap="viridis")
        axes[4].plot(size // 3, size // 2, "+", color="white", markersize=9, markeredgewidth=2)
        axes[4].set_title("likeness to\nthe code at +", fontsize=8.5)
        _no_ticks(axes)
    figure.alt = f"Four channels of the sine position code on a {size}x{size} map and its likeness to one place"
    return figure


def cost_matrices(costs: Mapping[str, np.ndarray], chosen: Sequence[tuple[int, int]], columns: Sequence[str]) -> Figure:
    """Cost matrices `(queries, masks)` by their title side by side, values written in, the total last.

    The `(query, mask)` pairs that the matching has `chosen` are framed; `columns` are the names of the masks.
    """
    with style():
        figure = Figure(figsize=(7, 0.42 * len(next(iter(costs.values()))) + 1.3), layout="constrained")
        axes = figure.subplots(1, len(costs), squeeze=False)[0]
        for ax, (title, matrix) in zip(axes, costs.items(), strict=True):
            _draw_costs(ax, np.asarray(matrix), chosen)
            ax.set_title(title, fontsize=9)
            ax.set_xticks(range(len(columns)), columns, fontsize=7.5)
            ax.set_yticks([])
        axes[0].set_yticks(range(len(matrix)), [f"query {row}" for row in range(len(matrix))], fontsize=8)
    pairs = ", ".join(f"query {row} with {columns[column]}" for row, column in chosen)
    figure.alt = f"Cost matrices {', '.join(costs)}; chosen: {pairs}"
    return figure


def network_input(model: Any, image: np.ndarray) -> Tensor:
    """An RGB image `(H, W, 3)` uint8 as the network receives it: `(1, 3, H', W')` float32, normalised, padded."""
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)  # (H, W, 3) RGB to (3, H, W) BGR
    return model.data_preprocessor({"inputs": [bgr], "data_samples": [SegDataSample()]})["inputs"]


@torch.no_grad()
def sampling_of(model: Any, inputs: Tensor, x: float, y: float) -> Sampling:
    """Where the deformable attention of one token of the finest level looks, in the last encoder layer.

    Args:
        model: a Mask2Former segmentor in evaluation mode.
        inputs: one normalised image, `(1, 3, H, W)` float.
        x, y: place of the token, 0..1 over the image.
    """
    check_mask2former(model)
    attention = model.decode_head.pixel_decoder.encoder.layers[-1].self_attn
    with arguments_of(attention) as seen:
        model.decode_head.pixel_decoder(model.extract_feat(inputs))
    sizes = tuple((int(height), int(width)) for height, width in seen["spatial_shapes"].tolist())
    height, width = sizes[-1]
    column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
    token = int(seen["level_start_index"][-1]) + row * width + column  # level by level, row by row
    query = (seen["query"] + seen["query_pos"])[0, token]  # (B, L, C) to (C,)
    shape = (attention.num_heads, attention.num_levels, attention.num_points)
    offsets = attention.sampling_offsets(query).view(*shape, 2)  # (heads, levels, points, 2), in cells of each level
    # The softmax runs over the points of all levels together: (heads, levels * points), then apart again.
    weights = attention.attention_weights(query).view(shape[0], -1).softmax(-1).view(shape)
    scale = torch.tensor([[width, height] for height, width in sizes])[None, :, None]  # (1, levels, 1, 2)
    point = seen["reference_points"][0, token, 0]  # (B, L, levels, 2) to (2,): the same on every level
    return Sampling((float(point[0]), float(point[1])), point + offsets / scale, weights, sizes)


@contextmanager
def arguments_of(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Within the block, the returned dict fills with the keyword arguments of the module's calls, the last one wins."""
    seen: dict[str, Any] = {}
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def sampling_points(image: np.ndarray, samplings: Sequence[Sampling]) -> Figure:
    """Sampling points over an image, one panel per token: colour is the level, area the weight.

    `image` is RGB, `(H, W, 3)` uint8, as large as what the model saw.
    """
    height, width = image.shape[:2]
    with style():
        figure = Figure(figsize=(7, 7 / len(samplings) * height / width + 0.75), layout="constrained")
        axes = figure.subplots(1, len(samplings), squeeze=False)[0]
        for ax, sampling in zip(axes, samplings, strict=True):
            draw_image(ax, (255 - (255 - image.astype(float)) * 0.55).astype(np.uint8))
            for level, (rows, columns) in enumerate(sampling.sizes):
                places = sampling.locations[:, level].reshape(-1, 2) * torch.tensor([width, height]) - 0.5
                area = sampling.weights[:, level].flatten() * 260 + 4
                name = f"{rows}x{columns} level"
                ax.scatter(*places.T, s=area, color=SERIES[level % 3], alpha=0.8, lw=0.4, ec="white", label=name)
            x, y = sampling.point
            ax.plot(x * width - 0.5, y * height - 0.5, "x", color="black", ms=9, mew=2.5, label="the token")
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        handles, labels = axes[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
        for handle in legend.legend_handles[:-1]:
            handle.set_sizes([40])  # size is the share, not the level
    figure.alt = f"Sampling points of {len(samplings)} tokens in the last encoder layer, coloured by level"
    return figure


def threshold_order(mask_logits: Tensor, size: Sequence[int]) -> Figure:
    """One query's mask, thresholded as it is and after it was resized to a level, as masked attention does it.

    The logits `(H, W)` are as the head predicts them (stride 4); `size` is `[H, W]` of the next layer's level.
    """
    small = F.interpolate(mask_logits[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]  # (H, W)
    before, after = mask_logits.sigmoid() >= 0.5, small.sigmoid() >= 0.5
    height, width = mask_logits.shape
    panels = {
        f"mask probability\n{height} x {width}": mask_logits.sigmoid(),
        f"threshold first:\n{float(before.float().mean()):.1%} open": before,
        f"resized first: largest\nprobability {float(small.sigmoid().max()):.2f}": small.sigmoid(),
        f"then the threshold:\n{int(after.sum())} of {after.numel()} cells open": after,
    }
    with style():
        figure = Figure(figsize=(WIDTH, WIDTH / 4 * height / width + 0.6), dpi=DPI, layout="constrained")
        axes = figure.subplots(1, 4)
        for ax, (title, values) in zip(axes, panels.items(), strict=True):
            ax.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            ax.set_title(title, fontsize=8.5)
        # Where the resize reads: it takes only the four cells around the centre of each new cell.
        rows, columns = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(size, before.shape, strict=True))
        axes[1].plot(*np.meshgrid(columns, rows), "o", color="#ff9e4a", markersize=2.2)
        axes[1].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        _no_ticks(axes)
    figure.alt = "One mask, " + "; ".join(title.replace("\n", " ") for title in panels)
    return figure


_ARROWS = (  # what an arrow carries: name, function, piece of the line that assigns it
    ("image", "BaseSegmentor.forward", "inputs: Tensor,"),
    ("stage 0", "MSDeformAttnPixelDecoder.forward", "x = feats[i]"),
    ("tokens", "MSDeformAttnPixelDecoder.forward", "encoder_inputs = torch.cat("),
    ("fine", "MSDeformAttnPixelDecoder.forward", "mask_feature = self.mask_feature(outs[-1])"),
    ("queries", "Mask2FormerHead.forward", "query_feat = self.query_feat"),
    ("classes", "Mask2FormerHead._forward_head", "cls_pred = self.cls_embed"),
    ("vectors", "Mask2FormerHead._forward_head", "mask_embed = self"),
    ("masks", "Mask2FormerHead._forward_head", "mask_pred = torch.einsum("),
    ("scores", "Mask2FormerHead.predict", "seg_logits = torch.einsum("),
    ("label map", "BaseSegmentor.postprocess_result", "i_seg_pred = i_seg_logits.argmax("),
)


def _flow(record: ShapeRecord) -> dict[str, str]:
    """The texts on the arrows: shapes without the batch dimension, and counts."""
    pixel, head = record["MSDeformAttnPixelDecoder.forward"], record["Mask2FormerHead.forward"]
    shapes = {name: record[function].shapes(line)[0][1:] for name, function, line in _ARROWS}
    for level in range(3):  # the pixel decoder's loop runs from the coarsest level, so run `i` is stage `3 - i`
        shapes[f"stage {3 - level}"] = pixel.shapes("feat = feats[level_idx]")[level][1:]
        shapes[f"tokens {level}"] = pixel.shapes("feat_projected = feat_projected.flatten(2)")[level][1:]
        shapes[f"memory {level}"] = head.shapes("decoder_input = self.decoder_input_projs")[level][1:]
        # the first dimension is B * heads: with one image in the batch, the number of heads
        shapes[f"attention {level}"] = head.shapes("attn_mask = attn_mask & mask_sum")[level]
    layer, encoder = record["DetrTransformerEncoderLayer.forward"], record["Mask2FormerTransformerEncoder.forward"]
    targets = record["dense_heads.mask2former_head.Mask2FormerHead._get_targets_single"]
    return {name: "×".join(map(str, shape)) for name, shape in shapes.items()} | {
        "matched": str(targets.shapes("gt_labels = gt_inst")[0][0]),
        "layers": str(len(head.shapes("query_feat = layer(")) // head.calls),
        "predictions": str(record["Mask2FormerHead._forward_head"].calls // head.calls),
        "encoder layers": str(layer.calls // encoder.calls),
    }


def _draw_backbone(ax: Axes, shapes: dict[str, str]) -> None:
    _panel(ax, (2, 11, 20, 66), "backbone", "Backbone: ResNet")
    _box(ax, (4, 1.5, 16, 6.5), "image\n" + shapes["image"], "training")
    for stage, y in enumerate((15, 30, 45, 60)):
        width = 15 - 2.4 * stage
        _box(ax, (12 - width / 2, y, width, 8), f"stage {stage + 1}\nstride {4 * 2**stage}", "backbone")
        carried = shapes["image"] if stage == 0 else shapes[f"stage {stage - 1}"]
        _arrow(ax, (12, 8 if stage == 0 else y - 7), (12, y), carried, at=(12, y - 3.6), align="plate")
        if stage:
            _arrow(ax, (12 + width / 2, y + 4), (32.5, y + 4), shapes[f"stage {stage}"], at=(26.2, y + 5))
    _arrow(ax, (19.5, 19), (47, 19), shapes["stage 0"], at=(33, 20))


def _draw_pixel_decoder(ax: Axes, shapes: dict[str, str]) -> None:
    _panel(ax, (31, 11, 30, 66), "pixel decoder", "Pixel decoder")
    for level, y in enumerate((60, 45, 30)):
        _box(ax, (32.5, y + 1, 5.5, 6), "1×1\nconv", "pixel decoder", size=7.5)
        _arrow(ax, (38, y + 4), (47, y + 4), shapes[f"tokens {level}"], at=(42.4, y + 5))
    text = f"deformable\nattention,\n{shapes['encoder layers']} layers\n\nall levels\ntogether:\n{shapes['tokens']}"
    _box(ax, (47, 28, 12.5, 39), text, "pixel decoder")
    _box(ax, (33, 71, 26.5, 4.5), "place: sine code + learnt level code", "pixel decoder", size=8)
    _arrow(ax, (53, 71), (53, 67), "")
    _arrow(ax, (53, 28), (53, 23.5), f"{shapes['memory 2']}, enlarged", at=(53, 24.7), align="plate")
    _box(ax, (47, 14.5, 12.5, 9), "add, 3×3 conv,\n1×1 conv", "pixel decoder")


def _draw_decoder(ax: Axes, shapes: dict[str, str]) -> None:
    _panel(ax, (75, 26, 26, 51), "transformer decoder", f"Transformer decoder: {shapes['layers']} layers")
    text = f"queries {shapes['queries']}\ncontent and place learnt"
    _box(ax, (78, 69, 17, 6), text, "transformer decoder", size=7.6)
    count = int(shapes["layers"])
    layers = [", ".join(str(layer) for layer in range(level + 1, count + 1, 3)) for level in range(3)]
    for level, y in enumerate((57, 43, 29)):
        text = f"layer {layers[level]}\nmasked cross-attention\nself-attention\nfeed-forward"
        _box(ax, (78, y, 17, 9), text, "transformer decoder", size=7.6)
        _arrow(ax, (59.5, y + 4.5), (69.8, y + 4.5), shapes[f"memory {level}"], at=(64.6, y + 5.5))
        _arrow(ax, (73, y + 4.5), (78, y + 4.5), "")
        above, carried = y + (12 if level == 0 else 14), "" if level == 0 else shapes["queries"]
        _arrow(ax, (86.5, above), (86.5, y + 9), carried, at=(87, y + 10.4), align="left")
    text = "+ learnt level code;   keys only: + sine code"
    _box(ax, (69.8, 29, 3.2, 37), text, "transformer decoder", size=8, rotation=90)
    _arrow(ax, (95, 31), (95, 64), f"{count // 3} rounds", at=(95.3, 66.6), bend=0.14, align="left")


def _draw_head(ax: Axes, shapes: dict[str, str]) -> None:
    _panel(ax, (107, 11, 31, 66), "head", f"Head: {shapes['predictions']} predictions")
    _box(ax, (109, 64, 11.5, 8), "class layer", "head")
    _box(ax, (109, 50, 11.5, 8), "mask layers\n(3 linear)", "head")
    _box(ax, (109, 34, 11.5, 8), "dot product\nper pixel", "head")
    _box(ax, (125, 44, 11.5, 14), "sum over\nqueries of\nclass ×\nmask", "head")
    _box(ax, (124, 17, 13.5, 8.5), f"largest score:\nlabel map\n{shapes['label map']}", "head", size=8)
    text = f"training only:\nmatch {shapes['matched']} masks,\n3 losses ×\n{shapes['predictions']} predictions"
    _box(ax, (109, 13, 12.5, 13), text, "training", size=7.6)
    _arrow(ax, (101, 60), (109, 60), shapes["queries"], at=(104.4, 61))
    _arrow(ax, (109, 60), (111, 64), "")
    _arrow(ax, (109, 60), (111, 58), "")
    _arrow(ax, (114.7, 50), (114.7, 42), shapes["vectors"], at=(115.4, 45.5), align="left")
    _arrow(ax, (120.5, 68), (130.7, 58), shapes["classes"], at=(127.5, 66), align="left")
    _arrow(ax, (120.5, 39), (125, 46), shapes["masks"], at=(121.2, 37.2), align="left")
    _arrow(ax, (132.5, 44), (132.5, 25.5), shapes["scores"], at=(131.8, 27.3), align="right")
    _arrow(ax, (113, 34), (113, 26), shapes["masks"], at=(113.6, 30.6), align="left")
    _draw_ways_back(ax, shapes)


def _draw_ways_back(ax: Axes, shapes: dict[str, str]) -> None:
    """What reaches the dot product from the pixel decoder, and the masks that go back to every decoder layer."""
    ax.plot([59.5, 104, 104], [19, 19, 36.5], color=INK, lw=1.3)
    _arrow(ax, (104, 36.5), (109, 36.5), "")
    _label(ax, (83, 15.5), f"per-pixel embedding {shapes['fine']}")
    for y in (57, 43, 29):
        _arrow(ax, (109, 39.8), (95.2, y + 3.5), "", dashed=True)
    _label(ax, (86, 22.6), "dashed: where the next layer may not look,", color=DASHED)
    sizes = ", ".join(shapes[f"attention {level}"].rpartition("×")[2] for level in range(3))
    _label(ax, (86, 20), f"{shapes['attention 0'].rpartition('×')[0]}×({sizes})", color=DASHED)


def _panel(ax: Axes, place: tuple[float, float, float, float], part: str, title: str) -> None:
    x, y, width, height = place
    fill, edge = PARTS[part]
    ax.add_patch(Rectangle((x, y), width, height, facecolor=fill, alpha=0.35, edgecolor=edge, lw=0.8, zorder=0))
    ax.text(x + width / 2, y + height + 0.8, title, ha="center", va="bottom", fontsize=11, weight="bold", color=edge)


def _box(
    ax: Axes, place: tuple[float, float, float, float], text: str, part: str, size: float = 9, rotation: float = 0
) -> None:
    x, y, width, height = place
    fill, edge = PARTS[part]
    ax.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.9", fc=fill, ec=edge, lw=1.4))
    look = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "linespacing": 1.15, "rotation": rotation}
    ax.text(x + width / 2, y + height / 2, text, **look)


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    at: tuple[float, float] | None = None,
    align: str = "center",
    bend: float = 0.0,
    dashed: bool = False,
) -> None:
    look = {"ls": (0, (4, 2)), "color": DASHED} if dashed else {"color": INK}
    look |= {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={bend}", "mutation_scale": 11, "lw": 1.3}
    ax.add_patch(FancyArrowPatch(start, end, **look))
    if text:
        _label(ax, at or ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 1), text, align)


def _label(ax: Axes, at: tuple[float, float], text: str, align: str = "center", color: str = INK) -> None:
    plate = {"fc": rcParams["figure.facecolor"], "ec": "none", "pad": 0.6} if align == "plate" else None
    align = "center" if align == "plate" else align
    ax.text(*at, text, ha=align, va="bottom", fontsize=8.5, color=color, bbox=plate)


def _draw_costs(ax: Axes, matrix: np.ndarray, chosen: Sequence[tuple[int, int]]) -> None:
    ax.imshow(matrix, cmap="cividis", aspect="auto")
    middle = (matrix.min() + matrix.max()) / 2
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value < middle else "black"
        ax.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=8.5, color=color)
    for row, column in chosen:
        for color, width in (("white", 4), ("#d55e00", 2.2)):
            ax.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=color, lw=width))


def _no_ticks(axes: Any) -> None:
    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
