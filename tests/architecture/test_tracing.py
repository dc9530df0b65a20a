"""The tracer: what it writes down, what it leaves alone. numpy arrays stand for tensors, so this runs on any Python."""

from __future__ import annotations

import gc
import sys
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from m2f_helpers.architecture import tracing

MODEL = SimpleNamespace(
    decode_head=SimpleNamespace(pixel_decoder=1, transformer_decoder=2, mask_embed=3, num_queries=4), kept=None
)


@contextmanager
def opened(value):
    yield value


# fmt: off
def every_kind(owner, start, *rest, scale=2, **more):
    """A docstring that says start = 1."""
    first, (second, _) = start, (start.T, 0)
    owner.kept = first * scale
    table = {}
    table["key"] = second
    counted: int = 3
    counted += 1
    numbers = np.zeros(3)
    numbers[0] = 1.0
    collected = []
    for row in start:
        collected.append(row)
    with opened(start) as inner:
        total = (
            inner.sum(0)
            + numbers[:2].sum()
        )
    if counted > 100:
        never = start
        collected.append(never)
    else:
        squares = [x * x for x in start]
    try:
        lost = start[99]  # noqa: F841
    except IndexError as error:
        reason = str(error)
    with opened(1):
        return total, squares, reason


def loops(limit):
    """Counts that are easy to get wrong."""
    for _ in range(limit):
        with opened(np.zeros(1)) as value:
            value = np.add(
                value,
                1,
            )
    for _ in []:
        value = 0
    while limit > 0:
        limit -= 1
    for _ in range(3): value = np.ones(2)  # noqa: E701
    return value
# fmt: on


def changing(sizes):
    """The same line with different shapes."""
    for size in sizes:
        array = np.zeros((size, 1), np.float32)
    return array


def swallowed(array):
    """Passes an exception of an inner call by."""
    try:
        return inner_failure(array)
    except KeyError:
        found = array
    return found


def inner_failure(array):
    """Raises after an assignment."""
    copied = array.copy()
    raise KeyError(copied.shape)


def tried_again(array):
    """Keeps its old value when the new one cannot be computed."""
    value = array
    try:
        value = inner_failure(array)
    except KeyError:
        value = value[:1]
    return value


def recursive(depth, array):
    """Two calls of one function at the same time."""
    here = np.zeros(depth)
    below = recursive(depth - 1, array) if depth else array
    return here, below


def trace(function, *args, **kwargs):
    record = tracing.record_shapes(MODEL, lambda model: function(*args, **kwargs), [function])
    return record[function]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = sys.gettrace()
    yield
    assert sys.gettrace() is before


def test_every_kind_of_assignment_is_seen():
    found = trace(every_kind, MODEL, np.zeros((2, 2)), extra=1)
    assert found.calls == 1
    assert found.texts("first, (second", "first") == ["(2, 2) float64"]
    assert found.texts("first, (second", "second") == ["(2, 2) float64"]
    assert found.shapes("owner.kept =") == [(2, 2)]
    assert found.shapes('table["key"] =', "table['key']") == [(2, 2)]
    assert found.texts("counted: int") == ["3"] and found.texts("counted += 1") == ["4"]
    assert found.shapes("numbers[0] = 1.0") == [()]
    assert found.shapes("for row in start") == [(2,), (2,)]
    assert found.texts("collected.append(row)") == ["list of 1: (2,) float64", "list of 2: (2,) float64"]
    assert found.shapes("with opened(start)") == [(2, 2)]
    assert found.shapes("total = (") == [(2,)]
    assert found.texts("squares = [") == ["list of 2: (2,) float64"]
    assert found.texts("return total") == [
        "tuple of 3: (2,) float64, list of 2: (2,) float64, 'index 99 is out of bounds for axis 0 with size 2'"
    ]
    assert found.shapes("def every_kind", "start") == [(2, 2)]
    assert found.texts("def every_kind", "more") == ["dict of 1: extra: 1"]


def test_lines_that_never_ran_and_lines_that_failed():
    found = trace(every_kind, MODEL, np.zeros((2, 2)))
    lines = found.source
    idle = [lines.line_of("never = start"), lines.line_of("collected.append(never)")]
    assert [line for line in sorted(lines.statements) if not found.count(line)] == idle
    failed = lines.line_of("lost = start[99]")
    assert found.count(failed) == 1 and failed not in found.seen
    assert found.without_shape() == [failed]


def test_counts():
    found = trace(loops, 4)
    at = found.source.line_of
    assert found.count(at("for _ in range(limit)")) == 4
    assert found.count(at("with opened(np.zeros(1))")) == 4
    assert found.count(at("value = np.add(")) == 4
    assert found.count(at("for _ in []")) == 0
    assert found.count(at("value = 0")) == 0
    assert found.count(at("while limit > 0")) == 5
    assert found.count(at("limit -= 1")) == 4
    assert found.texts("limit -= 1") == ["3", "2", "1", "0"]
    assert found.shapes("return value") == [(2,)]


def test_different_shapes_of_one_line_are_kept_in_order():
    found = trace(changing, [3, 3, 5, 3])
    assert found.shapes("array = np.zeros(") == [(3, 1), (3, 1), (5, 1), (3, 1)]
    runs = found.seen[found.source.line_of("array = np.zeros(")]["array"]
    assert [(run.text, run.times) for run in runs] == [
        ("(3, 1) float32", 2),
        ("(5, 1) float32", 1),
        ("(3, 1) float32", 1),
    ]


def test_an_exception_that_is_caught_one_level_up():
    record = tracing.record_shapes(MODEL, lambda model: swallowed(np.zeros(2)), [swallowed, inner_failure])
    assert record["inner_failure"].shapes("copied = array.copy()") == [(2,)]
    assert record["swallowed"].shapes("found = array") == [(2,)]
    assert record["swallowed"].shapes("return found") == [(2,)]
    assert record["swallowed"].texts("return inner_failure") == []


def test_a_line_that_raised_assigned_nothing():
    found = trace(tried_again, np.zeros(3))
    failed = found.source.line_of("value = inner_failure(array)")
    assert found.count(failed) == 1 and failed not in found.seen
    assert found.shapes("return value") == [(1,)]


def test_recursion():
    found = trace(recursive, 2, np.zeros(7))
    assert found.calls == 3
    assert found.shapes("here = np.zeros(depth)") == [(2,), (1,), (0,)]
    assert found.shapes("below = recursive") == [(7,)]


def test_the_path_of_the_first_call_is_in_order():
    found = trace(changing, [1, 2])
    assert found.path == [
        found.source.line_of(text) for text in ("for size", "array =", "for size", "array =", "return")
    ]


def test_nothing_is_kept_alive():
    alive = []

    def run(model):
        array = np.zeros((4, 4))
        alive.append(weakref.ref(array))
        for item in changing([2]), array.T.copy():
            alive.append(weakref.ref(item))
        every_kind(SimpleNamespace(), array)

    record = tracing.record_shapes(MODEL, run, [every_kind, changing])
    gc.collect()
    assert record["every_kind"].calls == 1
    assert [reference() for reference in alive] == [None, None, None]


def test_result_is_the_same_with_and_without():
    results = []
    record = tracing.record_shapes(MODEL, lambda model: results.append(loops(3)), [loops])
    assert record["loops"].calls == 1
    assert np.array_equal(results[0], loops(3))


def test_another_tracer_keeps_its_events_and_its_place():
    events = []

    def debugger(frame, event, argument):
        events.append((frame.f_code.co_name, event))
        return debugger

    before = sys.gettrace()
    sys.settrace(debugger)
    try:
        found = trace(recursive, 1, np.zeros(3))
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(before)
    assert found.calls == 2
    mine = [event for name, event in events if name == "recursive"]
    assert mine.count("call") == 2 and mine.count("return") == 2 and mine.count("line") >= 6
    assert ("run", "call") in events or ("<lambda>", "call") in events


def test_a_tracer_that_puts_itself_back_does_not_push_ours_out():
    def jealous(frame, event, argument):  # as coverage's compiled tracer does when a Python tracer calls it
        sys.settrace(jealous)

    before = sys.gettrace()
    sys.settrace(jealous)
    try:
        assert trace(recursive, 2, np.zeros(3)).calls == 3
        assert sys.gettrace() is jealous
    finally:
        sys.settrace(before)


def test_a_run_that_raises_is_undone_and_named():
    def run(model):
        inner_failure(np.zeros(2))

    before = sys.gettrace()
    with pytest.raises(RuntimeError, match=r"the traced run raised KeyError: \(2,\); tracing is off again") as caught:
        tracing.record_shapes(MODEL, run, [inner_failure])
    assert sys.gettrace() is before
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (np.zeros, "zeros has no Python source to show"),
        (len, "len has no Python source to show: got a builtin_function_or_method"),
        (SimpleNamespace, "SimpleNamespace is a class; name one of its methods"),
        (tracing.FunctionTrace, "FunctionTrace is a class; name one of its methods"),
        (3, "3 has no Python source to show"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_sentence(function, message):
    with pytest.raises(ValueError, match=message) as caught:
        tracing.function_source(function)
    assert "\n" not in str(caught.value)


def test_a_function_made_by_exec_has_no_source():
    names = {}
    exec("def made():\n    return 1", names)
    with pytest.raises(ValueError, match="made has no Python source to show"):
        tracing.function_source(names["made"])


def test_bound_methods_and_decorated_functions_are_found():
    class Thing:
        def method(self, value):
            doubled = value * 2
            return doubled

    found = tracing.record_shapes(MODEL, lambda model: Thing().method(np.ones(2)), [Thing().method])
    assert found[Thing.method].shapes("doubled = value * 2") == [(2,)]
    assert tracing.plain_function(opened).__name__ == "opened"


def test_a_name_that_fits_two_functions_is_an_error():
    record = tracing.record_shapes(MODEL, lambda model: None, [loops, changing])
    with pytest.raises(KeyError, match="names 0 of the traced functions"):
        record["nothing"]
    assert len(record) == 2 and record["loops"].calls == 0


def test_describe():
    many = {"a": np.zeros(1), "b": 2, "c": None, "d": True, "e": 1.25}
    assert tracing.describe(many) == "dict of 5: a: (1,) float64, b: 2, c: None, d: True, ..."
    assert tracing.describe([np.zeros(2)] * 3 + [1]) == "list of 4: 3 x (2,) float64, 1"
    assert tracing.describe(1.25) == "1.25" and tracing.describe(object()) == "object"
    assert tracing.describe([]) == "list of 0" and tracing.describe((3, 4)) == "tuple [3, 4]"
