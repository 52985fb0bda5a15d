"""Puts the services, the chain around them, health and reflection into one gRPC server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from modelregistry.v1 import access_service_pb2, access_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from server.auth.tokens import TokenVerifier
from server.rpc.access_service import AccessService
from server.rpc.interceptors import Chain
from server.rpc.interceptors.authentication import current_caller
from server.rpc.model_service import ModelService
from server.storage.repository import Repository

SERVICES = tuple(
    service.full_name
    for file in (model_service_pb2, access_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
# An open reflection stream holds a thread; strangers may hold these, and none of those that serve calls.
REFLECTION_THREADS = 2
# Newer clients ask for v1 first; its messages are those of v1alpha.
REFLECTION_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def build_server(
    repository: Repository,
    verifier: TokenVerifier,
    health_servicer: health.HealthServicer,
    *,
    threads: int,
    max_message_bytes: int,
) -> grpc.Server:
    """Return a server that serves everything but has no port yet and is not started."""
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
        interceptors=[Chain(verifier)],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # Two servers on one port by accident would each see half of the calls.
            ("grpc.so_reuseport", 0),
        ],
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(repository, current_caller), server)
    access_service_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(repository, current_caller), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    _add_reflection(server)
    return server


def _add_reflection(server: grpc.Server) -> None:
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    servicer = reflection.ReflectionServicer((*SERVICES, health_name, *REFLECTION_NAMES))
    pool = ThreadPoolExecutor(REFLECTION_THREADS, thread_name_prefix="reflection")

    def reflect(requests: Any, context: grpc.ServicerContext) -> Any:
        return servicer.ServerReflectionInfo(requests, context)

    reflect.experimental_thread_pool = pool  # type: ignore[attr-defined]
    handler = grpc.stream_stream_rpc_method_handler(
        reflect,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION_NAMES
        )
    )
