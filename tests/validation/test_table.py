"""The table of rules is complete."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1 import (
    access_service_pb2,
    event_service_pb2,
    model_service_pb2,
    promotion_request_service_pb2,
    promotion_service_pb2,
    recall_service_pb2,
    subscription_service_pb2,
)
from modelregistry.v1.model_api_pb2 import DataType
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.validation.table import OF_REQUESTS, REQUIRED, RULES
from server.validation.walk import row_of, rule_told_of, unions_of


def arriving_messages() -> Iterator[Descriptor]:
    """What a client or an import file can send."""
    for module in (
        model_service_pb2,
        promotion_service_pb2,
        recall_service_pb2,
        promotion_request_service_pb2,
        event_service_pb2,
        subscription_service_pb2,
        access_service_pb2,
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from (method.input_type for method in service.methods)
    yield from (Model.DESCRIPTOR, ModelVersion.DESCRIPTOR)


def reachable() -> list[Descriptor]:
    """The messages that arrive and all that they are made of, but for google's own."""
    found: dict[str, Descriptor] = {}

    def visit(descriptor: Descriptor) -> None:
        if descriptor.full_name in found or descriptor.file.package != "modelregistry.v1":
            return
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None and not is_map(field):
                visit(field.message_type)

    for descriptor in arriving_messages():
        visit(descriptor)
    return list(found.values())


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def test_every_field_that_can_be_wrong_by_itself_has_a_rule() -> None:
    """Strings, numbers, enums and maps; a bool is right either way, and a message is what it is made of."""
    fields = [field for descriptor in reachable() for field in descriptor.fields]
    judged = [field for field in fields if field.type != field.TYPE_BOOL and (not field.message_type or is_map(field))]

    assert len(judged) > 40
    assert [row_of(field) for field in judged if rule_told_of(field) is None] == []


def test_every_union_has_a_row() -> None:
    unions: list[OneofDescriptor] = [union for descriptor in reachable() for union in unions_of(descriptor)]

    assert {row_of(union) for union in unions} == {row for row in REQUIRED if row.endswith(".type")}


def test_every_time_and_every_data_type_has_a_row() -> None:
    fields = [field for descriptor in reachable() for field in descriptor.fields if field.message_type is not None]

    times = [field for field in fields if field.message_type is Timestamp.DESCRIPTOR]
    assert times
    assert all(row_of(field) in RULES for field in times)
    data_types = [field for field in fields if field.message_type is DataType.DESCRIPTOR]
    assert data_types
    assert all(row_of(field) in REQUIRED for field in data_types)


def test_every_enum_field_refuses_a_number_that_the_enum_lacks() -> None:
    fields = [field for descriptor in reachable() for field in descriptor.fields if field.enum_type is not None]

    assert fields
    for field in fields:
        enum: EnumDescriptor = field.enum_type
        assert list(RULES[row_of(field)](max(enum.values_by_number) + 1)), field.full_name


def test_every_row_is_for_something_that_can_arrive() -> None:
    parts = [part for descriptor in reachable() for part in [*descriptor.fields, *unions_of(descriptor)]]

    assert {*RULES, *REQUIRED} <= {row_of(part) for part in parts}
    without_row = {part.name for part in parts if part.full_name.count("Request.") and row_of(part) not in RULES}
    assert {*OF_REQUESTS} <= without_row
