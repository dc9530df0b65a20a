from __future__ import annotations

import dataclasses

import pytest

from m2f_helpers.profiles import PROFILES, get_profile


def test_the_two_profiles_by_name():
    assert list(PROFILES) == ["demo", "ade20k"]
    assert get_profile("demo").name == "demo"
    assert get_profile(PROFILES["ade20k"]) is PROFILES["ade20k"]


def test_unknown_name_is_one_sentence_with_the_known_ones():
    with pytest.raises(ValueError, match="expected a profile out of demo, ade20k, got 'full'"):
        get_profile("full")


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_profile("demo").batch_size = 1
    with pytest.raises(TypeError):
        get_profile("demo").model_changes["model size"] = {"model.backbone.depth": 50}


@pytest.mark.parametrize(("pictures", "expected"), [(1, 4), (2, 7), (16, 50), (48, 110), (20_000, 110)])
def test_steps_follow_the_number_of_pictures_up_to_a_limit(pictures, expected):
    """25 passes of the demo over few pictures, in batches of 8; never more than 110 steps."""
    assert get_profile("demo").iterations_for(pictures) == expected


def test_no_picture_no_steps():
    with pytest.raises(ValueError, match="at least one training image, got 0"):
        get_profile("demo").iterations_for(0)
