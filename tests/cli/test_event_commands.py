"""The commands that tell what happened."""

from __future__ import annotations

from tests.cli.stages import Stages
from tests.processes import failure

INVALID_ARGUMENT, OUT_OF_RANGE = 67, 75


def test_events_are_listed_for_programs_and_for_people(stages: Stages) -> None:
    listed = stages.server.json("events", "--model", stages.production, "--type", "version.promoted")
    [event] = listed["data"]
    assert (event["type"], event["modelVersionRid"]) == ("modelregistry.version.promoted.v1", stages.live)
    assert event["subject"]["type"] == "promotion"
    assert event["subject"]["sourceModelVersionRid"] == stages.first
    assert (event["actor"], event["peer"]) == ("user:admin", "127.0.0.1")

    shown = stages.server.run("events", "--model", stages.production, "--output", "table")
    assert (shown.returncode, shown.stderr) == (0, "")
    header, *rows = (line.split() for line in shown.stdout.splitlines() if line.strip() and set(line) != {" ", "─"})
    assert header == ["time", "type", "actor", "about", "branch", "version", "details", "requestId", "peer"]
    assert [row[1] for row in rows] == ["version.promoted", "grant.changed", "model.created"]
    assert f"sourceModelVersionRid={stages.first}" in shown.stdout
    assert "principal=user:admin" in shown.stdout


def test_events_are_listed_by_each_filter(stages: Stages) -> None:
    everything = stages.server.json("events", "--folder", stages.folder)["data"]
    assert len(everything) > 5
    for options, wanted in (
        (("--actor", "user:nobody"), []),
        (("--since", "9999-01-01"), []),
        (("--until", "2020-01-01T00:00:00Z"), []),
        (("--since", "2020-01-01"), everything),
        (("--oldest-first",), everything[::-1]),
        (("--branch", "master"), [each for each in everything if each.get("branch") == "master"]),
        (("--type", "modelregistry.grant.changed.v1"), [each for each in everything if "grant" in each["type"]]),
        (
            ("--type", "grant.changed", "--type", "model.created"),
            [each for each in everything if "grant" in each["type"] or "model.c" in each["type"]],
        ),
    ):
        found = stages.server.json("events", "--folder", stages.folder, *options)["data"]
        assert [each["id"] for each in found] == [each["id"] for each in wanted], options


def test_a_list_goes_on_from_a_cursor_and_page_by_page(stages: Stages) -> None:
    first = stages.server.run("events", "--folder", stages.folder, "--page-size", "2", "--output", "table")
    assert first.stderr.startswith("there is more: --page-token ")
    token = first.stderr.split()[-1]
    rest = stages.server.json("events", "--folder", stages.folder, "--page-size", "1000", "--page-token", token)
    everything = stages.server.json("events", "--folder", stages.folder, "--oldest-first")
    assert len(rest["data"]) == len(everything["data"]) - 2
    assert stages.server.json("events", "--folder", stages.folder, "--after", everything["cursor"])["data"] == []
    third = everything["data"][2]["cursor"]
    behind = stages.server.json("events", "--folder", stages.folder, "--after", third, "--oldest-first")["data"]
    assert [each["id"] for each in behind] == [each["id"] for each in everything["data"][3:]]


def test_what_is_wrong_is_said_in_one_line(stages: Stages) -> None:
    assert "types[0]: must be one of" in failure(stages.server.run("events", "--type", "promoted"), INVALID_ARGUMENT)
    unknown = failure(stages.server.run("events", "--after", "x"), OUT_OF_RANGE)
    assert unknown.startswith("CursorUnknown: ")
    said = stages.server.run("events", "--since", "yesterday")
    assert "--since: 'yesterday' is neither a time" in said.stderr
