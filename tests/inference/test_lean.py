import copy

import numpy as np
import pytest
import torch
from mmseg.apis import inference_model

from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.inference import lean, models, upsampling
from m2f_helpers.inference.segment import class_scores, segment

right = upsampling.upsampled_argmax


@pytest.fixture
def model():
    return models.load_profile()


@pytest.mark.parametrize("size", [(192, 192), (130, 257), (96, 300)], ids=str)
def test_both_engines_and_mmseg_agree(model, size):
    image = draw_scene(7, "day", list(size)).image
    ours, stock = segment(model, image), segment(model, image, engine="mmseg")
    assert lean.lean_model(model) is not None, "the lean way was not taken"
    assert torch.allclose(ours.class_logits, stock.class_logits, atol=1e-4)
    assert torch.allclose(ours.mask_logits, stock.mask_logits, atol=1e-3)
    assert not torch.equal(ours.mask_logits, stock.mask_logits), "both took the same way"
    assert np.abs(ours.confidence - stock.confidence).max() < 1e-4
    assert (ours.label_map == stock.label_map).all()
    mmseg = inference_model(model, np.ascontiguousarray(image[..., ::-1])).pred_sem_seg.data[0].numpy()
    assert (ours.label_map == mmseg).all()


def test_layers_come_from_the_model_itself(model):
    image = draw_scene(1, "day", [64, 64]).image
    assert len(segment(model, image, layers=True).layers) == 4
    assert model not in lean._made


def test_an_unknown_engine_is_named(model):
    with pytest.raises(ValueError, match="'lean' or 'mmseg', got 'fast'"):
        segment(model, np.zeros((64, 64, 3), np.uint8), engine="fast")


def other_weights(model):
    return {name: tensor + 0.01 for name, tensor in model.state_dict().items()}


CHANGES = {
    "in place": lambda model: torch.no_grad()(model.decode_head.cls_embed.bias.add_)(1),
    "through data": lambda model: model.decode_head.cls_embed.bias.data.mul_(2),
    "a tensor replaced": lambda model: setattr(model.backbone.conv1.weight, "data", model.backbone.conv1.weight * 2),
    "other weights loaded": lambda model: model.load_state_dict(other_weights(model)),
    "a statistic of a norm": lambda model: model.backbone.bn1.running_mean.data.add_(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(model, change):
    first = lean.lean_model(model)
    assert lean.lean_model(model) is first
    CHANGES[change](model)
    second = lean.lean_model(model)
    assert second is not first
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classes, masks = model.decode_head(model.extract_feat(x), None)
        ours = second(x, every=False)[0]
    assert torch.allclose(ours[0], classes[-1], atol=1e-3) and torch.allclose(ours[1], masks[-1], atol=1e-3)


def test_a_fresh_model_at_the_place_of_an_old_one_is_not_taken_for_it(model):
    first = lean.lean_model(model)
    twin = copy.deepcopy(model)
    assert lean.lean_model(twin) is not first and lean.lean_model(model) is first


NOT_PLAIN = {
    "watched": lambda model: model.decode_head.cls_embed.register_forward_hook(lambda *args: None),
    "forward replaced": lambda model: setattr(model.decode_head, "forward", lambda x, samples: None),
    "other backbone": lambda model: setattr(model.backbone, "style", "caffe"),
    "subclass": lambda model: setattr(model.decode_head, "__class__", type("Own", (type(model.decode_head),), {})),
    "double": lambda model: model.double(),
    "training": lambda model: model.train(),
    "an extra tensor": lambda model: model.backbone.register_buffer("extra", torch.zeros(1)),
}


@pytest.mark.parametrize("change", NOT_PLAIN)
def test_what_is_not_plain_runs_as_it_is(model, change):
    NOT_PLAIN[change](model)
    assert lean.lean_model(model) is None


def by_few(classes, masks, padded, size):
    places, best, total, ids = upsampling.winners(classes, masks, padded, lambda maps: maps, size)
    return ids[places.long()], best, total


def by_all(classes, masks, padded, size):
    scores = class_scores(classes, masks, padded)
    return torch.nn.functional.interpolate(scores, size, mode="bilinear")[0].max(0), scores.sum(1, keepdim=True)


@pytest.mark.parametrize("sharp", [0.5, 2, 6], ids=lambda sharp: f"sharp {sharp}")
@pytest.mark.parametrize("seed", range(3))
def test_the_few_likely_classes_give_the_answer_of_all(seed, sharp):
    generator = torch.Generator().manual_seed(seed)
    classes = sharp * torch.randn(1, 30, 41, generator=generator)
    coarse = torch.randn(1, 30, 5, 6, generator=generator)
    masks = 6 * torch.nn.functional.interpolate(coarse, (16, 24), mode="bicubic") - 3
    for size in ((129, 288), (31, 95), (64, 96)):
        winner, best, total = by_few(classes, masks, (64, 96), size)
        (expected, label_map), sums = by_all(classes, masks, (64, 96), size)
        assert torch.equal(winner.long(), label_map)
        assert torch.allclose(best, expected, rtol=1e-5, atol=1e-7)
        assert torch.allclose(total, torch.nn.functional.interpolate(sums, size, mode="bilinear")[0, 0], rtol=1e-5)


def test_an_unlikely_class_that_wins_where_nothing_else_is_is_found(monkeypatch):
    """Three queries agree on class 2 a little, where the only sure query has no mask."""
    taken = []
    monkeypatch.setattr(
        upsampling, "upsampled_argmax", lambda scores, *rest: taken.append(scores.shape[1]) or right(scores, *rest)
    )
    probabilities = torch.full((4, 5), 1e-6)
    probabilities[0, 0], probabilities[1:, 2] = 0.9, 0.015
    classes = torch.cat((probabilities, 1 - probabilities.sum(1, keepdim=True)), 1).log()[None]
    masks = torch.full((1, 4, 8, 8), 9.0)
    masks[0, 0, :, 4:] = -9.0
    winner, *_ = by_few(classes, masks, (32, 32), (32, 32))
    assert taken == [1, 2] and winner[0, 0] == 0 and winner[0, 31] == 2


def test_with_trained_weights_most_classes_are_left_out(model, monkeypatch):
    taken = []
    monkeypatch.setattr(
        upsampling, "upsampled_argmax", lambda scores, *rest: taken.append(scores.shape[1]) or right(scores, *rest)
    )
    segment(model, draw_scene(3, "day", [192, 192]).image)
    assert taken[-1] < 75, "half of the 150 or more were computed"
