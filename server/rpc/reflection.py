"""Server reflection, in both versions of its protocol, from the descriptor set that clients get elsewhere, too."""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.core.descriptors import descriptor_set

# An open stream holds a thread, so that it may not be open for long.
STREAM_SECONDS = 10.0
# Newer clients ask for v1 first; its messages are those of v1alpha.
NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def add_reflection(server: grpc.Server, services: tuple[str, ...]) -> None:
    """Let the server describe these services, and itself."""
    files = _files()
    servicer = reflection.ReflectionServicer((*services, *NAMES), pool=_Pool(files))
    complete = {file.name: file.SerializeToString() for file in files}

    def reflect(requests: Any, context: grpc.ServicerContext) -> Any:
        limit = threading.Timer(STREAM_SECONDS, context.cancel)
        limit.start()
        try:
            for answer in servicer.ServerReflectionInfo(requests, context):
                if answer.HasField("file_descriptor_response"):
                    # A pool forgets the comments, by which grpcurl tells what a field means.
                    found = answer.file_descriptor_response.file_descriptor_proto
                    found[:] = [complete[FileDescriptorProto.FromString(file).name] for file in found]
                yield answer
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


def _files() -> list[FileDescriptorProto]:
    """Return all that the server describes, each file behind those that it imports."""
    described = descriptor_set(health_pb2, reflection_pb2).file
    v1alpha = next(file for file in described if file.name == reflection_pb2.DESCRIPTOR.name)
    v1 = text_format.Parse(text_format.MessageToString(v1alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    return [*described, v1]


class _Pool:
    """A pool of these files, which also knows in which file a method is: people ask for one by name."""

    def __init__(self, files: list[FileDescriptorProto]) -> None:
        self._pool = DescriptorPool()
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's name for it
        """Return the file. Raises KeyError if no file has the symbol."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file: FileDescriptor = self._pool.FindMethodByName(symbol).containing_service.file
            return file
