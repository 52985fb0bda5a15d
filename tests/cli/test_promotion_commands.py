"""`promote` shows what it breaks and asks before it does; at terminals and without."""

from __future__ import annotations

import json
import subprocess
import uuid

import pytest

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_OFF
from server.core.permissions import MODELS_WRITE
from tests.cli.stages import ERROR, WARNING, Stages
from tests.cli.terminals import END_OF_FILE, Terminal
from tests.processes import failure

QUESTION = "promote all the same? [y/N] "
PROMOTE = "/modelregistry.v1.ModelService/PromoteVersion"
INCOMPATIBLE = "the version is incompatible with the head of the branch (1 error)"

# Exit codes: 64 plus the gRPC status code.
ALREADY_EXISTS, FAILED_PRECONDITION, ABORTED = 70, 73, 74

ANSWERS_FOR_YES, ANSWERS_FOR_NO = ("y\n", "YES\n"), ("n\n", "\n", "yo\n", "\xff\n", END_OF_FILE)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.rstrip("\n").rpartition("\n")[2]


# What is shown


def test_a_promotion_that_breaks_nobody_says_nothing_else(stages: Stages) -> None:
    result = stages.server.run("promote", stages.first, stages.production)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["versionNumber"] == 2


def test_a_warning_is_shown_beside_the_answer_and_not_asked_about(stages: Stages) -> None:
    result = stages.server.run("promote", stages.warns, stages.production)
    header, _, row = filter(str.strip, result.stderr.splitlines())
    assert header.split() == ["rule", "severity", "path", "message"]
    assert row.split()[:3] == ["REMOVED", "WARN", WARNING]
    assert json.loads(result.stdout)["versionNumber"] == 2


def test_a_warning_is_not_asked_about_at_a_terminal_either(stages: Stages) -> None:
    assert Terminal(stages.server, "promote", stages.warns, stages.production).ends().returncode == 0


# What is asked


def test_what_breaks_somebody_is_refused_where_nobody_can_be_asked(stages: Stages) -> None:
    result = stages.server.run("promote", stages.breaks, stages.production, stdin="y\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert ERROR in result.stderr
    assert last_line(result) == f"error: {INCOMPATIBLE}; --yes promotes all the same"
    assert stages.numbers() == [1]


def test_a_terminal_that_shows_nothing_is_nobody_to_ask(stages: Stages) -> None:
    # The findings go elsewhere, so who types has not seen them.
    command = ["bash", "-c", 'exec "$@" 2>/dev/null', "bash", "modelregistry", "promote"]
    terminal = Terminal(stages.server, *command[1:], stages.breaks, stages.production, command=command[0])
    result = terminal.ends()
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


@pytest.mark.parametrize("variables", [{}, {"MODELREGISTRY_YES": "1"}], ids=["the option", "the variable"])
def test_yes_promotes_without_asking_and_shows_what_it_breaks(stages: Stages, variables: dict[str, str]) -> None:
    options = () if variables else ("--yes",)
    result = stages.server.run("promote", stages.breaks, stages.production, *options, **variables)
    assert result.returncode == 0
    assert ERROR in result.stderr
    assert json.loads(result.stdout)["versionNumber"] == 2


def test_yes_asks_nobody_at_a_terminal(stages: Stages) -> None:
    result = Terminal(stages.server, "promote", stages.breaks, stages.production, "--yes").ends()
    assert result.returncode == 0
    assert QUESTION not in result.stderr


@pytest.mark.parametrize("answer", ANSWERS_FOR_YES)
def test_who_says_yes_at_a_terminal_promotes(stages: Stages, answer: str) -> None:
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production)
    asked = terminal.shows(QUESTION)
    assert ERROR in asked
    assert INCOMPATIBLE in asked
    terminal.type(answer)
    result = terminal.ends()
    assert result.returncode == 0
    assert json.loads(result.stdout)["versionNumber"] == 2


@pytest.mark.parametrize("answer", ANSWERS_FOR_NO)
def test_who_says_anything_else_promotes_nothing(stages: Stages, answer: str) -> None:
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production)
    terminal.shows(QUESTION)
    terminal.type(answer)
    result = terminal.ends()
    assert (result.returncode, result.stdout) == (1, "")
    assert last_line(result) == "error: nothing was promoted"
    assert stages.numbers() == [1]


def test_who_interrupts_the_question_promotes_nothing(stages: Stages) -> None:
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production)
    terminal.shows(QUESTION)
    terminal.interrupt()
    result = terminal.ends()
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert stages.numbers() == [1]


def test_what_was_asked_about_is_what_is_replaced(stages: Stages) -> None:
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production)
    terminal.shows(QUESTION)
    stages.promote(stages.warns)
    terminal.answer("y")
    result = terminal.ends()
    assert result.returncode == ABORTED
    assert last_line(result).startswith("error: BranchHeadChanged: ")
    assert stages.numbers() == [2, 1]


# What is refused


def test_a_head_that_is_not_the_expected_one_is_the_servers_to_refuse(stages: Stages) -> None:
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production, "--expected-head", stages.breaks)
    result = terminal.ends()
    assert result.returncode == ABORTED
    assert ERROR in result.stderr
    assert QUESTION not in result.stderr
    assert last_line(result).startswith("error: BranchHeadChanged: ")


def test_the_head_that_is_expected_may_be_replaced(stages: Stages) -> None:
    options = ("--expected-head", stages.live, "--yes")
    assert stages.server.run("promote", stages.breaks, stages.production, *options).returncode == 0
    assert stages.records()[0].replaced_version_rid == stages.live


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_what_the_branch_refuses_is_shown_and_not_asked_about(stages: Stages, options: tuple[str, ...]) -> None:
    stages.admin("SetBranchPolicy", model_rid=stages.production, compatibility=COMPATIBILITY_MODE_ENFORCE)
    result = Terminal(stages.server, "promote", stages.breaks, stages.production, *options).ends()
    assert result.returncode == FAILED_PRECONDITION
    assert ERROR in result.stderr
    assert QUESTION not in result.stderr
    assert last_line(result).startswith("error: ModelApiIncompatible: ")


def test_a_branch_that_compares_nothing_has_nothing_to_ask(stages: Stages) -> None:
    stages.admin("SetBranchPolicy", model_rid=stages.production, compatibility=COMPATIBILITY_MODE_OFF)
    assert stages.server.json("promote", stages.breaks, stages.production)["versionNumber"] == 2


# Requests that are repeated


def test_a_reason_stays_in_the_record(stages: Stages) -> None:
    stages.server.json("promote", stages.first, stages.production, "--reason", "the old one\nis slow")
    assert stages.records()[0].reason == "the old one\nis slow"


@pytest.mark.parametrize("kind", ["first", "warns", "breaks"])
def test_a_promotion_is_repeated_by_its_id_without_asking_again(stages: Stages, kind: str) -> None:
    source, reason = getattr(stages, kind), ("--reason", "because")
    command = ("promote", source, stages.production, "--request-id", str(uuid.uuid4()), *reason)
    made = json.loads(stages.server.run(*command, "--yes").stdout)
    stages.promote(stages.first)
    assert stages.server.json(*command) == made
    terminal = Terminal(stages.server, *command)
    assert json.loads(terminal.ends().stdout) == made
    assert stages.numbers() == [3, 2, 1]


def test_a_promotion_that_was_confirmed_is_repeated_by_its_id(stages: Stages) -> None:
    command = ("promote", stages.breaks, stages.production, "--branch", "canary", "--request-id", str(uuid.uuid4()))
    stages.promote(stages.first, branch="canary")
    terminal = Terminal(stages.server, *command)
    terminal.shows(QUESTION)
    terminal.answer("y")
    assert stages.server.json(*command) == json.loads(terminal.ends().stdout)
    assert stages.numbers("canary") == [2, 1]


def test_an_id_is_not_used_for_another_promotion(stages: Stages) -> None:
    options = ("--request-id", str(uuid.uuid4()), "--yes")
    assert stages.server.run("promote", stages.breaks, stages.production, *options).returncode == 0
    again = stages.server.run("promote", stages.breaks, stages.production, *options, "--reason", "another")
    assert again.returncode == ALREADY_EXISTS
    assert last_line(again).startswith("error: RequestIdAlreadyUsed: ")
    assert stages.numbers() == [2, 1]


# Tokens and servers that cannot check


def test_a_token_that_may_not_check_needs_a_yes(stages: Stages) -> None:
    writing = stages.server.token(scopes=[MODELS_WRITE])
    command = ("promote", stages.breaks, stages.production)
    refused = failure(stages.server.run(*command, token=writing))
    assert "api:models-read" in refused
    assert "--yes promotes all the same" in refused
    assert stages.numbers() == [1]

    promoted = stages.server.run(*command, "--yes", token=writing)
    assert promoted.returncode == 0
    assert "api:models-read" in promoted.stderr
    assert stages.numbers() == [2, 1]


def test_who_may_not_check_is_asked_at_a_terminal(stages: Stages) -> None:
    token = stages.server.token(scopes=[MODELS_WRITE])
    terminal = Terminal(stages.server, "promote", stages.breaks, stages.production, token=token)
    assert "api:models-read" in terminal.shows(QUESTION)
    terminal.answer("n")
    assert terminal.ends().returncode == 1
    assert stages.numbers() == [1]


def test_a_policy_is_set_field_by_field(stages: Stages) -> None:
    place = (stages.production, "--branch", "fields")
    set_ = stages.server.json("set-policy", *place, "enforce", "--promotion-only")
    assert (set_["compatibility"], set_["promotionOnly"], set_["revision"]) == ("ENFORCE", True, 1)
    cleared = stages.server.json("set-policy", *place, "--no-promotion-only", "--clear", "compatibility")
    assert (cleared["compatibility"], cleared["promotionOnly"], cleared["revision"]) == ("WARN", False, 2)
    transitive = stages.server.json("set-policy", *place, "enforce-transitive")
    assert (transitive["compatibility"], transitive["compatibilitySinceRevision"]) == ("ENFORCE_TRANSITIVE", 3)
    refused = stages.server.run("set-policy", *place, "off", "--expected-revision", "1")
    assert failure(refused, ABORTED).startswith("BranchPolicyChanged: The policy of the branch is not")


def test_each_rule_of_a_policy_has_its_flags(stages: Stages) -> None:
    place = (stages.production, "--branch", "rules")
    sources = ("--allow-source", stages.staging, "--allow-source", f"{stages.staging}:rc:1")
    people = ("--promoter", "user:joe", "--promoter", "group:release", "--rollbacker", "user:ann")
    approvals = ("--required-approvals", "1", "--approver", "group:risk", "--approvals-expire-after", "1d12h")
    time = ("--min-time-as-head", "90m")
    set_ = stages.server.run(
        "set-policy", *place, "--promotion-only", *sources, *people, *approvals, "--promote-when-approved", *time
    )
    policy = json.loads(set_.stdout)
    assert policy["allowedSources"]["sources"] == [
        {"modelRid": stages.staging},
        {"modelRid": stages.staging, "branch": "rc:1"},
    ]
    assert policy["minTimeAsHead"] == "5400s"
    assert policy["promoters"] == {"principals": ["user:joe", "group:release"]}
    assert policy["rollbackers"] == {"principals": ["user:ann"]}
    assert policy["approvals"] == {
        "required": 1,
        "approvers": ["group:risk"],
        "expireAfter": "129600s",
        "promoteWhenApproved": True,
    }
    assert set_.stderr.startswith("warning: allowed_sources: the branch master of ")
    assert stages.server.json("get-policy", *place) == policy | {"warnings": []}
    none = stages.server.json("set-policy", *place, "--allow-source", "none")
    assert none["allowedSources"].get("sources", []) == []
    refused = stages.server.run("set-policy", *place, "--min-time-as-head", "1 hour")
    assert failure(refused) == "--min-time-as-head: '1 hour' is no period such as 90m, 3600s or 1d12h"


def test_the_policy_of_a_folder_is_set_and_read_by_its_rid(stages: Stages) -> None:
    folder = stages.server.json("get-model", stages.production)["parentFolderRid"]
    policy = stages.server.json("set-policy", folder, "--branch", "of-folder", "--promotion-only")
    assert (policy["folderRid"], policy["promotionOnly"]) == (folder, True)
    assert stages.server.json("get-policy", folder, "--branch", "of-folder") == policy
    assert stages.server.json("get-policy", stages.production, "--branch", "of-folder")["folderPolicy"] == policy
