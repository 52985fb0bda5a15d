"""What the OpenAPI document says of requests: what the service takes is described, and what it refuses is not."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource
from server.codec.json_form import from_json, to_json
from server.core.errors import RegistryError
from server.gateway.routes import Route
from server.validation import validate
from tests.codec.samples import thorough
from tests.strategies import model_version_sources, model_versions
from tests.tools.test_openapi import DOCUMENT, ROUTES, operation, parameters, schema_of

BAD_TIMES: list[object] = [
    *("", "now", "2026-11-25", "2026-11-25T00:00:00", "2026-11-25 00:00:00Z", "2026-11-25T00:00:00.1234Z"),
    *("2016-12-31T23:59:60Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "2026-11-25T00:00:00+24:00"),
]

# Parameters


def schema_of_parameter(route: Route, name: str) -> jsonschema.Draft202012Validator:
    schema = {**parameters(route)[name]["schema"], "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def test_a_key_is_a_uuid() -> None:
    """Quotes around it are left to the description: of a choice, generators of clients make no header."""
    key = parameters(ROUTES["PromoteVersion"])["Idempotency-Key"]
    schema = schema_of_parameter(ROUTES["PromoteVersion"], "Idempotency-Key")
    uuid = "8A0c96e7-8d08-4f54-8d62-fec9561f2d8a"

    assert (key["in"], key["required"], key["schema"]["type"]) == ("header", False, "string")
    assert "in double quotes" in key["description"]
    assert schema.is_valid(uuid)
    for wrong in ("", "nonsense", '""', f'"{uuid}', f'{uuid}"', f"{uuid}, {uuid}", uuid.replace("-", "")):
        assert not schema.is_valid(wrong), wrong


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("startTime", ["2026-11-25T00:00:00Z", "2026-11-25t00:00:00.120000z", "0001-01-01T00:00:00-23:59"], BAD_TIMES),
        ("endTime", ["9999-12-31T23:59:59.999Z", "2026-11-25T00:00:00.1+01:00"], BAD_TIMES),
        ("createdBy", ["user:jane"], ["jane", "user:"]),
        ("branch", ["a b"], ["", "x" * 256]),
        ("pageSize", [0, 1000], [-1, 1001, "1"]),
        ("modelRid", ["ri.models.main.model.a"], ["", "ri.models.main.model-version.a"]),
        ("sourceModelVersionRid", ["ri.models.main.model-version.a"], ["", "ri.models.main.model.a"]),
        ("modelVersionRid", ["ri.models.main.model-version.a"], ["", "ri.models.main.model.a"]),
    ],
)
def test_what_lists_promotions_is_described(parameter: str, good: list[object], bad: list[object]) -> None:
    schema = schema_of_parameter(ROUTES["ListPromotions"], parameter)

    assert not parameters(ROUTES["ListPromotions"])[parameter]["required"]
    for value in good:
        schema.validate(value)
    for value in bad:
        assert not schema.is_valid(value), value


# Bodies


MODEL_API: dict[str, Any] = {
    "inputs": [
        {"type": "tabular", "name": "in", "columns": [{"name": "c", "dataType": {"type": "long"}}], "format": "SPARK"}
    ],
    "outputs": [{"type": "unsupported", "unsupportedType": "x", "params": {"a": "b"}}],
}
ITEM = {"type": "double"}
ENTRY = {"modelRid": "ri.models.main.model.a", "sourceModelVersionRid": "ri.models.main.model-version.a"}
UUID = "8a0c96e7-8d08-4f54-8d62-fec9561f2d8a"


def inputs(*given: Any) -> dict[str, Any]:
    return {"modelApi": {"inputs": [*given]}}


def columns(*given: Any) -> dict[str, Any]:
    return inputs({"type": "tabular", "name": "t", "columns": [*given]})


# Names as headers of spreadsheets have them, and such as no name may be.
SPREADSHEET = ["Amount\n(EUR)", "\tamount\r\n", "\xa0amount ", "\u202eamount", "\n"]
CONTROLS = ["a\0", "\x1b[31m", "a\n\x7f", "\x85"]


def parameter(data_type: Any) -> dict[str, Any]:
    return inputs({"type": "parameter", "name": "p", "dataType": data_type})


GOOD: dict[str, dict[str, Any]] = {
    "CreateModel": {"name": "a model", "parentFolderRid": "ri.compass.main.folder.a"},
    "CreateModelVersion": {"modelApi": MODEL_API},
    "PromoteVersion": {"sourceModelVersionRid": "ri.models.main.model-version.a"},
    "CheckPromotion": {"sourceModelVersionRid": "ri.models.main.model-version.a"},
    "BatchPromoteVersions": {"promotions": [ENTRY]},
    "RollbackBranch": {"toVersionNumber": 1},
    "SetBranchPolicy": {"compatibility": "ENFORCE"},
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
    *(("CreateModelVersion", inputs({"type": "tabular", "name": name})) for name in SPREADSHEET),
    *(("CreateModelVersion", columns({"name": name, "dataType": ITEM})) for name in SPREADSHEET),
    ("PromoteVersion", {"branch": "release/1"}),
    (
        "PromoteVersion",
        {"requestId": UUID, "reason": "a\nb", "expectedHeadVersionRid": "ri.models.main.model-version.a"},
    ),
    ("PromoteVersion", {"requestId": None, "reason": None, "expectedHeadVersionRid": None}),
    ("BatchPromoteVersions", {"promotions": [ENTRY | {"branch": "a", "reason": ""}] * 100, "requestId": UUID.upper()}),
    ("RollbackBranch", {"branch": "a", "toVersionNumber": 2**31 - 1}),
    ("SetBranchPolicy", {"branch": None, "compatibility": "OFF"}),
    ("SetBranchPolicy", {"promotionOnly": True, "clearFields": ["compatibility"], "expectedRevision": 0}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((rpc, {"bogus": 1}) for rpc in GOOD),
    # A policy is set without any field.
    *((rpc, {key: None}) for rpc, body in GOOD.items() for key in body if rpc != "SetBranchPolicy"),
    *(("CreateModel", {"name": name}) for name in ["", ".", "..", "a/b", "a\tb", "x" * 701, 1]),
    *((rpc, {"requestId": "nonsense"}) for rpc in GOOD),  # and where there is none, it is no key
    *(("PromoteVersion", {key: ""}) for key in ("requestId", "expectedHeadVersionRid")),
    *(("PromoteVersion", {"reason": reason}) for reason in ("x" * 4097, "a\0b")),
    *(("BatchPromoteVersions", {"promotions": promotions}) for promotions in ([], [{}], [ENTRY] * 101, [None], {})),
    *(("BatchPromoteVersions", {"promotions": [ENTRY | wrong]}) for wrong in ({"branch": ""}, {"requestId": UUID})),
    *(("RollbackBranch", {"toVersionNumber": number}) for number in (0, -1, "1", 2**31)),
    *(("SetBranchPolicy", {"compatibility": mode}) for mode in ("", "warn", "UNSPECIFIED", 1)),
    *(("SetBranchPolicy", {"clearFields": fields}) for fields in (["revision"], [""], "promotionOnly", [1])),
    *(("SetBranchPolicy", {"expectedRevision": number}) for number in (-1, "1")),
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
    *(("CreateModelVersion", inputs({"type": "tabular", "name": name})) for name in CONTROLS),
    *(("CreateModelVersion", columns({"name": name, "dataType": ITEM})) for name in ("", *CONTROLS)),
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


@thorough(30)
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
