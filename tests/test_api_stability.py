"""`make check` lets nobody break the clients of the last release, and lets everybody add to the API."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests.processes import COMMAND

PROTOS = Path(__file__).parents[1] / "protos"
RELEASED = PROTOS / "released.binpb"


def file_of(api: FileDescriptorSet, name: str) -> FileDescriptorProto:
    return next(file for file in api.file if file.name == f"modelregistry/v1/{name}.proto")


def message_of(api: FileDescriptorSet, file: str, name: str) -> DescriptorProto:
    return next(message for message in file_of(api, file).message_type if message.name == name)


def remove_a_field(api: FileDescriptorSet) -> None:
    del message_of(api, "model", "Model").field[-1]


def rename_a_field(api: FileDescriptorSet) -> None:
    field = message_of(api, "model", "Model").field[0]
    field.name, field.json_name = "identifier", "identifier"


def renumber_a_field(api: FileDescriptorSet) -> None:
    message_of(api, "model", "Model").field[0].number = 1000


def remove_an_rpc(api: FileDescriptorSet) -> None:
    del file_of(api, "model_service").service[0].method[0]


def remove_an_enum_value(api: FileDescriptorSet) -> None:
    del file_of(api, "promotion").enum_type[0].value[-1]


def move_to_another_java_package(api: FileDescriptorSet) -> None:
    file_of(api, "model").options.java_package = "org.elsewhere"


def add_a_field(api: FileDescriptorSet) -> None:
    message_of(api, "model", "Model").field.add(
        name="new",
        json_name="new",
        number=1000,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )


def add_an_rpc(api: FileDescriptorSet) -> None:
    service = file_of(api, "model_service").service[0]
    service.method.add().CopyFrom(service.method[0])
    service.method[-1].name = "DoMore"


def add_an_enum_value(api: FileDescriptorSet) -> None:
    file_of(api, "promotion").enum_type[0].value.add(name="PROMOTION_KIND_NEW", number=1000)


BREAKING = [
    remove_a_field,
    rename_a_field,
    renumber_a_field,
    remove_an_rpc,
    remove_an_enum_value,
    move_to_another_java_package,
]
HARMLESS = [add_a_field, add_an_rpc, add_an_enum_value]


@pytest.mark.parametrize("change", BREAKING + HARMLESS)
def test_a_change_of_the_api_is_refused_if_it_breaks_a_client(
    change: Callable[[FileDescriptorSet], None], tmp_path: Path
) -> None:
    api = FileDescriptorSet.FromString(RELEASED.read_bytes())
    change(api)
    changed = tmp_path / "changed.binpb"
    changed.write_bytes(api.SerializeToString())
    buf = [COMMAND.with_name("buf"), "breaking", changed, "--against", RELEASED, "--config", PROTOS / "buf.yaml"]
    said = subprocess.run(buf, capture_output=True, text=True, check=False)
    assert (said.returncode == 0) == (change in HARMLESS), said
    assert bool(said.stdout) == (change in BREAKING), said
