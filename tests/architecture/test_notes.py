"""Notes keep their lines, shapes are those of the run, and the pages show both."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import mmdet
import pytest
import torch

from m2f_helpers.architecture import notes, tracing
from m2f_helpers.config import build_model

HEAD = "mmdet.models.dense_heads.mask2former_head"
REQUIRED = {
    "EncoderDecoder.loss",
    "EncoderDecoder.predict",
    "EncoderDecoder.extract_feat",
    "ResNet.forward",
    "Mask2FormerHead._seg_data_to_instance_data",
    "Mask2FormerHead.loss",
    "Mask2FormerHead.predict",
    "Mask2FormerHead.forward",
    "Mask2FormerHead._forward_head",
    "Mask2FormerHead._loss_by_feat_single",
    "Mask2FormerHead._get_targets_single",
    "MaskFormerHead.get_targets",
    "MaskFormerHead.loss_by_feat",
    "MSDeformAttnPixelDecoder.forward",
    "Mask2FormerTransformerEncoder.forward",
    "DetrTransformerEncoderLayer.forward",
    "MultiScaleDeformableAttention.forward",
    "multi_scale_deformable_attn_pytorch",
    "Mask2FormerTransformerDecoderLayer.forward",
    "HungarianAssigner.assign",
    "ClassificationCost.__call__",
    "CrossEntropyLossCost._binary_cross_entropy",
    "DiceCost._binary_mask_dice_loss",
    "get_uncertain_point_coords_with_randomness",
    "DiceLoss.forward",
}


def head_forward():
    from mmseg.models.decode_heads import Mask2FormerHead

    return Mask2FormerHead.forward


# --------------------------------------------------------------------------------------------------------------- notes


def test_every_note_stands_on_one_line_of_the_installed_source():
    lines = notes.resolve_notes()
    assert len(lines) >= 80
    for note, line in lines.items():
        source = Path(notes.note_source(note, None).file).read_text().splitlines()
        assert note.anchor in source[line - 1]


def test_notes_say_something_and_only_once():
    every = notes.load_notes()
    assert len({note.text for note in every}) == len(every)
    assert all(len(note.text) > 10 for note in every)
    assert all(re.search(r"arXiv \d{4}\.\d{5}", note.paper) for note in every if note.paper)
    assert sum(note.paper is not None for note in every) >= 20


def test_the_functions_that_matter_are_covered():
    names = [entry.qualname for entry in notes.covered()]
    assert set(names) >= REQUIRED
    assert all(any(note.qualname == name for note in notes.load_notes()) for name in names)


def copy_of_head(folder: Path, change) -> list[notes.Note]:
    """The head's file in another folder, with one change; returns the notes on it."""
    target = folder / "mmdet/models/dense_heads/mask2former_head.py"
    target.parent.mkdir(parents=True)
    text = (Path(mmdet.__file__).parent / "models/dense_heads/mask2former_head.py").read_text()
    assert change(text) != text
    target.write_text(change(text))
    return [note for note in notes.load_notes() if note.module == HEAD]


def test_a_changed_line_is_reported_with_its_note(tmp_path):
    own = copy_of_head(tmp_path, lambda text: text.replace("attn_mask.sigmoid() < 0.5", "attn_mask.sigmoid() < 0.4"))
    with pytest.raises(
        ValueError, match=r"the note 'True means blocked.*has lost its line.*stands nowhere.*notes.json"
    ):
        notes.resolve_notes(own, tmp_path)


def test_a_doubled_line_is_reported_with_its_note(tmp_path):
    line = "        attn_mask = attn_mask.detach()\n"
    own = copy_of_head(tmp_path, lambda text: text.replace(line, line * 2))
    with pytest.raises(ValueError, match=r"the note 'No gradient flows.*stands on lines \[375, 376\]"):
        notes.resolve_notes(own, tmp_path)


def test_a_renamed_function_is_reported(tmp_path):
    own = copy_of_head(tmp_path, lambda text: text.replace("def _forward_head", "def _predict_head"))
    with pytest.raises(ValueError, match="has no function Mask2FormerHead._forward_head"):
        notes.resolve_notes(own, tmp_path)


def test_moved_lines_are_no_drift(tmp_path):
    own = copy_of_head(tmp_path, lambda text: "# a line more\n" + text)
    moved, here = notes.resolve_notes(own, tmp_path), notes.resolve_notes(own)
    assert all(moved[note] == here[note] + 1 for note in own)


# -------------------------------------------------------------------------------------------------------------- shapes


def test_every_executed_line_that_assigns_shows_a_shape(evidence):
    assert notes.lines_without_shape(evidence.record) == []
    assert sum(trace.calls for trace in evidence.record.values()) > 100
    for entry in notes.covered():
        assert evidence.record[entry.name].calls > 0, f"{entry.qualname} is annotated but never ran"


def test_recorded_shapes_are_those_that_hooks_see():
    from m2f_helpers.config import base_config

    config = base_config("demo")
    model = build_model(config).eval()
    seen = {"decoder": [], "encoder": [], "cross": []}
    for layer in model.decode_head.transformer_decoder.layers:
        layer.register_forward_hook(lambda _, args, out: seen["decoder"].append(tuple(out.shape)))
    for layer in model.decode_head.pixel_decoder.encoder.layers:
        layer.self_attn.register_forward_hook(lambda _, args, out: seen["encoder"].append(tuple(out.shape)))
    with torch.no_grad():
        record = tracing.record_shapes(
            model, lambda m: m.decode_head.forward(m.extract_feat(some_image()), None), notes.covered_functions()
        )
    assert record["Mask2FormerHead.forward"].shapes("query_feat = layer(") == seen["decoder"]
    assert len(seen["decoder"]) == len(model.decode_head.transformer_decoder.layers)
    assert record["MultiScaleDeformableAttention.forward"].shapes("return self.dropout(output)") == seen["encoder"]


def some_image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def test_tracing_changes_no_result_and_keeps_no_tensor():
    from m2f_helpers.config import base_config

    config = base_config("demo")
    model, results = build_model(config).eval(), []

    def run(model):
        with torch.no_grad():
            results.append(model.decode_head.forward(model.extract_feat(some_image()), None))

    run(model)
    gc.collect()
    before = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    record = tracing.record_shapes(model, run, notes.covered_functions())
    classes, masks = results.pop()
    assert all(torch.equal(a, b) for a, b in zip(classes + masks, results[0][0] + results[0][1], strict=True))
    del classes, masks
    gc.collect()
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) == before
    assert record["Mask2FormerHead.forward"].calls == 1


def test_stale_comments_are_found_and_right_ones_are_not(evidence, small):
    for run in (evidence, small):
        lines = {(entry.function, entry.line) for entry in notes.stale_comments(run.record)}
        assert {("Mask2FormerHead._forward_head", line) for line in (360, 362, 364, 372)} <= lines
        assert ("MSDeformAttnPixelDecoder.forward", 198) in lines
        assert ("Mask2FormerHead._loss_by_feat_single", 276) not in lines
        assert ("MSDeformAttnPixelDecoder.forward", 223) not in lines
    found = {entry.line: entry for entry in notes.stale_comments(evidence.record)}
    assert found[360].says == "(num_queries, batch_size, c)" and found[360].recorded == "(1, 100, 151) float32"
