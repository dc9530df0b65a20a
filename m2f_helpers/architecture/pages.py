"""Annotated source as HTML: the notes beside the lines they speak about. Used by notebook 03."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
from IPython.display import HTML
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from m2f_helpers.architecture.claims import Checked, by_group, check
from m2f_helpers.architecture.notes import (
    SYMBOLS,
    Note,
    covered_functions,
    load_notes,
    permalink,
    resolve_notes,
    run_sizes,
    stale_in,
)
from m2f_helpers.architecture.tracing import FunctionSource, FunctionTrace, ShapeRecord, function_source, plain_function
from m2f_helpers.architecture.write_up import Answer, Place, answers, verdicts


def annotated_source(function: Any, record: ShapeRecord | None = None) -> HTML:
    """Source of a function with line numbers, colours, notes, and what a run recorded; for notebooks, light and dark.

    Args:
        function: a Python function or method; annotated or not.
        record: from `record_shapes`; without it only the notes are shown, and no line is greyed.

    Raises: ValueError for a class, or for a function without Python source.
    """
    return HTML(_style() + _html(plain_function(function), record))


def excerpt(function: Any, first: str, last: str, record: ShapeRecord | None = None) -> HTML:
    """The lines of a function from the one that contains `first` to the one that contains `last`, annotated.

    Raises: ValueError as `annotated_source`, if a text does not stand on exactly one line, or if `last` comes first.
    """
    plain = plain_function(function)
    source = function_source(plain)
    begin, end = source.line_of(first), source.line_of(last)
    if end < begin:
        raise ValueError(f"{last!r} (line {end}) comes before {first!r} (line {begin}) in {source.name}; swap them")
    return HTML(_style() + _html(plain, record, range(begin, end + 1)))


def symbol_table(record: ShapeRecord) -> pd.DataFrame:
    """The symbols of the formulas, the variables that hold them, and the shapes that a run left in them."""
    rows = [
        (symbol, meaning, line.split()[0], function, record[function].texts(line)[0])
        for symbol, meaning, function, line in SYMBOLS
    ]
    return pd.DataFrame(rows, columns=["symbol", "in words", "variable", "function", "in this run"])


def claims_page(checked: Iterable[Checked]) -> HTML:
    """All checked claims, folded by group, with what is easy to believe instead and what was measured, in words."""
    parts = []
    for title, entries in by_group(checked).items():
        false = sum(not entry.holds for entry in entries)
        label = f"{title}: {len(entries)} statements, {f'{false} FALSE' if false else 'all hold'}"
        parts.append(_folded(label, map(_claim_html, entries)))
    return _index(parts)


def write_up(checked: Iterable[Checked] | None = None, index: str = "") -> HTML:
    """What the write-up said, what runs: every statement with its verdict, the evidence of a run and the line.

    Args:
        checked: all claims, from `claims.check`; default: check them now, which takes about half a minute.
        index: address of the page that shows `source_index`; empty if that is this page.
    """
    found = answers(check() if checked is None else checked)
    total = ", ".join(f"{number} {verdict}" for verdict, number in verdicts(found).items())
    parts = [f"<p>{len(found)} statements: {total}.</p>"]
    for section in dict.fromkeys(answer.statement.section for answer in found):
        own = [answer for answer in found if answer.statement.section == section]
        parts.append(_folded(f"{section}: {len(own)} statements", (_answer_html(answer, index) for answer in own)))
    return _index(parts)


def source_index(record: ShapeRecord | None = None) -> HTML:
    """All annotated functions, in the order of the data, each folded under its name; needs no kernel, no JavaScript."""
    functions = [plain_function(function) for function in covered_functions()]
    names = [f"{function.__qualname__} ({function.__module__})" for function in functions]
    pages = [_html(function, record, ids=True) for function in functions]
    return _index([_folded(name, [page]) for name, page in zip(names, pages, strict=True)])


def _folded(label: str, rows: Iterable[str]) -> str:
    return f"<details><summary>{html.escape(label)}</summary>{''.join(rows)}</details>"


def _index(parts: list[str]) -> HTML:
    return HTML(f'{_style()}<div class="m2f-index">{"".join(parts)}</div>')


def line_id(function: str, line: int) -> str:
    """The `id` that `source_index` gives to a line; `function` is the full name, module and all."""
    return f"m2f-{function.replace('.', '-')}-{line}"


def _shown(texts: list[str]) -> str:
    """What a name held when its line ran several times: the different values in the order of their first appearance.

    Of a list that got one entry more each time only the last state says something new.
    """
    different = list(dict.fromkeys(texts))
    counts = [int(size[1]) for text in different if (size := re.match(r"list of (\d+)", text))]
    if len(counts) == len(different) > 1 and counts == sorted(set(counts)):
        return f"{different[-1]} (grew from {counts[0]})"
    return " | ".join(different[:3]) + (f" | ... {len(different)} different" if len(different) > 3 else "")


def _idle(trace: FunctionTrace, line: int) -> bool:
    """True for lines of statements that never ran, and for an `else:` whose branch did not."""
    statements, text = trace.source.statements, trace.source.lines[line - trace.source.first].strip()
    if text in ("else:", "finally:") and line not in statements:
        line = min((number for number in statements if number > line), default=line)
    return line in statements and not trace.count(line)


def _side(line: int, trace: FunctionTrace | None, says: str, notes: list[Note]) -> str:
    """What stands beside a line: shapes, a comment of the library that the run contradicts, notes."""
    statement = trace.source.statements.get(line) if trace else None
    parts = []
    if trace and (statement is None or statement.first == line):
        for name, runs in trace.seen.get(line, {}).items():
            if name not in ("self", "_"):
                text = f"{'returns' if name == 'return' else name}: {_shown([run.text for run in runs])}"
                parts.append(f'<div class="shape">{html.escape(text)}</div>')
    if says:
        parts.append(f'<div class="stale">{html.escape(f"the comment above says {says}")}</div>')
    return "".join([*parts, *(f'<div class="note">{note_html(note)}</div>' for note in notes)])


def _html(function: Any, record: ShapeRecord | None, only: range | None = None, ids: bool = False) -> str:
    source = function_source(function)
    name = f"{source.module}.{source.name}"
    trace = record[name] if record is not None and name in record else None
    mine = [note for note in load_notes() if f"{note.module}.{note.qualname}" == name]
    notes: dict[int, list[Note]] = {}
    for note, line in resolve_notes(mine).items():
        notes.setdefault(line, []).append(note)
    stale = {entry.line: entry.says for entry in (stale_in(source.name, trace, run_sizes(record)) if trace else [])}
    shown = only or range(source.first, source.last + 1)
    text = "\n".join(source.lines[shown[0] - source.first : shown[-1] - source.first + 1])
    text = textwrap.dedent(text) if only else text  # an excerpt begins at the left
    coloured = highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).split("\n")
    body, docstring = [], []
    for line, plain, code in zip(shown, text.split("\n"), coloured, strict=False):
        side = _side(line, trace, stale.get(line, ""), notes.get(line, []))
        row = _row_html(source, trace, line, plain, code, side, f' id="{line_id(name, line)}"' if ids else "")
        (docstring if source.docstring[0] <= line <= source.docstring[1] else body).append(row)
        if line == source.docstring[1]:
            lines = "1 line" if len(docstring) == 1 else f"{len(docstring)} lines"
            body.append(f"<details><summary>docstring, {lines}</summary>{''.join(docstring)}</details>")
    place = f", lines {only[0]} to {only[-1]} of {source.first} to {source.last}" if only else ""
    calls = f", calls in this run: {trace.calls}" if trace else ""
    title = f"<b>{html.escape(source.name)}</b> <span>{html.escape(source.module)}{place}{calls}</span>"
    return f'<div class="m2f-src"><div class="head">{title}</div>{"".join(body)}</div>'


def _row_html(
    source: FunctionSource, trace: FunctionTrace | None, line: int, plain: str, code: str, side: str, own: str
) -> str:
    link, statement = permalink(source, line), source.statements.get(line)
    number = f'<a href="{link}" target="_blank" rel="noopener">{line}</a>' if link else str(line)
    count = trace.count(line) if trace and statement and statement.first == line else 0
    kind = "row idle" if trace and _idle(trace, line) else "row"
    indent = len(plain) - len(plain.lstrip()) + 4  # where a wrapped line goes on: a hanging indent
    hang = f"padding-left:{indent}ch;text-indent:-{indent}ch"
    # <pre>: elsewhere nbconvert drops text that is only white space, and with it the indentation.
    return (
        f'<div class="{kind}"{own}><span class="no">{number}</span>'
        f'<span class="times">{f"{count}x" if count else ""}</span>'
        f'<pre style="{hang}">{code or " "}</pre><div>{side}</div></div>'
    )


def _claim_html(entry: Checked) -> str:
    claim, escape = entry.claim, html.escape
    lines = [f"<b>{'holds' if entry.holds else 'FALSE'}</b> {escape(claim.statement)}"]
    if claim.believed:
        lines.append(f'<span class="stale">easy to believe: {escape(claim.believed)}</span>')
    source = f" <cite>{escape(claim.source)}</cite>" if claim.source else ""
    lines.append(f'<span class="shape">measured: {escape(entry.evidence)}</span>{source}')
    return f'<div class="entry">{"<br>".join(lines)}</div>'


def _answer_html(answer: Answer, index: str) -> str:
    row, escape = answer.statement, html.escape
    lines = [f"<b>{row.id}</b> said: {escape(row.said)}"]
    verdict = row.verdict if answer.holds else f"{row.verdict}, BUT THE EVIDENCE FAILED"
    lines.append(f"<b>{verdict}</b>{': ' if row.correct else ''}{escape(row.correct)}")
    if row.place:
        lines[-1] += f" {_place_html(row.place, index)}"
    lines += [f'<span class="shape">{escape(text)}</span>' for text in answer.evidence]
    return f'<div class="entry">{"<br>".join(lines)}</div>'


def _place_html(place: Place, index: str) -> str:
    text = f'<a href="{place.link}" target="_blank" rel="noopener">{html.escape(place.label)}, line {place.line}</a>'
    if not place.function:
        return text
    line = line_id(place.function, place.line)
    # a browser unfolds where a link leads; JupyterLab, which follows links itself, does not
    unfold = (
        f"for(let at=document.getElementById('{line}');at;at=at.parentElement)at.tagName=='DETAILS'&&(at.open=true)"
    )
    return f'{text} (<a href="{index}#{line}" onclick="{html.escape(unfold)}">annotated</a>)'


def note_html(note: Note) -> str:
    """A note's text with its code words marked, and the paper it cites."""
    text = re.sub(r"`([^`]+)`", r"<tt>\1</tt>", html.escape(note.text, quote=False))
    text = re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?!\w)", r"<em>\1</em>", text)
    return text + (f" <cite>{html.escape(note.paper)}</cite>" if note.paper else "")


LIGHT = (
    "--ground:#ffffff;--ink:#1f2328;--pale:#5b6470;--line:#d8dee4;--band:#f3f6f9;--shape:#0a4fa3;--stale:#9a3b00;"
    "--word:#8a1c7c;--text:#0b5c37;--remark:#5b6470;--number:#0a4fa3;--name:#5a3fb0;--off:#5f6872"
)
DARK = (
    "--ground:#16191d;--ink:#e6e8eb;--pale:#a3adb8;--line:#3a4149;--band:#22272d;--shape:#8cc2ff;--stale:#ffb37a;"
    "--word:#f09ae0;--text:#8fdcae;--remark:#a3adb8;--number:#8cc2ff;--name:#c3b1ff;--off:#8b96a1"
)
RULES = """
.m2f-src,.m2f-index{color:var(--ink);background:var(--ground);font:13px/1.45 system-ui,sans-serif;max-width:1180px}
.m2f-src{border:1px solid var(--line);border-radius:6px;margin:6px 0;overflow-x:auto;container-type:inline-size}
.m2f-src .head{background:var(--band);padding:6px 10px;border-bottom:1px solid var(--line)}
.m2f-src .head span,.m2f-src cite{color:var(--pale)}
.m2f-src .row{display:grid;grid-template-columns:3.2em 3.2em minmax(26em,1.15fr) minmax(16em,1fr)}
.m2f-src .row{column-gap:8px;padding:0 8px}
.m2f-src .row:hover{background:var(--band)}
.m2f-src .row pre{white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere}
.m2f-src .row pre{background:none;color:inherit;border:0;margin:0;padding:0;font:12px/1.5 ui-monospace,monospace}
.m2f-src .no,.m2f-src .times{text-align:right;color:var(--pale);font:11px/1.65 ui-monospace,monospace}
.m2f-src .no a{color:var(--pale);text-decoration:none}
.m2f-src .shape{color:var(--shape);font:11.5px/1.55 ui-monospace,monospace;overflow-wrap:anywhere}
.m2f-src .stale{color:var(--stale);font-weight:600}
.m2f-src .note{border-left:3px solid var(--shape);padding:1px 0 1px 8px;margin:2px 0 6px}
.m2f-src tt{font:12px ui-monospace,monospace}
.m2f-src .idle pre,.m2f-src .idle pre span{color:var(--off)!important}
.m2f-src summary,.m2f-index summary{cursor:pointer;padding:1px 8px;color:var(--pale);overflow-wrap:anywhere}
.m2f-src pre [class^="k"],.m2f-src pre .ow{color:var(--word)}
.m2f-src pre [class^="s"]{color:var(--text)}
.m2f-src pre [class^="c"]{color:var(--remark);font-style:italic}
.m2f-src pre [class^="m"]{color:var(--number)}
.m2f-src pre .nf,.m2f-src pre .nb,.m2f-src pre .bp,.m2f-src pre .nd{color:var(--name)}
.m2f-index .entry{padding:4px 8px 4px 20px;border-top:1px solid var(--line)}
.m2f-index .entry .shape{color:var(--shape)}
.m2f-index .entry .stale{color:var(--stale)}
.m2f-index .entry cite{color:var(--pale)}
.m2f-index .entry a{color:var(--shape)}
@container(max-width:740px){
.m2f-src .row{grid-template-columns:2.6em 2.4em minmax(0,1fr)}.m2f-src .row>div{grid-column:3}
.m2f-src .row pre{padding-left:4ch!important;text-indent:-4ch!important}}
@media print{.m2f-src{overflow:visible}}
"""


def _style() -> str:
    """Colours by the system, overruled by the switch of JupyterLab, Colab, VS Code and the site."""
    both = ".m2f-src,.m2f-index"

    def themed(prefix: str, colours: str) -> str:
        return ",".join(f"{prefix} {name}" for name in both.split(",")) + "{" + colours + "}"

    return (
        f"<style>{both}{{{LIGHT}}}@media(prefers-color-scheme:dark){{{both}{{{DARK}}}}}"
        f"{themed('[data-jp-theme-light=true]', LIGHT)}{themed('[data-jp-theme-light=false]', DARK)}"
        f"{themed('html[theme=dark]', DARK)}{themed('html[theme=light]', LIGHT)}"
        f"{themed('html[data-theme=dark]', DARK)}{themed('html[data-theme=light]', LIGHT)}"
        f"{themed('.vscode-dark', DARK)}{themed('.vscode-light', LIGHT)}{RULES}</style>"
    )
