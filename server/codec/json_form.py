"""The contract's JSON form of the messages: one codec, driven by their protobuf descriptors.

Keys are lowerCamelCase, and enum values lack their type's prefix. A union, which is a message whose one real oneof is
named `type`, is flattened: the key `type` names the member that is set, and the member's own keys stand beside it. A
time and a duration are text in whole milliseconds. Lists, maps and plain scalars are always present; optional fields,
messages and enum values that are unset are absent, and an unset union is `{}`.

Reading is strict, but a key whose value is null counts as absent, and which keys are required is not decided here.
Message types that hold anything else, such as a map of messages, are a TypeError on first use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from server.core.errors import FieldViolation, InvalidArgument

# Protobuf parses 100 messages inside each other. The rest is for what wraps one later, such as a list of versions.
MAX_DEPTH = 90
MAX_DIGITS = 100
MAX_VIOLATIONS = 1000  # far more than a client is told

_SHOWN = 100  # how many characters of a key or value a violation repeats
_PART = re.compile(r'\.?(?P<name>\w+)|(?P<subscript>\[(?:\d+|"(?:[^"\\]|\\.)*")\])')
# Stricter than `datetime`, which takes other separators and hour 24, and cuts what is finer than a microsecond.
_TIME = re.compile(
    r"(?a)(?P<time>\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,3})?)((?<=\.\d{3})0+)?"
    r"(?P<offset>[Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
)
# As many seconds as the message can hold.
_DURATION = re.compile(r"(?a)-?\d{1,12}(\.\d{1,3})?s")

M = TypeVar("M", bound=Message)


def to_json(message: Message) -> dict[str, object]:
    """Return the JSON form of a message.

    Raises ValueError for what the form cannot express and validation keeps out: an unknown enum number, a time that
    is not in whole milliseconds of the years 1 to 9999, messages nested deeper than MAX_DEPTH.
    """
    return _object_of(message, 1)


def from_json(value: object, message_type: type[M], path: str = "") -> M:
    """Return the message whose JSON form is the value; `path` says where the value stands in a larger document.

    Raises InvalidArgument with the violations, up to a bound, each at its path: `modelApi.inputs[0].columns[3].name`.
    """
    message = message_type()
    violations = tuple(found for found, _ in zip(_fill(message, value, path, 1), range(MAX_VIOLATIONS), strict=False))
    if violations:
        raise InvalidArgument(violations=violations)
    return message


def dumps(message: Message, indent: int | None = None) -> str:
    """Return the JSON form of a message as text that UTF-8 can encode. Raises ValueError as `to_json` does."""
    return json.dumps(to_json(message), ensure_ascii=False, indent=indent)


def loads(text: str | bytes) -> object:
    """Return the value of a JSON text; bytes are UTF-8. A number without a fraction is an int, also 1.0 and 1e2.

    Raises InvalidArgument for broken JSON, duplicate keys, NaN, overlong numbers, bad Unicode and bottomless nesting.
    """
    try:
        decoded = (text.encode() if isinstance(text, str) else text).decode()
        value: object = json.loads(
            decoded, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=integer, parse_float=real
        )
        if "\\u" in decoded:  # an escape can still spell half a surrogate pair, which no UTF-8 holds
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(violations=(FieldViolation("", f"the text is not valid JSON: {error}"),)) from None
    return value


def json_path(descriptor: Descriptor | None, path: str) -> str:
    """Return the path in JSON of a path in a message: `model_api.inputs[0].tabular.name` is `modelApi.inputs[0].name`.

    A part that the message does not have stays as it is.
    """
    result = ""
    for part in _PART.finditer(path):
        if part["subscript"]:
            result += part["subscript"]
            continue
        field = descriptor.fields_by_name.get(part["name"]) if descriptor else None
        is_member = field is not None and field.containing_oneof is not None and field.containing_oneof.name == "type"
        if not is_member:  # members of a union have no key of their own
            result += f".{field.json_name if field else part['name']}"
        descriptor = field.message_type if field else None
    return result.removeprefix(".")


def _object_of(message: Message, depth: int) -> dict[str, object]:
    if depth > MAX_DEPTH:
        raise ValueError(f"messages are nested deeper than {MAX_DEPTH}")
    is_union, fields, keys = shape_of(message.DESCRIPTOR)
    if is_union:
        name = message.WhichOneof("type")
        if name is None:
            return {}
        return {"type": keys[name], **_object_of(getattr(message, name), depth + 1)}
    result: dict[str, object] = {}
    for key, (name, kind, codec) in fields.items():
        if kind == "plain":
            result[key] = getattr(message, name)
        elif kind == "list":
            result[key] = [_value_of(item, codec, depth) for item in getattr(message, name)]
        elif kind == "map":
            result[key] = dict(getattr(message, name))
        elif message.HasField(name) if kind == "optional" else getattr(message, name) != 0:
            result[key] = _value_of(getattr(message, name), codec, depth)
    return result


def _value_of(value: Any, codec: _Codec | None, depth: int) -> object:
    codec = codec or _AS_TEXT.get(type(value))
    return _object_of(value, depth + 1) if codec is None else codec.encode(value)


def _fill(message: Message, value: object, path: str, depth: int) -> Iterator[FieldViolation]:
    """Fill a message with a value, and yield all violations in it, however deep it is."""
    if isinstance(message, Timestamp):
        yield from _store(message.FromDatetime, _TIMES, value, path)
    elif isinstance(message, Duration):
        yield from _store(message.FromJsonString, _DURATIONS, value, path)
    elif not isinstance(value, dict):
        yield FieldViolation(path, f"must be an object, not {_shown(value)}")
    elif depth > MAX_DEPTH:
        yield FieldViolation(path, f"is nested deeper than {MAX_DEPTH} messages")
    elif shape_of(message.DESCRIPTOR).is_union:
        yield from _fill_union(message, value, path, depth)
    else:
        fields = shape_of(message.DESCRIPTOR).fields
        for key, item in value.items():
            if key not in fields:
                yield FieldViolation(_at(path, key), "is not a known key")
            elif item is not None:
                yield from _fill_field(message, fields[key], item, _at(path, key), depth)


def _fill_union(message: Message, value: dict[str, object], path: str, depth: int) -> Iterator[FieldViolation]:
    members = shape_of(message.DESCRIPTOR).fields
    rest = dict(value)
    kind = rest.pop("type", None)
    if isinstance(kind, str) and kind in members:
        member = getattr(message, members[kind].name)
        member.SetInParent()
        yield from _fill(member, rest, path, depth + 1)
    elif kind is not None or rest:
        yield FieldViolation(_at(path, "type"), f"must be one of {', '.join(members)}, not {_shown(kind)}")


def _fill_field(message: Message, field: _Field, value: object, path: str, depth: int) -> Iterator[FieldViolation]:
    target = getattr(message, field.name)
    match field.kind, value:
        case "list", list():
            for index, item in enumerate(value):
                if field.codec is None:
                    yield from _fill(target.add(), item, f"{path}[{index}]", depth + 1)
                else:
                    yield from _store(target.append, field.codec, item, f"{path}[{index}]")
        case "map", dict():
            for key, item in value.items():
                yield from _store(partial(target.__setitem__, key), _STRING, item, _at(path, key))
        case "list" | "map", _:
            wanted = "a list" if field.kind == "list" else "an object"
            yield FieldViolation(path, f"must be {wanted}, not {_shown(value)}")
        case _ if field.codec is None:
            target.SetInParent()  # an empty object is a message that is there
            yield from _fill(target, value, path, depth + 1)
        case _:
            yield from _store(partial(setattr, message, field.name), field.codec, value, path)


def _store(store: Callable[[Any], object], codec: _Codec, value: object, path: str) -> Iterator[FieldViolation]:
    try:
        store(codec.decode(value))
    except ValueError as error:  # also protobuf's own, for half a surrogate pair or a number out of range
        yield FieldViolation(path, str(error))


def _at(path: str, key: str) -> str:
    """Return the path of a key, in brackets if the key could be mistaken for something else."""
    if not key.isidentifier() or len(key) > _SHOWN:
        return f"{path}[{json.dumps(key[:_SHOWN])}]"
    return f"{path}.{key}" if path else key


def _shown(value: object) -> str:
    """Return a value as violations name it: short, and on one line."""
    if isinstance(value, str):
        return repr(value[:_SHOWN]) + "…" * (len(value) > _SHOWN)
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in members:
        if key in result:
            raise ValueError(f"the key {_shown(key)} occurs twice in one object")
        result[key] = value
    return result


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def integer(text: str) -> int:
    """Return the value of digits. Raises ValueError for more of them than any field can hold."""
    if len(text) > MAX_DIGITS:  # Python itself refuses thousands, in words that are no use to a client.
        raise ValueError(f"the number {text[:MAX_DIGITS]}… is too long")
    return int(text)


def real(text: str) -> int | float:
    """Return the value of a number with a fraction or an exponent: of 1.0 or 1e2, an int."""
    # Most have a fraction and no exponent, and a body may have a million of them.
    if text[-1] != "0" and "e" not in text and "E" not in text:
        return float(text)
    whole = whole_number(text)
    return float(text) if whole is None else whole


def whole_number(text: str) -> int | None:
    """Return the integer that a number is; None for a fraction, and for an integer of more than MAX_DIGITS digits."""
    with suppress(InvalidOperation):  # an exponent that no Decimal holds
        # A float would round: 1.00000000000000000001 is no integer. The bound keeps 1e999999999 from being written out.
        number = Decimal(text)
        if number.is_zero() or (abs(number.adjusted()) < MAX_DIGITS and number == int(number)):
            return int(number)
    return None


class _Codec(NamedTuple):
    """How a value that is not a message is written and read; both raise ValueError with a sentence."""

    encode: Callable[[Any], object]
    decode: Callable[[object], object]


class _Field(NamedTuple):
    name: str
    kind: Literal["plain", "optional", "enum", "list", "map"]  # an enum is absent if it is 0, a plain value never
    codec: _Codec | None  # None: the values are messages


class Shape(NamedTuple):
    """What the JSON form makes of a kind of message."""

    is_union: bool
    fields: Mapping[str, _Field]  # by JSON key; of a union, by the value of `type`
    keys: Mapping[str, str]  # the other way round: the key, or the value of `type`, by the name of the field


@cache
def shape_of(message: Descriptor) -> Shape:
    """Return the shape of a kind of message. Raises TypeError if it has no JSON form."""
    oneofs = _oneofs(message)
    for field in message.fields if oneofs else ():
        part = field.message_type
        if oneofs != ["type"] or part is None or _oneofs(part) or any(key.json_name == "type" for key in part.fields):
            raise TypeError(f"{field.full_name} has no place in the JSON form of a union")
    fields = {field.json_name: _field(field) for field in message.fields}
    return Shape(bool(oneofs), fields, {field.name: key for key, field in fields.items()})


def _oneofs(message: Descriptor) -> list[str]:
    # An `optional` field stands in a oneof of its own, which is only in the descriptor: `_required` for `required`.
    return [oneof.name for oneof in message.oneofs if not oneof.name.startswith("_")]


def _field(field: FieldDescriptor) -> _Field:
    message, enum = field.message_type, field.enum_type
    if message is not None and message.GetOptions().map_entry:
        if any(part.type != FieldDescriptor.TYPE_STRING for part in message.fields):
            raise TypeError(f"{field.full_name} is not a map from strings to strings")
        return _Field(field.name, "map", _STRING)
    if message is None and enum is None and field.type not in _SCALARS:
        raise TypeError(f"{field.full_name} is of a kind that has no JSON form here")
    codec = None if message else _enum_codec(enum) if enum else _SCALARS[field.type]
    if field.is_repeated:
        return _Field(field.name, "list", codec)
    return _Field(field.name, "optional" if field.has_presence else "enum" if enum else "plain", codec)


@cache
def _enum_codec(enum: EnumDescriptor) -> _Codec:
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    names = {value.number: value.name.removeprefix(prefix) for value in enum.values if value.number != 0}
    return _Codec(partial(_one_of, names), partial(_one_of, {name: number for number, name in names.items()}))


def _exactly(kind: type, what: str, value: object) -> object:
    if type(value) is not kind:  # isinstance would take true for a number
        raise ValueError(f"must be {what}, not {_shown(value)}")
    return value


def _one_of(table: Mapping[Any, object], value: object) -> object:
    if not isinstance(value, str | int) or value not in table:
        raise ValueError(f"must be one of {', '.join(map(str, table))}, not {_shown(value)}")
    return table[value]


def _encode_time(time: Timestamp) -> str:
    if time.nanos % 1_000_000:
        raise ValueError(f"the time {time.seconds} s {time.nanos} ns is not in whole milliseconds")
    return time.ToDatetime().isoformat(timespec="milliseconds") + "Z"


def _decode_time(value: object) -> datetime:
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(f"{match['time']}{match['offset']}".upper()).astimezone(UTC)
    raise ValueError(f"must be a time in whole milliseconds, like 2003-05-06T12:34:56.789Z, not {_shown(value)}")


def _encode_duration(duration: Duration) -> str:
    if duration.nanos % 1_000_000:
        raise ValueError(f"the duration {duration.seconds} s {duration.nanos} ns is not in whole milliseconds")
    return duration.ToJsonString()


def _decode_duration(value: object) -> str:
    if isinstance(value, str) and _DURATION.fullmatch(value):
        with suppress(ValueError):
            Duration().FromJsonString(value)
            return value
    raise ValueError(f"must be a duration in whole milliseconds, like 3600s or 0.500s, not {_shown(value)}")


_STRING = _Codec(str, partial(_exactly, str, "a string"))
_SCALARS: Mapping[int, _Codec] = {
    FieldDescriptor.TYPE_STRING: _STRING,
    FieldDescriptor.TYPE_BOOL: _Codec(bool, partial(_exactly, bool, "true or false")),
    FieldDescriptor.TYPE_INT32: _Codec(int, partial(_exactly, int, "a whole number")),
}
_TIMES = _Codec(_encode_time, _decode_time)
_DURATIONS = _Codec(_encode_duration, _decode_duration)
# Messages that are text.
_AS_TEXT: Mapping[type, _Codec] = {Timestamp: _TIMES, Duration: _DURATIONS}
