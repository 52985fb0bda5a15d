"""The JSON Schemas of messages in the contract's JSON form; driven, like the form itself, by their descriptors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from server.codec.json_form import shape_of
from server.validation.keywords import keywords_of
from server.validation.walk import find_broken, rule_of
from tools.openapi.comments import comment_on

Schema = dict[str, object]

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
}
_TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "examples": ["2003-05-06T12:34:56.789Z"],
}
_DURATION: Schema = {"type": "string", "pattern": r"^[0-9]{1,12}(?:\.[0-9]{1,3})?s$", "examples": ["3600s", "0.500s"]}
# What is read: to the millisecond, and with a time zone.
_WHOLE_MILLISECONDS: Schema = {
    "pattern": (
        "^(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[Tt]"
        r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,3}0*)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
    )
}
_NULL: Schema = {"type": "null"}


class Schemas:
    """The schemas of answers: each message is a component, made when the first schema refers to it.

    What is always written is required, and more keys than are known today may come.
    """

    def __init__(self, components: dict[str, Schema]):
        self._components = components

    def of(self, message: Descriptor) -> Schema:
        """Return a reference to the schema of a message."""
        name = self._name(_short(message))
        if name not in self._components:
            self._components[name] = {}  # where a message contains its own kind, it finds this
            schema = self._union(message) if shape_of(message).is_union else self.object_of(message)
            self._components[name] = schema | comment_on(message.full_name)
        return _reference(name)

    def object_of(self, message: Descriptor, kind: str | None = None, without: Collection[str] = ()) -> Schema:
        """Return the schema of a message that is no union, but for some keys; `kind` names it as a member of one."""
        fields = {field.json_name: field for field in message.fields if field.json_name not in without}
        required = self.required_keys(message)
        properties = {
            key: self._property(field, key in required) | comment_on(field.full_name) for key, field in fields.items()
        }
        needed = [key for key in fields if key in required]
        if kind is not None:
            properties = {"type": {"type": "string", "const": kind}, **properties}
            needed = ["type", *needed]
        return {"type": "object", "properties": properties, "required": needed}

    def value_of(self, field: FieldDescriptor) -> Schema:
        """Return the schema of what a field holds, if it holds anything."""
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one_value_of(message.fields_by_name["value"])}
        one = self._one_value_of(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one_value_of(self, field: FieldDescriptor) -> Schema:
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.message_type is not None:
            if field.message_type.full_name == Duration.DESCRIPTOR.full_name:
                return _DURATION
            is_time = field.message_type.full_name == Timestamp.DESCRIPTOR.full_name
            return self._time() if is_time else self.of(field.message_type)
        return _SCALARS[field.type]

    def _union(self, message: Descriptor) -> Schema:
        members: dict[str, Schema] = {}
        for field in message.fields:
            assert field.message_type is not None, "every member of a union has a shape, so it is a message"
            kind = field.json_name
            name = self._name(_short(message) + kind[0].upper() + kind[1:])
            self._components[name] = self.object_of(field.message_type, kind) | comment_on(field.full_name)
            members[kind] = _reference(name)
        mapping = {kind: reference["$ref"] for kind, reference in members.items()}
        return {"oneOf": [*members.values()], "discriminator": {"propertyName": "type", "mapping": mapping}}

    def _enum(self, enum: EnumDescriptor) -> Schema:
        prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
        names = [value.name.removeprefix(prefix) for value in enum.values if value.number != 0]
        self._components[enum.name] = {"type": "string", "enum": names, **comment_on(enum.full_name)}
        return _reference(enum.name)

    def _name(self, name: str) -> str:
        return name

    def _time(self) -> Schema:
        return _TIME

    def required_keys(self, message: Descriptor) -> set[str]:
        """Return the keys that are always there."""
        fields = shape_of(message).fields
        return {key for key, field in fields.items() if field.kind in {"plain", "list", "map"}}

    def _property(self, field: FieldDescriptor, required: bool) -> Schema:
        return self.value_of(field)


class RequestSchemas(Schemas):
    """The schemas of requests: what validation wants is required, its rules hold, and no other keys may come."""

    def object_of(self, message: Descriptor, kind: str | None = None, without: Collection[str] = ()) -> Schema:
        """Return the schema of a message, as that of an answer, and closed."""
        return super().object_of(message, kind, without) | {"additionalProperties": False}

    def value_of(self, field: FieldDescriptor) -> Schema:
        """Return the schema of what a field may hold, if it is given."""
        return _merged(super().value_of(field), keywords_of(rule_of(field)))

    def _name(self, name: str) -> str:
        return name if name.endswith("Request") else f"{name}Request"

    def _time(self) -> Schema:
        return _TIME | _WHOLE_MILLISECONDS

    def required_keys(self, message: Descriptor) -> set[str]:
        """Return the keys without which no request is valid."""
        # What validation misses in an empty message.
        missing = {path for path, _ in find_broken(GetMessageClass(message)())}
        return {key for key, field in shape_of(message).fields.items() if field.name in missing}

    def _property(self, field: FieldDescriptor, required: bool) -> Schema:
        schema = self.value_of(field)
        if required:
            return schema
        # A null counts as a key that is absent.
        return {**schema, "type": [schema["type"], "null"]} if "type" in schema else {"anyOf": [schema, _NULL]}


def _merged(schema: Schema, keywords: Mapping[str, object]) -> Schema:
    """Return a schema with more keywords, also in what it says of items and entries."""
    result = dict(schema)
    for key, value in keywords.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = {**result[key], **value} if both else value  # type: ignore[dict-item]
    return result


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _short(message: Descriptor) -> str:
    """Return the name of a message, of an inner one with that of the outer."""
    return message.full_name.removeprefix(f"{message.file.package}.")
