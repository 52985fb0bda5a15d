"""The OpenAPI document: it is one, it is complete, and what the service writes is what it announces."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from google.api.http_pb2 import HttpRule
from hypothesis import given
from hypothesis import strategies as st

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource
from server.errors import RegistryError
from server.gateway.errors import ERRORS, failure
from server.gateway.openapi import openapi_of
from server.gateway.routes import Route, routes_of
from server.json_form import from_json, to_json
from server.rpc.server import SERVICES
from server.rpc.status import to_status
from server.validation import validate
from tests.gateway.test_refusals import ask
from tests.gateway.test_routes import routes_with
from tests.json_form.samples import thorough
from tests.processes import Server
from tests.rpc.test_status import sample
from tests.strategies import model_version_sources, model_versions

SEED = json.loads((Path(__file__).parents[1] / "e2e" / "seed" / "response.json").read_text())
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
    assert set(parameters(route)) == {*route.path_fields, *route.query_fields, "preview"}
    assert ("requestBody" in described) == route.has_body


def test_nothing_else_is_in_it() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert described == {(route.http_method, route.path) for route in ROUTES.values()}


def test_a_preview_must_be_asked_for_only_where_there_is_one() -> None:
    assert parameters(ROUTES["PromoteVersion"])["preview"]["required"]
    assert parameters(ROUTES["PromoteVersion"])["preview"]["schema"] == {"type": "boolean", "const": True}
    assert not parameters(ROUTES["GetModel"])["preview"]["required"]


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


@thorough(100)
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
@pytest.mark.parametrize("name", ERRORS)
def test_every_failure_that_is_announced_looks_as_announced(route: Route, name: str) -> None:
    answer = failure(to_status(sample(ERRORS[name]), "some-request"), None, is_repeatable=False)
    announced = operation(route)["responses"].get(str(answer.http_status))

    if announced is None:
        assert (
            name in {"MethodNotAllowed", "RequestTooLarge", "UnsupportedMediaType"}
            or (answer.http_status == 409 and not route.changes_something)
            or (answer.http_status == 404 and not route.path_fields)
        )
    elif name != "RouteNotFound":
        schema_of(announced).validate(answer.body)
        assert {*answer.headers} <= {*announced["headers"]}


# Requests


MODEL_API: dict[str, Any] = {
    "inputs": [
        {"type": "tabular", "name": "in", "columns": [{"name": "c", "dataType": {"type": "long"}}], "format": "SPARK"}
    ],
    "outputs": [{"type": "unsupported", "unsupportedType": "x", "params": {"a": "b"}}],
}
ITEM = {"type": "double"}


def inputs(*given: Any) -> dict[str, Any]:
    return {"modelApi": {"inputs": [*given]}}


def parameter(data_type: Any) -> dict[str, Any]:
    return inputs({"type": "parameter", "name": "p", "dataType": data_type})


GOOD: dict[str, dict[str, Any]] = {
    "CreateModel": {"name": "a model", "parentFolderRid": "ri.compass.main.folder.a"},
    "CreateModelVersion": {"modelApi": MODEL_API},
    "PromoteVersion": {"sourceModelVersionRid": "ri.models.main.model-version.a"},
}
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("CreateModel", {"name": "x" * 700}),
    ("CreateModel", {"name": "..."}),
    ("CreateModelVersion", {"branch": "a", "condaRequirements": [""], "source": {"type": "external"}}),
    ("CreateModelVersion", {"branch": None, "condaRequirements": None, "source": None, "linkedExperiment": None}),
    ("CreateModelVersion", {"modelFiles": {"type": "dill", "serializedModelFunction": "a\tb"}}),
    ("CreateModelVersion", {"modelApi": {}}),
    ("CreateModelVersion", {"modelApi": {"inputs": None}}),
    (
        "CreateModelVersion",
        parameter({"type": "map", "keyType": ITEM, "valueType": {"type": "array", "itemType": ITEM}}),
    ),
    ("PromoteVersion", {"branch": "release/1"}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((rpc, {"bogus": 1}) for rpc in GOOD),
    *((rpc, {key: None}) for rpc, body in GOOD.items() for key in body),
    *(("CreateModel", {"name": name}) for name in ["", ".", "..", "a/b", "a\tb", "x" * 701, 1]),
    ("CreateModel", {"parentFolderRid": "ri.models.main.model.a"}),
    ("CreateModel", {"parentFolderRid": "ri.compass.main.folder." + "x" * 255}),
    *(
        ("PromoteVersion", {"branch": branch})
        for branch in ["", "a\tb", "x" * 256, "ri.models.main.model.a", "8A0c96e7-8d08-4f54-8d62-fec9561f2d8a"]
    ),
    ("CreateModelVersion", {"backingRepositories": ["nonsense"]}),
    ("CreateModelVersion", {"condaRequirements": ["a\tb"]}),
    ("CreateModelVersion", {"condaRequirements": [None]}),
    ("CreateModelVersion", {"linkedExperiment": ""}),
    ("CreateModelVersion", {"modelFiles": {"type": "dill", "serializedModelFunction": ""}}),
    ("CreateModelVersion", {"modelFiles": {"type": "uploaded"}}),
    ("CreateModelVersion", {"source": {}}),
    ("CreateModelVersion", {"source": {"type": "fax"}}),
    ("CreateModelVersion", {"source": {"type": "sdk", "bogus": 1}}),
    ("CreateModelVersion", {"source": {"type": "codeRepository", "repositoryRid": "ri.a.b.c.d", "branch": ""}}),
    (
        "CreateModelVersion",
        {
            "source": {
                "type": "promoted",
                "previousModelRid": "ri.models.main.model.a",
                "previousModelVersionRid": "ri.models.main.model-version.a",
            }
        },
    ),
    ("CreateModelVersion", inputs({})),
    ("CreateModelVersion", inputs({"type": "tabular", "name": ""})),
    ("CreateModelVersion", inputs({"type": "tabular", "name": "x", "format": "TABULAR_FORMAT_SPARK"})),
    ("CreateModelVersion", inputs({"type": "unsupported", "unsupportedType": "x", "params": {"a\tb": "c"}})),
    ("CreateModelVersion", inputs({"type": "unsupported", "unsupportedType": "x", "params": {"a": "b\tc"}})),
    ("CreateModelVersion", parameter(None)),
    ("CreateModelVersion", parameter({"type": "array"})),
]


def is_taken(route: Route, body: dict[str, Any]) -> bool:
    """Whether the server takes a body, where the path and the query are good."""
    elsewhere = dict.fromkeys(route.path_fields, "ri.models.main.model.a")
    try:
        validate(from_json({**body, **elsewhere}, route.request_type))
    except RegistryError:
        return False
    return True


@pytest.mark.parametrize(("rpc", "body"), [*GOOD.items(), *TAKEN], ids=str)
def test_what_is_taken_is_described(rpc: str, body: dict[str, Any]) -> None:
    assert is_taken(ROUTES[rpc], GOOD[rpc] | body)
    schema_of(operation(ROUTES[rpc])["requestBody"]).validate(GOOD[rpc] | body)


@pytest.mark.parametrize(("rpc", "body"), REFUSED, ids=str)
def test_what_is_refused_is_not_described(rpc: str, body: dict[str, Any]) -> None:
    assert not is_taken(ROUTES[rpc], GOOD[rpc] | body)
    assert not schema_of(operation(ROUTES[rpc])["requestBody"]).is_valid(GOOD[rpc] | body)


@thorough(100)
@given(stored=model_versions(), source=st.none() | model_version_sources(promoted=False))
def test_every_version_that_can_be_created_is_described(
    stored: ModelVersion, source: ModelVersionSource | None
) -> None:
    route = ROUTES["CreateModelVersion"]
    asked = {field.name for field in route.method.input_type.fields} - {"source"}
    said = {field.name: value for field, value in stored.ListFields() if field.name in asked}
    body = to_json(route.request_type(**said, source=source))
    body = {key: value for key, value in body.items() if key not in route.path_fields}

    assert is_taken(route, body)
    schema_of(operation(route)["requestBody"]).validate(body)


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


def test_the_server_gives_it_to_everybody(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server:
        get, head, options, post = (
            ask(server, method, "/openapi.json", Authorization="") for method in ("GET", "HEAD", "OPTIONS", "POST")
        )

    assert (get.status, get.headers["content-type"]) == (200, "application/json")
    assert json.loads(get.content) == openapi_of([*ROUTES.values()], version("modelregistry"))
    assert (head.status, head.content, head.headers["content-type"]) == (200, b"", "application/json")
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (post.status, post.error["errorName"]) == (405, "MethodNotAllowed")
