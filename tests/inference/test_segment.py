"""Inference: equal to mmseg's, for every kind of picture, with nothing changed on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from m2f_helpers.config import base_config, set_classes
from m2f_helpers.images import read_image
from m2f_helpers.inference import models, upsampling
from m2f_helpers.inference.segment import class_scores, segment
from m2f_helpers.palette import ade20k_palette, palette_of
from tests.inference.conftest import OWN, blocks, stock

# ------------------------------------------------------------------------------------------------ agreement with mmseg


@pytest.mark.parametrize("size", [(301, 402), (192, 192), (480, 641), (97, 60), (600, 310)])
def test_equal_to_mmseg_pixel_for_pixel(model, tmp_path, size):
    path = tmp_path / "a.jpg"
    Image.fromarray(blocks(*size, seed=size[0])).save(path)
    expected, scores = stock(model, str(path))
    result = segment(model, path)
    assert len(np.unique(expected)) > 3, "the test needs a model that predicts several classes"
    assert result.label_map.dtype == np.uint8 and result.label_map.shape == size
    assert (result.label_map == expected).all()
    best = scores.max(0)[0] / scores.sum(0)
    assert np.allclose(result.confidence, best.numpy(), atol=1e-5)


def test_equal_to_mmseg_on_a_real_picture(model, ade20k_sample):
    path = ade20k_sample / "images" / "validation" / "ADE_val_00000002.jpg"
    assert (segment(model, path).label_map == stock(model, str(path))[0]).all()


def test_equal_to_mmseg_given_its_bgr_array(model, picture):
    rgb = read_image(picture)
    expected, _ = stock(model, np.ascontiguousarray(rgb[..., ::-1]))
    assert (segment(model, rgb).label_map == expected).all()
    swapped, _ = stock(model, rgb)
    assert (swapped != expected).mean() > 0.01, "RGB given to mmseg is accepted and gives something else"


def test_path_pil_and_array_agree(model, picture):
    by_path = segment(model, picture)
    with Image.open(picture) as opened:
        by_pil = segment(model, opened)
    by_array = segment(model, read_image(picture))
    assert (by_path.label_map == by_pil.label_map).all() and (by_path.label_map == by_array.label_map).all()
    assert by_path.source == str(picture)


def test_an_array_call_does_not_break_path_calls_nor_change_the_config(model, picture):
    before = model.cfg.pretty_text
    first = segment(model, picture).label_map
    segment(model, read_image(picture))
    assert (segment(model, picture).label_map == first).all()
    assert model.cfg.pretty_text == before


def test_works_on_a_model_whose_config_mmseg_has_broken(model, picture):
    import copy

    from mmseg.apis import inference_model

    kept, model.cfg = model.cfg, copy.deepcopy(model.cfg)
    try:
        inference_model(model, read_image(picture))
        with pytest.raises(KeyError):
            inference_model(model, str(picture))  # mmseg's own next path call
        assert segment(model, picture).label_map.shape == (301, 402)
    finally:
        model.cfg = kept


# ------------------------------------------------------------------------------------------------- memory: the argmax


@pytest.mark.parametrize("size", [(40, 56), (201, 77), (13, 9), (300, 301), (1, 5)])
@pytest.mark.parametrize("classes", [1, 2, 150])
def test_upsampled_argmax_is_interpolate_and_argmax(size, classes):
    scores = torch.rand(1, classes, 24, 31, generator=torch.Generator().manual_seed(size[0])) ** 8
    expected = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    winner, best = upsampling.upsampled_argmax(scores, size)
    assert torch.equal(winner.long(), expected.argmax(1)[0]) and torch.equal(best, expected.max(1)[0][0])
    winner, best = upsampling.upsampled_argmax(scores, size, whole=0)
    assert torch.allclose(best, expected.max(1)[0][0], rtol=1e-5, atol=1e-7)
    decided = expected[0].gather(0, winner.long()[None])[0]
    assert torch.allclose(decided, best, rtol=1e-5, atol=1e-7), "the winner's own score is the best one"


def test_upsampled_argmax_takes_the_lowest_id_on_a_tie():
    scores = torch.zeros(1, 5, 4, 4)
    scores[:, 2] = scores[:, 4] = 0.75
    winner, _ = upsampling.upsampled_argmax(scores, (9, 9), whole=0)
    assert (winner == 2).all()


def test_upsampled_argmax_finds_a_class_that_wins_only_between_pixels():
    """Two classes alternate at the pixels; a third, second everywhere, wins half way between them."""
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 0, :, 0], scores[0, 1, :, 1], scores[0, 2] = 1.0, 1.0, 0.7
    winner, _ = upsampling.upsampled_argmax(scores, (2, 9), whole=0)
    assert winner[0].tolist()[0] == 0 and winner[0].tolist()[-1] == 1 and winner[0].tolist()[4] == 2


def test_classes_that_cannot_win_are_not_interpolated(monkeypatch):
    """Neither those that are below another class everywhere, nor those that are only high where another is higher."""
    scores = torch.rand(1, 150, 16, 16) * 0.1
    scores[0, [7, 9]] = 0.2
    scores[0, 7, :, :8] += 2
    scores[0, 9, :, 8:] += 2
    scores[0, 20:40, :, :6] += 1
    done = []
    real = upsampling.upsample
    monkeypatch.setattr(upsampling, "upsample", lambda maps, size: done.append(maps.shape[1]) or real(maps, size))
    winner, _ = upsampling.upsampled_argmax(scores, (99, 99), whole=0)
    assert set(winner.unique().tolist()) == {7, 9} and done == [1, 1]


PEAK = """
import re, numpy as np
from pathlib import Path
from m2f_helpers.quiet import quiet
quiet()
from m2f_helpers.config import base_config
from m2f_helpers.inference import models
from m2f_helpers.inference.segment import segment
model = models.load(base_config("demo"), None, "cpu")
segment(model, np.zeros((300, 400, 3), np.uint8))
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = peak()
picture = np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8)
result = segment(model, picture)
assert result.label_map.shape == (3000, 4000)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_twelve_megapixels_stay_under_two_gigabytes():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0.05 < float(done.stdout.split()[-1]) < 2.0


# --------------------------------------------------------------------------------------------- what a result says


def test_shares_add_up_and_confidence_is_a_mean(model, picture):
    result = segment(model, picture)
    table = result.table
    assert table["share"].sum() == pytest.approx(1)
    assert table["share"].is_monotonic_decreasing
    first = table.iloc[0]
    mask = result.label_map == first["id"]
    assert first["share"] == pytest.approx(mask.mean()) and first["name"] == ade20k_palette().names[int(first["id"])]
    assert first["confidence"] == pytest.approx(result.confidence[mask].mean(), rel=1e-5)
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1
    assert 0 < result.entropy.mean() < 1


def test_the_class_map_by_hand(model, picture):
    """Softmax without "no object", sigmoid, sum over the queries, argmax: one pixel of the padded input."""
    result = segment(model, picture)
    scores = class_scores(result.class_logits[None], result.mask_logits[None], result.geometry.padded)[0]
    row, column = 100, 150
    masks = F.interpolate(result.mask_logits[None], result.geometry.padded, mode="bilinear", align_corners=False)[0]
    by_hand = torch.zeros(150)
    for classes, mask in zip(result.class_logits, masks[:, row, column], strict=True):
        exponentials = (classes - classes.max()).exp()
        by_hand += (exponentials / exponentials.sum())[:150] / (1 + (-mask).exp())
    assert torch.allclose(scores[:, row, column], by_hand, atol=1e-5)


def test_queries_say_who_owns_what(model, picture):
    result = segment(model, picture)
    assert len(result.queries) == 20 and len({q.index for q in result.queries}) == 20
    assert sum(q.share for q in result.queries) == pytest.approx(1)
    assert all(q.share > 0 for q in result.used_queries) and 1 <= len(result.used_queries) <= 20
    owner = result.used_queries[0]
    row, column = (int(v[len(v) // 2]) for v in np.nonzero(result.owner == owner.index))
    scores = class_scores(result.class_logits[None], result.mask_logits[None], result.geometry.padded)
    label = int(scores[0, :, row, column].argmax())
    masks = F.interpolate(result.mask_logits[None], result.geometry.padded, mode="bilinear", align_corners=False)[0]
    added = result.class_logits.softmax(-1)[:, label] * masks[:, row, column].sigmoid()
    assert int(added.argmax()) == owner.index


def test_a_query_mask_has_the_images_size(model, picture):
    result = segment(model, picture)
    mask = result.query_mask(3)
    assert mask.shape == (301, 402) and mask.dtype == np.float32 and 0 <= mask.min() <= mask.max() <= 1
    with pytest.raises(ValueError, match=r"expected a query 0..19, got 20"):
        result.query_mask(20)
    with pytest.raises(ValueError, match=r"layers=True"):
        result.query_mask(0, layer=1)


def test_layers_are_what_the_head_predicted_and_what_each_layer_was_given(model, picture):
    given = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, a, k: given.append(k["cross_attn_mask"]), with_kwargs=True)
        for layer in model.decode_head.transformer_decoder.layers
    ]
    result = segment(model, picture, layers=True)
    for hook in hooks:
        hook.remove()
    assert len(result.layers) == 4 and result.layers[-1].allowed is None  # three decoder layers
    assert torch.equal(result.layers[-1].mask_logits, result.mask_logits)
    height, width = result.geometry.padded
    for layer, (blocked, stride) in enumerate(zip(given, (32, 16, 8), strict=True), start=1):
        for query in (0, 7, 19):
            allowed = result.allowed(query, layer)
            assert allowed.shape == (height // stride, width // stride)
            assert (allowed.ravel() == ~blocked[0, query].numpy()).all()
            assert allowed.any(), "a query that may look nowhere is rescued"
    assert not model.decode_head.transformer_decoder.layers[0]._forward_pre_hooks, "our hooks are gone"
    with pytest.raises(ValueError, match=r"expected a decoder layer 1..3, got 4"):
        result.allowed(0, 4)


def test_rescued_queries_have_an_empty_mask_and_look_everywhere(model, picture):
    result = segment(model, picture, layers=True)
    for layer in result.layers[:-1]:
        small = F.interpolate(layer.mask_logits[None], layer.allowed.shape[-2:], mode="bilinear", align_corners=False)[
            0
        ]
        empty = (small.sigmoid() < 0.5).flatten(1).all(1)
        assert torch.equal(layer.rescued, empty)
        assert layer.allowed[empty].all()


def test_a_damaged_model_is_named_not_believed(picture):
    broken = models.load(base_config("demo"), None, "cpu")
    with torch.no_grad():
        broken.decode_head.cls_embed.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"scene\.jpg: the model's scores are not finite"):
        segment(broken, picture)


# ----------------------------------------------------------------------------------------------------------- load


def test_load_leaves_the_config_alone():
    config = base_config("ade20k")
    before = config.pretty_text
    assert config.model.backbone.init_cfg is not None
    demo = base_config("demo")
    text = demo.pretty_text
    models.load(demo, None, "cpu")
    assert demo.pretty_text == text and config.pretty_text == before


def test_load_fills_every_tensor(model, tmp_path, picture):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    loaded = models.load(base_config("demo"), path, "cpu")
    assert (segment(loaded, picture).label_map == segment(model, picture).label_map).all()
    config_file = tmp_path / "config.py"
    base_config("demo").dump(str(config_file))
    by_file = models.load(config_file, str(path), "cpu")
    assert torch.equal(by_file.decode_head.cls_embed.weight, model.decode_head.cls_embed.weight)


def test_a_checkpoint_alone_brings_config_and_classes(own_model, model, tmp_path, picture):
    """As `m2f train` writes them: the config as text, the classes in the meta."""
    meta = {"cfg": own_model.cfg.pretty_text, "dataset_meta": own_model.dataset_meta}
    torch.save({"state_dict": own_model.state_dict(), "meta": meta}, tmp_path / "own.pth")
    for loaded in (
        models.load(checkpoint=tmp_path / "own.pth"),
        models.load_profile("demo", None, tmp_path / "own.pth"),
    ):
        assert palette_of(loaded).names == OWN
        expected = segment(own_model, picture)
        assert (segment(loaded, picture).label_map == expected.label_map).all()
    assert set(expected.table["name"]) | {query.name for query in expected.queries} <= set(OWN)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare\.pth carries no config: give the config"):
        models.load(checkpoint=tmp_path / "bare.pth")
    assert palette_of(models.load_profile("demo", None, tmp_path / "bare.pth")) is ade20k_palette()


def test_code_in_the_config_of_a_checkpoint_is_not_run(own_model, tmp_path):
    text = own_model.cfg.pretty_text + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n"
    torch.save({"state_dict": own_model.state_dict(), "meta": {"cfg": text}}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: refused"):
        models.load(checkpoint=tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_classes_without_names_are_numbered(tmp_path):
    config = set_classes(base_config("demo"), OWN).cfg
    for loader in ("train", "val", "test"):
        del config[f"{loader}_dataloader"].dataset["metainfo"]
    assert palette_of(models.load(config, None, "cpu")).names == [f"class {i}" for i in range(5)]


def test_load_refuses_half_a_model(model, tmp_path):
    path = tmp_path / "half.pth"
    state = {k: v for k, v in model.state_dict().items() if "cls_embed" not in k}
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match=r"half\.pth.*cls_embed"):
        models.load(base_config("demo"), path, "cpu")


def test_load_finetuned_takes_only_what_fits(model, tmp_path):
    assert models.load_finetuned(tmp_path / "nothing") is None
    folder = tmp_path / "finetune"
    folder.mkdir()
    base_config("demo").dump(str(folder / "config.py"))
    for step, factor in ((5, 1.0), (12, 2.0)):
        state = {**model.state_dict(), "decode_head.cls_embed.bias": torch.full((151,), factor)}
        torch.save({"state_dict": state}, folder / f"iter_{step}.pth")
    found = models.load_finetuned(folder, "demo", "cpu")
    assert (found.decode_head.cls_embed.bias == 2).all(), "the newest checkpoint, by steps and not by name"
    assert models.load_finetuned(folder, "ade20k", "cpu") is None, "a demo model is not the R50"


def test_load_profile_takes_the_shipped_weights():
    shipped = models.load_profile("demo", device="cpu")
    assert shipped.decode_head.num_queries == 20 and not shipped.training
    with pytest.raises(ValueError, match="expected a profile"):
        models.load_profile("huge")


def test_the_shipped_weights_see_a_day_scene_in_the_right_colours(tmp_path):
    """From drawn scene to picture, with nothing random: most pixels right, and person (150, 5, 61) wherever it is."""
    from m2f_helpers.data.scenes.dataset import draw_scene
    from m2f_helpers.plotting import side_by_side

    shipped = models.load_profile("demo", device="cpu")
    scenes = (draw_scene(seed, "day", [384, 384]) for seed in range(40_000, 40_060))
    scene = next(scene for scene in scenes if (scene.label_map == 13).mean() > 0.02)  # person on disk
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    truth = scene.label_map - np.uint8(1)
    for source in (tmp_path / "scene.png", Image.fromarray(scene.image), scene.image):
        result = segment(shipped, source)
        assert (result.label_map == truth)[truth != 255].mean() > 0.7
        person = (result.label_map == 12) & (truth == 12)
        assert person.sum() > 0.3 * (truth == 12).sum()
        figure = side_by_side(result.image, result.label_map, truth)
        assert (figure.axes[1].images[0].get_array()[person] == (150, 5, 61)).all()


@pytest.mark.parametrize(
    ("config", "checkpoint", "device", "error", "words"),
    [
        ("missing.py", None, "cpu", FileNotFoundError, "missing.py does not exist"),
        (7, None, "cpu", ValueError, "expected an mmengine Config or the path of one, got int"),
        ("demo", "missing.pth", "cpu", FileNotFoundError, "missing.pth"),
        ("demo", None, "abacus", ValueError, "expected a device out of cpu, got 'abacus'"),
    ],
)
def test_load_says_what_is_wrong(config, checkpoint, device, error, words):
    with pytest.raises(error) as caught:
        models.load(base_config("demo") if config == "demo" else config, checkpoint, device)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- folders


def test_segment_takes_a_folder_and_warns_about_what_it_leaves_out(model, folder):
    with pytest.warns(UserWarning, match=r"left out broken\.jpg: .*not an image"):
        results = segment(model, folder)
    assert [Path(r.source).name for r in results] == ["0.png", "1.png", "2.png"]
