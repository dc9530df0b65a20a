"""The installed source, annotated: notes anchored to its lines, and the shapes that a real run left beside them.

Built for notebook 03. The notes live in `notes.json`: for every function a list of notes, each tied to a piece of text
that stands on exactly one line of the function. If the library changes under a note, `resolve_notes` says which one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.display import HTML
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from m2f_helpers.tracing import (
    FunctionSource,
    FunctionTrace,
    Seen,
    ShapeRecord,
    Statement,
    function_source,
    plain_function,
    record_shapes,
    source_in_file,
)

if TYPE_CHECKING:
    import ipywidgets

__all__ = [
    "Covered",
    "Note",
    "StaleComment",
    "annotated_source",
    "annotated_text",
    "choose_source",
    "covered",
    "covered_functions",
    "load_notes",
    "lines_without_shape",
    "permalink",
    "record_shapes",
    "resolve_notes",
    "source_index",
    "stale_comments",
    "uncovered_relatives",
]

REPOSITORIES = {"mmseg": "open-mmlab/mmsegmentation", "mmdet": "open-mmlab/mmdetection", "mmcv": "open-mmlab/mmcv"}

# Functions that look as if they took part. They are traced too, so that a run can show which of them never do.
RELATIVES = [
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead.loss",
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead.forward",
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead.preprocess_gt",
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead._get_targets_single",
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead._loss_by_feat_single",
    "mmdet.models.dense_heads.maskformer_head:MaskFormerHead.predict",
    "mmdet.models.layers.transformer.detr_layers:DetrTransformerDecoder.forward",
    "mmdet.models.layers.transformer.detr_layers:DetrTransformerDecoderLayer.forward",
    "mmdet.models.layers.transformer.deformable_detr_layers:DeformableDetrTransformerEncoder.forward",
    "mmdet.models.layers.transformer.deformable_detr_layers:"
    "DeformableDetrTransformerEncoder.get_encoder_reference_points",
    "mmseg.models.segmentors.encoder_decoder:EncoderDecoder.slide_inference",
    "mmdet.models.task_modules.samplers.mask_pseudo_sampler:MaskPseudoSampler.sample",
    "mmcv.cnn.bricks.transformer:FFN.forward",
]


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
    return tuple(
        Covered(entry["module"], entry["qualname"], entry["part"], entry["summary"]) for entry in _file()["functions"]
    )


@cache
def load_notes() -> tuple[Note, ...]:
    """All notes, in file order."""
    return tuple(
        Note(entry["module"], entry["qualname"], note["at"], note["note"], note.get("paper"))
        for entry in _file()["functions"]
        for note in entry["notes"]
    )


def covered_functions() -> list[Callable[..., Any]]:
    """The annotated functions themselves. Imports mmseg and mmdet."""
    return [entry.load() for entry in covered()]


def uncovered_relatives() -> list[Callable[..., Any]]:
    """Functions of the parent classes that a reader may take for the ones that run."""
    return [_load(name) for name in RELATIVES]


def resolve_notes(notes: Iterable[Note] | None = None, root: Path | None = None) -> dict[Note, int]:
    """Line number of every note in the installed libraries.

    Args:
        notes: default: all of `load_notes`.
        root: a folder to read the packages' sources from, in place of the installed ones.

    Raises: ValueError that names the note if its anchor stands on no line of the function, or on more than one.
    """
    lines = {}
    for note in load_notes() if notes is None else notes:
        try:
            lines[note] = _note_source(note, root).line_of(note.anchor)
        except ValueError as error:
            raise ValueError(
                f"the note {note.text[:60]!r} on {note.qualname} has lost its line: {error}; mend it in notes.json"
            ) from error
    return lines


def permalink(function: Any, line: int) -> str | None:
    """Address of a line in the library's public repository, at the installed version's tag; None for other code."""
    source = function if isinstance(function, FunctionSource) else function_source(function)
    package = source.module.partition(".")[0]
    if package not in REPOSITORIES:
        return None
    version = import_module(package).__version__
    path = source.module.replace(".", "/") + ".py"
    return f"https://github.com/{REPOSITORIES[package]}/blob/v{version}/{path}#L{line}"


def lines_without_shape(record: ShapeRecord) -> list[str]:
    """`function:line` of every line that ran and assigned something whose value was never observed. Should be empty."""
    return [f"{name}:{line}" for name, trace in record.items() for line in trace.without_shape()]


def stale_comments(record: ShapeRecord, sizes: dict[str, int] | None = None) -> list[StaleComment]:
    """Comments of the covered functions that name a shape which the run contradicts.

    Args:
        record: of a real run.
        sizes: what the names in the comments stand for; default: batch size and number of queries of the run.

    Returns: one entry per line; judged are the number of dimensions and the positions of the names in `sizes`.
    """
    sizes = _sizes(record) if sizes is None else sizes
    found = []
    for entry in covered():
        if entry.name in record:
            found.extend(_stale(entry.qualname, record[entry.name], sizes))
    return found


def annotated_source(function: Any, record: ShapeRecord | None = None) -> HTML:
    """Source of a function with line numbers, colours, notes, and what a run recorded; for notebooks, light and dark.

    Args:
        function: a Python function or method; annotated or not.
        record: from `record_shapes`; without it only the notes are shown, and no line is greyed.

    Raises: ValueError for a class, or for a function without Python source.
    """
    return HTML(_style() + _html(plain_function(function), record))


def annotated_text(function: Any, record: ShapeRecord | None = None) -> str:
    """The same as plain text: line number, runs, source; shapes and notes below. `-` marks lines that did not run."""
    source, trace, notes = _parts(plain_function(function), record)
    rows = [f"{source.module}.{source.name}" + (f", calls: {trace.calls}" if trace else "")]
    for row in _rows(source, trace, notes, _sizes(record or ShapeRecord({}))):
        mark = "-" if row.idle else " "
        rows.append(f"{row.line:5d} {row.times:>5} {mark} {row.code}")
        indent = " " * (14 + len(row.code) - len(row.code.lstrip()))
        rows.extend(f"{indent}= {shape}" for shape in row.shapes)
        rows.extend(f"{indent}! {warning}" for warning in row.warnings)
        rows.extend(f"{indent}# {_note_text(note)}" for note in row.notes)
    return "\n".join(rows)


def choose_source(record: ShapeRecord | None = None) -> ipywidgets.Widget:
    """A menu of the annotated functions, with the chosen one below. `source_index` is the same without a kernel."""
    import ipywidgets

    entries = {f"{entry.part}: {entry.qualname}": entry for entry in covered()}
    menu = ipywidgets.Dropdown(options=list(entries), description="Function", layout={"width": "36em"})
    page = ipywidgets.HTML()

    def show(change: dict[str, Any]) -> None:
        page.value = _style() + _html(plain_function(entries[change["new"]].load()), record)

    menu.observe(show, names="value")
    show({"new": menu.value})
    return ipywidgets.VBox([menu, page])


def source_index(record: ShapeRecord | None = None, functions: Iterable[Any] | None = None) -> HTML:
    """All annotated functions, each folded under its name; needs neither a kernel nor JavaScript.

    Args:
        record: as for `annotated_source`.
        functions: which ones; default: all covered, in the order of the data.
    """
    chosen = [plain_function(function) for function in (functions or covered_functions())]
    folded = []
    for function in chosen:
        label = html.escape(f"{function.__qualname__} ({function.__module__})")
        folded.append(f"<details><summary>{label}</summary>{_html(function, record)}</details>")
    return HTML(_style() + '<div class="m2f-index">' + "".join(folded) + "</div>")


@dataclass(frozen=True)
class _Row:
    """One line of the page."""

    line: int
    code: str
    times: str
    idle: bool
    shapes: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[Note, ...]
    docstring: bool


@cache
def _file() -> dict[str, Any]:
    return json.loads(resources.files("m2f_helpers").joinpath("notes.json").read_text(encoding="utf-8"))


def _load(name: str) -> Callable[..., Any]:
    module, qualname = name.split(":")
    return attrgetter(qualname)(import_module(module))


def _note_source(note: Note, root: Path | None) -> FunctionSource:
    if root is None:
        return function_source(_load(f"{note.module}:{note.qualname}"))
    return source_in_file(root / (note.module.replace(".", "/") + ".py"), note.module, note.qualname)


def _parts(
    function: Any, record: ShapeRecord | None
) -> tuple[FunctionSource, FunctionTrace | None, dict[int, list[Note]]]:
    source = function_source(function)
    name = f"{source.module}.{source.name}"
    mine = [note for note in load_notes() if f"{note.module}.{note.qualname}" == name]
    by_line: dict[int, list[Note]] = {}
    for note, line in resolve_notes(mine).items():
        by_line.setdefault(line, []).append(note)
    trace = record[name] if record is not None and name in record else None
    return source, trace, by_line


def _rows(
    source: FunctionSource, trace: FunctionTrace | None, notes: dict[int, list[Note]], sizes: dict[str, int]
) -> list[_Row]:
    stale = {entry.line: entry for entry in (_stale(source.name, trace, sizes) if trace else [])}
    rows = []
    for line, code in enumerate(source.lines, source.first):
        statement = source.statements.get(line)
        first = statement is None or statement.first == line
        rows.append(
            _Row(
                line=line,
                code=code,
                times=f"{trace.count(line)}x" if trace and statement and first and trace.count(line) else "",
                idle=bool(trace and _idle(trace, line)),
                shapes=_shape_texts(trace.seen.get(line, {})) if trace and first else (),
                warnings=(f"the comment above says {stale[line].says}",) if line in stale else (),
                notes=tuple(notes.get(line, [])),
                docstring=source.docstring[0] <= line <= source.docstring[1],
            )
        )
    return rows


def _idle(trace: FunctionTrace, line: int) -> bool:
    """True for lines of statements that never ran, and for an `else:` whose branch did not."""
    statements, text = trace.source.statements, trace.source.lines[line - trace.source.first].strip()
    if text in ("else:", "finally:") and line not in statements:
        line = min((number for number in statements if number > line), default=line)
    return line in statements and not trace.count(line)


def _shape_texts(seen: dict[str, list[Seen]]) -> tuple[str, ...]:
    """One text per name; if a line ran several times, its different values in the order of their first appearance."""
    texts = []
    for name, runs in seen.items():
        if name in ("self", "_"):
            continue
        different = list(dict.fromkeys(run.text for run in runs))
        shown = " | ".join(different[:3]) + (f" | ... {len(different)} different" if len(different) > 3 else "")
        texts.append(f"{'returns' if name == 'return' else name}: {shown}")
    return tuple(texts)


def _sizes(record: ShapeRecord) -> dict[str, int]:
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


def _stale(name: str, trace: FunctionTrace, sizes: dict[str, int]) -> list[StaleComment]:
    found = []
    for statement in dict.fromkeys(trace.source.statements.values()):
        says = _shape_comment(trace.source, statement)
        for runs in trace.seen.get(statement.first, {}).values():
            shape = runs[-1].shape
            if says and shape is not None and not _agrees(says, shape, sizes):
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


def _agrees(says: list[str], shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    if len(says) != len(shape):
        return False
    return all(sizes[name] == size for name, size in zip(says, shape, strict=True) if name in sizes)


def _note_text(note: Note) -> str:
    return note.text + (f" [{note.paper}]" if note.paper else "")


def _html(function: Any, record: ShapeRecord | None) -> str:
    source, trace, notes = _parts(function, record)
    coloured = highlight("\n".join(source.lines), PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).split("\n")
    rows = _rows(source, trace, notes, _sizes(record or ShapeRecord({})))
    body, docstring = [], []
    for row, code in zip(rows, coloured, strict=False):
        (docstring if row.docstring else body).append(_row_html(row, code, permalink(source, row.line)))
        if row.line == source.docstring[1]:
            body.append(f"<details><summary>docstring, {len(docstring)} lines</summary>{''.join(docstring)}</details>")
    calls = f", calls in this run: {trace.calls}" if trace else ""
    title = f"<b>{html.escape(source.name)}</b> <span>{html.escape(source.module)}{calls}</span>"
    return f'<div class="m2f-src"><div class="head">{title}</div>{"".join(body)}</div>'


def _row_html(row: _Row, code: str, link: str | None) -> str:
    number = f'<a href="{link}" target="_blank" rel="noopener">{row.line}</a>' if link else str(row.line)
    side = [f'<div class="shape">{html.escape(shape)}</div>' for shape in row.shapes]
    side += [f'<div class="stale">{html.escape(warning)}</div>' for warning in row.warnings]
    side += [f'<div class="note">{_note_html(note)}</div>' for note in row.notes]
    kind = "row idle" if row.idle else "row"
    return (
        f'<div class="{kind}"><span class="no">{number}</span><span class="times">{row.times}</span>'
        f"<code>{code or ' '}</code><div>{''.join(side)}</div></div>"
    )


def _note_html(note: Note) -> str:
    text = re.sub(r"`([^`]+)`", r"<tt>\1</tt>", html.escape(note.text, quote=False))
    return text + (f" <cite>{html.escape(note.paper)}</cite>" if note.paper else "")


_LIGHT = (
    "--ground:#ffffff;--ink:#1f2328;--pale:#5b6470;--line:#d8dee4;--band:#f3f6f9;--shape:#0a4fa3;--stale:#9a3b00;"
    "--word:#8a1c7c;--text:#0b5c37;--remark:#5b6470;--number:#0a4fa3;--name:#5a3fb0;--off:#8b949e"
)
_DARK = (
    "--ground:#16191d;--ink:#e6e8eb;--pale:#a3adb8;--line:#3a4149;--band:#22272d;--shape:#8cc2ff;--stale:#ffb37a;"
    "--word:#f09ae0;--text:#8fdcae;--remark:#a3adb8;--number:#8cc2ff;--name:#c3b1ff;--off:#717b86"
)
_RULES = """
.m2f-src,.m2f-index{color:var(--ink);background:var(--ground);font:13px/1.45 system-ui,sans-serif;max-width:1180px}
.m2f-src{border:1px solid var(--line);border-radius:6px;margin:6px 0;overflow-x:auto}
.m2f-src .head{background:var(--band);padding:6px 10px;border-bottom:1px solid var(--line)}
.m2f-src .head span,.m2f-src cite{color:var(--pale)}
.m2f-src .row{display:grid;grid-template-columns:3.2em 3.2em minmax(26em,1.15fr) minmax(16em,1fr)}
.m2f-src .row{column-gap:8px;padding:0 8px}
.m2f-src .row:hover{background:var(--band)}
.m2f-src .row code{white-space:pre-wrap;background:none;color:inherit;padding:0;font:12px/1.5 ui-monospace,monospace}
.m2f-src .no,.m2f-src .times{text-align:right;color:var(--pale);font:11px/1.65 ui-monospace,monospace}
.m2f-src .no a{color:var(--pale);text-decoration:none}
.m2f-src .shape{color:var(--shape);font:11.5px/1.55 ui-monospace,monospace;overflow-wrap:anywhere}
.m2f-src .stale{color:var(--stale);font-weight:600}
.m2f-src .note{border-left:3px solid var(--shape);padding:1px 0 1px 8px;margin:2px 0 6px}
.m2f-src tt{font:12px ui-monospace,monospace}
.m2f-src .idle code,.m2f-src .idle code span{color:var(--off)!important}
.m2f-src summary,.m2f-index summary{cursor:pointer;padding:1px 8px;color:var(--pale)}
.m2f-src code [class^="k"],.m2f-src code .ow{color:var(--word)}
.m2f-src code [class^="s"]{color:var(--text)}
.m2f-src code [class^="c"]{color:var(--remark);font-style:italic}
.m2f-src code [class^="m"]{color:var(--number)}
.m2f-src code .nf,.m2f-src code .nb,.m2f-src code .bp,.m2f-src code .nd{color:var(--name)}
"""


def _style() -> str:
    """Colours by the reader's system, overruled by the own switch of JupyterLab, Colab and VS Code."""
    both = ".m2f-src,.m2f-index"

    def themed(prefix: str, colours: str) -> str:
        return ",".join(f"{prefix} {name}" for name in both.split(",")) + "{" + colours + "}"

    return (
        f"<style>{both}{{{_LIGHT}}}@media(prefers-color-scheme:dark){{{both}{{{_DARK}}}}}"
        f"{themed('[data-jp-theme-light=true]', _LIGHT)}{themed('[data-jp-theme-light=false]', _DARK)}"
        f"{themed('html[theme=dark]', _DARK)}{themed('html[theme=light]', _LIGHT)}"
        f"{themed('.vscode-dark', _DARK)}{themed('.vscode-light', _LIGHT)}{_RULES}</style>"
    )
