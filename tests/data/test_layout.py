"""One reader of data folders: layouts, pairs, orphans, and what every command makes of them."""

import pytest

from m2f_helpers.data.layout import read_data
from tests.pair_files import add


@pytest.fixture
def data(tmp_path):
    return add(tmp_path / "above" / "data", "a")


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def message(path):
    with pytest.raises(FileNotFoundError) as caught:
        read_data(path)
    return str(caught.value)


def test_root_one_level_too_high_or_too_low(data):
    assert read_data(data).counts == "1 training and 0 validation pairs"
    assert message(data.parent).endswith(f"is one level too high: pass {data}")
    for low in ("images", "images/training", "annotations/training"):
        assert message(data / low).endswith(f"lies inside a data set: pass {data}")


@pytest.mark.parametrize("edition", ["ADE20K_2016_07_26", "ADE20K_2021_17_01"])
def test_full_editions_are_recognised(tmp_path, edition):
    root = folders(tmp_path / edition, "images/training", "images/validation")
    for path in (root, tmp_path):
        assert f"is the full edition {edition}" in message(path)
        assert "need ADEChallengeData2016" in message(path)


def test_renamed_full_editions_are_recognised_by_their_files(tmp_path):
    new = folders(tmp_path / "new", "images/ADE/training")
    old = folders(tmp_path / "old", "images/training")
    (old / "index_ade20k.mat").touch()
    assert "ADE20K_2021_17_01" in message(new)
    assert "ADE20K_2016_07_26" in message(old)


def test_other_folders(tmp_path):
    assert "does not exist" in message(tmp_path / "nowhere") and "demo profile" in message(tmp_path / "nowhere")
    assert "found nothing" in message(tmp_path)
    (tmp_path / "photos").mkdir()
    wanted = "expected the folders images and one of annotations, labels, masks, found photos; `m2f convert"
    assert wanted in message(tmp_path)


def test_the_real_sample(ade20k_sample):
    (pair,) = read_data(ade20k_sample).train
    assert pair.name == "ADE_val_00000001"
    assert pair.image.suffix == ".jpg" and pair.label.suffix == ".png"
