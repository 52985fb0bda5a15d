"""How answers and failures are printed."""

from __future__ import annotations

import json

import pytest
import typer

from modelregistry.v1.model_pb2 import Branch
from modelregistry.v1.model_service_pb2 import ListBranchesResponse
from server import rids
from server.cli.output import fail, show
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
