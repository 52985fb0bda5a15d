"""Messages in shape, and how to break them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    ModelApi,
    ModelApiInput,
    TabularType,
)
from modelregistry.v1.model_pb2 import (
    ModelVersionSource,
)
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
)
from server.core.errors import (
    RegistryError,
)
from server.validation import validate

UUID = "0f3b1d3e-8c3f-4a58-9f6d-1f0c5a2b7e90"
MODEL = f"ri.models.main.model.{UUID}"
VERSION = f"ri.models.main.model-version.{UUID}"
FOLDER = f"ri.compass.main.folder.{UUID}"
REPOSITORY = f"ri.stemma.main.repository.{UUID}"
EXPERIMENT = f"ri.models.main.experiment.{UUID}"

ANY = DataType(any={})
ASTRAL = "\N{ROCKET}"  # one character, four bytes, two UTF-16 units

# C0, DEL and C1, each end of each range.
CONTROLS = ["\x00", "\t", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]


def failure(message: Message) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        validate(message)
    return caught.value


def broken_paths(message: Message) -> list[str]:
    return [violation.field for violation in failure(message).violations]


def create_version(**fields: Any) -> CreateModelVersionRequest:
    """A valid CreateModelVersionRequest, but for these fields."""
    return CreateModelVersionRequest(**{"model_rid": MODEL, "model_api": ModelApi(), **fields})


def with_source(**fields: Any) -> CreateModelVersionRequest:
    return create_version(source=ModelVersionSource(**fields))


def with_columns(*columns: Column) -> CreateModelVersionRequest:
    table = TabularType(name="table", columns=columns)
    return create_version(model_api=ModelApi(inputs=[ModelApiInput(tabular=table)]))


def with_data_type(data_type: DataType) -> CreateModelVersionRequest:
    return with_columns(Column(name="column", data_type=data_type))


def arrays(levels: int) -> DataType:
    """A data type so many levels deep: a string in arrays."""
    outermost = DataType()
    innermost = outermost
    for _ in range(levels - 1):
        innermost = innermost.array.item_type
    innermost.string.SetInParent()
    return outermost


def rid_of_length(kind: str, length: int) -> str:
    start = f"ri.models.main.{kind}."
    return start + "x" * (length - len(start))
