"""What differs between two configs, and edits that have no effect. Taught in notebook 04."""

from __future__ import annotations

import ast
import html
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from m2f_helpers.config import (
    CUSTOM_KEYS,
    DEAD_KEYS,
    MISSING,
    PIPELINES,
    Change,
    Edited,
    as_config,
    comparable,
    get_value,
    mmseg_names,
    plain,
)
from m2f_helpers.quiet import shortened

# What to do instead. Names that are no variable of the file are ones that people try.
_INSTEAD = {
    "set_batch(cfg, batch_size)": ("batch_size",),
    "set_batch(cfg, batch_size, learning_rate)": ("learning_rate", "lr"),
    "set_batch(cfg, batch_size, learning_rate), or cfg.optim_wrapper.optimizer": ("optimizer",),
    "set_classes(cfg, names)": ("class_weight", "classes", "num_classes"),
    "set_classes(cfg, names, palette)": ("palette",),
    "set_crop(cfg, [H, W])": ("crop_size",),
    "set_data(cfg, root)": ("data_root",),
    "set_schedule(cfg, iterations)": ("epochs", "iterations", "max_epochs", "max_iters"),
    "set_schedule(cfg, iterations, val_interval)": ("val_interval",),
    "set_weights(cfg, path)": ("checkpoint", "pretrained", "weights"),
    "set_workers(cfg, workers)": ("num_workers",),
    "train(cfg, work_dir, device=...)": ("device",),
    "train(cfg, work_dir, seed=...)": ("seed",),
    "cfg.model.data_preprocessor": ("data_preprocessor",),
    "cfg.{train,val,test}_dataloader.dataset.type (its name is 'ADE20KDataset'), or set_classes(cfg, names)": (
        "dataset_type",
    ),
    f"cfg.{CUSTOM_KEYS}": ("embed_multi",),
    "cfg.train_dataloader.dataset.pipeline": ("train_pipeline",),
    "set_test_size(cfg, [shorter, longer]), or cfg.val_dataloader.dataset.pipeline and the one of test_dataloader as "
    "well": ("test_pipeline",),
    "cfg.visualizer.vis_backends": ("vis_backends",),
    "nothing here: only mmseg's own test script with --tta has a use for it": (
        "img_ratios", "tta_model", "tta_pipeline",
    ),
}  # fmt: skip
_FIXES = {key: fix for fix, keys in _INSTEAD.items() for key in keys}
# Read too: by the Runner from its copy of the config, or by `Config.fromfile`.
_READ_TOO = {"activation_checkpointing", "compile", "custom_imports", "efficient_conv_bn_eval"}
_READ_TOO |= {"find_unused_parameters", "model_wrapper_cfg", "sync_bn"}
# the Runner uses cfg.data_preprocessor only for a model that has none of its own
RUNNER = [
    name for name in inspect.signature(Runner.__init__).parameters if name not in ("self", "cfg", "data_preprocessor")
]


@dataclass(frozen=True)
class SilentEdit:
    """A top-level value that nothing reads: its name, the value, the edit that works, and the file that sets it."""

    key: str
    value: Any
    fix: str
    file: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        if self.key == "test_pipeline":
            said = f"cfg.test_pipeline = {_short(self.value)} does not reach validation"
            return f"{said}, only inference reads it; use {self.fix}"
        where = f"{self.file}: " if self.file else "cfg."
        return f"{where}{self.key} = {_short(self.value)} has no effect, nothing reads it; use {self.fix}"


def silent_edits(source: Config | Edited) -> list[SilentEdit]:
    """Find top-level values that neither the Runner nor inference reads, set in the config's file or afterwards.

    In the file (`cfg.filename`) a value counts if nothing below uses its name, afterwards if it differs from the file;
    and only if it differs from the place that counts: `num_classes = 7` is silent, unless
    `cfg.model.decode_head.num_classes` is 7 as well.

    Returns: one entry per value, by name; empty if every edit has an effect.
    """
    cfg = as_config(source)
    original, unused, found = _original(cfg), _unused_in_file(cfg), []
    for key in sorted(set(cfg._cfg_dict) - {*RUNNER, *_READ_TOO}):
        value = plain(get_value(cfg, key))
        of_file = key in original and comparable(value) == comparable(original[key])
        if of_file and key not in unused:
            continue
        places = PIPELINES[1:3] if key == "test_pipeline" else DEAD_KEYS.get(key, ())
        effective = [plain(get_value(cfg, place, MISSING)) for place in places]
        effective = [mmseg_names(steps) if _steps(steps) else steps for steps in effective]
        if not effective or any(comparable(value) != comparable(other) for other in effective):
            fix = _FIXES.get(key, "a value inside cfg.model, cfg.*_dataloader, cfg.optim_wrapper, ..., or remove it")
            found.append(SilentEdit(key, value, fix, str(cfg.filename) if of_file else ""))
    return found


def runner_arguments(source: Config | Edited) -> dict[str, Any]:
    """The arguments that `Runner.from_cfg` takes out of a config, as plain values: all that training depends on."""
    cfg = as_config(source)
    return {name: plain(get_value(cfg, name)) for name in RUNNER if name in cfg}


def _original(cfg: Config) -> dict[str, Any]:
    """The values of the config's own file; without its dead variables if the config is rid of them."""
    if not cfg.filename or not Path(cfg.filename).is_file():
        return {}
    values = plain(Config.fromfile(cfg.filename)._cfg_dict)
    if any(key in values and key not in cfg for key in DEAD_KEYS):
        values = {key: value for key, value in values.items() if key not in DEAD_KEYS}
    return values


def _unused_in_file(cfg: Config) -> set[str]:
    """Names that the config's own file sets at its top level and uses nowhere, but those of mmseg's own test script."""
    if not cfg.filename or Path(cfg.filename).suffix != ".py" or not Path(cfg.filename).is_file():
        return set()
    tree = ast.parse(Path(cfg.filename).read_text(encoding="utf-8"))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return {target.id for target in targets if isinstance(target, ast.Name)} - used - {"tta_model", "tta_pipeline"}


@dataclass(frozen=True)
class ConfigDiff:
    """What differs between two configs, leaf by leaf; shows itself in a notebook as groups that can be unfolded."""

    changes: tuple[Change, ...]

    def groups(self) -> dict[str, list[Change]]:
        """The changes by topic: the words of their reason before the colon, `"no reason known"` without one."""
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.reason.partition(":")[0] or "no reason known", []).append(change)
        return found

    def _repr_html_(self) -> str:
        return "".join(_group_html(topic, changes) for topic, changes in self.groups().items())


def _group_html(topic: str, changes: list[Change]) -> str:
    """One topic: how many values, why, and, folded, which."""
    why = "; ".join(dict.fromkeys(html.escape(change.reason.partition(": ")[2]) for change in changes))
    lines = (f"{change.key}: {_short(change.before)} -> {_short(change.after)}" for change in changes)
    count = f"{len(changes)} value{'s' * (len(changes) > 1)}"
    return (
        f"<details><summary><b>{html.escape(topic)}</b> ({count}): {why}</summary>"
        f"<pre>{html.escape(chr(10).join(lines))}</pre></details>"
    )


def config_diff(base: Config | Edited, changed: Config | Edited) -> ConfigDiff:
    """Compare two configs, in the order of the keys; the reasons are known if an edit returned the changed one."""
    reasons = changed if isinstance(changed, Edited) else Edited(as_config(changed))
    before, after = (as_config(item) for item in (base, changed))
    found: list[Change] = []
    _compare(plain(before._cfg_dict), plain(after._cfg_dict), "", found)
    return ConfigDiff(tuple(Change(c.key, c.before, c.after, reasons.reason_of(c.key)) for c in found))


def _compare(before: Any, after: Any, key: str, found: list[Change]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(set(before) | set(after), key=str):
            _compare(before.get(name, MISSING), after.get(name, MISSING), f"{key}.{name}" if key else str(name), found)
    elif _steps(before) and _steps(after):
        for i, pair in enumerate(_aligned(before, after)):
            _compare(*pair, f"{key}.{i}", found)
    elif comparable(before) != comparable(after):
        found.append(Change(key, before, after, ""))


def _aligned(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of steps of two pipelines; a step that only one of them has stands beside `MISSING`."""
    kinds = [[step.get("type") for step in steps] for steps in (before, after)]
    for what, i, end, j, stop in SequenceMatcher(None, *kinds, autojunk=False).get_opcodes():
        if what in ("equal", "replace"):
            yield from zip_longest(before[i:end], after[j:stop], fillvalue=MISSING)
        else:
            yield from ((step, MISSING) for step in before[i:end])
            yield from ((MISSING, step) for step in after[j:stop])


def _steps(value: Any) -> bool:
    """True for a list of dicts, such as a pipeline."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, dict) for item in value)


def _short(value: Any) -> str:
    """A value in few characters: pipelines by the names of their steps, long lists by their start."""
    if _steps(value) and all("type" in item for item in value):
        return "[" + ", ".join(str(item["type"]) for item in value) + "]"
    text = value if value is MISSING else repr(value)
    return shortened(text, 72)
