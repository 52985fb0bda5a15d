"""`rollback` goes back to the version that is named, or chosen from a list at a terminal."""

from __future__ import annotations

import json
import subprocess
import uuid

import pytest

from server.codec.json_form import to_json
from tests.cli.stages import Stages
from tests.cli.terminals import END_OF_FILE, Terminal
from tests.processes import failure

QUESTION = "go back to which number? "
NOT_FOUND, FAILED_PRECONDITION, ABORTED = 69, 73, 74


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.rstrip("\n").rpartition("\n")[2]


def test_the_version_that_is_named_becomes_the_head_again(stages: Stages) -> None:
    stages.promote(stages.breaks, branch="canary")
    stages.promote(stages.first, branch="canary")
    rolled = stages.server.json(
        "rollback", stages.production, "--branch", "canary", "--to", "1", "--reason", "it was better"
    )
    assert (rolled["branch"], rolled["versionNumber"], rolled["modelApi"]["outputs"]) == ("canary", 3, [])
    record = stages.records()[0]
    assert (record.model_version_rid, record.reason) == (rolled["rid"], "it was better")


def test_a_rollback_is_repeated_by_its_id(stages: Stages) -> None:
    second = stages.promote(stages.breaks)
    options = ("--to", "1", "--request-id", str(uuid.uuid4()), "--expected-head", second.rid)
    made = stages.server.json("rollback", stages.production, *options)
    assert stages.server.json("rollback", stages.production, *options) == made


def test_a_rollback_replaces_only_the_head_that_is_expected(stages: Stages) -> None:
    stages.promote(stages.breaks)
    options = ("--to", "1", "--expected-head", stages.live)
    refused = failure(stages.server.run("rollback", stages.production, *options), ABORTED)
    assert refused.startswith("BranchHeadChanged: ")


def test_without_a_terminal_the_number_has_to_be_named(stages: Stages) -> None:
    stages.promote(stages.breaks)
    refused = failure(stages.server.run("rollback", stages.production, stdin="1\n"))
    assert refused == "--to: without a terminal, the number of the version to go back to must be given"
    assert stages.numbers() == [2, 1]


def test_a_terminal_shows_the_earlier_heads_newest_first(stages: Stages) -> None:
    second = stages.promote(stages.breaks)
    terminal = Terminal(stages.server, "rollback", stages.production)
    header, _, *rows = filter(str.strip, terminal.shows(QUESTION).splitlines()[:-1])
    assert header.split() == ["number", "createdTime", "createdBy", "source", "head"]
    first_row, second_row = (row.split() for row in rows)
    assert first_row == ["2", to_json(second)["createdTime"], "user:admin", "promoted", stages.breaks, "head"]
    assert second_row[:1] + second_row[2:] == ["1", "user:admin", "promoted", stages.first]

    terminal.answer("1")
    result = terminal.ends()
    assert result.returncode == 0
    assert json.loads(result.stdout)["source"]["previousModelVersionRid"] == stages.live
    assert stages.numbers() == [3, 2, 1]


def test_the_head_that_was_shown_is_the_one_that_is_replaced(stages: Stages) -> None:
    stages.promote(stages.breaks)
    terminal = Terminal(stages.server, "rollback", stages.production)
    terminal.shows(QUESTION)
    stages.promote(stages.warns)
    terminal.answer("1")
    result = terminal.ends()
    assert result.returncode == ABORTED
    assert last_line(result).startswith("error: BranchHeadChanged: ")
    assert stages.numbers() == [3, 2, 1]


def test_a_long_branch_shows_its_newest_twenty_and_takes_an_older_number(stages: Stages) -> None:
    promotions = [{"model_rid": stages.production, "source_model_version_rid": stages.first}] * 24
    stages.admin("BatchPromoteVersions", promotions=promotions)
    terminal = Terminal(stages.server, "rollback", stages.production)
    shown = terminal.shows(QUESTION).splitlines()
    rows = [line.split() for line in shown if "user:admin" in line]
    assert [int(row[0]) for row in rows] == list(range(25, 5, -1))
    assert "these are the newest 20; an older one can be given by its number, here or with --to" in shown
    terminal.answer("2")
    result = terminal.ends()
    assert result.returncode == 0
    assert json.loads(result.stdout)["versionNumber"] == 26


def test_what_was_chosen_with_an_id_can_be_repeated_as_it_says(stages: Stages) -> None:
    stages.promote(stages.breaks)
    terminal = Terminal(stages.server, "rollback", stages.production, "--request-id", str(uuid.uuid4()))
    terminal.shows(QUESTION)
    terminal.answer("1")
    result = terminal.ends()
    options = last_line(result).removeprefix("to repeat this request: ").split()
    assert stages.server.json("rollback", stages.production, *options) == json.loads(result.stdout)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("\n", "nothing was changed"),
        (END_OF_FILE, "nothing was changed"),
        ("the first\n", "the first is not the number of a version; nothing was changed"),
        ("-1\n", "-1 is not the number of a version; nothing was changed"),
        ("²\n", "² is not the number of a version; nothing was changed"),
        ("99999999999\n", "no request can say this"),
    ],
)
def test_an_answer_that_is_no_number_changes_nothing(stages: Stages, answer: str, told: str) -> None:
    stages.promote(stages.breaks)
    terminal = Terminal(stages.server, "rollback", stages.production)
    terminal.shows(QUESTION)
    terminal.type(answer)
    result = terminal.ends()
    assert (result.returncode, result.stdout) == (1, "")
    assert last_line(result).startswith(f"error: {told}")
    assert stages.numbers() == [2, 1]


def test_a_number_that_the_branch_does_not_have_is_the_servers_to_refuse(stages: Stages) -> None:
    stages.promote(stages.breaks)
    terminal = Terminal(stages.server, "rollback", stages.production)
    terminal.shows(QUESTION)
    terminal.answer("9")
    assert terminal.ends().returncode == NOT_FOUND


def test_a_branch_without_earlier_versions_is_told_so(stages: Stages) -> None:
    result = Terminal(stages.server, "rollback", stages.production).ends()
    assert (result.returncode, last_line(result)) == (1, "error: branch master has no earlier version")


def test_a_branch_that_is_not_there_is_told_so(stages: Stages) -> None:
    result = Terminal(stages.server, "rollback", stages.production, "--branch", "other").ends()
    assert result.returncode == NOT_FOUND
    assert last_line(result).startswith("error: BranchNotFound: ")


def test_an_owner_goes_back_by_override_to_what_was_rolled_back_from(stages: Stages) -> None:
    place = (stages.production, "--branch", "overridden")
    for version in (stages.first, stages.breaks):
        stages.promote(version, branch="overridden")
    stages.server.json("rollback", *place, "--to", "1")
    stages.server.json("set-policy", *place, "--promotion-only")
    again = ("rollback", *place, "--to", "2", "--reason", "it was better")
    refused = failure(stages.server.run(*again), FAILED_PRECONDITION)
    assert refused.startswith("VersionRolledBack: The branch was rolled back from this version")
    back = stages.server.json(*again, "--override")
    [record] = stages.server.json("list-promotions", "--version", back["rid"])["data"]
    assert record["override"] is True
