"""Server reflection, in both versions of its protocol."""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

# An open stream holds a thread, so that it may not be open for long.
STREAM_SECONDS = 10.0
# Newer clients ask for v1 first; its messages are those of v1alpha.
NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def add_reflection(server: grpc.Server, services: tuple[str, ...]) -> None:
    """Let the server describe these services, and itself."""
    servicer = reflection.ReflectionServicer((*services, *NAMES), pool=_Pool())

    def reflect(requests: Any, context: grpc.ServicerContext) -> Any:
        limit = threading.Timer(STREAM_SECONDS, context.cancel)
        limit.start()
        try:
            yield from servicer.ServerReflectionInfo(requests, context)
        finally:
            limit.cancel()

    handler = grpc.stream_stream_rpc_method_handler(
        reflect,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in NAMES:
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))


class _Pool:
    """The default pool, which also knows in which file a method is: people ask for one by name."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's name for it
        """Return the file. Raises KeyError if no file has the symbol."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file: FileDescriptor = self._pool.FindMethodByName(symbol).containing_service.file
            return file
