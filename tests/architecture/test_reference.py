"""The reference run: real config, seeded weights, and nothing of the caller's state disturbed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from m2f_helpers.architecture import reference
from m2f_helpers.config import base_config, build_model


def test_config_is_the_installed_one_without_the_download():
    config = reference.r50_config()
    assert config.model.backbone.init_cfg is None
    assert config.model.backbone.depth == 50 and config.model.decode_head.num_queries == 100
    assert config.train_cfg.max_iters == 160_000


def test_same_seed_same_weights_and_the_caller_s_random_numbers_stay():
    config = base_config("demo")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, second, other = (build_model(config, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    same = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.decode_head.query_feat.weight, other.decode_head.query_feat.weight)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in first.modules())


def test_batch_is_a_labelled_room():
    batch = reference.reference_batch(64, images=2)
    assert [tuple(image.shape) for image in batch["inputs"]] == [(3, 64, 64)] * 2
    assert all(image.dtype == torch.uint8 for image in batch["inputs"])
    assert not torch.equal(*batch["inputs"])
    label_map = batch["data_samples"][0].gt_sem_seg.data
    assert label_map.unique().tolist() == [0, 3, 5, 7, 22, 255]
    assert (label_map[0, :, 0] == 255).all()


def test_evidence_is_of_a_whole_step(evidence):
    assert evidence.labels == [0, 3, 5, 7, 22]
    assert len(evidence.losses) == 30 and all(0 < value < 50 for value in evidence.losses.values())
    assert evidence.prediction["logits"] == (150, 512, 512)
    assert len(evidence.attention_masks) == 18 and len(evidence.layer_order) == 12
    assert sum(evidence.macs_by_operation.values()) == evidence.macs["Global"]


def test_loss_table_has_a_row_per_prediction(evidence):
    table = evidence.loss_table()
    assert table.shape == (10, 3) and list(table.columns) == ["class", "mask", "Dice"]
    assert table.loc["before layer 1", "mask"] == evidence.losses["decode.d0.loss_mask"]
    assert table.loc["after layer 9", "Dice"] == evidence.losses["decode.loss_dice"]
    assert table.to_numpy().sum() == pytest.approx(evidence.total, rel=1e-5)


def test_run_is_made_once(evidence, monkeypatch):
    monkeypatch.setattr(reference, "trace_run", lambda *_: pytest.fail("a second run was made"))
    assert reference.reference_run().total == evidence.total


def test_hooks_are_gone_afterwards(evidence):
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in evidence.model.modules())


def test_a_model_that_is_no_mask2former_is_refused():
    other = SimpleNamespace(decode_head=SimpleNamespace(pixel_decoder=1))
    with pytest.raises(ValueError, match="no transformer_decoder, mask_embed; expected an mmseg EncoderDecoder"):
        reference.check_mask2former(other)
    with pytest.raises(ValueError, match="got int with decode_head NoneType"):
        reference.check_mask2former(5)
