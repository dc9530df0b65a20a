"""Figures say what the run said: texts, frames and points are compared with numbers computed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from mmcv.ops import multi_scale_deform_attn

from m2f_helpers import checkpoints
from m2f_helpers.architecture import diagrams
from m2f_helpers.config import base_config
from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.inference import models

IMAGE = draw_scene(3, size=[96, 128]).image


@pytest.fixture(scope="module")
def trained():
    return models.load(base_config("demo"), checkpoints.demo_weights(), device="cpu")


def texts(figure) -> list[str]:
    found = [text.get_text() for ax in figure.axes for text in ax.texts]
    return found + [ax.get_title() for ax in figure.axes]


def test_architecture_carries_the_shapes_of_the_run(evidence, small):
    shown = "\n".join(texts(diagrams.architecture(evidence)))
    for shape in ("3×512×512", "2048×16×16", "5376×256", "256×128×128", "8×100×(256, 1024, 4096)", "100×151"):
        assert shape in shown
    assert "150×512×512" in shown and "512×512" in shown and "match 5 masks" in shown and "10 predictions" in shown
    assert "sine code + learnt level code" in shown and "keys only: + sine code" in shown
    other = "\n".join(texts(diagrams.architecture(small)))
    assert "3×64×64" in other and "512×512" not in other and "100×151" not in other


def test_architecture_labels_lie_inside_and_apart(evidence):
    figure = diagrams.architecture(evidence)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = [(text.get_text(), text.get_window_extent()) for text in ax.texts]
    width, height = figure.get_size_inches() * figure.dpi
    for name, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, name
    for i, (first, box) in enumerate(boxes):
        for second, other in boxes[i + 1 :]:
            assert not box.shrunk(0.96, 0.8).overlaps(other.shrunk(0.96, 0.8)), f"{first!r} lies over {second!r}"


def test_sine_encodings_show_the_module_s_channels(trained):
    encoding = trained.decode_head.pixel_decoder.postional_encoding
    figure = diagrams.sine_encodings(encoding, 16)
    code = encoding(torch.zeros(1, 16, 16, dtype=torch.bool))[0]
    assert len(figure.axes) == 5
    for ax in figure.axes[:4]:
        channel = int(ax.get_title().rpartition(" ")[2])
        assert np.allclose(ax.images[0].get_array(), code[channel])
    likeness = figure.axes[4].images[0].get_array()
    assert np.unravel_index(likeness.argmax(), likeness.shape) == (8, 5)


def test_cost_matrices_write_values_and_frame_the_chosen():
    costs = {"one": np.array([[1.0, 2.0], [3.0, 4.0]]), "total": np.array([[5.0, 6.25], [7.0, 8.0]])}
    figure = diagrams.cost_matrices(costs, [(1, 0), (0, 1)], ["wall", "sky"])
    assert [ax.get_title() for ax in figure.axes] == ["one", "total"]
    assert "6.25" in texts(figure)
    frames = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    places = {(round(frame.get_y() + 0.44), round(frame.get_x() + 0.46)) for frame in frames}
    assert places == {(1, 0), (0, 1)}
    assert "query 1 with wall, query 0 with sky" in figure.alt


def test_sampling_is_what_the_attention_really_samples(trained, monkeypatch):
    """Compare with the places and weights that the model hands to mmcv's function in its last encoder layer."""
    calls = []
    original = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch

    def note(value, shapes, locations, weights):
        calls.append((locations, weights))
        return original(value, shapes, locations, weights)

    monkeypatch.setattr(multi_scale_deform_attn, "multi_scale_deformable_attn_pytorch", note)
    inputs = diagrams.network_input(trained, IMAGE)
    found = diagrams.sampling_of(trained, inputs, 0.5, 0.25)
    layers = len(trained.decode_head.pixel_decoder.encoder.layers)
    locations, weights = calls[layers - 1]
    assert found.sizes == ((3, 4), (6, 8), (12, 16))
    token = 3 * 4 + 6 * 8 + 3 * 16 + 8  # row 3 of 12, column 8 of 16, after the two coarser levels
    assert torch.allclose(found.locations, locations[0, token], atol=1e-6)
    assert torch.allclose(found.weights, weights[0, token], atol=1e-6)
    assert found.point == pytest.approx((8.5 / 16, 3.5 / 12))
    assert torch.allclose(found.weights.sum((1, 2)), torch.ones(found.weights.shape[0]), atol=1e-5)


def test_sampling_points_are_drawn_at_their_places(trained):
    sampling = diagrams.sampling_of(trained, diagrams.network_input(trained, IMAGE), 0.3, 0.6)
    figure = diagrams.sampling_points(IMAGE, [sampling, sampling])
    assert len(figure.axes) == 2
    drawn = figure.axes[0].collections
    assert [len(dots.get_offsets()) for dots in drawn] == [
        sampling.locations[:, level].numel() // 2 for level in range(3)
    ]
    expected = sampling.locations[0, 1, 0] * torch.tensor([128, 96]) - 0.5
    assert np.allclose(drawn[1].get_offsets()[0], expected, atol=1e-4)


def test_network_input_is_normalised_and_padded(trained):
    orange = np.full((50, 70, 3), (200, 128, 50), np.uint8)
    inputs = diagrams.network_input(trained, orange)
    assert inputs.shape == (1, 3, 64, 96)
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([1.307, 0.2052, -0.933], abs=1e-3)  # RGB, not BGR
    assert not inputs[0, :, 50:].any() and not inputs[0, :, :, 70:].any()


def test_threshold_order_shows_what_resizing_first_does():
    """A thin mask: a quarter of every block of 4x4 is sure, but the mean of the four middle cells stays below."""
    logits = torch.full((16, 16), -3.0)
    logits[:, 0::4] = 4.0
    figure = diagrams.threshold_order(logits, [4, 4])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].endswith("16 x 16") and "25.0% open" in titles[1] and titles[3].endswith("0 of 16 cells open")
    small = torch.nn.functional.interpolate(logits[None, None], (4, 4), mode="bilinear")[0, 0].sigmoid()
    assert np.allclose(figure.axes[2].images[0].get_array(), small)
    logits[:, 1::4] = logits[:, 2::4] = 4.0
    assert diagrams.threshold_order(logits, [4, 4]).axes[3].get_title().endswith("16 of 16 cells open")


def test_sampling_of_another_model_is_refused():
    with pytest.raises(ValueError, match="expected an mmseg EncoderDecoder with a Mask2FormerHead"):
        diagrams.sampling_of(torch.nn.Identity(), torch.zeros(1, 3, 64, 64), 0.5, 0.5)
