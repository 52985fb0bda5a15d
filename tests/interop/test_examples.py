"""The examples, built as their READMEs say, do what they say, and agree on what they read back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import rfc8785

from tests.interop.conftest import BUILD_SECONDS, ROOT, Built, Service, in_shell, pasted
from tests.rpc.fronts import Front, listening

# Each folder of examples, with the programs in it.
PROGRAMS = {
    "go": ["bin/client"],
    "java": ["example.Client"],
    "python": ["client.py"],
    "typescript": ["dist/connect.js", "dist/grpc-js.js"],
}
EACH = [(language, program) for language, programs in PROGRAMS.items() for program in programs]

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MODEL, VERSION = f"ri\\.models\\.main\\.model\\.{UUID}", f"ri\\.models\\.main\\.model-version\\.{UUID}"
TOLD = rf"""created (?P<staging>{MODEL}) and (?P<production>{MODEL})
registered (?P<source>{VERSION})
promoted (?P<promoted>{VERSION})
repeated (?P=promoted)
failed with ModelNotFound, modelRid={MODEL}, instance {UUID}
failed with DEADLINE_EXCEEDED
listed 2 models in 2 pages
"""
# What differs from run to run, by the name that stands for it in the vector.
RFC_3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z"

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture(params=EACH, ids=[program for _, program in EACH])
def line(request: pytest.FixtureRequest, built: Built) -> tuple[str, Path]:
    """What runs each program in turn, and where."""
    language, name = request.param
    example = built(language)
    [line] = [line for line in example.programs if name in line]
    return line, example.folder


@pytest.fixture
def program(line: tuple[str, Path]) -> Callable[..., tuple[dict[str, str], dict[str, Any]]]:
    """Runs the program; returns what it told and the version that it printed."""

    def run(**variables: str) -> tuple[dict[str, str], dict[str, Any]]:
        ran = pasted(*line, **variables)
        told = re.fullmatch(TOLD, ran.stderr)
        assert told, ran.stderr
        return told.groupdict(), json.loads(ran.stdout)

    return run


def test_every_program_of_every_example_is_run(built: Built) -> None:
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    assert folders == set(PROGRAMS)
    for language, programs in PROGRAMS.items():
        assert len(built(language).programs) == len(programs)


def test_all_read_the_same_version(program: Callable[..., Any], service: Service) -> None:
    told, version = program(**service.variables())
    vector = json.loads((ROOT / "tests/interop/wide_version.json").read_text())
    assert rfc8785.dumps(normalised(version, told)) == rfc8785.dumps(vector)


def normalised(version: dict[str, Any], told: dict[str, str]) -> dict[str, Any]:
    """The version with names in place of what differs from run to run, each of which is what the program told."""
    assert re.fullmatch(RFC_3339, version["createdTime"])
    names = {rid: f"<{name}>" for name, rid in told.items()} | {version["createdTime"]: "<time>"}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(each) for key, each in value.items()}
        if isinstance(value, list):
            return [named(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    return named(version)


def test_a_program_that_is_refused_says_why_in_a_line(line: tuple[str, Path], service: Service) -> None:
    variables = {**service.variables(), "MODELREGISTRY_TOKEN": "not.a.token"}
    ran = in_shell(*line, **variables)
    assert ran.returncode != 0
    assert ran.stdout == ""
    [told] = ran.stderr.strip().splitlines()
    assert "InvalidCredentials" in told


def test_a_lost_answer_is_asked_for_again_and_the_promotion_made_once(
    program: Callable[..., Any], service: Service
) -> None:
    trusted = grpc.ssl_channel_credentials(service.authority.cert.read_bytes())
    own = grpc.ssl_server_credentials([(service.key.read_bytes(), service.cert.read_bytes())])
    with grpc.secure_channel(service.server.address, trusted) as behind:
        front = Front(behind)
        front.fail_next(grpc.StatusCode.UNAVAILABLE, carried_out=True, method="PromoteVersion")
        with listening(front, credentials=own) as port:
            told, version = program(**service.variables(f"127.0.0.1:{port}"))
    assert front.failed == 1
    assert version["versionNumber"] == 1
    options = ("--ca-cert", service.authority.cert)
    versions = service.server.json("list-versions", told["production"], *options)
    assert [each["rid"] for each in versions["data"]] == [told["promoted"]]
