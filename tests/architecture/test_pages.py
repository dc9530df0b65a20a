"""Pages show the source, the notes and the shapes of the run; claims and the write-up too."""

from __future__ import annotations

import dataclasses
import re
from html import unescape

import pytest
import torch

from m2f_helpers.architecture import claims, notes, pages, tracing
from m2f_helpers.architecture.statements import CLAIMS


def head_forward():
    from mmseg.models.decode_heads import Mask2FormerHead

    return Mask2FormerHead.forward


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
    seen = [(line, one.text) for line, names in trace.seen.items() for runs in names.values() for one in runs]
    wanted = {line for line, text in seen if re.search(r"\(\d*,? ?[\d, ]*\) \w", text)}
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


def test_the_page_folds_all_claims_by_group(checked):
    page = pages.claims_page(checked).data
    assert page.count('<div class="entry">') == len(CLAIMS)
    for title, entries in claims.by_group(checked).items():
        assert f"<summary>{title}: {len(entries)} statements, all hold</summary>" in page
    assert "easy to believe: an xor of both decoders&#x27; outputs" in page
    false = [dataclasses.replace(checked[0], holds=False)]
    assert "1 statements, 1 FALSE" in pages.claims_page(false).data


def test_the_write_up_page_leads_to_the_annotated_lines(checked, evidence):
    page, index = pages.write_up(checked).data, pages.source_index(evidence.record).data
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(targets) > 60 and all(f'id="{target}"' in index for target in targets)
    assert page.count('<div class="entry">') == 118 and "FAILED" not in page
    assert "118 statements: 37 true, 7 lines moved, 28 misleading, 44 wrong, 2 cannot be checked" in page
    elsewhere = pages.write_up(checked, index="03_architecture.html").data
    assert 'href="03_architecture.html#m2f-mmdet-' in elsewhere
    broken = [dataclasses.replace(e, holds=False) if e.claim.name == "no_xor" else e for e in checked]
    assert pages.write_up(broken).data.count("BUT THE EVIDENCE FAILED") == 1
