"""Claims hold on the real model, and each of them can fail."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch
from click.testing import CliRunner

from m2f_helpers import cli
from m2f_helpers.architecture import claims, reference
from m2f_helpers.architecture.statements import CLAIMS, GROUPS, HEAD, Claim
from m2f_helpers.architecture.tracing import ShapeRecord
from m2f_helpers.config import build_model

ABOUT_LIBRARIES = {  # these measure torch or an installed library, whatever the model
    "why_rescue", "versions", "mmcv_bounds", "undeclared", "palette", "metric_skips_ignored", "weights_only",
    "config_written", "show_result_pyplot", "ids_in_memory", "zero_label_default", "inference_pipeline",
    "no_drawing", "pretrained",
}  # fmt: skip


def test_there_are_enough_claims_with_names_of_their_own():
    names = [claim.name for claim in CLAIMS]
    assert len(names) >= 130 and len(set(names)) == len(names)
    assert {claim.group for claim in CLAIMS} == set(GROUPS)
    believed = [claim for claim in CLAIMS if claim.group == "easy to believe"]
    assert len(believed) == 4 and all(claim.believed and claim.source for claim in believed)


def test_all_claims_hold_on_the_published_model(checked):
    assert {entry.claim.name: entry.measured for entry in checked if not entry.holds} == {}


def test_no_claim_holds_without_evidence():
    """A model without parts: whatever still holds does not look at the evidence."""
    nothing = reference.Evidence(None, torch.nn.Identity(), [], ShapeRecord({}), {}, 1.0)
    found = {entry.claim.name for entry in claims.check(nothing) if entry.holds}
    assert found == ABOUT_LIBRARIES


def test_claims_about_sizes_fail_on_another_model(small):
    false = {entry.claim.name for entry in claims.check(small) if not entry.holds}
    assert {"parameters", "tokens", "four_maps", "decoder_layers", "macs_paper", "ten_predictions"} <= false
    assert {"cross_first", "three_levels", "dot_product", "rescue", "parents_idle", "sum"}.isdisjoint(false)


def claim(name: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.name == name)


def test_the_order_of_attention_is_measured(evidence):
    swapped = ["self_attn", "norms.0", "cross_attn", "norms.1", "ffn", "norms.2"]
    assert not claims.check_one(claim("cross_first"), dataclasses.replace(evidence, layer_order=swapped)).holds


def test_masked_attention_is_measured(evidence):
    unmasked = [mask | {"blocked": 0.0} for mask in evidence.attention_masks]
    assert not claims.check_one(
        claim("masked_attention"), dataclasses.replace(evidence, attention_masks=unmasked)
    ).holds
    assert not claims.check_one(claim("masked_attention"), dataclasses.replace(evidence, attention_masks=[])).holds


def test_the_rescue_is_executed_not_quoted(evidence, monkeypatch):
    """With the guard turned round, the same two lines give another result, and the claim notices."""
    source = evidence.record[HEAD].source
    broken = tuple(line.replace("attn_mask & mask_sum", "attn_mask | mask_sum") for line in source.lines)
    monkeypatch.setattr(evidence.record[HEAD], "source", dataclasses.replace(source, lines=broken))
    entry = claims.check_one(claim("rescue"), evidence)
    assert not entry.holds


def first_attention(head):
    return head.pixel_decoder.encoder.layers[0].self_attn


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("no_dropout", lambda head: setattr(head.transformer_decoder.layers[1].self_attn.attn, "dropout", 0.1)),
        ("level_encoding", lambda head: head.pixel_decoder.level_encoding.weight.requires_grad_(False)),
        ("class_weights", lambda head: setattr(head.loss_cls, "class_weight", [1.0] * 151)),
        ("dice_loss", lambda head: setattr(head.loss_dice, "naive_dice", False)),
        ("mask_loss", lambda head: setattr(head.loss_mask, "loss_weight", 20.0)),
        ("costs", lambda head: head.assigner.match_costs.reverse()),
        ("queries_not_zero", lambda head: head.query_feat.weight.data.zero_()),
        ("offsets_start_at_zero", lambda head: first_attention(head).sampling_offsets.weight.data.add_(1)),
        ("mask_layers", lambda head: head.mask_embed.pop(4)),
        ("identity_projections", lambda head: head.decoder_input_projs.append(torch.nn.Identity())),
        ("class_mean", lambda head: setattr(head.loss_cls, "cls_criterion", lambda *a, **k: torch.ones(()))),
        ("one_encoder_object", lambda head: head.add_module("second", copy.deepcopy(head.pixel_decoder.encoder))),
        ("what_decays", lambda head: setattr(head, "query_feat", torch.nn.Embedding(4, 8).requires_grad_(False))),
        ("output_conv", lambda head: setattr(head.pixel_decoder.output_convs[0], "activate", torch.nn.GELU())),
        ("ordinary_attention", lambda head: head.transformer_decoder.layers.append(head.transformer_decoder.layers[0])),
        ("same_points", lambda head: setattr(head.pixel_decoder.point_generator, "offset", 0.0)),
    ],
)  # fmt: skip
def test_a_broken_model_refutes_its_claim(name, break_it):
    from m2f_helpers.config import base_config

    config = base_config("demo")
    model = build_model(config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    levels = [[2, 2], [4, 4], [8, 8]]
    made = reference.Evidence(config, model, [], ShapeRecord({}), {}, 0.0, encoder={"spatial_shapes": levels})
    before = claims.check_one(claim(name), made).measured
    break_it(model.decode_head)
    after = claims.check_one(claim(name), made)
    assert after.measured != before and not after.holds


def test_a_measurement_that_raises_is_a_false_claim():
    def explode(evidence):
        raise KeyError("gone")

    broken = Claim("broken", "head", "It is there.", 1, explode)
    entry = claims.check_one(broken, None)
    assert not entry.holds and entry.measured == "KeyError: 'gone'"


def test_a_tolerance_is_absolute():
    near = Claim("near", "size", "About one.", 1.0, lambda e: 1.04, tolerance=0.05)
    assert claims.check_one(near, None).holds
    assert not claims.check_one(dataclasses.replace(near, tolerance=0.03), None).holds
    assert not claims.check_one(dataclasses.replace(near, tolerance=0.0), None).holds


def test_evidence_is_in_words(checked):
    """No repr, nothing cut: what people read is made of words, numbers and names."""
    texts = {entry.claim.name: entry.evidence for entry in checked}
    assert texts["parameters"] == "44,041,367 parameters"
    assert texts["encoder_order"] == "self_attn, norms[0], ffn, norms[1]; hidden channels 1024"
    assert texts["softmax_over_levels"] == "1 x 5376 x 8 x 12"
    assert texts["names"] == "30 entries, from decode.loss_cls to decode.d8.loss_dice"
    assert texts["config_lines"] == "lines 19 to 28, 29 to 134, 39 to 66"
    for name, text in texts.items():
        assert not re.search(r"\.\.\.|True|False|[{}]|\('", text.replace("iter_{}", "")), name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "yes"), (12_544, "12,544"), (5376, "5376"), (0.1 + 0.2, "0.3"), (None, "nothing"), ([], "none"),
        ((1, 100, 256), "1 x 100 x 256"), ([1, 2], "1, 2"), ({"b", "a"}, "a, b"), ([(1, 2), (3, 4)], "1 x 2, 3 x 4"),
        (["x"] * 5, "5 times x"), ([("a", 1), ("b", 2)], "a, 1; b, 2"), (list(range(20)), "20 entries, from 0 to 19"),
        ({"a": 0, "b": 0, "c": 0}, "0 for each of a, b, c"), ({"a": 1, "b": 2}, "a: 1; b: 2"),
    ],
)  # fmt: skip
def test_values_in_words(value, words):
    assert claims.in_words(value) == words


def test_a_false_claim_s_evidence_names_what_was_expected():
    entry = claims.Checked(dataclasses.replace(claim("thirty"), words="{} terms"), 29, False)
    assert entry.evidence == "29 terms (expected 30)"
    broken = claims.Checked(claim("config_lines"), "KeyError: 'gone'", False)
    assert broken.evidence.startswith("KeyError: 'gone' (expected backbone: 19 to 28")


def test_text_names_what_is_false(checked):
    entry = next(entry for entry in checked if entry.claim.name == "thirty")
    text = claims.claims_text([entry, dataclasses.replace(entry, measured=29, holds=False)])
    assert "ok    Three losses x ten predictions = 30 terms.\n      measured: 30 terms\n" in text
    assert "FALSE Three losses x ten predictions = 30 terms.\n      measured: 29 terms (expected 30)" in text
    assert text.endswith("2 claims, 1 false")


def test_command_prints_the_table_and_succeeds(evidence, monkeypatch):
    monkeypatch.setattr(claims, "reference_run", lambda: evidence)
    result = CliRunner().invoke(cli.main, ["claims"])
    assert result.exit_code == 0, result.output
    assert "44,041,367" in result.output and f"{len(CLAIMS)} claims, 0 false" in result.output
    assert "easy to believe: self-attention comes first, unlike the paper" in result.output


def test_command_fails_with_a_false_claim(evidence, monkeypatch):
    monkeypatch.setattr(claims, "reference_run", lambda: dataclasses.replace(evidence, losses={}))
    result = CliRunner().invoke(cli.main, ["claims", "--group", "losses"])
    assert result.exit_code == 1
    assert "FALSE Three losses x ten predictions = 30 terms." in result.output
    assert "parameters" not in result.output


def test_command_refuses_an_unknown_group():
    result = CliRunner().invoke(cli.main, ["claims", "--group", "nonsense"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: there is no group 'nonsense' of claims; there are installation, classes,")
