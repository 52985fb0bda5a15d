"""How answers and failures are printed."""

from __future__ import annotations

import json

import pytest
import typer

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_REMOVED, SEVERITY_ERROR, CompatibilityFinding
from modelregistry.v1.model_pb2 import Branch
from modelregistry.v1.model_service_pb2 import ListBranchesResponse
from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry.v1.promotion_service_pb2 import ListPromotionsResponse
from server.cli.output import fail, show, show_findings
from server.core import rids
from tests.builders import version


def test_json_is_text_that_people_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    show(Branch(name="größer 中"))
    assert "größer 中" in capsys.readouterr().out


def test_json_escapes_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    show(Branch(name="\x1b[31m\n"))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert json.loads(shown)["name"] == "\x1b[31m\n"


def test_a_table_of_branches_shows_which_version_is_live(capsys: pytest.CaptureFixture[str]) -> None:
    heads = [version(rids.new_model_rid()) for _ in range(2)]
    branches = [Branch(name=f"branch-{n}", head=head, version_count=n) for n, head in enumerate(heads)]
    show(ListBranchesResponse(branches=branches), "table")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "branch-" in line]
    assert [(row[0], row[1]) for row in rows] == [(branch.name, branch.head.rid) for branch in branches]


def test_a_failure_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        fail("a\nb\r\x1b[31m\u2028\udcff 中", 69)
    assert left.value.exit_code == 69
    assert capsys.readouterr() == ("", "error: a\\nb\\r\\x1b[31m\\u2028\\udcff 中\n")


def test_a_table_shows_values_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    stored = version(rids.new_model_rid(), branch="[/x] :smile: [bold]b")
    stored.conda_requirements[:] = ["pandas[excel]==2.0"]
    show(stored, "table")
    shown = capsys.readouterr().out
    assert "[/x] :smile: [bold]b" in shown
    assert "pandas[excel]==2.0" in shown


# A bidirectional override, an introducer of escape sequences, a space of no width, a tag beyond 16 bits.
TRICKS = "\u202e \x9b \u200b \U000e0041 \x1b[2J"
ESCAPED = "\\u202e \\x9b \\u200b \\U000e0041 \\x1b[2J"


@pytest.mark.parametrize("count", [1, 2], ids=["one thing", "several"])
def test_a_table_escapes_what_a_terminal_obeys_or_does_not_show(capsys: pytest.CaptureFixture[str], count: int) -> None:
    show(ListPromotionsResponse(promotions=[Promotion(rid="ri.x", reason=f"{TRICKS}\nline")] * count), "table")
    shown = capsys.readouterr().out
    assert shown.count(f"{ESCAPED}\\nline") == count
    assert shown.replace("\n", "").isprintable()


def test_json_escapes_what_a_terminal_does_not_show(capsys: pytest.CaptureFixture[str]) -> None:
    show(Branch(name=TRICKS))
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown)["name"] == TRICKS


def test_a_table_of_promotions_shows_findings_as_counts(capsys: pytest.CaptureFixture[str]) -> None:
    finding = CompatibilityFinding(path="inputs", message="a long sentence")
    names = dict.fromkeys(("rid", "model_rid", "branch", "model_version_rid", "created_by"), "x")
    promotion = Promotion(**names, findings=[finding] * 3, error_count=1, warning_count=2)
    show(ListPromotionsResponse(promotions=[promotion, promotion]), "table")
    header, _, row, *_ = filter(str.strip, capsys.readouterr().out.splitlines())
    shown = dict(zip(header.split(), row.split(), strict=True))
    assert (shown["errorCount"], shown["warningCount"]) == ("1", "2")
    assert "findings" not in shown


def test_findings_beside_earlier_versions_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [CompatibilityFinding(path="outputs"), CompatibilityFinding(path="inputs", earlier_version_number=7)]
    show_findings(findings, 2, 0)
    header, _, of_head, of_other, *_ = filter(str.strip, capsys.readouterr().out.splitlines())
    assert "earlierVersionNumber" in header
    assert ("7" in of_head, "7" in of_other) == (False, True)
    show_findings(findings[:1], 1, 0)
    assert "earlierVersionNumber" not in capsys.readouterr().out


def test_findings_are_a_table_that_says_how_many_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    finding = CompatibilityFinding(
        path='inputs["\u202e"]',
        rule=COMPATIBILITY_RULE_REMOVED,
        severity=SEVERITY_ERROR,
        message="It is [bold]gone[/bold].",
    )
    show_findings([finding], 3, 1)
    shown = capsys.readouterr()
    header, _, row = filter(str.strip, shown.out.splitlines())
    assert header.split() == ["rule", "severity", "path", "message"]
    assert row.split() == ["REMOVED", "ERROR", 'inputs["\\u202e"]', "It", "is", "[bold]gone[/bold]."]
    assert shown.err == "and 3 more\n"


def test_no_findings_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_findings([], 0, 0)
    assert capsys.readouterr() == ("", "")
