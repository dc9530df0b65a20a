"""The difference of two configs: few groups, each with a reason; steps of pipelines are compared by kind."""

from __future__ import annotations

import copy

import pytest

from m2f_helpers import config
from m2f_helpers.finetune.differences import ConfigDiff, config_diff


@pytest.fixture(scope="module")
def demo() -> ConfigDiff:
    edited = config.profile_edits("demo")
    return config_diff(config.remove_dead_keys(config.published_config("demo")), edited)


@pytest.mark.parametrize("profile", ["demo", "ade20k"])
def test_at_most_ten_groups_each_with_a_reason(profile):
    edited = config.profile_edits(profile)
    groups = config_diff(config.remove_dead_keys(config.published_config(profile)), edited).groups()
    assert 3 <= len(groups) <= 10, list(groups)
    for topic, changes in groups.items():
        for change in changes:
            assert change.reason.startswith(f"{topic}: ") and len(change.reason) > len(topic) + 15, change


def test_every_change_is_in_one_group(demo):
    together = [change.key for changes in demo.groups().values() for change in changes]
    assert sorted(together) == sorted(change.key for change in demo.changes)


def test_a_dropped_step_is_one_change_with_its_own_reason(demo):
    (dropped,) = [change for change in demo.changes if "PhotoMetricDistortion" in str(change.before)]
    assert dropped.after == config.MISSING
    assert dropped.reason == (
        "augmentation: no PhotoMetricDistortion, because in drawn scenes the colour tells the class"
    )
    crops = [change for change in demo.changes if change.key.endswith("crop_size")]
    assert [(change.before, change.after) for change in crops] == [((512, 512), (192, 192))]


def test_an_inserted_step_is_found():
    published = config.published_config()
    longer = copy.deepcopy(published)
    longer.train_dataloader.dataset.pipeline.insert(4, {"type": "Pad"})
    (change,) = config_diff(published, longer).changes
    assert change.before == config.MISSING and change.after == {"type": "Pad"}


def test_page_folds_the_values_and_says_the_reason(demo):
    page = demo._repr_html_()
    assert page.count("<details>") == len(demo.groups())
    assert "<b>batch norm</b> (2 values): one device, so no SyncBN" in page
    assert "model.backbone.depth: 50 -&gt; 18" in page
