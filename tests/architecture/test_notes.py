"""Notes keep their lines, shapes are those of the run, and the pages show both."""

from __future__ import annotations

import gc
import re
from html import unescape
from pathlib import Path

import mmdet
import pytest
import torch

from m2f_helpers.architecture import notes, pages, tracing
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


# --------------------------------------------------------------------------------------------------------------- pages


def rows_of(page) -> dict[int, str]:
    """HTML of every source line of a page, by line number."""
    rows = re.findall(
        r'<div class="row(?: idle)?">.*?</pre><div>.*?</div></div>(?=<div|<details|</details|</div>)', page
    )
    return {int(re.search(r">(\d+)</a>", row)[1]): row for row in rows}


def test_page_shows_number_source_count_shape_note_and_link(evidence):
    page = pages.annotated_source(head_forward(), evidence.record).data
    row = rows_of(page)[439]
    assert (
        "https://github.com/open-mmlab/mmdetection/blob/v3.3.0/mmdet/models/dense_heads/mask2former_head.py#L439" in row
    )
    assert ">18x<" in row
    assert "attn_mask: (8, 100, 256) bool | (8, 100, 1024) bool | (8, 100, 4096) bool" in row
    assert "such a row is opened completely" in row
    assert "attn_mask" in re.sub("<[^>]+>", "", row)


def test_every_line_of_a_page_is_the_library_s_line(evidence):
    source = tracing.function_source(head_forward())
    page = pages.annotated_source(head_forward(), evidence.record).data
    rows = rows_of(page)
    assert sorted(rows) == list(range(379, 460))
    for line, row in rows.items():
        assert code_of(row) == source.lines[line - source.first].rstrip()


@pytest.mark.parametrize("entry", notes.covered(), ids=lambda entry: entry.qualname)
def test_every_page_shows_the_shape_of_every_executed_tensor_line(evidence, entry):
    trace = evidence.record[entry.name]
    rows = rows_of(pages.annotated_source(entry.load(), evidence.record).data)
    wanted = {
        line for line, names in trace.seen.items() if any(s.holds_tensor for runs in names.values() for s in runs)
    }
    shown = {line for line, row in rows.items() if re.search(r'class="shape">[^<]*\(\d*,? ?[\d, ]*\)', row)}
    assert wanted and wanted <= shown
    idle = {line for line, row in rows.items() if row.startswith('<div class="row idle"')}
    never_ran = {line for line in trace.source.statements if not trace.count(line)}
    assert never_ran <= idle and not idle & wanted


def test_lines_that_did_not_run_are_grey(evidence):
    from mmcv.ops import MultiScaleDeformableAttention

    rows = rows_of(pages.annotated_source(MultiScaleDeformableAttention.forward, evidence.record).data)
    source = tracing.function_source(MultiScaleDeformableAttention.forward)
    assert 'class="row idle"' in rows[source.line_of("output = MultiScaleDeformableAttnFunction.apply(")]
    assert 'class="row idle"' not in rows[source.line_of("output = multi_scale_deformable_attn_pytorch(")]
    plain = pages.annotated_source(MultiScaleDeformableAttention.forward).data
    assert 'class="row idle"' not in plain and 'class="shape"' not in plain and 'class="note"' in plain


def test_a_stale_comment_is_marked_on_the_page(evidence):
    from mmdet.models.dense_heads import Mask2FormerHead

    row = rows_of(pages.annotated_source(Mask2FormerHead._forward_head, evidence.record).data)[360]
    assert 'class="stale">the comment above says (num_queries, batch_size, c)' in row
    assert "cls_pred: (1, 100, 151) float32" in row


def test_pages_have_light_and_dark_colours():
    page = pages.annotated_source(head_forward()).data
    for switch in (
        "prefers-color-scheme:dark",
        "[data-jp-theme-light=false]",
        "html[theme=dark]",
        "html[data-theme=dark]",
    ):
        assert switch in page
    assert page.count("--ground:#ffffff") == 5 and page.count("--ground:#16191d") == 5


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two `#rrggbb` colours."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [pages.LIGHT, pages.DARK], ids=["light", "dark"])
def test_colours_can_be_read(theme):
    colours = dict(part[2:].split(":") for part in theme.split(";"))
    for name in ("ink", "pale", "shape", "stale", "word", "text", "remark", "number", "name", "off"):
        assert contrast(colours[name], colours["ground"]) >= 4.5, name
        assert contrast(colours[name], colours["band"]) >= 4.5, name


@pytest.mark.parametrize(
    ("module", "tag"), [("mmseg", "mmsegmentation/blob/v1.2.2"), ("mmcv", "mmcv/blob/v2.1.0"), ("mmdet", "v3.3.0/")]
)
def test_permalinks_carry_the_tag_of_the_installed_version(module, tag):
    entry = next(entry for entry in notes.covered() if entry.module.startswith(module))
    link = notes.permalink(entry.load(), 12)
    assert tag in link and link.endswith(entry.module.replace(".", "/") + ".py#L12")


def test_an_excerpt_is_a_piece_of_the_page_moved_to_the_left(evidence):
    from mmdet.models.dense_heads import Mask2FormerHead

    function, record = Mask2FormerHead._forward_head, evidence.record
    page = pages.excerpt(function, "attn_mask = F.interpolate(", "attn_mask.detach()", record).data
    rows, whole = rows_of(page), rows_of(pages.annotated_source(function, record).data)
    assert sorted(rows) == list(range(365, 376))
    assert "lines 365 to 375 of 337 to 377" in page and "docstring" not in page
    for line, row in rows.items():
        assert row.partition("</pre>")[2] == whole[line].partition("</pre>")[2], "notes and shapes"
        assert code_of(whole[line]).removeprefix(" " * 8) == code_of(row)


def code_of(row: str) -> str:
    """The text of a row's source line."""
    return unescape(re.sub("<[^>]+>", "", re.search(r"<pre[^>]*>(.*?)</pre>", row)[1])).rstrip()


def test_an_excerpt_from_end_to_start_is_refused():
    with pytest.raises(ValueError, match=r"'def forward' \(line 379\) comes before 'return cls_pred_list.*; swap them"):
        pages.excerpt(head_forward(), "return cls_pred_list, mask_pred_list", "def forward")


def test_a_list_that_grows_is_one_text(evidence):
    rows = rows_of(pages.annotated_source(head_forward(), evidence.record).data)
    source = tracing.function_source(head_forward())
    row = rows[source.line_of("decoder_inputs.append(decoder_input)")]
    assert "decoder_inputs: list of 3: " in row and "(grew from 1)" in row and "list of 2" not in row
    assert "|" in rows[439], "shapes that differ are all shown"


def test_every_symbol_of_the_formulas_has_its_variable_and_shape(evidence):
    table = pages.symbol_table(evidence.record).set_index("symbol")
    assert table.loc["x_q", "in this run"] == "(1, 100, 256) float32" and table.loc["x_q", "variable"] == "query_feat"
    assert table.loc["Δ_qsp", "in this run"] == "(1, 5376, 8, 3, 4, 2) float32"
    assert table.loc["C_qj", "in this run"] == "(100, 5) float32"
    assert len(table) == len(notes.SYMBOLS) and all(table["in this run"].str.startswith("("))


def test_own_functions_have_no_permalink_but_a_page():
    assert notes.permalink(contrast, 1) is None
    assert "def contrast" in re.sub("<[^>]+>", "", pages.annotated_source(contrast).data)


def test_the_index_has_all_functions(evidence):
    page = pages.source_index(evidence.record).data
    for entry in notes.covered():
        assert f"<summary>{entry.qualname} ({entry.module})</summary>" in page
    assert "<script" not in page
    for note in notes.load_notes():
        assert pages.note_html(note) in page


@pytest.mark.parametrize(
    "bad", [len, dict, torch.nn.Linear, torch.einsum.__call__, "text"], ids=lambda bad: type(bad).__name__
)
def test_what_has_no_page_says_so_in_one_sentence(bad):
    with pytest.raises(ValueError, match="has no Python source to show|is a class; name one of its methods"):
        pages.annotated_source(bad)
