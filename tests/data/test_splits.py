"""Splits: groups whole, rare classes in both parts, the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_helpers.data.splits import choose_validation, group_keys


def test_the_rare_class_goes_into_both_parts_and_the_unique_one_stays_in_training():
    classes = {f"p{i:02}": {0, 1} for i in range(30)}
    classes["p07"], classes["p21"], classes["p13"] = {0, 1, 2}, {0, 2}, {0, 3}
    chosen = choose_validation(classes, 0.1)
    assert len(chosen) == 3 and len(chosen & {"p07", "p21"}) == 1 and "p13" not in chosen
    assert choose_validation(classes, 0.1) == choose_validation(dict(reversed(classes.items())), 0.1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 5), min_size=1), st.integers(0, 6)), min_size=2, max_size=30),
    st.floats(0.05, 0.5),
)
def test_groups_stay_whole_and_training_keeps_every_class(rows, val):
    classes = {f"p{i}": ids for i, (ids, _) in enumerate(rows)}
    groups = {f"p{i}": str(group) for i, (_, group) in enumerate(rows)}
    if len(set(groups.values())) < 2:
        with pytest.raises(ValueError, match="only one group"):
            choose_validation(classes, val, groups)
        return
    chosen = choose_validation(classes, val, groups)
    assert chosen and chosen < set(classes)
    inside, outside = {groups[k] for k in chosen}, {groups[k] for k in set(classes) - chosen}
    assert not inside & outside
    in_training = set().union(*(classes[k] for k in set(classes) - chosen))
    if len(inside) > 1:  # a single group may be the only one that is possible
        assert in_training == set().union(*classes.values())


def test_group_is_the_bracket_if_there_is_one():
    keys = ["a/video1_03", "b/video1_04"]
    assert group_keys(keys, r"video\d") == dict.fromkeys(keys, "video1")
    assert group_keys(keys, r"^(.)/") == {keys[0]: "a", keys[1]: "b"}
