import numpy as np
import pytest
import torch
from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead
from mmengine import Config

from m2f_helpers.scratch import outputs

THINGS, STUFF = 4, 3
CLASSES = THINGS + STUFF


def blobs(seed: int, queries: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Confident queries with overlapping round masks: class logits `(Q, K + 1)`, mask logits `(Q, 40, 60)`."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    place = torch.rand(queries, 3, generator=generator)
    distance = ((x - 60 * place[:, 0, None, None]) ** 2 + (y - 40 * place[:, 1, None, None]) ** 2).sqrt()
    classes = 6 * torch.randn(queries, CLASSES + 1, generator=generator)
    return classes, (4 + 14 * place[:, 2, None, None] - distance) / 2


def fusion_head(**test_cfg) -> MaskFormerFusionHead:
    return MaskFormerFusionHead(THINGS, STUFF, test_cfg=Config(test_cfg))


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_equals_mmdet(seed):
    classes, masks = blobs(seed)
    head = fusion_head(object_mask_thr=0.6, iou_thr=0.5, filter_low_score=False)
    theirs = head.panoptic_postprocess(classes, masks).sem_seg[0]
    ours, segments = outputs.panoptic(classes, masks, range(THINGS), 0.6, 0.5)
    assert len(segments) > 3, "too little to compare"
    assert torch.equal(ours == outputs.NOTHING, theirs == CLASSES)
    for segment in segments:  # mmdet: id = class + 1000 * number of the object, and 0 for stuff
        numbers = theirs[ours == segment.number].unique()
        assert len(numbers) <= 1 and all(numbers % 1000 == segment.class_id)
        assert all((numbers >= 1000) == (segment.class_id < THINGS))
    pairs = {(int(a), int(b)) for a, b in zip(ours.flatten(), theirs.flatten(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "one number for one number"


def test_panoptic_without_a_confident_query_is_empty():
    classes, masks = blobs(0)
    ours, segments = outputs.panoptic(classes * 0, masks, range(THINGS))
    assert segments == [] and (ours == outputs.NOTHING).all()


def test_stuff_is_merged_and_things_are_not():
    masks = torch.full((2, 4, 8), -9.0)
    masks[0, :, :4], masks[1, :, 4:] = 9, 9
    classes = torch.zeros(2, CLASSES + 1)
    classes[:, 5] = 20
    assert len(outputs.panoptic(classes, masks, range(THINGS))[1]) == 1
    ours, segments = outputs.panoptic(classes, masks, [5])
    assert [segment.class_id for segment in segments] == [5, 5] and ours[0].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("seed", range(3))
def test_instances_equal_mmdet(seed):
    classes, masks = blobs(seed)
    theirs = fusion_head(max_per_image=30).instance_postprocess(classes, masks)
    ours = outputs.instance(classes, masks, range(THINGS), 30)
    order = theirs.scores.argsort(descending=True, stable=True)
    assert len(ours.scores) == len(order) > 5
    assert torch.allclose(ours.scores, theirs.scores[order], atol=1e-6)
    sure = ours.scores > 1e-3  # below, scores are equal to all digits and the order is open
    assert torch.equal(ours.class_ids[sure], theirs.labels[order][sure])
    assert torch.equal(ours.masks[sure], theirs.masks[order][sure])
    assert len(outputs.instance(classes, masks, None, 30).scores) == 30


def test_semantic_by_hand():
    masks = torch.tensor([[[9.0, 9.0, -9.0]], [[-9.0, 1.0, 9.0]]])
    classes = torch.tensor([[3.0, 0.0, 0.0], [0.0, 9.0, 0.0]])  # query 0 votes for class 0, query 1 for class 1
    assert outputs.semantic(classes, masks).tolist() == [[0, 0, 1]]  # the middle: 0.91 * 1.00 beats 1.00 * 0.73
    classes[0, 2] = 9.0  # query 0 says "no object": its vote is worth little
    assert outputs.semantic(classes, masks).tolist() == [[0, 1, 1]]


def test_resize_is_bilinear():
    assert outputs.resize(torch.tensor([[[0.0, 4.0]]]), (1, 4))[0].tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_paint_by_hand():
    numbers = torch.tensor([[0, 0, 1], [0, 0, -1]])
    segments = [outputs.Segment(0, 2, 0.9), outputs.Segment(1, 0, 0.9)]
    colors = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], np.uint8)
    assert outputs.paint(numbers, segments, colors)[..., 0].tolist() == [[3, 3, 255], [3, 3, 255]]
    wide = outputs.paint(numbers.repeat_interleave(2, 1), segments, colors)[..., 0].tolist()
    assert wide == [[3, 3, 3, 3, 255, 1], [3, 3, 3, 3, 255, 255]]
