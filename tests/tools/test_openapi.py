"""The OpenAPI document: it is one, it is complete, and what the service writes is what it announces."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from google.api.http_pb2 import HttpRule
from hypothesis import given

from modelregistry.v1.model_pb2 import ModelVersion
from server.codec.json_form import to_json
from server.gateway.errors import ERRORS, failure
from server.gateway.routes import Route, routes_of, stream_of
from server.rpc.server import SERVICES
from server.rpc.status import to_status
from tests.codec.samples import thorough
from tests.gateway.test_refusals import ask
from tests.gateway.test_routes import routes_with
from tests.processes import Server
from tests.rpc.test_status import sample
from tests.strategies import model_versions
from tools.openapi.document import openapi_of

ROOT = Path(__file__).parents[2]
SEED = json.loads((ROOT / "tests/e2e/seed/response.json").read_text())
# What a version has beside the seed's keys.
OURS = {
    "source": {"type": "sdk"},
    "modelRid": "ri.models.main.model.a",
    "branch": "master",
    "versionNumber": 1,
    "createdBy": "user:jane",
    "rootModelVersionRid": SEED["rid"],
}
ROUTES = {route.method.name: route for route in routes_of(SERVICES)}
DOCUMENT: dict[str, Any] = openapi_of([*ROUTES.values()], "1.2.3")
each_route = pytest.mark.parametrize("route", ROUTES.values(), ids=lambda route: route.method.name)


def operation(route: Route, document: dict[str, Any] = DOCUMENT) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][route.path][route.http_method.lower()]
    return found


def schema_of(content: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """What checks a request or an answer; formats too, among them that of times."""
    schema = {**content["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def parameters(route: Route) -> dict[str, dict[str, Any]]:
    return {parameter["name"]: parameter for parameter in operation(route)["parameters"]}


def test_it_is_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"


@each_route
def test_every_route_is_in_it_with_its_parameters(route: Route) -> None:
    described = operation(route)

    assert described["operationId"] == route.method.name
    assert described["tags"] == [route.method.containing_service.name]
    has_id = "request_id" in route.method.input_type.fields_by_name
    key = {"Idempotency-Key"} if has_id else set()
    last = {"Last-Event-ID"} if stream_of(route) else set()
    assert set(parameters(route)) == {*route.path_fields, *route.query_fields, *key, *last, "preview"}
    assert ("requestBody" in described) == route.has_body


def test_nothing_else_is_in_it() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert described == {(route.http_method, route.path) for route in ROUTES.values()}


def test_a_preview_must_be_asked_for_only_where_there_is_one() -> None:
    assert parameters(ROUTES["PromoteVersion"])["preview"]["required"]
    assert parameters(ROUTES["PromoteVersion"])["preview"]["schema"] == {"type": "boolean", "const": True}
    assert not parameters(ROUTES["GetModel"])["preview"]["required"]


@pytest.mark.parametrize("rpc", [rpc for rpc in ROUTES if rpc != "CreateModel"])
def test_what_is_asked_for_can_be_missing(rpc: str) -> None:
    assert "`ModelNotFound`" in operation(ROUTES[rpc])["responses"]["404"]["description"]


def test_what_changes_nothing_has_no_conflicts() -> None:
    assert "409" not in operation(ROUTES["CheckPromotion"])["responses"]
    assert "`BranchHeadChanged`" in operation(ROUTES["BatchPromoteVersions"])["responses"]["409"]["description"]


def test_every_call_wants_a_bearer_token() -> None:
    assert DOCUMENT["security"] == [{"bearer": []}]
    assert not [route for route in ROUTES.values() if "security" in operation(route)]


def test_the_comments_of_the_protos_explain_it() -> None:
    promote = operation(ROUTES["PromoteVersion"])
    name = DOCUMENT["components"]["schemas"]["CreateModelRequest"]["properties"]["name"]

    assert promote["summary"] == "Promote version"
    assert promote["description"].startswith("Copies an existing version, the source version, into the target model")
    assert name["description"].startswith("The display name: 1 to 700 characters")
    explained = [DOCUMENT["tags"], map(operation, ROUTES.values()), DOCUMENT["components"]["schemas"].values()]
    assert all(part["description"] for parts in explained for part in parts)


# Answers


@pytest.mark.parametrize("rpc", ["CreateModelVersion", "GetModelVersion", "PromoteVersion"])
def test_the_answer_of_the_seed_is_one(rpc: str) -> None:
    schema_of(operation(ROUTES[rpc])["responses"]["200"]).validate(SEED | OURS)


@thorough(30)
@given(stored=model_versions())
def test_every_version_that_there_can_be_is_an_answer(stored: ModelVersion) -> None:
    schema_of(operation(ROUTES["GetModelVersion"])["responses"]["200"]).validate(to_json(stored))


@each_route
def test_an_answer_of_nothing_but_what_is_always_there_is_one(route: Route) -> None:
    written = to_json(route.response_type())
    schema = schema_of(operation(route)["responses"]["200"])

    schema.validate(written)
    for key in written:
        assert not schema.is_valid({other: written[other] for other in written if other != key}), key


def test_a_version_of_the_wrong_shape_is_no_answer() -> None:
    schema = schema_of(operation(ROUTES["GetModelVersion"])["responses"]["200"])

    for wrong in (
        {"source": {"type": "fax"}},
        {"versionNumber": "1"},
        {"createdTime": 5},
        {"modelApi": {"inputs": [{}]}},
    ):
        assert not schema.is_valid(SEED | OURS | wrong), wrong


@each_route
def test_every_failure_that_is_announced_looks_as_announced(route: Route) -> None:
    for name, error in ERRORS.items():
        answer = failure(to_status(sample(error), "some-request"), None, is_repeatable=False)
        announced = operation(route)["responses"].get(str(answer.http_status))

        if announced is None:
            assert (
                name in {"MethodNotAllowed", "RequestTooLarge", "UnsupportedMediaType"}
                or (answer.http_status == 409 and not route.changes_something)
                or (answer.http_status == 404 and not route.path_fields)
            ), name
        elif name != "RouteNotFound":
            schema_of(announced).validate(answer.body)
            assert {*answer.headers} <= {*announced["headers"]}, name


# A new RPC


def test_a_new_annotated_rpc_is_described() -> None:
    get, other, put = routes_with(
        HttpRule(get="/v1/things/{thing_name}", additional_bindings=[HttpRule(get="/v1/others/{thing_name}")]),
        HttpRule(put="/v1/things/{thing_name}", body="*"),
    )

    document: dict[str, Any] = openapi_of([get, other, put], "1")

    openapi_spec_validator.validate(document)
    assert [operation(route, document)["operationId"] for route in (get, other, put)] == ["Rpc0", "Rpc02", "Rpc1"]
    assert [each["name"] for each in operation(get, document)["parameters"]] == ["thingName", "count", "preview"]
    assert [*document["components"]["schemas"]["Rpc1Request"]["properties"]] == ["count"]
    assert document["tags"] == [{"name": "Things"}]


def test_the_committed_document_is_that_of_the_protos_and_of_this_release() -> None:
    made = subprocess.run([sys.executable, "-m", "tools.openapi"], cwd=ROOT, check=True, capture_output=True).stdout

    assert made == (ROOT / "gen/modelregistry/v1/openapi.json").read_bytes(), "run make gen"
    assert json.loads(made)["info"]["version"] == version("modelregistry")


def test_the_server_gives_it_to_every_caller(tmp_path: Path) -> None:
    committed = (ROOT / "gen/modelregistry/v1/openapi.json").read_bytes()

    with Server(tmp_path / "cwd") as server:
        get, head, options, post = (
            ask(server, method, "/openapi.json", Authorization="") for method in ("GET", "HEAD", "OPTIONS", "POST")
        )

    assert (get.status, get.headers["content-type"]) == (200, "application/json")
    assert get.content == committed
    assert (head.status, head.content, head.headers["content-type"]) == (200, b"", "application/json")
    assert int(head.headers["content-length"]) == len(committed)
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (post.status, post.error["errorName"]) == (405, "MethodNotAllowed")
