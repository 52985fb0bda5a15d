"""Hypothesis strategies: what the contract allows, and, with `messages`, whatever the wire can bring."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from modelregistry.v1.model_api_pb2 import (
    ArrayType,
    Column,
    DataType,
    MapType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularFormat,
    TabularType,
    UnsupportedType,
)
from modelregistry.v1.model_pb2 import (
    CodeRepositorySource,
    CodeWorkspaceSource,
    ExternalSource,
    ImportedContainerizedModelSource,
    ModelStudioSource,
    ModelVersion,
    ModelVersionSource,
    PromotedSource,
    SdkSource,
)

M = TypeVar("M", bound=Message)

MAX_DATA_TYPE_DEPTH = 32

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
_FIRST_MILLISECOND = -62_135_596_800_000  # of the year 1
_LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999


# Text and names


def texts(min_size: int = 0, max_size: int = 30) -> st.SearchStrategy[str]:
    """Valid Unicode, astral characters too, without control characters."""
    return st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=min_size, max_size=max_size)


def data_names() -> st.SearchStrategy[str]:
    """The names that a Model API may have, with tabs and line ends as in spreadsheets."""
    characters = st.characters(exclude_categories=("Cc", "Cs"), include_characters="\t\n\r")
    return st.text(characters, min_size=1, max_size=30)


def display_names(max_size: int = 60) -> st.SearchStrategy[str]:
    """The names that a model may have."""
    characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/")
    return st.text(characters, min_size=1, max_size=max_size).filter(lambda name: name not in {".", ".."})


def branch_names(max_size: int = 60) -> st.SearchStrategy[str]:
    """The names that a branch may have."""
    named = texts(1, max_size).filter(lambda name: not name.startswith("ri.") and not _UUID.fullmatch(name))
    return st.sampled_from(["master", "release/2024"]) | named


def rids(kind: str = "model", max_size: int = 255) -> st.SearchStrategy[str]:
    """Well-formed RIDs of a type."""
    services = st.builds(str.__add__, st.sampled_from(_LOWER), st.text(_LOWER + _DIGITS + "-", max_size=10))
    instances = st.just("") | st.builds(
        str.__add__, st.sampled_from(_LOWER + _DIGITS), st.text(_LOWER + _DIGITS + "-", max_size=10)
    )

    def locators(head: str) -> st.SearchStrategy[str]:
        alphabet = _LOWER + _LOWER.upper() + _DIGITS + "._-"
        short = st.text(alphabet, min_size=1, max_size=40)
        longest = st.just("x" * (max_size - len(head)))
        return (st.uuids().map(str) | short | longest).map(head.__add__)

    return st.builds("ri.{}.{}.{}.".format, services, instances, st.just(kind)).flatmap(locators)


def times() -> st.SearchStrategy[Timestamp]:
    """Whole milliseconds of the years 1 to 9999."""
    return st.integers(_FIRST_MILLISECOND, _LAST_MILLISECOND).map(_time)


def _time(milliseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(milliseconds)
    return time


# Model APIs


def unsupported_types() -> st.SearchStrategy[UnsupportedType]:
    """Types that only have a name, and what else is known of them."""
    return st.builds(UnsupportedType, unsupported_type=texts(1), params=st.dictionaries(texts(), texts(), max_size=3))


@st.composite
def data_types(draw: st.DrawFn, max_depth: int = MAX_DATA_TYPE_DEPTH) -> DataType:
    """Data types of 1 to `max_depth` levels: a scalar is one level, an array of scalars two."""
    result = draw(_scalar_types())
    # Mostly flat, as data types are, but the deepest are no rarity
    levels = draw(st.integers(1, min(3, max_depth)) | st.sampled_from([1, 2, max_depth]) | st.integers(1, max_depth))
    wraps = st.sampled_from(["array", "value", "key"])
    for wrap in draw(st.lists(wraps, min_size=levels - 1, max_size=levels - 1)):
        if wrap == "array":
            result = DataType(array=ArrayType(item_type=result))
        elif wrap == "value":
            result = DataType(map=MapType(key_type=draw(_scalar_types()), value_type=result))
        else:
            result = DataType(map=MapType(key_type=result, value_type=draw(_scalar_types())))
    return result


def _scalar_types() -> st.SearchStrategy[DataType]:
    empty = [field for field in DataType.DESCRIPTOR.fields if not field.message_type.fields]
    scalars = [DataType(**{field.name: GetMessageClass(field.message_type)()}) for field in empty]
    # A copy each time, since messages are mutable
    return st.sampled_from(scalars).map(_copy) | st.builds(DataType, unsupported=unsupported_types())


def _copy(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


@st.composite
def model_apis(draw: st.DrawFn, max_items: int = 3, max_columns: int = 4) -> ModelApi:
    """Model APIs that are valid."""
    return ModelApi(
        inputs=draw(_items(ModelApiInput, max_items, max_columns)),
        outputs=draw(_items(ModelApiOutput, max_items, max_columns)),
    )


@st.composite
def _items(draw: st.DrawFn, kind: Callable[..., Any], max_items: int, max_columns: int) -> list[Any]:
    tabular = _named(
        TabularType,
        columns=_unique(_named(Column, data_type=data_types()), max_columns),
        format=st.sampled_from(TabularFormat.values()),
    )
    parameters = _named(ParameterType, data_type=data_types())
    named = draw(_unique(tabular | parameters, max_items))
    unsupported = draw(st.lists(unsupported_types(), max_size=1))
    return draw(st.permutations([_item(kind, part) for part in [*named, *unsupported]]))


def _item(kind: Callable[..., Any], part: Message) -> Any:
    if isinstance(part, TabularType):
        return kind(tabular=part)
    return kind(parameter=part) if isinstance(part, ParameterType) else kind(unsupported=part)


def _named(kind: Callable[..., M], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[M]:
    # None leaves an optional field unset
    return st.builds(kind, name=data_names(), required=st.sampled_from([None, True, False]), **fields)


def _unique(items: st.SearchStrategy[Any], max_size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=max_size, unique_by=lambda item: item.name)


# Model versions


def model_version_sources(promoted: bool = True) -> st.SearchStrategy[ModelVersionSource]:
    """Sources that are valid; with `promoted=False`, those that a client may claim."""
    members: dict[str, st.SearchStrategy[Any]] = {
        "sdk": st.builds(SdkSource),
        "external": st.builds(ExternalSource),
        "imported_containerized_model": st.builds(ImportedContainerizedModelSource),
        "model_studio": st.builds(ModelStudioSource, model_studio_rid=rids("model-studio")),
        "code_repository": st.builds(CodeRepositorySource, repository_rid=rids("repository"), branch=branch_names()),
        "code_workspace": st.builds(CodeWorkspaceSource, code_workspace_rid=rids("container"), branch=branch_names()),
    }
    if promoted:
        members["promoted"] = st.builds(
            PromotedSource, previous_model_rid=rids("model"), previous_model_version_rid=rids("model-version")
        )
    return st.one_of([st.builds(ModelVersionSource, **{name: member}) for name, member in members.items()])


def model_versions() -> st.SearchStrategy[ModelVersion]:
    """Model versions as the service returns them, with every field that need not be unset."""
    return st.builds(
        ModelVersion,
        rid=rids("model-version"),
        model_api=model_apis(),
        conda_requirements=st.lists(texts(), max_size=3),
        backing_repositories=st.lists(rids("repository"), max_size=3),
        created_time=times(),
        source=st.none() | model_version_sources(),
        linked_experiment=st.none() | rids("experiment"),
        model_rid=rids("model"),
        branch=branch_names(),
        version_number=st.integers(1, 2**31 - 1),
        created_by=texts(1).map("user:".__add__),
        root_model_version_rid=rids("model-version"),
    )


# Anything


def messages(message_class: type[M], known_values: bool = False, max_depth: int = 8) -> st.SearchStrategy[M]:
    """Any message of a class that protobuf accepts, valid or not: for fuzzing.

    Strings hold any Unicode, control characters too; oneofs and fields may be unset; enums have any number and times
    any content, unless `known_values` asks for those that have a JSON form. Messages are nested `max_depth` deep, but
    for data types, which can have more levels than the contract allows.
    """
    return _messages(message_class, known_values, max_depth)


@st.composite
def _messages(draw: st.DrawFn, message_class: type[M], known_values: bool, depth: int) -> M:
    message = message_class()
    if isinstance(message, Timestamp):
        message.CopyFrom(draw(times() if known_values else _any_times()))
        return message
    if isinstance(message, Duration):
        message.CopyFrom(draw(_durations() if known_values else _any_durations()))
        return message
    if isinstance(message, DataType) and draw(st.integers(0, 4)) == 0:
        message.CopyFrom(draw(data_types(max_depth=40)))
        return message
    present = _present_fields(draw, message.DESCRIPTOR, depth)
    for field in present:
        _fill(draw, message, field, known_values, depth)
    return message


def _present_fields(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> list[FieldDescriptor]:
    fields = [field for field in descriptor.fields if depth > 1 or field.message_type is None]
    present = [field for field in fields if field.containing_oneof is None and draw(st.integers(0, 4)) > 0]
    for oneof in descriptor.oneofs:
        members = [field for field in fields if field.containing_oneof is oneof]
        if members and draw(st.integers(0, 4)) > 0:
            present.append(draw(st.sampled_from(members)))
    return present


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, known_values: bool, depth: int) -> None:
    target = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        target.update(draw(st.dictionaries(_any_texts(), _any_texts(), max_size=3)))
    elif field.is_repeated:
        target.extend(draw(st.lists(_values(field, known_values, depth), max_size=3)))
    elif field.message_type is not None:
        target.CopyFrom(draw(_values(field, known_values, depth)))
        target.SetInParent()
    else:
        setattr(message, field.name, draw(_values(field, known_values, depth)))


def _values(field: FieldDescriptor, known_values: bool, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _messages(GetMessageClass(field.message_type), known_values, depth - 1)
    if field.enum_type is not None:
        known = st.sampled_from([value.number for value in field.enum_type.values])
        return known if known_values else known | st.integers(-(2**31), 2**31 - 1)
    scalars = {
        FieldDescriptor.TYPE_STRING: _texts_for(field),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    }
    return scalars[field.type]


def _any_texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def _texts_for(field: FieldDescriptor) -> st.SearchStrategy[str]:
    """Any text, but mostly one that looks right, so that more is reached than the first check of a server."""
    looking_right = {
        "model_rid": rids("model"),
        "previous_model_rid": rids("model"),
        "parent_folder_rid": rids("folder"),
        "resource_rid": rids("model") | rids("folder"),
        "name": display_names(),
        "branch": branch_names(),
        "principal": texts(1).map("user:".__add__),
    }
    kind = "model-version" if "version" in field.name else "repository"
    right = looking_right.get(field.name, rids(kind) if field.name.endswith("rid") else texts())
    return st.integers(0, 7).flatmap(lambda luck: right if luck else _any_texts())


def _any_times() -> st.SearchStrategy[Timestamp]:
    seconds, nanos = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
    return times() | st.builds(Timestamp, seconds=seconds, nanos=nanos)


def _durations() -> st.SearchStrategy[Duration]:
    """Whole milliseconds of the ten thousand years that a message has."""
    return st.integers(-315_576_000_000_000, 315_576_000_000_000).map(_duration)


def _duration(milliseconds: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(milliseconds)
    return duration


def _any_durations() -> st.SearchStrategy[Duration]:
    seconds, nanos = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
    return _durations() | st.builds(Duration, seconds=seconds, nanos=nanos)
