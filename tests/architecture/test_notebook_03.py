"""The versions built by hand in notebook 03, loaded from the notebook itself, against mmdet, mmcv, mmseg and torch.

Below, the captions: each cell that says what one sees fails on an example for which that is not so.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import nbformat
import pytest
import torch
import torch.nn.functional as F
from IPython.core.inputtransformer2 import TransformerManager
from mmcv.ops import point_sample
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmdet.models.losses import DiceLoss
from mmdet.models.task_modules import ClassificationCost, CrossEntropyLossCost, DiceCost, HungarianAssigner
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmengine.structures import InstanceData
from mmseg.models.decode_heads import Mask2FormerHead

from m2f_helpers import checkpoints, execution
from m2f_helpers.architecture import diagrams
from m2f_helpers.config import base_config
from m2f_helpers.data.scenes.dataset import draw_scene
from m2f_helpers.inference import figures, models
from m2f_helpers.inference.segment import segment
from m2f_helpers.install import kernels
from tests.conftest import NOTEBOOKS

PATH = NOTEBOOKS / "03_architecture.ipynb"
KEEP = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
SEEDS = pytest.mark.parametrize("seed", range(4))
WITHIN = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def hand() -> ModuleType:
    """Imports, functions and classes of the notebook; nothing else of it runs."""
    module = ModuleType("hand")
    cells = [cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
    trees = [ast.parse(TransformerManager().transform_cell(source)) for source in cells]
    body = [node for tree in trees for node in tree.body if isinstance(node, KEEP)]
    exec(compile(ast.Module(body, type_ignores=[]), str(PATH), "exec"), module.__dict__)
    return module


def test_apart_is_the_largest_difference(hand):
    assert hand.apart(torch.tensor([1.0, 5.0]), torch.tensor([1.5, 3.0])) == 2.0


def test_reading_between_cells(hand):
    grid = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
    assert hand.read_between(grid, 0.5, 0.5).item() == 1.5
    assert hand.read_between(grid, 1.0, 0.0).item() == 1.0
    assert hand.read_between(grid, 1.5, 0.0).item() == 0.5  # half outside
    assert hand.read_between(grid, 5.0, 5.0).item() == 0.0


@SEEDS
def test_point_sampling(hand, seed):
    torch.manual_seed(seed)
    grid, points = torch.randn(1, 3, 7, 5), torch.rand(1, 30, 2)
    ours = [hand.read_between(grid[0].permute(1, 2, 0), x * 5 - 0.5, y * 7 - 0.5) for x, y in points[0].tolist()]
    assert torch.allclose(torch.stack(ours, -1), point_sample(grid, points)[0], **WITHIN)


@SEEDS
def test_deformable_attention(hand, seed):
    torch.manual_seed(seed)
    sizes = torch.tensor([[2, 3], [5, 4], [8, 8]])
    levels = [torch.randn(height, width, 16) for height, width in sizes.tolist()]
    places, weights = torch.rand(3, 4, 2) * 1.6 - 0.3, torch.rand(12).softmax(0).view(3, 4)
    tokens = torch.cat([grid.flatten(0, 1) for grid in levels])[None, :, None]
    with kernels.disabled():
        args = tokens, sizes, places[None, None, None], weights[None, None, None]
        theirs = multi_scale_deformable_attn_pytorch(*args)[0, 0]
    assert torch.allclose(hand.look_around_loop(levels, places, weights), theirs, **WITHIN)
    assert torch.allclose(hand.look_around(levels, places, weights), theirs, **WITHIN)


@SEEDS
def test_masked_attention(hand, seed):
    torch.manual_seed(seed)
    attention = torch.nn.MultiheadAttention(32, 4)
    query, key, blocked = torch.randn(6, 32), torch.randn(11, 32), torch.rand(6, 11) > 0.4
    blocked[2] = True
    opened = blocked & (blocked.sum(-1) != blocked.shape[-1]).unsqueeze(-1)
    theirs = attention(query, key, key, attn_mask=opened)[0]
    assert torch.allclose(hand.attend_like_layer(attention, query, key, blocked), theirs, **WITHIN)
    one = F.scaled_dot_product_attention(query, key, key, attn_mask=~opened)
    for attend in (hand.masked_attention_loop, hand.masked_attention):
        assert torch.allclose(attend(query, key, key, blocked), one, **WITHIN)
    nowhere = attention(query, key, key, attn_mask=blocked)[0]
    assert nowhere[2].isnan().all() and not nowhere[[0, 1, 3, 4, 5]].isnan().any()


@SEEDS
def test_matching(hand, seed):
    torch.manual_seed(seed)
    labels, masks = torch.tensor([3, 7, 140]), (torch.rand(3, 60) > 0.5).float()
    class_logits, mask_logits = 3 * torch.randn(5, 151), 3 * torch.randn(5, 60)
    parts = [ClassificationCost(2.0), CrossEntropyLossCost(weight=5.0), DiceCost(weight=5.0, pred_act=True, eps=1.0)]
    pairs = InstanceData(scores=class_logits, masks=mask_logits), InstanceData(labels=labels, masks=masks)
    theirs = torch.stack([part(*pairs) for part in parts])
    for build in (hand.pair_costs, hand.pair_costs_loop):
        assert torch.allclose(build(class_logits, mask_logits, labels, masks), theirs, **WITHIN)
    assigner = HungarianAssigner(
        [
            dict(type="ClassificationCost", weight=2.0),
            dict(type="CrossEntropyLossCost", weight=5.0),
            dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
        ]
    )
    found = assigner.assign(*pairs).gt_inds
    rows = hand.cheapest_assignment(theirs.sum(0))
    assert [int(found[row]) for row in rows] == [1, 2, 3]


def test_cheapest_assignment_is_not_greedy(hand):
    cost = torch.tensor([[1.0, 2.0], [1.1, 9.0], [9.0, 9.0]])
    assert hand.cheapest_assignment(cost) == (1, 0)


@SEEDS
def test_dice(hand, seed):
    torch.manual_seed(seed)
    logits, targets = 4 * torch.randn(3, 50), (torch.rand(3, 50) > 0.7).float()
    theirs = DiceLoss(naive_dice=True, eps=1.0, loss_weight=5.0)(logits, targets)
    assert torch.allclose(5 * hand.dice_loss(logits, targets), theirs, **WITHIN)


def test_dice_of_a_literal_example(hand):
    logits, target = torch.tensor([[20.0, 20.0, -20.0, -20.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert hand.dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))


@SEEDS
def test_unsure_points(hand, seed):
    masks = torch.randn(3, 9, 7, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    ours = hand.unsure_points(masks, 40)
    torch.manual_seed(seed)
    theirs = get_uncertain_point_coords_with_randomness(masks[:, None], None, 40, 3.0, 0.75)
    assert ours.shape == theirs.shape == (3, 40, 2)
    assert torch.allclose(ours, theirs, **WITHIN)


@SEEDS
def test_class_scores(hand, seed):
    torch.manual_seed(seed)
    class_logits, mask_logits = torch.randn(7, 12), 3 * torch.randn(7, 5, 6)
    stand_in = type("Fixed", (), {"__call__": lambda self, x, samples: ([class_logits[None]], [mask_logits[None]])})()
    theirs = Mask2FormerHead.predict(stand_in, None, [{"img_shape": (5, 6)}], None)[0]
    assert torch.allclose(hand.class_scores_loop(class_logits, mask_logits), theirs, **WITHIN)


def test_every_function_of_the_notebook_is_tested_here(hand):
    """Those of the exercises are tested with their solutions."""
    cells = [cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
    tree = itertools.chain.from_iterable(ast.parse(source).body for source in cells if "# TODO" not in source)
    source = Path(__file__).read_text(encoding="utf-8")
    defined = {node.name for node in tree if isinstance(node, ast.FunctionDef)}
    used = set(re.findall(r"\bhand\.(\w+)\(|\bhand\.(\w+)[,)]", source))
    assert defined == {name for pair in used for name in pair if name}


# ------------------------------------------------------------------------------ captions hold, and only where they do


@pytest.fixture(scope="module")
def shown():
    """The trained model's answer for the scene that the notebook draws, with its parameters."""
    values = execution.read_parameters(PATH)
    model = models.load(base_config("demo"), checkpoints.demo_weights(), device="cpu")
    image = cv2.resize(draw_scene(values["SCENE_SEED"]).image, (288, 192), interpolation=cv2.INTER_AREA)
    return {"as_in_text": True, "trained": model, "image": image, "result": segment(model, image, layers=True)}


def run_cell(identity: str, shown: dict, old: str = "", new: str = "") -> dict:
    """Execute one cell of the notebook on what is shown, with one change; excerpts of source are left out."""
    source = next(cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.id == identity)
    assert old in source
    nothing = SimpleNamespace(excerpt=lambda *_: None)
    names = {"pages": nothing, "trace": None, "Mask2FormerHead": Mask2FormerHead, "display": lambda _: None}
    names |= {"segment": segment, "diagrams": diagrams, "figures": figures} | shown
    exec(source.replace(old, new, 1), names)
    return names


def test_the_thin_mask_really_vanishes_between_the_places_that_are_read(shown):
    names = run_cell("threshold-figure", shown)
    logits = shown["result"].layers[names["index"]].mask_logits[names["thin"]]
    small = F.interpolate(logits[None, None], names["level"].shape, mode="bilinear")
    assert (logits > 0).sum() == names["cells"] > 10 and not (small >= 0).any()


def test_a_mask_that_stays_is_no_example(shown):
    with pytest.raises(AssertionError, match="nothing vanished in this image"):
        stays = "(9, 0, int((~result.layers[0].rescued).nonzero()[0]))"
        run_cell("threshold-figure", shown, "max(vanished, default=(0, 0, 0))", stays)


def test_the_query_of_the_story_starts_empty_and_finds_its_region(shown):
    names = run_cell("anatomy-21", shown)
    assert names["story"].score > 0.5 and names["allowed"][0] == 1.0 and max(names["allowed"][1:]) < 0.5


def test_a_query_that_starts_with_a_mask_is_no_story(shown):
    with pytest.raises(AssertionError, match="this query is no good example"):
        run_cell("anatomy-21", shown, "if result.layers[0].rescued", "if not result.layers[0].rescued")


def test_any_other_model_and_image_may_have_no_example(shown):
    """Another profile, or a folder of one's own: nothing vanishes, no query starts empty, nobody is sure."""
    result = segment(shown["trained"], shown["image"], layers=True)
    for layer in result.layers[:-1]:
        layer.rescued[:] = False
    other = shown | {"as_in_text": False, "result": result, "segment": lambda *_, **__: result}
    assert run_cell("threshold-figure", other)["cells"] == 0
    names = run_cell("anatomy-21", other, "query.score > 0.5", "query.score > 1")
    assert names["story"] is result.used_queries[0]
