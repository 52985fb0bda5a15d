"""`modelregistry protos`: what a generator of clients, or a tool without reflection, needs to know of the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, cast

import typer
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from server.cli.options import option
from server.cli.output import fail, say

# Part of every compiler of protos, none of which would look for them elsewhere.
_OF_THE_COMPILER = "google/protobuf/"
# What clients do well to set, in the form that gRPC libraries take.
_SERVICE_CONFIG = "modelregistry/v1/service_config.json"


def protos(
    out: Annotated[Path | None, option("--out", "Write the .proto files to this folder, imports included.")] = None,
    descriptor_set: Annotated[
        Path | None, option("--descriptor-set", "Write a descriptor set to this file, imports and comments included.")
    ] = None,
) -> None:
    """Write the protos of the API, for protoc, buf and grpcurl.

    [bold]modelregistry protos --out protos[/bold]

    [bold]modelregistry protos --descriptor-set api.binpb && grpcurl -protoset api.binpb list[/bold]
    """
    if out is None and descriptor_set is None:
        fail("give --out, --descriptor-set, or both")
    try:
        if out is not None:
            for name, text in _sources():
                place = out / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(text)
            say(f"the .proto files are in {out}")
        if descriptor_set is not None:
            descriptor_set.write_bytes(_descriptor_set().SerializeToString(deterministic=True))
            say(f"the descriptor set is {descriptor_set}")
    except OSError as error:
        fail(str(error))


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(protos.__name__)(protos)


def _sources() -> Iterator[tuple[str, bytes]]:
    """Return the .proto files that protoc does not bring itself, and the service config, each with its name."""
    ours = [file.name for file in _api() if not file.name.startswith(_OF_THE_COMPILER)]
    for path in (*ours, _SERVICE_CONFIG):
        package, _, name = path.rpartition("/")
        yield path, files(package.replace("/", ".")).joinpath(name).read_bytes()


def _descriptor_set() -> FileDescriptorSet:
    """Return all files, each behind those that it imports, and that of the health service, which is served, too."""
    from grpc_health.v1 import health_pb2

    described = files("modelregistry.v1").joinpath("described.binpb").read_bytes()
    with_comments = {file.name: file for file in FileDescriptorSet.FromString(described).file}
    found = [*_api(), cast("FileDescriptor", health_pb2.DESCRIPTOR)]
    return FileDescriptorSet(file=(with_comments.get(file.name) or _plain(file) for file in found))


def _plain(file: FileDescriptor) -> FileDescriptorProto:
    plain = FileDescriptorProto()
    file.CopyToProto(plain)
    for message in plain.message_type:
        _name_for_json(message, file.message_types_by_name[message.name])
    return plain


def _name_for_json(message: DescriptorProto, described: Descriptor) -> None:
    """Fill in what protoc writes into each descriptor set and Python leaves out; not all readers make it up."""
    for field in message.field:
        field.json_name = described.fields_by_name[field.name].json_name
    for nested in message.nested_type:
        _name_for_json(nested, described.nested_types_by_name[nested.name])


def _api() -> Iterable[FileDescriptor]:
    """Return the files of the services, of errors, and all that these import, each behind what it imports itself."""
    from google.rpc import error_details_pb2, status_pb2

    from modelregistry.v1 import access_service_pb2, model_service_pb2, promotion_service_pb2

    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for imported in file.dependencies:
                add(imported)
            found[file.name] = file

    for module in (model_service_pb2, promotion_service_pb2, access_service_pb2, status_pb2, error_details_pb2):
        add(module.DESCRIPTOR)
    return found.values()
