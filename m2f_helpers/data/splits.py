"""Parts a data set for training and validation: groups stay together, and every class is in both parts if it can be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Set

import numpy as np


def group_keys(keys: list[str], pattern: str) -> dict[str, str]:
    """The group of each key: what the regular expression finds in it, its first bracket if it has one.

    Raises: ValueError for an expression that is none, or that does not find anything in one of the keys.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group {pattern!r} is no regular expression: {error}") from None
    groups = {}
    for key in keys:
        found = regex.search(key)
        if not found:
            raise ValueError(f"--group {pattern!r} finds nothing in {key!r}: each image must have a group")
        groups[key] = (found.group(1) or "") if regex.groups else found.group()
    return groups


def choose_validation(classes: Mapping[str, Set[int]], val: float, groups: Mapping[str, str] | None = None) -> set[str]:
    """The keys that go into validation; the same arguments always choose the same.

    First every class that lies in two groups or more gets one of them into validation, the rarest class first; then
    groups are added until the share is reached. A group never takes the last example of a class out of training.

    `classes` are the class ids in each image, by key; `val` is the share of the images, between 0 and 1; `groups` is
    the group of each key, None makes each image its own.

    Returns: at least one key, and not all.
    Raises: ValueError if there is only one group.
    """
    members: dict[str, list[str]] = {}
    for key in sorted(classes):
        members.setdefault(groups[key] if groups else key, []).append(key)
    if len(members) < 2:
        what = "group" if groups else "image"
        raise ValueError(f"there is only one {what}: at least two are needed, one to train and one to validate")
    order = [sorted(members)[i] for i in np.random.default_rng(0).permutation(len(members))]
    content = {group: set().union(*(classes[key] for key in members[group])) for group in members}
    wanted = max(1, round(val * len(classes)))
    chosen = _choose(order, content, {group: len(keys) for group, keys in members.items()}, wanted)
    return {key for group in chosen for key in members[group]}


def _choose(order: list[str], content: dict[str, set[int]], sizes: dict[str, int], wanted: int) -> list[str]:
    left = Counter(i for ids in content.values() for i in ids)  # groups in training that hold a class
    chosen: list[str] = []

    def fits(group: str, room: float) -> bool:
        size = sum(sizes[other] for other in chosen) + sizes[group]
        return group not in chosen and size <= room and all(left[i] > 1 for i in content[group])

    def take(group: str) -> None:
        chosen.append(group)
        left.subtract(content[group])

    for number, _ in sorted(left.items(), key=lambda entry: (entry[1], entry[0])):
        if not any(number in content[group] for group in chosen):
            able = [group for group in order if number in content[group] and fits(group, max(wanted, 1) * 1.5)]
            if able:
                take(min(able, key=lambda group: sizes[group]))
    for group in order:
        if fits(group, wanted):
            take(group)
    return chosen or [min(order, key=lambda group: sizes[group])]
