"""Finds what is broken in a message: each kind of message is looked at once, and becomes a list of steps.

A message can have many thousand fields, so nothing here looks at a descriptor while it walks one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from modelregistry.v1.model_api_pb2 import DataType
from server.validation.model_api import MAX_DATA_TYPE_DEPTH, NESTING_TOO_DEEP
from server.validation.rules import Broken, Rule, each, known, text
from server.validation.table import OF_REQUESTS, REQUIRED, RULES

# A bound on the work for a message in which everything is broken; far more than a client is told.
MAX_VIOLATIONS = 1000


def find_broken(message: Message) -> list[tuple[str, Broken]]:
    """Return what is broken, each with the path of its field, in the order of the fields; at most MAX_VIOLATIONS."""
    step = _step_for(message.DESCRIPTOR)
    # Of most messages nothing is broken: then to make a path for each part would take a fifth of the time.
    if not _found_by(step, message, _Walk(tells_paths=False)):
        return []
    return _found_by(step, message, _Walk(tells_paths=True))


def _found_by(step: _Step, message: Message, walk: _Walk) -> list[tuple[str, Broken]]:
    try:  # noqa: SIM105 - a context manager takes longer than most messages do
        step(message, "", walk)
    except _Enough:
        pass
    return walk.found


def row_of(part: FieldDescriptor | OneofDescriptor) -> str:
    """Return the key of a field or union in the tables, such as `Model.name`."""
    return part.full_name.removeprefix(f"{DataType.DESCRIPTOR.file.package}.")


def rule_of(field: FieldDescriptor) -> Rule | None:
    """Return the rule for the values of a field; None if there is none."""
    return rule_told_of(field) or _default(field)


def rule_told_of(field: FieldDescriptor) -> Rule | None:
    """Return the rule that the tables have for the values of a field; None if there is none."""
    row = row_of(field)
    message, _, name = row.rpartition(".")
    return RULES.get(row) or (OF_REQUESTS.get(name) if message.endswith("Request") else None)


def unions_of(descriptor: Descriptor) -> list[OneofDescriptor]:
    """Return the unions that the .proto file declares: protoc adds one, such as `_branch`, for an `optional` field."""
    return [union for union in descriptor.oneofs if not union.name.startswith("_")]


class _Enough(Exception):
    """So much is broken that the rest does not matter."""


class _Walk:
    """The state of one walk through one message. Without paths, it ends at the first thing that is broken."""

    def __init__(self, *, tells_paths: bool) -> None:
        self.tells_paths = tells_paths
        self.found: list[tuple[str, Broken]] = []
        self.data_type_depth = 0
        self.too_deep = False

    def report(self, path: str, broken: Iterable[Broken]) -> bool:
        """Note what a rule found; return whether it found anything."""
        before = len(self.found)
        for one in broken:
            self.found.append((path + one.below, one))
            if len(self.found) == MAX_VIOLATIONS or not self.tells_paths:
                raise _Enough
        return len(self.found) > before


# Takes a message, its path with a dot behind it (nothing for the outermost message), and the walk.
_Step = Callable[[Any, str, _Walk], object]


@cache
def _step_for(descriptor: Descriptor) -> _Step:
    return _message(descriptor, {})


def _message(descriptor: Descriptor, compiled: dict[str, _Step]) -> _Step:
    """Return the step for a kind of message; `compiled` ties the knot where a message contains its own kind."""
    if (step := compiled.get(descriptor.full_name)) is not None:
        return step
    steps: list[_Step] = []

    def in_turn(message: Any, prefix: str, walk: _Walk) -> None:
        for step in steps:
            step(message, prefix, walk)

    is_data_type = descriptor.full_name == DataType.DESCRIPTOR.full_name
    compiled[descriptor.full_name] = _bounded(in_turn) if is_data_type else in_turn
    unions = unions_of(descriptor)
    in_unions = {field.name for union in unions for field in union.fields}
    fields = [_field(field, compiled) for field in descriptor.fields if field.name not in in_unions]
    steps += [field for field in fields if field is not None]
    steps += [_union(union, compiled) for union in unions]
    # A single one needs no turns.
    step = steps[0] if len(steps) == 1 else in_turn
    return _bounded(step) if is_data_type else step


def _bounded(inside: _Step) -> _Step:
    """Return the step for data types, which stops at the deepest level allowed and blames the outermost one."""

    def step(message: Any, prefix: str, walk: _Walk) -> None:
        if walk.too_deep or walk.data_type_depth == MAX_DATA_TYPE_DEPTH:
            walk.too_deep = True
            return
        walk.data_type_depth += 1
        inside(message, prefix, walk)
        walk.data_type_depth -= 1
        if walk.too_deep and not walk.data_type_depth:
            walk.too_deep = False
            walk.report(prefix.removesuffix("."), (NESTING_TOO_DEEP,))

    return step


def _union(union: OneofDescriptor, compiled: dict[str, _Step]) -> _Step:
    name, required = union.name, REQUIRED.get(row_of(union))
    members = {field.name: _field(field, compiled) for field in union.fields}

    def step(message: Any, prefix: str, walk: _Walk) -> None:
        member = message.WhichOneof(name)
        if member is None:
            if required is not None:
                walk.report(prefix + name, (required,))
        elif (inside := members[member]) is not None:
            inside(message, prefix, walk)

    return step


def _field(field: FieldDescriptor, compiled: dict[str, _Step]) -> _Step | None:
    """Return the step for a field; None if it can hold nothing wrong."""
    rule, required = rule_of(field), REQUIRED.get(row_of(field))
    if field.message_type is not None and not field.message_type.GetOptions().map_entry:
        if rule is None and required is None and not field.message_type.fields:
            return None
        inside = _message(field.message_type, compiled)
        return (
            _submessages(field.name, rule, inside)
            if field.is_repeated
            else _submessage(field.name, rule, required, inside)
        )
    if rule is None:
        return None
    return _value_if_set(field.name, rule) if field.has_presence else _value(field.name, rule)


def _default(field: FieldDescriptor) -> Rule | None:
    """Return what holds for a field that the tables do not name."""
    if field.type == FieldDescriptor.TYPE_STRING:
        rule: Rule = text
    elif field.enum_type is not None:
        rule = known(field.enum_type)
    else:
        return None
    return each(rule) if field.is_repeated else rule


def _value(name: str, rule: Rule) -> _Step:
    get = attrgetter(name)

    def step(message: Any, prefix: str, walk: _Walk) -> None:
        if broken := rule(get(message)):
            walk.report(prefix + name, broken)

    return step


def _value_if_set(name: str, rule: Rule) -> _Step:
    def step(message: Any, prefix: str, walk: _Walk) -> None:
        if message.HasField(name) and (broken := rule(getattr(message, name))):
            walk.report(prefix + name, broken)

    return step


def _submessage(name: str, rule: Rule | None, required: Broken | None, inside: _Step) -> _Step:
    def step(message: Any, prefix: str, walk: _Walk) -> None:
        if message.HasField(name):
            value = getattr(message, name)
            # What should not be there at all is not looked into.
            if rule is None or not walk.report(prefix + name, rule(value)):
                inside(value, f"{prefix}{name}." if walk.tells_paths else "", walk)
        elif required is not None:
            walk.report(prefix + name, (required,))

    return step


def _submessages(name: str, rule: Rule | None, inside: _Step) -> _Step:
    def step(message: Any, prefix: str, walk: _Walk) -> None:
        values = getattr(message, name)
        if rule is not None:
            walk.report(prefix + name, rule(values))
        for index, value in enumerate(values):
            inside(value, f"{prefix}{name}[{index}]." if walk.tells_paths else "", walk)

    return step
