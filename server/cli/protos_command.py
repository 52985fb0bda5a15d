"""`modelregistry protos`: what a generator of clients, or a tool without reflection, needs to know of the API."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from server.cli.options import option
from server.cli.output import fail, say
from server.core import descriptors

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
            from grpc_health.v1 import health_pb2

            compiled = descriptors.descriptor_set(health_pb2)
            descriptor_set.write_bytes(compiled.SerializeToString(deterministic=True))
            say(f"the descriptor set is {descriptor_set}")
    except OSError as error:
        fail(str(error))


def _sources() -> Iterator[tuple[str, bytes]]:
    """Return the .proto files that protoc does not bring itself, and the service config, each with its name."""
    ours = [file.name for file in descriptors.api_files() if not file.name.startswith(_OF_THE_COMPILER)]
    for path in (*ours, _SERVICE_CONFIG):
        package, _, name = path.rpartition("/")
        yield path, files(package.replace("/", ".")).joinpath(name).read_bytes()
