"""The protos of the API as descriptors, with what the compiled modules leave out: comments, and the names in JSON."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from types import ModuleType

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet


@cache
def described() -> FileDescriptorSet:
    """Return the files of the API alone, as protoc wrote them, with comments."""
    return FileDescriptorSet.FromString(files("modelregistry.v1").joinpath("described.binpb").read_bytes())


def descriptor_set(*modules: ModuleType) -> FileDescriptorSet:
    """Return `api_files`, and behind them the files of other compiled modules with all that these import."""
    with_comments = {file.name: file for file in described().file}
    return FileDescriptorSet(file=(with_comments.get(file.name) or _plain(file) for file in api_files(*modules)))


def api_files(*modules: ModuleType) -> Iterable[FileDescriptor]:
    """Return the files of the services, of errors, and all that these import, each behind what it imports itself.

    Those of other compiled modules follow in the same way.
    """
    from google.rpc import error_details_pb2, status_pb2

    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for imported in file.dependencies:
                add(imported)
            found[file.name] = file

    for module in (*service_modules(), status_pb2, error_details_pb2, *modules):
        add(module.DESCRIPTOR)
    return found.values()


def service_modules() -> tuple[ModuleType, ...]:
    """Return the compiled modules of the services, in the order in which these are told."""
    from modelregistry.v1 import (
        access_service_pb2,
        event_service_pb2,
        model_service_pb2,
        promotion_request_service_pb2,
        promotion_service_pb2,
        recall_service_pb2,
        subscription_service_pb2,
    )

    return (
        model_service_pb2,
        promotion_service_pb2,
        recall_service_pb2,
        promotion_request_service_pb2,
        event_service_pb2,
        subscription_service_pb2,
        access_service_pb2,
    )


def _plain(file: FileDescriptor) -> FileDescriptorProto:
    plain = FileDescriptorProto()
    file.CopyToProto(plain)
    for message in plain.message_type:
        _name_for_json(message, file.message_types_by_name[message.name])
    return plain


def _name_for_json(message: DescriptorProto, descriptor: Descriptor) -> None:
    """Fill in what protoc writes into each descriptor set and Python leaves out; not all readers make it up."""
    for field in message.field:
        field.json_name = descriptor.fields_by_name[field.name].json_name
    for nested in message.nested_type:
        _name_for_json(nested, descriptor.nested_types_by_name[nested.name])
