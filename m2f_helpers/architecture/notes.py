"""The installed source, annotated: notes anchored to its lines, and the shapes that a real run left beside them.

The notes live in `notes.json`: for every function a list of notes, each tied to a piece of text that stands on exactly
one line of the function. If the library changes under a note, `resolve_notes` says which one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from m2f_helpers.architecture.tracing import (
    FunctionSource,
    FunctionTrace,
    ShapeRecord,
    Statement,
    function_source,
    source_in_file,
)

REPOSITORIES = {"mmseg": "open-mmlab/mmsegmentation", "mmdet": "open-mmlab/mmdetection", "mmcv": "open-mmlab/mmcv"}

# Functions that look as if they took part. They are traced too, so that a run can show which of them never do.
IDLE = ("loss", "forward", "preprocess_gt", "predict", "_get_targets_single", "_loss_by_feat_single")
RELATIVES = [
    *(f"mmdet.models.dense_heads.maskformer_head:MaskFormerHead.{name}" for name in IDLE),
    "mmdet.models.layers.transformer.detr_layers:DetrTransformerDecoder.forward",
    "mmdet.models.layers.transformer.detr_layers:DetrTransformerDecoderLayer.forward",
    "mmdet.models.layers.transformer.deformable_detr_layers:DeformableDetrTransformerEncoder.forward",
    "mmdet.models.layers.transformer.deformable_detr_layers:DeformableDetrTransformerEncoder."
    "get_encoder_reference_points",
    "mmseg.models.segmentors.encoder_decoder:EncoderDecoder.slide_inference",
    "mmdet.models.task_modules.samplers.mask_pseudo_sampler:MaskPseudoSampler.sample",
    "mmcv.cnn.bricks.transformer:FFN.forward",
]

# The symbols of notebook 03's formulas: symbol, meaning, function and line where the run assigns it.
SYMBOLS = (
    ("x_q", "queries", "Mask2FormerHead.forward", "query_feat = self.query_feat"),
    ("k_l, v_l", "tokens of one level", "Mask2FormerHead.forward", "decoder_input = decoder_input + level_embed"),
    ("y_q", "result, added to x_q", "Mask2FormerTransformerDecoderLayer.forward", "query = self.cross_attn("),
    ("M_ql", "blocked places, per head", "Mask2FormerHead.forward", "attn_mask = attn_mask & mask_sum"),
    ("r_q", "own place, on each level", "MSDeformAttnPixelDecoder.forward", "reference_points = reference_points[None"),
    ("Δ_qsp", "offsets", "MultiScaleDeformableAttention.forward", "sampling_offsets = self.sampling_offsets(query)"),
    ("a_qsp", "shares", "MultiScaleDeformableAttention.forward", "attention_weights = attention_weights.softmax("),
    ("V_s", "values, all levels", "MultiScaleDeformableAttention.forward", "value = value.view(bs, num_value"),
    ("e_q", "vectors of the masks", "Mask2FormerHead._forward_head", "mask_embed = self.mask_embed"),
    ("f_i", "per-pixel embedding", "MSDeformAttnPixelDecoder.forward", "mask_feature = self.mask_feature("),
    ("p_q(c)", "class logits", "Mask2FormerHead._forward_head", "cls_pred = self.cls_embed"),
    ("m_q(i)", "mask logits", "Mask2FormerHead._forward_head", "mask_pred = torch.einsum("),
    ("t_j", "targets, at the points", "Mask2FormerHead._loss_by_feat_single", "mask_point_targets = point_sample("),
    ("D", "Dice, times 5", "Mask2FormerHead._loss_by_feat_single", "loss_dice = self.loss_dice("),
    ("E", "cross-entropy, times 5", "Mask2FormerHead._loss_by_feat_single", "loss_mask = self.loss_mask("),
    ("C_qj", "costs, query by target", "HungarianAssigner.assign", "cost = torch.stack(cost_list)"),
    ("π̂(j)", "queries that won", "Mask2FormerHead._get_targets_single", "pos_inds = sampling_result.pos_inds"),
    ("S_c(i)", "class scores", "Mask2FormerHead.predict", "seg_logits = torch.einsum("),
)


@dataclass(frozen=True)
class Covered:
    """A function of the libraries that this package annotates."""

    module: str
    qualname: str
    part: str
    summary: str

    @property
    def name(self) -> str:
        """Full name, module and all."""
        return f"{self.module}.{self.qualname}"

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return _load(f"{self.module}:{self.qualname}")


@dataclass(frozen=True)
class Note:
    """A remark on one line: where (function and a piece of the line's text), what, and the paper's section if any."""

    module: str
    qualname: str
    anchor: str
    text: str
    paper: str | None = None


@dataclass(frozen=True)
class StaleComment:
    """A comment about a shape that differs from what the run recorded on the line below it."""

    function: str
    line: int
    says: str
    recorded: str


@cache
def covered() -> tuple[Covered, ...]:
    """The annotated functions, in the order in which the data flows."""
    return tuple(Covered(*(row[key] for key in ("module", "qualname", "part", "summary"))) for row in _functions())


@cache
def load_notes() -> tuple[Note, ...]:
    """All notes, in file order."""
    notes = [(row, note) for row in _functions() for note in row["notes"]]
    return tuple(Note(r["module"], r["qualname"], n["at"], n["note"], n.get("paper")) for r, n in notes)


def covered_functions() -> list[Callable[..., Any]]:
    """The annotated functions themselves. Imports mmseg and mmdet."""
    return [entry.load() for entry in covered()]


def uncovered_relatives() -> list[Callable[..., Any]]:
    """Functions of the parent classes that a reader may take for the ones that run."""
    return [_load(name) for name in RELATIVES]


def resolve_notes(notes: Iterable[Note] | None = None, root: Path | None = None) -> dict[Note, int]:
    """Line number of every note, default: all, in the installed libraries or in the sources below `root`.

    Raises: ValueError that names the note if its anchor stands on no line of the function, or on more than one.
    """
    lines = {}
    for note in load_notes() if notes is None else notes:
        try:
            lines[note] = note_source(note, root).line_of(note.anchor)
        except ValueError as error:
            raise ValueError(
                f"the note {note.text[:60]!r} on {note.qualname} has lost its line: {error}; correct it in notes.json"
            ) from error
    return lines


def permalink(function: Any, line: int) -> str | None:
    """Address of a line in the library's public repository, at the installed version's tag; None for other code."""
    source = function if isinstance(function, FunctionSource) else function_source(function)
    package = source.module.partition(".")[0]
    return repository_link(package, source.module.replace(".", "/") + ".py", line) if package in REPOSITORIES else None


def repository_link(package: str, path: str, line: int) -> str:
    """Address of a line of one of `REPOSITORIES`, at the installed version's tag."""
    version = import_module(package).__version__
    return f"https://github.com/{REPOSITORIES[package]}/blob/v{version}/{path}#L{line}"


def lines_without_shape(record: ShapeRecord) -> list[str]:
    """`function:line` of every line that ran and assigned something whose value was never observed. Should be empty."""
    return [f"{name}:{line}" for name, trace in record.items() for line in trace.without_shape()]


def stale_comments(record: ShapeRecord) -> list[StaleComment]:
    """Comments of the covered functions that name a shape which the run contradicts, one entry per line.

    Judged are the number of dimensions and the positions of batch size and queries.
    """
    sizes = run_sizes(record)
    traced = [entry for entry in covered() if entry.name in record]
    return [stale for entry in traced for stale in stale_in(entry.qualname, record[entry.name], sizes)]


@cache
def _functions() -> list[dict[str, Any]]:
    return json.loads(Path(__file__).with_name("notes.json").read_text(encoding="utf-8"))["functions"]


def _load(name: str) -> Callable[..., Any]:
    module, qualname = name.split(":")
    return attrgetter(qualname)(import_module(module))


def run_sizes(record: ShapeRecord) -> dict[str, int]:
    """What `batch_size` and `num_queries` were in a run, as the covered functions themselves computed them."""
    found = {}
    for name, function, line in (
        ("batch_size", "Mask2FormerHead.forward", "batch_size = x[0].shape[0]"),
        ("num_queries", "mask2former_head.Mask2FormerHead._get_targets_single", "num_queries = cls_score.shape[0]"),
    ):
        texts = next((trace.texts(line) for key, trace in record.items() if key.endswith(function)), [])
        if texts:
            found[name] = int(texts[0])
    return found


def stale_in(name: str, trace: FunctionTrace, sizes: dict[str, int]) -> list[StaleComment]:
    """Comments of one function that name a shape which the run contradicts."""
    found = []
    for statement in dict.fromkeys(trace.source.statements.values()):
        says = _shape_comment(trace.source, statement)
        for runs in trace.seen.get(statement.first, {}).values():
            shape = runs[-1].shape
            if not says or shape is None:
                continue
            pairs = zip(says, shape, strict=False)
            if len(says) != len(shape) or any(sizes.get(name, size) != size for name, size in pairs):
                found.append(StaleComment(name, statement.first, f"({', '.join(says)})", runs[-1].text))
                break
    return found


def _shape_comment(source: FunctionSource, statement: Statement) -> list[str] | None:
    """Names of the dimensions in the comment right above a statement, of the last shape it mentions."""
    block: list[str] = []
    line = statement.first - 1
    while line >= source.first and source.lines[line - source.first].strip().startswith("#"):
        block.insert(0, source.lines[line - source.first].strip("# "))
        line -= 1
    shapes = re.findall(r"\(([^()]*,[^()]*)\)", " ".join(block))
    if not shapes or re.search(r"\.\.\.|\[", shapes[-1]) or "shape" not in " ".join(block):
        return None
    return [part.strip() for part in shapes[-1].split(",") if part.strip()]


def note_source(note: Note, root: Path | None) -> FunctionSource:
    """The function a note speaks about: as installed, or below `root`."""
    if root is None:
        return function_source(_load(f"{note.module}:{note.qualname}"))
    return source_in_file(root / (note.module.replace(".", "/") + ".py"), note.module, note.qualname)
