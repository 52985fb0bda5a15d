"""The commands that read what promotions left: records and lineage."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.promotion_pb2 import LineageNode
from server.codec.json_form import from_json, to_json
from tests.cli.stages import ERROR, Stages
from tests.processes import failure, side_by_side

NOT_FOUND = 69
LATER, LONG_AGO = "9999-01-01", "1999-12-31"


# Records


def test_a_promotion_is_printed_by_its_rid(stages: Stages) -> None:
    (record,) = stages.records()
    assert stages.server.json("get-promotion", record.rid) == to_json(record)


def test_promotions_are_listed_by_what_they_were(stages: Stages) -> None:
    second = stages.promote(stages.breaks, branch="canary")
    canary, first = (record.rid for record in stages.records())
    model = ("--model", stages.production)
    filters: dict[tuple[str, ...], list[str]] = {
        model: [canary, first],
        (*model, "--branch", "canary"): [canary],
        ("--source-version", stages.first): [first],
        ("--version", second.rid): [canary],
        (*model, "--created-by", "user:jane"): [],
        (*model, "--created-by", "user:admin"): [canary, first],
        (*model, "--since", LATER): [],
        (*model, "--until", LATER): [canary, first],
        (*model, "--since", LONG_AGO): [canary, first],
        (*model, "--until", LONG_AGO): [],
        (*model, "--page-size", "1"): [canary],
        (*model, "--oldest-first"): [first, canary],
    }
    answers = side_by_side([partial(stages.server.json, "list-promotions", *options) for options in filters])
    assert [[record["rid"] for record in answer["data"]] for answer in answers] == list(filters.values())


def test_promotions_are_listed_page_by_page(stages: Stages) -> None:
    stages.promote(stages.breaks)
    options = ("--model", stages.production, "--page-size", "1")
    pages = [stages.server.json("list-promotions", *options)]
    pages.append(stages.server.json("list-promotions", *options, "--page-token", pages[0]["nextPageToken"]))
    assert [record["rid"] for page in pages for record in page["data"]] == [each.rid for each in stages.records()]


def test_a_time_includes_its_moment_and_a_day_begins_in_utc(stages: Stages) -> None:
    (record,) = stages.records()
    moment = str(to_json(record)["createdTime"])
    day, later = moment.partition("T")[0], moment.replace("Z", "+00:00")
    calls = [
        partial(stages.server.json, "list-promotions", "--model", stages.production, *options)
        for options in (("--since", moment), ("--until", later), ("--since", day), ("--until", day))
    ]
    assert [len(answer["data"]) for answer in side_by_side(calls)] == [1, 0, 1, 0]


@pytest.mark.parametrize("flag", ["--since", "--until"])
@pytest.mark.parametrize("value", ["yesterday", "2026-02-30", "2026-11-25T12:00:00", "2026-11-25 ", "٢٠٢٦-١١-٢٥"])
def test_what_is_no_time_is_told_in_one_line(stages: Stages, flag: str, value: str) -> None:
    told = failure(stages.server.run("list-promotions", flag, value))
    assert told == f"{flag}: {value!r} is neither a time such as 2026-11-25T12:00:00Z nor a day such as 2026-11-25"


def test_a_table_of_promotions_counts_the_findings(stages: Stages) -> None:
    stages.promote(stages.breaks, reason="a\x0areason")
    result = stages.server.run("list-promotions", "--model", stages.production, "--output", "table")
    assert (result.returncode, result.stderr) == (0, "")
    header, _, newest, _ = filter(str.strip, result.stdout.splitlines())
    assert "errorCount" in header.split()
    assert r"a\nreason" in newest
    assert ERROR not in result.stdout


# Lineage


def test_a_lineage_is_a_tree_unless_something_else_is_wanted(stages: Stages) -> None:
    canary = stages.promote(stages.first, branch="canary").rid
    second = stages.promote(stages.live).rid
    expected = (
        f"┌ staging  master  v1  {stages.first} ← traced\n"
        f"├── production  canary  v1  {canary} (head)\n"
        f"├ production  master  v1  {stages.live}\n"
        f"└ production  master  v2  {second} (head)\n"
    )
    for options in ((), ("--output", "tree"), ("--output", "table")):
        result = stages.server.run("lineage", stages.first, *options)
        assert (result.returncode, result.stderr, result.stdout) == (0, "", expected)


def test_a_lineage_is_drawn_by_other_programs(stages: Stages) -> None:
    run = partial(stages.server.run, "lineage", stages.live, "--output")
    dot, mermaid = (run(output).stdout.splitlines() for output in ("dot", "mermaid"))
    assert (dot[0], dot[-2:]) == ("digraph lineage {", ["  n1 -> n0;", "}"])
    assert (mermaid[0], mermaid[-1]) == ("flowchart TD", "  n1 --> n0")
    document = stages.server.json("lineage", stages.live, "--output", "json")
    assert [node["modelVersionRid"] for node in document["data"]] == [stages.live, stages.first]
    assert document["tracedNodeId"] == document["data"][0]["nodeId"]


def test_a_lineage_of_several_pages_is_one_drawing(stages: Stages) -> None:
    promotions = [{"model_rid": stages.production, "source_model_version_rid": stages.first, "branch": "many"}] * 100
    made = [stages.admin("BatchPromoteVersions", promotions=promotions).promoted for _ in range(11)]
    rids = [stages.first, stages.live, *(each.model_version_rid for batch in made for each in batch)]
    outputs = ("tree", "dot", "mermaid", "json")
    calls = [partial(stages.server.run, "lineage", stages.first, "--output", output) for output in outputs]
    drawings = [result.stdout for result in side_by_side(calls)]
    for drawing in drawings:
        assert re.findall(r"ri\.models\.main\.model-version\.[0-9a-f-]+", drawing) == rids
    document: dict[str, Any] = json.loads(drawings[-1])
    assert [from_json(node, LineageNode).model_version_rid for node in document["data"]] == rids


def test_what_is_invisible_is_a_blank_in_the_lineage(stages: Stages) -> None:
    stages.admin("GrantRole", resource_rid=stages.production, principal="user:jane", role=ROLE_VIEWER)
    jane = stages.server.token("jane")
    assert stages.server.run("lineage", stages.live, token=jane).stdout == (
        f"┌ (not visible to you)\n└ production  master  v1  {stages.live} (head) ← traced\n"
    )
    assert failure(stages.server.run("lineage", stages.first, token=jane), NOT_FOUND).startswith("ModelVersionNotFound")
