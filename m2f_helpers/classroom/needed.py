"""Which cells of a notebook an answer stands on: found by names, what makes them and what reads them."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Collection, Iterator, Sequence

SKIP = "skip-execution"  # tag of a cell that nbclient and papermill leave out
# Statements that leave nothing of what their names stood for before.
_AFRESH = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def needed(sources: Sequence[str], asked: Collection[int]) -> set[int]:
    """Positions of the cells to run, so that the asked ones give what they give in the whole notebook.

    From the last cell to the first: a cell is needed if it makes or changes a name that a needed one behind it reads.

    `sources` is the code of every cell, `""` for text; what Python cannot read makes and reads nothing.
    """
    codes = [_readable(source) for source in sources]
    imported = set().union(*(_names(code, "is_imported") for code in codes))  # modules do not change
    inside = _read_inside(codes)
    wanted: set[str] = set()
    found = set()
    for position in reversed(range(len(codes))):
        code = codes[position]
        if position in asked or (_names(code, "is_assigned", "is_imported") | _changed(code) - imported) & wanted:
            found.add(position)
            afresh = [statement for statement in ast.parse(code).body if isinstance(statement, _AFRESH)]
            wanted -= _names(ast.unparse(ast.Module(afresh, [])), "is_assigned", "is_imported")
            wanted |= _read(code)
            while more := set().union(*(inside.get(name, set()) for name in wanted)) - wanted:
                wanted |= more
    return found


def _readable(source: str) -> str:
    """The code without IPython's own lines (`%%time`, `!ls`); empty if that is no Python."""
    code = re.sub(r"^\s*(?:%%?|!)\w.*$", "", source, flags=re.M)
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):  # ValueError: a null byte
        return ""
    return code


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _names(code: str, *kinds: str) -> set[str]:
    """Names at the top of a cell (not those inside functions) of which one of the kinds is true."""
    symbols = symtable.symtable(code, "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if any(getattr(symbol, kind)() for kind in kinds)}


def _read(code: str) -> set[str]:
    """Names of the notebook that a cell reads, at its top or inside its functions."""
    top = symtable.symtable(code, "cell", "exec")
    return {
        symbol.get_name()
        for table in _tables(top)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (table is top or symbol.is_global())
    }


def _read_inside(codes: Sequence[str]) -> dict[str, set[str]]:
    """What functions read when they are called, which may have been made after them."""
    found: dict[str, set[str]] = {}
    for code in codes:
        for statement in ast.parse(code).body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                found.setdefault(statement.name, set()).update(_read(ast.unparse(statement)))
    return found


def _changed(code: str) -> set[str]:
    """Names whose things a cell changes outside functions: `a.b = 1`, `a[0] = 1`, and `a.sort()` as a statement."""
    functions = (ast.FunctionDef, ast.ClassDef)
    statements = [statement for statement in ast.parse(code).body if not isinstance(statement, functions)]
    found = set()
    for node in ast.walk(ast.Module(statements, [])):
        target = None
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            target = node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = getattr(node.value.func, "value", None)
        while isinstance(target, (ast.Attribute, ast.Subscript)):
            target = target.value
        if isinstance(target, ast.Name):
            found.add(target.id)
    return found
