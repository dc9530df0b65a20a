"""Reading a config file, which MMEngine runs as Python code, without running anything but assignments.

A config of mmsegmentation is a program: `Config.fromfile` executes it, imports what `custom_imports` names, and a
`type` such as `"subprocess.Popen"` is called when the model is built. So a file is looked at first. Values,
containers and a little arithmetic pass; whatever else it does needs `trust=True` (`--trust-config`).
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from m2f_helpers.quiet import one_line

PACKAGES = ("mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg", "m2f_helpers")
_TYPES = (*PACKAGES, "torch.nn", "torch.optim")  # where a dotted `type` may come from
_FUNCTIONS = frozenset(
    ("abs", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min", "range", "round", "set")
    + ("sorted", "str", "sum", "tuple", "zip")
)
_METHODS = frozenset(("append", "copy", "extend", "get", "insert", "items", "keys", "pop", "update", "values"))
_HARMLESS = (
    *(ast.Module, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete, ast.Expr, ast.Constant, ast.Name, ast.Starred),
    *(ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Subscript, ast.Slice, ast.keyword, ast.IfExp, ast.Compare),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
    *(ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue),
)


def read(path: str | Path, trust: bool = False) -> Config:
    """Read the config of a segmentation model from a `.py`, `.json` or `.yaml` file.

    Args:
        path: the file; files that it names in `_base_` are read with it.
        trust: run whatever the file does. Without it, a file that does more than assign values is refused.

    Raises: FileNotFoundError; ValueError naming the file and the line, in one sentence.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the config {path} does not exist")
    if path.suffix not in (".py", ".json", ".yaml", ".yml"):
        raise ValueError(f"{path} is not a config that MMEngine can read: expected a name that ends in .py or .json")
    if not trust:
        check_file(path)
    return _checked(_parse(lambda: Config.fromfile(str(path), import_custom_modules=False), path), path, trust)


def parse(text: str, source: str | Path) -> Config:
    """Read the config that a checkpoint carries as text; like a file without trust. `source` is for messages."""
    check_text(text, source)
    return _checked(_parse(lambda: Config.fromstring(text, ".py"), source), source, False)


def carried(content: dict[str, Any], source: str | Path) -> Config | None:
    """The config in the content of a checkpoint that MMEngine wrote; None if there is none."""
    text = content.get("meta", {}).get("cfg")
    return parse(text, source) if isinstance(text, str) and text.strip() else None


def check_file(path: Path, seen: frozenset[Path] = frozenset()) -> None:
    """Raise a ValueError if the file, or one that it builds on, does more than assign values."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a config that MMEngine can read: {one_line(error)}") from None
    bases = check_text(text, path) if path.suffix == ".py" else _bases_of_data(text, path)
    for base in bases:
        if base.split("::")[0] in PACKAGES and "::" in base:
            continue  # a file of an installed package
        below = (path.parent / base).resolve()
        if ".mim" not in below.parts and below not in seen and below.is_file():
            check_file(below, seen | {path.resolve()})


def check_text(text: str, source: str | Path) -> list[str]:
    """Raise a ValueError if Python text does more than assign values; returns the files named in `_base_`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not a config that MMEngine can read: {one_line(error)}") from None
    if found := re.search(r"\{\{\s*(\$|file)\w*", text):
        raise _refused(source, text[: found.start()].count("\n") + 1, "puts a name or a variable into its own code")
    bases: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "_base_" for target in node.targets):
            try:
                names = ast.literal_eval(node.value)
            except ValueError:
                raise _refused(source, node.lineno, "works out the names in _base_") from None
            bases += [names] if isinstance(names, str) else map(str, names)
        if not _is_harmless(node):
            words = ast.unparse(node).splitlines()[0][:60]
            raise _refused(source, getattr(node, "lineno", 1), f"does more than assign values ({words})")
    return bases


def _refused(source: str | Path, line: int, what: str) -> ValueError:
    return ValueError(
        f"{source}: refused, line {line} {what}, and a config is run as Python code: read it, and if you trust it "
        "give --trust-config (in Python: as_config(path, trust=True))"
    )


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("_")
    if isinstance(node, ast.Call):
        method = isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
        return method or isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.Name):
        if node.id in _FUNCTIONS:
            return isinstance(node.ctx, ast.Load)
        return not node.id.startswith("__") and not hasattr(builtins, node.id)  # sorted(x, key=eval) calls eval
    return isinstance(node, _HARMLESS)


def _bases_of_data(text: str, path: Path) -> list[str]:
    """Of a JSON or YAML file; YAML may name Python functions to be called, so it is read with the safe reader."""
    import yaml

    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        bases = value.get("_base_", []) if isinstance(value, dict) else []
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a config that MMEngine can read: {one_line(error)}") from None
    return [bases] if isinstance(bases, str) else list(bases)


def _parse(load: Any, source: str | Path) -> Config:
    try:
        return load()
    except Exception as error:  # the file is a program: it can fail with anything
        raise ValueError(f"{source} is not a config that MMEngine can read: {one_line(error)}") from None


def _checked(cfg: Config, source: str | Path, trust: bool) -> Config:
    model = cfg.get("model")
    if not isinstance(model, dict) or "decode_head" not in model:
        raise ValueError(f"{source} is not the config of a segmentation model: it has no model.decode_head")
    if not trust and (strange := next(_strange_names(cfg._cfg_dict), "")):
        raise ValueError(
            f"{source}: refused, it names {strange}, which would be imported and run: give --trust-config if you "
            "trust the file (in Python: as_config(path, trust=True))"
        )
    if imports := cfg.get("custom_imports"):
        _parse(lambda: import_modules_from_strings(**imports), source)
    return cfg


def _strange_names(node: Any, key: str = "") -> Iterator[str]:
    """Names of classes, modules and scopes in a config that lie outside the known packages."""
    if isinstance(node, dict):
        for name in node:
            yield from _strange_names(dict.__getitem__(node, name), "imports" if key == "custom_imports" else name)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _strange_names(item, key)
    elif isinstance(node, str):
        dotted = key == "type" and "." in node
        if dotted and not node.startswith(tuple(f"{name}." for name in _TYPES)):
            yield f"{key} {node!r}"
        if key in ("imports", "default_scope", "_scope_") and node.split(".")[0] not in PACKAGES:
            yield f"{key} {node!r}"
