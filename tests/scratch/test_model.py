import copy

import pytest
import torch
import torch.nn.functional as F

from m2f_helpers.checkpoints import demo_weights
from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.inference import models
from m2f_helpers.install import kernels
from m2f_helpers.scratch import model as scratch
from m2f_helpers.scratch.model import Mask2Former, fused
from tests.scratch.library import difference, images, predictions, randomised

SIZES = [(1, 64, 96), (2, 96, 128), (1, 100, 133)]  # the last one is no multiple of 32
BAR = 1e-6


@pytest.fixture(scope="module")
def demo():
    """The demo model with its shipped weights, float32."""
    return models.load_profile()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("profile", ["demo", "ade20k"])
@torch.no_grad()
def test_all_predictions_equal_mmseg_with_random_numbers_everywhere(profile, size):
    library = randomised(profile)
    x = images(*size)
    theirs = predictions(library, x)
    ours = Mask2Former.from_mmseg(library)(x)
    assert theirs[-1][1].std() > 0.1, "masks without contrast would agree whatever is wrong"
    assert difference(ours, theirs) < BAR


@torch.no_grad()
def test_without_the_kernel_too():
    library, x = randomised("demo"), images(2, 64, 96)
    with kernels.disabled():
        assert difference(Mask2Former.from_mmseg(library)(x), predictions(library, x)) < BAR


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_shipped_weights_in_float32(demo, size):
    x = images(*size, dtype=torch.float32)
    assert difference(Mask2Former.from_mmseg(demo)(x), predictions(demo, x)) < 1e-4


@torch.no_grad()
def test_every_pixel_of_the_demo_validation_images(demo):
    ours = Mask2Former.from_mmseg(demo)
    for seed in range(1000, 1016):
        image = draw_scene(seed, "dusk", [192, 192]).image
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        x = (x - demo.data_preprocessor.mean) / demo.data_preprocessor.std
        metas = [{"img_shape": (192, 192), "pad_shape": (192, 192)}]
        theirs = demo.decode_head.predict(demo.extract_feat(x), metas, None)
        classes, masks = ours(x, every=False)[-1]
        votes = torch.einsum("bqk,bqhw->bkhw", classes.softmax(2)[..., :-1], _full(masks, x).sigmoid())
        assert torch.equal(votes.argmax(1), theirs.argmax(1))


def _full(masks, x):
    return F.interpolate(masks, x.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("profile", ["demo", "ade20k"])
@torch.no_grad()
def test_fused_gives_the_last_prediction_and_leaves_the_model_alone(profile):
    library, x = randomised(profile), images(1, 100, 133)
    model = Mask2Former.from_mmseg(library)
    ours = fused(model)(x.to(memory_format=torch.channels_last), every=False)
    assert difference(ours, predictions(library, x)[-1:]) < BAR
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused(model).modules())


def test_state_dict_and_checkpoint_file_do_as_well_as_the_model(tmp_path):
    library = randomised("demo")
    expected = Mask2Former.from_mmseg(library).state_dict()
    torch.save({"state_dict": library.state_dict(), "meta": {}}, tmp_path / "demo.pth")
    for source in (library.state_dict(), tmp_path / "demo.pth", str(tmp_path / "demo.pth")):
        model = Mask2Former.from_mmseg(source, groups=16)
        assert model.sizes == Mask2Former.from_mmseg(library).sizes
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_weights_saved_in_half_precision_are_computed_with_in_full(demo):
    model = Mask2Former.from_mmseg(demo_weights(), groups=16)
    expected = Mask2Former.from_mmseg(demo).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_every_tensor_counts():
    state = dict(randomised("demo").state_dict())
    with pytest.raises(ValueError, match="backbone.extra"):
        Mask2Former.from_mmseg({**state, "backbone.extra": torch.zeros(1)}, groups=16)
    del state["backbone.layer2.0.bn1.bias"]
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.norm\.bias"):
        Mask2Former.from_mmseg(state, groups=16)
    with pytest.raises(ValueError, match="expected the weights of a Mask2Former"):
        Mask2Former.from_mmseg({"weight": torch.zeros(1)})


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.pth is a web page"):
        Mask2Former.from_mmseg(tmp_path / "page.pth")


def test_blocked_follows_the_mask_and_rescues_the_empty_one():
    small = torch.tensor([[[1.0, -1.0, 2.0], [0.0, 0.0, 0.0]]])  # (B, C, L)
    queries = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]])
    blocked = scratch.TransformerDecoder.blocked(queries, small)
    assert blocked.tolist() == [[[False, True, False], [True, False, True], [False, False, False]]]
    never = scratch.TransformerDecoder.blocked(torch.tensor([[[-1.0, 0.0]]]), small.abs())
    assert never.tolist() == [[[False, False, False]]]


# ------------------------------------------------------------------------------------- ten mistakes, each one noticed


def stride_in_the_first_convolution(model, patch):
    for layer in (model.backbone.layer2, model.backbone.layer3, model.backbone.layer4):
        layer[0].conv1.conv.stride, layer[0].conv2.conv.stride = (2, 2), (1, 1)


def encoder_norms_swapped(model, patch):
    norms = model.pixel_decoder.encoder[0].norms
    norms[0], norms[1] = norms[1], norms[0]


def levels_reversed(model, patch):
    weight = model.decoder.level_embed.weight
    weight.data = weight.data.flip(0)


def query_and_key_exchanged(model, patch):
    weight = model.decoder.layers[0].cross_attn.in_proj.weight
    q, k, v = weight.data.chunk(3)
    weight.data = torch.cat((k, q, v))


def post_norm_one_percent_off(model, patch):
    model.decoder.post_norm.weight.data *= 1.01


def positions_x_before_y(model, patch):
    right = scratch.sine_positions
    patch.setattr(scratch, "sine_positions", lambda *a: right(*a).roll(a[1] // 2, 2))


def centres_on_the_corner_of_the_pixel(model, patch):
    right = scratch.pixel_centres
    patch.setattr(scratch, "pixel_centres", lambda size, x: right(size, x) - 0.5 / x.new_tensor(size[::-1]))


def empty_masks_not_rescued(model, patch):
    model.decoder.blocked = lambda embeddings, small: (embeddings @ small).sigmoid() < 0.5


def corners_aligned(model, patch):
    def resize(maps, size):
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)

    patch.setattr(scratch, "resize", resize)


def offsets_divided_by_height_first(model, patch):
    right = scratch.DeformableAttention.forward
    patch.setattr(
        scratch.DeformableAttention,
        "forward",
        lambda self, x, positions, centres, sizes: _with_exchanged_axes(right, self, x, positions, centres, sizes),
    )


def _with_exchanged_axes(right, part, x, positions, centres, sizes):
    wrong = copy.deepcopy(part)
    rows = wrong.sampling_offsets.weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    wrong.sampling_offsets.weight.data = rows.data
    return right(wrong, x, positions, centres, sizes)


def positions_in_the_values(model, patch):
    def forward(self, x, query_pos, tokens, key_pos, blocked):
        x = self.norms[0](x + self.cross_attn(x + query_pos, tokens + key_pos, tokens + key_pos, blocked))
        x = self.norms[1](x + self.self_attn(x + query_pos, x + query_pos, x))
        return self.norms[2](x + self.ffn(x))

    patch.setattr(scratch.DecoderLayer, "forward", forward)


def self_attention_first(model, patch):
    def forward(self, x, query_pos, tokens, key_pos, blocked):
        x = self.norms[0](x + self.self_attn(x + query_pos, x + query_pos, x))
        x = self.norms[1](x + self.cross_attn(x + query_pos, tokens + key_pos, tokens, blocked))
        return self.norms[2](x + self.ffn(x))

    patch.setattr(scratch.DecoderLayer, "forward", forward)


MISTAKES = [
    stride_in_the_first_convolution,
    encoder_norms_swapped,
    levels_reversed,
    query_and_key_exchanged,
    post_norm_one_percent_off,
    positions_x_before_y,
    centres_on_the_corner_of_the_pixel,
    empty_masks_not_rescued,
    corners_aligned,
    offsets_divided_by_height_first,
    positions_in_the_values,
    self_attention_first,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@torch.no_grad()
def test_a_mistake_would_be_noticed(monkeypatch, mistake):
    library, x = randomised("ade20k"), images(*SIZES[0])
    model = Mask2Former.from_mmseg(library)
    mistake(model, monkeypatch)
    assert not difference(model(x), predictions(library, x)) < 1000 * BAR  # nan counts as noticed
