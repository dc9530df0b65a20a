"""Every statement of the write-up has its verdict, its evidence and its line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from m2f_helpers import cli
from m2f_helpers.architecture import claims, reference, write_up


def test_every_statement_of_the_write_up_has_its_answer(checked):
    found = write_up.answers(checked)
    assert write_up.verdicts(found) == {
        "true": 37, "lines moved": 7, "misleading": 28, "wrong": 44, "cannot be checked": 2
    }  # fmt: skip
    ids = [answer.statement.id for answer in found]
    assert ids == sorted(ids, key=lambda name: (name[0], int(name[1:]))) and len(set(ids)) == 118
    for answer in found:
        assert answer.holds and answer.evidence, answer.statement.id
        assert answer.statement.correct or answer.statement.verdict == "true"


def test_a_place_is_the_line_it_names():
    place = write_up.find_place("Mask2FormerHead._forward_head", "attn_mask = attn_mask.sigmoid() < 0.5")
    assert (place.label, place.line) == ("Mask2FormerHead._forward_head", 374)
    assert place.link.endswith("mmdet/models/dense_heads/mask2former_head.py#L374")
    config = write_up.find_place("config", "type='PolyLR'")
    text = reference.config_file().read_text().splitlines()
    assert "PolyLR" in text[config.line - 1] and config.link.endswith(f"512x512.py#L{config.line}")


@pytest.mark.parametrize(
    ("function", "anchor", "message"),
    [
        ("config", "dict(", "'dict\\(' must stand on one line of mask2former_r50"),
        ("Mask2FormerHead.forward", "no such line", "must stand on exactly one line"),
        ("Mask2FormerHead.sing", "la", "'Mask2FormerHead.sing' is not among the annotated functions"),
    ],
)
def test_a_lost_place_is_named(function, anchor, message):
    with pytest.raises(ValueError, match=message):
        write_up.find_place(function, anchor)


def test_command_prints_the_write_up(evidence, monkeypatch):
    monkeypatch.setattr(claims, "reference_run", lambda: evidence)
    result = CliRunner().invoke(cli.main, ["claims", "--write-up"])
    assert result.exit_code == 0, result.output
    assert "D17  said: A mask is the xor of the two decoders' results.\n     wrong: A dot product" in result.output
    assert "(Mask2FormerHead._forward_head, line 364)" in result.output
    assert result.output.rstrip().endswith("28 misleading, 44 wrong, 2 cannot be checked")


def test_write_up_and_group_exclude_each_other():
    result = CliRunner().invoke(cli.main, ["claims", "--write-up", "--group", "losses"])
    assert result.exit_code == 1 and "leave one of the two out" in result.output
