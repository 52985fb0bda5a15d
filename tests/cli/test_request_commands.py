"""Requests for promotion by commands: what `promote` says and offers on a protected branch, and what others print."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.promotion_pb2 import ApprovalRule
from tests.cli.stages import Stages
from tests.cli.terminals import Terminal

FAILED_PRECONDITION = 73
LACKING = "0 of 1 approvals; user:ann may still approve."
QUESTION = "request the approvals? [y/N] "


@pytest.fixture
def protected(stages: Stages) -> Stages:
    """Production wants an approval of ann, who sees both models."""
    for model_rid in (stages.staging, stages.production):
        stages.admin("GrantRole", resource_rid=model_rid, principal="user:ann", role=ROLE_VIEWER)
    rule = ApprovalRule(required=1, approvers=["user:ann"])
    stages.admin("SetBranchPolicy", model_rid=stages.production, approvals=rule)
    return stages


def as_ann(stages: Stages, *arguments: str) -> Any:
    return stages.server.json(*arguments, token=stages.server.token("ann"))


def test_promote_says_who_may_approve_and_requests_it_where_that_is_wanted(protected: Stages) -> None:
    server = protected.server
    refused = server.run("promote", protected.first, protected.production)
    assert (refused.returncode, refused.stdout) == (FAILED_PRECONDITION, "")
    told = refused.stderr.splitlines()
    assert LACKING in told[0]
    assert told[1] == "--request requests the approvals"
    assert told[2].startswith("error: ApprovalRequired: ")

    asked = server.run("promote", protected.first, protected.production, "--request", "--reason", "for 2.0")
    request = json.loads(asked.stdout)
    assert (asked.returncode, request["state"], request["reason"]) == (0, "OPEN", "for 2.0")
    again = server.run("promote", protected.first, protected.production, "--request")
    assert again.returncode == FAILED_PRECONDITION
    assert f"the request is {request['rid']}" in again.stderr
    assert as_ann(protected, "review", request["rid"], "approve", "--comment", "fine")["state"] == "APPROVED"
    assert server.json("promote", protected.first, protected.production)["versionNumber"] == 2


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", FAILED_PRECONDITION)])
def test_at_a_terminal_promote_asks_whether_to_request_the_approvals(protected: Stages, answer: str, code: int) -> None:
    terminal = Terminal(protected.server, "promote", protected.first, protected.production)
    assert LACKING in terminal.shows(QUESTION)
    terminal.answer(answer)
    assert terminal.ends().returncode == code
    listed = protected.server.json("requests", "--model", protected.production)["data"]
    assert [request["state"] for request in listed] == (["OPEN"] if answer == "y" else [])


def test_a_branch_that_wants_no_approvals_promotes_with_the_option_too(stages: Stages) -> None:
    assert stages.server.json("promote", stages.first, stages.production, "--request")["versionNumber"] == 2


def test_set_policy_says_how_a_change_is_requested_requests_it_and_makes_it(protected: Stages) -> None:
    server, clear = protected.server, ("set-policy", protected.production, "--clear", "approvals")
    refused = server.run(*clear)
    assert (refused.returncode, refused.stdout) == (FAILED_PRECONDITION, "")
    told = refused.stderr.splitlines()
    assert told[0] == "--request requests the approvals"
    assert told[1].startswith("error: ApprovalRequired: ")
    assert f"This weakens approvals: {LACKING}" in told[1]

    asked = server.json(*clear, "--request", "--reason", "too slow")
    assert (asked["kind"], asked["reason"], asked["policyChange"]["type"]) == ("POLICY_CHANGE", "too slow", "branch")
    assert f"the request is {asked['rid']}" in server.run(*clear).stderr
    assert as_ann(protected, "review", asked["rid"], "approve", "--expected-revision", "1")["state"] == "APPROVED"
    assert server.json(*clear)["promotionRequestRid"] == asked["rid"]
    shown = server.run("get-request", asked["rid"], "--output", "table").stdout
    assert "of a branch" in shown
    alone = server.run(*clear, "--reason", "why")
    assert (alone.returncode, alone.stderr) == (1, "error: --reason and --request-id need --request\n")


def test_requests_are_listed_for_people_and_withdrawn(protected: Stages) -> None:
    made = protected.server.json("request-promotion", protected.first, protected.production, "--reason", "for 2.0")
    other = protected.server.json("request-promotion", protected.warns, protected.production)
    token = protected.server.token("ann")
    shown = protected.server.run("requests", "--waiting-for-me", "--output", "table", token=token)
    lines = shown.stdout.splitlines()
    header, rows = lines[1].split(), [line for line in lines if "promotion-request" in line]
    assert {"rid", "state", "approvals", "requestedBy"} <= {*header}
    assert [any(each["rid"] in row and "0 of 1" in row for row in rows) for each in (made, other)] == [True, True]

    assert as_ann(protected, "review", other["rid"], "reject")["state"] == "REJECTED"
    assert protected.server.json("withdraw", made["rid"])["state"] == "WITHDRAWN"
    assert as_ann(protected, "requests", "--waiting-for-me", "--model", protected.production)["data"] == []
    one = protected.server.run("get-request", other["rid"], "--output", "table").stdout
    assert "user:ann REJECT" in one
