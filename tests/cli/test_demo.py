"""`demo` plays the example of the promotion endpoint's own documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Server, run

# The answer that the endpoint's documentation gives as its example.
SEED: dict[str, Any] = {
    "backingRepositories": ["ri.stemma.main.repository.a1b2c3d4-e5f6-7890-abcd-ef1234567890"],
    "condaRequirements": ["numpy==1.24.0", "pandas==2.0.0"],
    "linkedExperiment": "ri.models.main.experiment.abc123",
    "modelApi": {
        "inputs": [
            {
                "name": "input_df",
                "required": True,
                "type": "tabular",
                "columns": [
                    {"name": "feature_1", "required": True, "dataType": {"type": "double"}},
                    {"name": "feature_2", "required": True, "dataType": {"type": "integer"}},
                ],
                "format": "PANDAS",
            }
        ],
        "outputs": [
            {
                "name": "output_df",
                "required": True,
                "type": "tabular",
                "columns": [{"name": "prediction", "required": True, "dataType": {"type": "double"}}],
                "format": "SPARK",
            }
        ],
    },
    "createdTime": "2003-05-06T12:34:56.789Z",
    "rid": "ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee",
}
# What this service adds: the source, which the documentation names but leaves out of its example, and its own five.
ADDED = {"source", "modelRid", "branch", "versionNumber", "createdBy", "rootModelVersionRid"}

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory and TMPDIR of the demo."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def promoted(folder: Path) -> dict[str, Any]:
    """What the demo prints."""
    # A proxy that is not there: the demo's server is on this machine.
    result = run("demo", cwd=folder, TMPDIR=str(folder), http_proxy="http://127.0.0.1:1")
    assert result.returncode == 0, result
    return json.loads(result.stdout)


def test_demo_prints_the_keys_of_the_documentation_and_ours(promoted: dict[str, Any]) -> None:
    assert promoted.keys() == SEED.keys() | ADDED


def test_demo_promotes_the_content_of_the_documentation(promoted: dict[str, Any]) -> None:
    content = SEED.keys() - {"rid", "createdTime"}
    assert {key: promoted[key] for key in content} == {key: SEED[key] for key in content}


def test_demo_prints_rid_and_time_in_the_form_of_the_documentation(promoted: dict[str, Any]) -> None:
    for version in (SEED, promoted):
        assert re.fullmatch(rf"ri\.models\.main\.model-version\.{UUID}", version["rid"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", version["createdTime"])


def test_demo_prints_where_the_version_comes_from(promoted: dict[str, Any]) -> None:
    assert (promoted["branch"], promoted["versionNumber"], promoted["createdBy"]) == ("master", 1, "user:admin")
    source = promoted["source"]
    assert source["type"] == "promoted"
    assert promoted["rootModelVersionRid"] == source["previousModelVersionRid"] != promoted["rid"]
    assert promoted["modelRid"] != source["previousModelRid"]


@pytest.mark.usefixtures("promoted")
def test_demo_leaves_nothing_behind(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_demo_prepares_a_request_in_the_form_that_grpcurl_reads(server: Server) -> None:
    result = server.run("demo", "--prepare")
    request = json.loads(result.stdout)
    assert request.keys() == {"model_rid", "source_model_version_rid", "preview"}
    assert request["preview"] is True
    assert "\n" not in result.stdout.rstrip("\n")
    promoted = server.json("promote", request["source_model_version_rid"], request["model_rid"])
    assert {key: promoted[key] for key in ("modelApi", "linkedExperiment")} == {
        key: SEED[key] for key in ("modelApi", "linkedExperiment")
    }


def test_demo_can_be_prepared_again_and_again_on_one_server(server: Server) -> None:
    first, second = (json.loads(server.run("demo", "--prepare").stdout) for _ in range(2))
    assert first["model_rid"] != second["model_rid"]
