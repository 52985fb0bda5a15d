"""Routes come from the annotations alone: a new annotated RPC needs no code here."""

from __future__ import annotations

import pytest
from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf import descriptor_pb2, descriptor_pool

from modelregistry.v1 import (
    access_service_pb2,
    event_service_pb2,
    model_service_pb2,
    promotion_request_service_pb2,
    promotion_service_pb2,
    recall_service_pb2,
    subscription_service_pb2,
)
from server.gateway.routes import Route, routes_of
from server.rpc.server import SERVICES

NUMBERS = iter(range(1000))


def routes_with(*rules: HttpRule, with_a_list: bool = False) -> list[Route]:
    """The routes of a new service with an RPC for each rule, whose request has a name, a count and perhaps a list."""
    field = descriptor_pb2.FieldDescriptorProto
    package = f"test{next(NUMBERS)}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    message = file.message_type.add(name="Thing")
    message.field.add(name="thing_name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(name="count", number=2, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    if with_a_list:
        message.field.add(name="tags", number=3, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    service = file.service.add(name="Things")
    for number, rule in enumerate(rules):
        method = service.method.add(
            name=f"Rpc{number}", input_type=f".{package}.Thing", output_type=f".{package}.Thing"
        )
        method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    descriptor_pool.Default().Add(file)
    return routes_of([f"{package}.Things"])


def test_every_annotated_rpc_has_its_route() -> None:
    annotated = {
        method.full_name
        for module in (
            model_service_pb2,
            promotion_service_pb2,
            recall_service_pb2,
            promotion_request_service_pb2,
            event_service_pb2,
            subscription_service_pb2,
            access_service_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.GetOptions().HasExtension(annotations_pb2.http)
    }

    routes = routes_of(SERVICES)

    assert {route.method.full_name for route in routes} == annotated
    assert ("POST", "/api/v2/models/{modelRid}/promoteVersion") in {(route.http_method, route.path) for route in routes}


def test_a_new_annotated_rpc_has_a_route() -> None:
    get, put = routes_with(HttpRule(get="/v1/things/{thing_name}"), HttpRule(put="/v1/things/{thing_name}", body="*"))

    assert (get.http_method, get.path, get.has_body) == ("GET", "/v1/things/{thingName}", False)
    assert (put.http_method, put.path, put.has_body) == ("PUT", "/v1/things/{thingName}", True)
    assert get.path_fields == {"thingName"}
    assert "count" in get.query_fields
    assert not put.query_fields


def test_a_post_that_only_asks_changes_nothing() -> None:
    changing = {route.method.name for route in routes_of(SERVICES) if route.changes_something}

    assert changing == {
        *("CreateModel", "CreateModelVersion", "PromoteVersion"),
        *("BatchPromoteVersions", "RollbackBranch", "SetBranchPolicy", "LockBranch", "UnlockBranch"),
        "SetFolderBranchPolicy",
        *("YankVersion", "UnyankVersion", "BatchRollback"),
        *("CreatePromotionRequest", "CreatePolicyChangeRequest", "ReviewPromotionRequest", "WithdrawPromotionRequest"),
        *("CreateSubscription", "UpdateSubscription", "DeleteSubscription", "RotateSubscriptionSecret"),
        "RedeliverEvents",
    }


def test_an_rpc_without_an_annotation_has_no_route() -> None:
    assert "ListBranches" not in {route.method.name for route in routes_of(SERVICES)}


@pytest.mark.parametrize(
    "rule",
    [
        HttpRule(post="/v1/things", body="thing_name"),
        HttpRule(get="/v1/{thing_name=things/*}"),
        HttpRule(get="/v1/things/{nothing}"),
    ],
    ids=["part of the body", "a pattern", "no such field"],
)
def test_an_annotation_that_asks_for_what_the_gateway_cannot_do_stops_it(rule: HttpRule) -> None:
    with pytest.raises(TypeError):
        routes_with(rule)


def test_a_list_in_the_path_stops_it() -> None:
    with pytest.raises(TypeError):
        routes_with(HttpRule(get="/v1/{tags}"), with_a_list=True)


def test_a_list_of_texts_is_in_the_query_once_for_each() -> None:
    [route] = routes_with(HttpRule(get="/v1"), with_a_list=True)

    assert route.query_fields["tags"].is_repeated


def test_an_rpc_can_have_several_routes() -> None:
    routes = routes_with(HttpRule(get="/v1/things", additional_bindings=[HttpRule(get="/v1/others")]))

    assert [route.path for route in routes] == ["/v1/things", "/v1/others"]
