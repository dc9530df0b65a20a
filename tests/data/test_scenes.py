import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from m2f_helpers import cli
from m2f_helpers.data.layout import read_data
from m2f_helpers.data.scenes import dataset, stage

SIZE = [160, 160]


@pytest.fixture(scope="module")
def many():
    return [dataset.draw_scene(seed, size=SIZE) for seed in range(80)]


def ids(scene):
    return set(np.unique(scene.label_map).tolist())


def test_names_and_ids_are_ade20ks():
    assert (stage.CLASS_IDS["wall"], stage.CLASS_IDS["pole"]) == (0, 93)
    assert len(stage.CLASS_IDS) >= 20


def test_every_class_and_other_occur_and_nothing_else(many):
    seen = set().union(*(ids(scene) for scene in many))
    assert seen == {0} | {class_id + 1 for class_id in stage.CLASS_IDS.values()}


def test_each_class_is_in_a_good_part_of_the_pictures(many):
    for name, class_id in stage.CLASS_IDS.items():
        share = np.mean([class_id + 1 in ids(scene) for scene in many])
        assert share > 0.1, name


def test_half_of_the_pictures_are_indoors(many):
    floor, road = stage.CLASS_IDS["floor"] + 1, stage.CLASS_IDS["road"] + 1
    indoor, outdoor = (sum(i in ids(scene) for scene in many) for i in (floor, road))
    assert indoor + outdoor == len(many)
    assert 28 <= indoor <= 52


def test_pictures_show_enough_but_not_more_classes_than_twenty_queries(many):
    numbers = [len(ids(scene) - {0}) for scene in many]
    assert min(numbers) >= 5
    assert max(numbers) < 20


def test_the_same_seed_gives_the_same_pixels():
    first = dataset.draw_scene(7)
    stage.textures.cache_clear()
    again = dataset.draw_scene(7)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label_map, again.label_map)
    assert not np.array_equal(first.image, dataset.draw_scene(8, size=first.image.shape[:2]).image)


@pytest.mark.parametrize("seed", range(6))
def test_domains_share_layout_and_differ_in_looks(seed):
    day, dusk = (dataset.draw_scene(seed, domain, SIZE) for domain in ("day", "dusk"))
    assert np.array_equal(day.label_map, dusk.label_map)
    assert dusk.image.mean() < 0.8 * day.image.mean()
    assert dusk.image.std() < day.image.std()  # less contrast


def test_sizes_and_aspect_ratios_vary():
    sizes = np.array([dataset.draw_scene(seed).image.shape[:2] for seed in range(40)])
    assert sizes.min() >= 300
    assert sizes.max() <= 800
    ratios = sizes[:, 1] / sizes[:, 0]
    assert ratios.min() < 0.8 and ratios.max() > 1.6
    assert len(np.unique(ratios.round(1))) >= 5


def test_image_and_label_map_fit_each_other():
    scene = dataset.draw_scene(3, size=[300, 420])
    assert scene.image.shape == (300, 420, 3) and scene.image.dtype == np.uint8
    assert scene.label_map.shape == (300, 420) and scene.label_map.dtype == np.uint8


@pytest.mark.parametrize("name", ["pole", "streetlight"])
def test_thin_things_are_at_least_eight_pixels_wide(name):
    wanted, widths = stage.CLASS_IDS[name] + 1, []
    for seed in range(60):
        mask = dataset.draw_scene(seed, size=[512, 512]).label_map == wanted
        rows = mask[mask.any(axis=1)]
        widths += [int(np.median(row.sum())) for row in rows[:: max(1, len(rows) // 20)]]
    assert np.percentile(widths, 10) >= 8  # the few thinner ones are half hidden


def test_colour_tells_classes_apart_in_one_picture():
    # A classifier of mean colours, fitted per picture, must do much better than chance: labels lie on what is drawn.
    for seed in range(8):
        scene = dataset.draw_scene(seed, size=SIZE)
        present = sorted(ids(scene))
        means = np.array([scene.image[scene.label_map == i].mean(axis=0) for i in present])
        distance = ((scene.image[..., None, :].astype(float) - means) ** 2).sum(-1)
        assert (np.array(present)[distance.argmin(-1)] == scene.label_map).mean() > 0.55


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"seed": -1}, "seed must be 0 or larger, got -1"),
        ({"seed": 0, "domain": "night"}, "domain must be one of .*'dusk'.*got 'night'"),
        ({"seed": 0, "size": [20, 300]}, "64 to 8192 pixels each, got"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        dataset.draw_scene(**arguments)


def test_make_scenes_writes_ade20ks_layout(tmp_path):
    root = dataset.make_scenes(tmp_path / "data", 3, 2, "dusk", size=[96, 128])
    pairs = read_data(root).train, read_data(root).val
    assert [len(split) for split in pairs] == [3, 2]
    expected = dataset.draw_scene(1, "dusk", [96, 128])
    label_map = cv2.imread(str(pairs[0][1].label), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(label_map, expected.label_map)
    image = cv2.imread(str(pairs[0][1].image))[..., ::-1]
    assert np.abs(image.astype(int) - expected.image).mean() < 8  # JPEG
    splits = [{pair.label.read_bytes() for pair in split} for split in pairs]
    assert not splits[0] & splits[1]


def test_make_scenes_draws_only_what_is_missing(tmp_path):
    root = dataset.make_scenes(tmp_path, 3, 1, size=[64, 64])
    pairs = read_data(root).train
    before = {pair.name: (pair.image.read_bytes(), pair.image.stat().st_mtime_ns) for pair in pairs}
    pairs[1].image.unlink()
    dataset.make_scenes(root, 4, 1, size=[64, 64])
    after = {p.name: (p.image.read_bytes(), p.image.stat().st_mtime_ns) for p in read_data(root).train}
    assert len(after) == 4
    assert {name: data for name, (data, _) in before.items()} == {n: after[n][0] for n in before}
    assert [n for n in before if before[n][1] != after[n][1]] == [pairs[1].name]


def test_make_scenes_of_a_smaller_data_set_removes_the_rest(tmp_path):
    root = dataset.make_scenes(tmp_path, 4, 2, size=[64, 64])
    kept = {path.name: path.read_bytes() for path in root.glob("*/training/*[12].*")}
    (root / "images/training/.scene_train_00000001.jpg.999999999.part").touch()  # of a run that was killed
    dataset.make_scenes(root, 2, 0, size=[64, 64])
    assert {path.name: path.read_bytes() for path in root.glob("*/*/*")} == kept
    assert len(kept) == 4


def test_make_scenes_does_not_mix_domains(tmp_path):
    dataset.make_scenes(tmp_path, 1, 0, "day", size=[64, 64])
    with pytest.raises(ValueError, match="'domain': 'day'.*'domain': 'dusk'.*choose another folder"):
        dataset.make_scenes(tmp_path, 1, 0, "dusk", size=[64, 64])


def test_command_line(tmp_path):
    arguments = ["scenes", str(tmp_path / "d"), "--train", "2", "--val", "1", "--domain", "dusk", "--size", "64", "80"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "2 training and 1 validation pairs (dusk)" in result.output
    assert len(list((tmp_path / "d/annotations/training").iterdir())) == 2
