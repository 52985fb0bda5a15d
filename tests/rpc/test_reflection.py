"""Reflection, in both versions of its protocol, without credentials."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.core.descriptors import descriptor_set
from server.rpc.reflection import NAMES
from server.rpc.server import HEALTH, SERVICES
from tests.rpc.harness import Registry


def reflect(registry: Registry, version: str, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    call = registry.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=180)
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_service_is_listed(any_registry: Registry, version: str) -> None:
    answer = reflect(any_registry, version, list_services="").list_services_response
    assert {service.name for service in answer.service} == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def files(answer: reflection_pb2.ServerReflectionResponse) -> list[descriptor_pb2.FileDescriptorProto]:
    """The files of an answer, of which there must be some."""
    serialized = answer.file_descriptor_response.file_descriptor_proto
    assert serialized, answer
    return [descriptor_pb2.FileDescriptorProto.FromString(file) for file in serialized]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", [*SERVICES, HEALTH, *NAMES])
def test_a_service_is_described_with_all_that_it_imports(any_registry: Registry, version: str, service: str) -> None:
    found = files(reflect(any_registry, version, file_containing_symbol=service))
    assert f"{found[0].package}.{found[0].service[0].name}" == service
    assert {imported for file in found for imported in file.dependency} <= {file.name for file in found}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", [*SERVICES, HEALTH, *NAMES])
def test_every_field_has_its_name_in_json(any_registry: Registry, version: str, service: str) -> None:
    """Without it grpcurl writes `created_time` where the descriptor set and HTTP have `createdTime`."""
    found = files(reflect(any_registry, version, file_containing_symbol=service))
    assert [field.name for file in found for field in fields(file) if not field.json_name] == []


def fields(file: descriptor_pb2.FileDescriptorProto) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        yield from message.field


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_described_as_in_the_descriptor_set_comments_included(
    any_registry: Registry, service: str
) -> None:
    shipped = {file.name: file for file in descriptor_set().file}
    found = files(reflect(any_registry, "v1", file_containing_symbol=service))
    assert {file.name: file for file in found}.items() <= shipped.items()
    assert [file.name for file in found if file.package == "modelregistry.v1" and not comments(file)] == []


def comments(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    return [location.leading_comments for location in file.source_code_info.location if location.leading_comments]


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_is_small_enough_to_be_given_to_strangers(any_registry: Registry, service: str) -> None:
    assert reflect(any_registry, "v1", file_containing_symbol=service).ByteSize() < 192 * 2**10


def test_a_file_is_found_by_its_name_with_what_it_imports(any_registry: Registry) -> None:
    found = files(reflect(any_registry, "v1", file_by_filename="google/api/annotations.proto"))
    imported = {"google/api/http.proto", "google/protobuf/descriptor.proto"}
    assert {file.name for file in found} == {"google/api/annotations.proto", *imported}
    assert reflect(any_registry, "v1", file_by_filename="no/such.proto").error_response.error_code == 5


def test_extensions_are_found_by_their_numbers(any_registry: Registry) -> None:
    """Of which there is one, the annotation of an RPC with its place in HTTP."""
    options = "google.protobuf.MethodOptions"
    numbers = reflect(any_registry, "v1", all_extension_numbers_of_type=options).all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == (options, [72295728])
    asked = reflection_pb2.ExtensionRequest(containing_type=options, extension_number=72295728)
    assert files(reflect(any_registry, "v1", file_containing_extension=asked))[0].name == "google/api/annotations.proto"
    unknown = reflection_pb2.ExtensionRequest(containing_type=options, extension_number=1)
    assert reflect(any_registry, "v1", file_containing_extension=unknown).error_response.error_code == 5


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_method_is_found_by_its_name(any_registry: Registry, version: str) -> None:
    answer = reflect(any_registry, version, file_containing_symbol="modelregistry.v1.ModelService.PromoteVersion")
    (first, *_) = answer.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(first).name == "modelregistry/v1/model_service.proto"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_an_unknown_symbol_is_not_found(any_registry: Registry, version: str) -> None:
    assert reflect(any_registry, version, file_containing_symbol="no.Such").error_response.error_code == 5


def test_a_stream_that_nobody_uses_is_ended(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rpc.reflection.STREAM_SECONDS", 0.2)
    ended = threading.Event()
    call = registry.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")

    def one_request() -> Iterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        ended.wait()

    streams = [call(one_request(), timeout=180) for _ in range(8)]
    try:
        assert reflect(registry, "v1", list_services="").list_services_response.service
        for stream in streams:
            next(stream)
        assert {stream.code() for stream in streams} == {grpc.StatusCode.CANCELLED}
    finally:
        ended.set()


def test_a_client_that_goes_away_in_mid_stream_is_no_failure(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    call = registry.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with caplog.at_level(logging.INFO):
        for _ in range(8):
            question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            stream = call(itertools.chain([question], iter(ended.wait, True)), timeout=180)
            assert next(stream)
            stream.cancel()
        assert reflect(registry, "v1", list_services="").list_services_response.service
        ended.set()
    assert not caplog.records
