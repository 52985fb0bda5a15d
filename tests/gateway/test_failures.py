"""What an HTTP client is told of each failure: the envelope, the status, and whether to try again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from server.core.errors import FieldViolation, InvalidArgument, InvalidModelApi, ModelApiIncompatible
from server.gateway import errors as gateway_errors
from server.gateway.errors import Failure, failure
from server.gateway.routes import Route, routes_of
from server.rpc.server import SERVICES
from server.rpc.status import to_status
from tests.rpc.test_status import TABLE, every_error, sample

ROUTES = {route.method.name: route for route in routes_of(SERVICES)}
HINT = "QoS-Retry-Hint"
WAIT = timedelta(seconds=2)
OF_THE_GATEWAY = {
    name: error
    for name, error in vars(gateway_errors).items()
    if isinstance(error, type) and error.__module__ == gateway_errors.__name__ and hasattr(error, "http_status")
}


def told(error: Any, route: Route | None = None, *, is_repeatable: bool = False) -> Failure:
    return failure(to_status(error, "some-request"), route, is_repeatable=is_repeatable)


@pytest.mark.parametrize("name", TABLE)
def test_every_error_of_the_contract_arrives_with_its_status_name_and_parameters(name: str) -> None:
    code, http_status, parameters = TABLE[name]
    error = sample(every_error()[name])

    answer = told(error)

    assert answer.http_status == http_status
    assert set(answer.body) == {"errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"}
    assert (answer.body["errorCode"], answer.body["errorName"]) == (code, name)
    assert answer.body["errorInstanceId"] == error.instance_id
    assert answer.body["parameters"] == dict.fromkeys(parameters, "x")
    assert answer.body["errorDescription"]


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[1] == 401])
def test_who_showed_no_good_token_is_told_what_to_show(name: str) -> None:
    assert told(sample(every_error()[name])).headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["Overloaded", "StorageUnavailable"])
def test_a_change_that_may_have_happened_is_not_to_be_sent_again(name: str) -> None:
    answer = told(every_error()[name](retry_after=None))

    assert answer.headers[HINT] == "do-not-retry"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("name", ["Overloaded", "StorageUnavailable"])
def test_a_change_that_certainly_did_not_happen_may_be_sent_again(name: str) -> None:
    answer = told(every_error()[name](retry_after=WAIT))

    assert answer.headers["Retry-After"] == "2"
    assert HINT not in answer.headers


@pytest.mark.parametrize("name", ["Overloaded", "StorageUnavailable"])
def test_what_does_no_more_when_it_is_done_twice_may_always_be_sent_again(name: str) -> None:
    assert HINT not in told(every_error()[name](retry_after=None), is_repeatable=True).headers


@pytest.mark.parametrize("name", [name for name, error in OF_THE_GATEWAY.items() if error.http_status in {429, 503}])
def test_a_change_whose_answer_was_lost_is_not_to_be_sent_again(name: str) -> None:
    assert told(sample(OF_THE_GATEWAY[name])).headers[HINT] == "do-not-retry"


def test_the_fields_at_fault_are_named_as_in_the_json() -> None:
    violations = (
        FieldViolation("model_rid", "is required"),
        FieldViolation("model_api.inputs[0].tabular.columns[3].name", "is required"),
    )

    answer = told(InvalidArgument(violations=violations), ROUTES["CreateModelVersion"])

    assert answer.body["parameters"] == {
        "fieldViolations": [
            {"field": "modelRid", "description": "is required"},
            {"field": "modelApi.inputs[0].columns[3].name", "description": "is required"},
        ]
    }


@pytest.mark.parametrize("path", ['inputs["model_rid"].columns["a.source_model"].data_type', 'inputs["' + "a-b " * 200])
@pytest.mark.parametrize("rpc", ["PromoteVersion", "BatchPromoteVersions"])
def test_a_finding_is_told_as_it_was_found(rpc: str, path: str) -> None:
    """It is about a Model API, whose parts it says by name, and not about the request."""
    error = ModelApiIncompatible(
        model_rid="a",
        branch_name="b",
        error_count=1,
        compared_version_number=3,
        violations=(FieldViolation(path, "is another type"),),
    )

    (violation,) = told(error, ROUTES[rpc]).body["parameters"]["fieldViolations"]  # type: ignore[index]

    assert violation["field"] == (path if len(path) < 300 else f"{path[:297]}…")


def test_the_entry_of_a_batch_is_named_as_in_the_json() -> None:
    violations = (FieldViolation("promotions[1]", "no"), FieldViolation("promotions[2].model_rid", "is required"))

    answer = told(InvalidArgument(violations=violations), ROUTES["BatchPromoteVersions"])

    found = [each["field"] for each in answer.body["parameters"]["fieldViolations"]]  # type: ignore[index]
    assert found == ["promotions[1]", "promotions[2].modelRid"]


def test_a_sentence_among_the_parameters_names_the_field_as_in_the_json_too() -> None:
    path = "model_api.inputs[0].tabular.name"
    error = InvalidModelApi(
        error_type="EMPTY_NAME", message=f"{path} is empty", violations=(FieldViolation(path, "is empty"),)
    )

    answer = told(error, ROUTES["CreateModelVersion"])

    assert answer.body["parameters"]["message"] == "modelApi.inputs[0].name is empty"  # type: ignore[index]
