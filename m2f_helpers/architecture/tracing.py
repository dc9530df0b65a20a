"""Shapes beside the source: what every line of a few chosen functions assigned during one real run.

A trace function (`sys.settrace`, which works alike on Python 3.10 to 3.14) watches the code objects of these functions.
Python reports a line *before* it runs. So a statement is "pending" from its own line event until the next one, and its
result is looked up only then: `x = f(y)` on line 7 is noted when line 8 is about to run. No tensor is kept.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

_MISSING = object()
_RETURN = "return"


@dataclass(frozen=True)
class Statement:
    """One statement of a function; of a compound one (`for`, `if`, `with`) only the header."""

    first: int
    last: int
    kind: str
    targets: tuple[ast.expr, ...] = ()
    body: tuple[int, int] = (0, -1)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the statement assigns, as written: names, attributes, `return`."""
        written = tuple(_label(target) for target in self.targets)
        return (*written, _RETURN) if self.kind == "Return" else written


@dataclass(frozen=True)
class FunctionSource:
    """Where a function stands in its file, and its statements by line number (all 1-based)."""

    name: str
    module: str
    file: str
    lines: tuple[str, ...]
    first: int
    docstring: tuple[int, int]
    parameters: Mapping[str, int]
    statements: Mapping[int, Statement]

    @property
    def last(self) -> int:
        """Line number of the last line."""
        return self.first + len(self.lines) - 1

    def line_of(self, text: str) -> int:
        """Line number of the one line that contains `text`, the docstring left aside.

        Raises: ValueError if no line or more than one contains it.
        """
        begin, end = self.docstring
        numbered = enumerate(self.lines, self.first)
        found = [number for number, line in numbered if text in line and not begin <= number <= end]
        if len(found) != 1:
            where = f"on lines {found}" if found else "nowhere"
            raise ValueError(f"{text!r} must stand on exactly one line of {self.module}.{self.name}; it stands {where}")
        return found[0]


@dataclass(frozen=True)
class Seen:
    """A value that a line assigned: how it is described, its shape if it was a tensor, how often in a row."""

    text: str
    shape: tuple[int, ...] | None
    times: int = 1


@dataclass
class FunctionTrace:
    """What happened in one function during the run."""

    source: FunctionSource
    calls: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    seen: dict[int, dict[str, list[Seen]]] = field(default_factory=dict)
    path: list[int] = field(default_factory=list)

    def count(self, line: int) -> int:
        """How often the statement on this line ran; of a `for` line, how often its body was entered."""
        statement = self.source.statements.get(line)
        return self.counts[statement.first] if statement else 0

    def without_shape(self) -> list[int]:
        """First lines of statements that ran and assign something, but whose value was never observed."""
        ran = [one for one in set(self.source.statements.values()) if self.counts.get(one.first)]
        return sorted(one.first for one in ran if set(one.labels) - self.seen.get(one.first, {}).keys())

    def shapes(self, text: str, name: str | None = None) -> list[tuple[int, ...]]:
        """Shapes of a tensor assigned on the one line that contains `text`, one per run, in order.

        `name` says which of the names, if the line assigns several.
        """
        return [seen.shape for seen in self._runs(text, name) if seen.shape is not None]

    def texts(self, text: str, name: str | None = None) -> list[str]:
        """Like `shapes`, but the full description, for lists, numbers and other values too."""
        return [seen.text for seen in self._runs(text, name)]

    def _runs(self, text: str, name: str | None) -> list[Seen]:
        line = self.source.line_of(text)
        statement = self.source.statements.get(line)
        by_name = self.seen.get(statement.first if statement else line, {})
        chosen = [name] if name else list(by_name)[:1]
        return [seen for label in chosen for seen in by_name.get(label, []) for _ in range(seen.times)]


class ShapeRecord(Mapping[str, FunctionTrace]):
    """The record of a run: `record[function]` or `record["Class.method"]` is that function's `FunctionTrace`."""

    def __init__(self, traces: Mapping[CodeType, FunctionTrace]) -> None:
        self._traces = {f"{trace.source.module}.{trace.source.name}": trace for trace in traces.values()}

    def __getitem__(self, function: Any) -> FunctionTrace:
        if not isinstance(function, str):
            source = function_source(function)
            function = f"{source.module}.{source.name}"
        found = [key for key in self._traces if key == function or key.endswith("." + function)]
        if len(found) != 1:
            raise KeyError(f"{function!r} names {len(found)} of the traced functions: {found or sorted(self._traces)}")
        return self._traces[found[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)


def record_shapes(model: Any, run: Callable[[Any], Any], functions: Iterable[Callable[..., Any]]) -> ShapeRecord:
    """Run once and write down, per line of the chosen functions, what it assigned and how often it ran.

    A debugger or coverage tool that was active keeps receiving its events and is back in place afterwards, also when
    the run, `run(model)`, raises.

    Raises: ValueError if a function has no source; RuntimeError if the run raises.
    """
    traces = {plain_function(function).__code__: FunctionTrace(function_source(function)) for function in functions}
    before = sys.gettrace()
    sys.settrace(_Tracer(traces, before))  # for calls made from now on, not for the frames that are running already
    try:
        run(model)
    except Exception as error:
        raise RuntimeError(
            f"the traced run raised {type(error).__name__}: {error}; tracing is off again, and nothing was recorded"
        ) from error
    finally:
        sys.settrace(before)
    return ShapeRecord(traces)


def plain_function(function: Any) -> FunctionType:
    """The Python function behind decorators and bound methods.

    Raises: ValueError for a class, and for anything without Python source (built-in or compiled functions).
    """
    if inspect.isclass(function):
        raise ValueError(f"{function.__qualname__} is a class; name one of its methods, for instance its forward")
    inner = inspect.unwrap(function) if callable(function) else function
    inner = inner.__func__ if isinstance(inner, MethodType) else inner
    inner = inspect.unwrap(inner) if callable(inner) else inner
    if not isinstance(inner, FunctionType):
        raise ValueError(
            f"{getattr(function, '__qualname__', repr(function))} has no Python source to show: got a "
            f"{type(function).__name__}, expected a function or method written in Python"
        )
    return inner


def function_source(function: Any) -> FunctionSource:
    """Lines and statements of a function, read from its file.

    Raises: ValueError as `plain_function`, or if the file is not readable.
    """
    return _source_of_code(plain_function(function))


def source_in_file(file: str | Path, module: str, qualname: str) -> FunctionSource:
    """Like `function_source`, but for a function named by its file and qualified name, without importing it.

    Raises: ValueError if the file has no such function.
    """
    node = _function_nodes(str(file)).get(qualname)
    if node is None:
        raise ValueError(f"{file} has no function {qualname}; the notes were written for another version of {module}")
    return _source_of_node(str(file), module, qualname, node)


@cache
def _source_of_code(function: FunctionType) -> FunctionSource:
    file, first = function.__code__.co_filename, function.__code__.co_firstlineno
    node = next((node for node in _function_nodes(file).values() if _first_line(node) == first), None)
    if node is None:
        raise ValueError(f"{function.__qualname__} has no Python source to show: nothing to read at {file}")
    return _source_of_node(file, function.__module__, function.__qualname__, node)


def _source_of_node(file: str, module: str, qualname: str, node: ast.FunctionDef) -> FunctionSource:
    first, spec = _first_line(node), node.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return FunctionSource(
        name=qualname,
        module=module,
        file=file,
        lines=tuple(line.rstrip("\n") for line in linecache.getlines(file)[first - 1 : node.end_lineno]),
        first=first,
        docstring=_docstring_lines(node),
        parameters={argument.arg: argument.lineno for argument in arguments if argument},
        statements=_statements(node),
    )


@cache
def _function_nodes(file: str) -> dict[str, ast.FunctionDef]:
    """Functions of a file by qualified name."""
    found: dict[str, ast.FunctionDef] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef):
                found[prefix + child.name] = child
                inner = f"{prefix}{child.name}.<locals>."
            elif isinstance(child, ast.ClassDef):
                inner = f"{prefix}{child.name}."
            visit(child, inner)

    visit(ast.parse("".join(linecache.getlines(file))), "")
    return found


def _first_line(node: ast.FunctionDef) -> int:
    """Line of the first decorator, or of `def`: what Python calls `co_firstlineno`."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _docstring_lines(node: ast.FunctionDef) -> tuple[int, int]:
    if ast.get_docstring(node, clean=False) is None:
        return (0, -1)
    return (node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno)


def _statements(node: ast.FunctionDef) -> dict[int, Statement]:
    """Every line that belongs to a statement, with the innermost statement it belongs to."""
    found: dict[int, Statement] = {}
    body = node.body[1:] if _docstring_lines(node)[0] else node.body
    for statement in _flatten(body):
        for line in range(statement.first, statement.last + 1):
            found[line] = statement
    return found


def _flatten(body: list[ast.stmt]) -> Iterator[Statement]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield Statement(node.lineno, node.lineno, type(node).__name__)
            continue
        blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
        inner = [child for block in blocks for child in block]
        # Of `for x in (` ... `):` the header ends where the body begins; a one-line `for` has both on one line.
        last = node.body[0].lineno - 1 if blocks[0] else node.end_lineno or node.lineno
        span = (node.body[0].lineno, node.body[-1].end_lineno or 0) if blocks[0] else (0, -1)
        kind = "BareReturn" if isinstance(node, ast.Return) and node.value is None else type(node).__name__
        yield Statement(node.lineno, max(last, node.lineno), kind, tuple(_targets(node)), span)
        for handler in getattr(node, "handlers", []):
            yield Statement(handler.lineno, handler.lineno, "ExceptHandler")
            inner.extend(handler.body)
        yield from _flatten(inner)


def _targets(node: ast.stmt) -> Iterator[ast.expr]:
    """Expressions that a statement assigns to; `items.append(x)` counts as an assignment to `items`."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _leaves(target)
    elif isinstance(node, ast.AugAssign | ast.For | ast.AnnAssign) and getattr(node, "value", node) is not None:
        yield from _leaves(node.target)
    elif isinstance(node, ast.With):
        for item in node.items:
            if item.optional_vars is not None:
                yield from _leaves(item.optional_vars)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value.func
        changes = isinstance(call, ast.Attribute) and call.attr in ("append", "extend", "update")
        if changes and all(part.isidentifier() for part in ast.unparse(call.value).split(".")):
            yield call.value


def _leaves(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _leaves(element)
    elif isinstance(target, ast.Starred):
        yield from _leaves(target.value)
    else:
        yield target


def _label(target: ast.expr) -> str:
    if isinstance(target, ast.Subscript) and not isinstance(target.slice, ast.Constant):
        return ast.unparse(target.value)
    return ast.unparse(target)


def _look_up(target: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value a target has now: a name, an attribute of one, an item with a literal key; else the container."""
    if isinstance(target, ast.Name):
        return names.get(target.id, _MISSING)
    owner = _look_up(target.value, names) if isinstance(target, ast.Attribute | ast.Subscript) else _MISSING
    if owner is not _MISSING and isinstance(target, ast.Attribute):
        return getattr(owner, target.attr, _MISSING)
    if owner is _MISSING or not isinstance(target.slice, ast.Constant):
        return owner
    try:
        return owner[target.slice.value]
    except (KeyError, IndexError, TypeError):
        return _MISSING


def describe(value: Any) -> str:
    """One line of text for a value, as `(2, 100, 256) float32` or `list of 10: (2, 100, 151) float32`."""
    if _is_array(value):
        return f"{tuple(value.shape)} {str(value.dtype).replace('torch.', '')}"
    if isinstance(value, list | tuple):
        return _describe_sequence(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {describe(item)}" for key, item in list(value.items())[:4])
        return f"dict of {len(value)}: {inner}{', ...' if len(value) > 4 else ''}" if value else "dict of 0"
    if hasattr(value, "all_items"):  # MMEngine's data elements
        inner = ", ".join(f"{key} {describe(item)}" for key, item in sorted(value.items()))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, bool | int | str | None):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return type(value).__name__


def _describe_sequence(value: list[Any] | tuple[Any, ...]) -> str:
    kind = type(value).__name__
    if not value:
        return f"{kind} of 0"
    if all(isinstance(item, int) for item in value):
        return f"{kind} {list(value)[:8]}"
    parts = [(text, len(list(same))) for text, same in groupby(map(describe, value))]
    texts = [text if times == 1 or len(parts) == 1 else f"{times} x {text}" for text, times in parts]
    return f"{kind} of {len(value)}: {', '.join(texts[:4])}{', ...' if len(texts) > 4 else ''}"


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


class _Tracer:
    """The trace function: watches the chosen code objects, hands every event on to the tracer that was there before."""

    def __init__(self, traces: Mapping[CodeType, FunctionTrace], previous: Any) -> None:
        self.traces, self.previous = traces, previous

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        other = self.previous(frame, event, argument) if self.previous else None
        if sys.gettrace() is not self:  # some tracers put themselves back in place when they are called
            sys.settrace(self)
        # Code objects, not names, are compared: one dictionary look-up per call, and no confusion of equal names.
        trace = self.traces.get(frame.f_code)
        if trace is None or event != "call":
            return other  # None for a function nobody watches: Python then sends no line events for it
        trace.calls += 1
        for name in trace.source.parameters:
            _note(trace, trace.source.parameters[name], name, frame.f_locals.get(name, _MISSING))
        return _Local(trace, other)


class _Local:
    """Trace function of one call; a recursive call has one of its own, so their pending statements do not mix.

    Its state: the statement in progress, once reached the return statement, and whether an exception is under way.
    """

    def __init__(self, trace: FunctionTrace, other: Any) -> None:
        self.trace, self.other, self.first_call = trace, other, trace.calls == 1
        self.pending: Statement | None = None
        self.returning: Statement | None = None
        self.raised = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.other is not None:
            self.other = self.other(frame, event, argument)
        if event == "line":
            self._line(frame)
        elif event == "exception":
            self.raised = True
        elif event == "return":
            self._return(frame, argument)
        return self

    def _line(self, frame: FrameType) -> None:
        pending, statement = self.pending, self.trace.source.statements.get(frame.f_lineno)
        one_line = statement is not None and statement.first == statement.last
        # A statement over several lines gives an event for each of them: only the first one counts. A one-line
        # `for x in y: f(x)` gives the same line again for every round: there each event counts.
        if statement is None or (statement is pending and not one_line):
            return
        # Python comes back to the `with` line once more when the block is left: that is no second entry.
        leaving = statement.kind == "With" and pending is not None and _in_body(pending, statement)
        # `return` inside `with`: the value is on its way already, so it stays pending until the return event.
        if not (leaving and pending is not None and pending.kind == "Return"):
            self._finish(frame, statement)
            self.pending = None if leaving else statement
        self.raised = False
        if not leaving and statement.kind != "For":  # a `for` line is counted by the rounds of its body, in `_finish`
            self._count(statement)
        self.returning = statement if statement.kind == "Return" else self.returning

    def _finish(self, frame: FrameType, following: Statement | None) -> None:
        """The pending statement is over: note what it assigned."""
        pending = self.pending
        if pending is None:
            return
        if pending.kind == "For":  # its target has a new value only if the next line is in its body
            if following is None or not _in_body(following, pending):
                return
            self._count(pending)
        elif self.raised:  # `x = f(y)` raised, so x still holds what it held before
            return
        for target in pending.targets:
            _note(self.trace, pending.first, _label(target), _look_up(target, frame.f_locals))

    def _return(self, frame: FrameType, value: Any) -> None:
        if self.raised and value is None:  # left by an exception: the event looks like `return None`
            return
        if self.returning is not None:
            _note(self.trace, self.returning.first, _RETURN, value)
        else:
            self._finish(frame, None)

    def _count(self, statement: Statement) -> None:
        self.trace.counts[statement.first] += 1
        if self.first_call:
            self.trace.path.append(statement.first)


def _in_body(inner: Statement, outer: Statement) -> bool:
    """Does `inner` stand in the block below the header `outer`?"""
    return outer.body[0] <= inner.first <= outer.body[1]


def _note(trace: FunctionTrace, line: int, label: str, value: Any) -> None:
    if value is _MISSING:
        return
    seen = Seen(describe(value), tuple(value.shape) if _is_array(value) else None)
    runs = trace.seen.setdefault(line, {}).setdefault(label, [])
    if runs and runs[-1].text == seen.text:  # the same again: count it, so that a loop of 160,000 rounds stays small
        seen = Seen(seen.text, seen.shape, runs.pop().times + 1)
    runs.append(seen)
