"""Reflection, in both versions of its protocol, without credentials."""

from __future__ import annotations

import itertools
import logging
import threading

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.rpc.server import SERVICES
from tests.rpc.harness import Registry


def reflect(registry: Registry, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    call = registry.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=10)
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_service_is_listed(registry: Registry, version: str) -> None:
    listed = {service.name for service in reflect(registry, version, list_services="").list_services_response.service}
    assert listed == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_described_with_all_that_it_imports(registry: Registry, version: str, service: str) -> None:
    answer = reflect(registry, version, file_containing_symbol=service)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    names = {file.name for file in files}
    assert {imported for file in files for imported in file.dependency} <= names


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_method_is_found_by_its_name(registry: Registry, version: str) -> None:
    answer = reflect(registry, version, file_containing_symbol="modelregistry.v1.ModelService.PromoteVersion")
    (first, *_) = answer.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(first).name == "modelregistry/v1/model_service.proto"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_an_unknown_symbol_is_not_found(registry: Registry, version: str) -> None:
    assert reflect(registry, version, file_containing_symbol="no.Such").error_response.error_code == 5


def test_a_stream_that_nobody_uses_is_ended(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rpc.reflection.STREAM_SECONDS", 0.2)
    ended = threading.Event()
    call = registry.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    streams = [call(iter(ended.wait, True), timeout=30) for _ in range(8)]
    try:
        assert reflect(registry, "v1", list_services="").list_services_response.service
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
            stream = call(itertools.chain([question], iter(ended.wait, True)), timeout=30)
            assert next(stream)
            stream.cancel()
        assert reflect(registry, "v1", list_services="").list_services_response.service
        ended.set()
    assert not caplog.records
