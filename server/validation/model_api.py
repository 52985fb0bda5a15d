"""The rules for a Model API; what breaks them has an error of its own, InvalidModelApi."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from modelregistry.v1.model_api_pb2 import Column, DataType, ModelApi, ModelApiInput, ModelApiOutput
from server.core.errors import FieldViolation, InvalidModelApi
from server.validation.keywords import keywords_of, says
from server.validation.rules import IS_REQUIRED, Broken, shown, text_on_lines

MAX_DATA_TYPE_DEPTH = 32
# Inputs, outputs, columns, and types in arrays and maps. The promotion of one takes as long as two of them take to be
# compared: at most some 0.3 s.
MAX_PARTS = 20_000
# What a part takes in a message: its tag and its length.
_LEAST_BYTES = 2

_Item = TypeVar("_Item")


def _broken(error_type: str, sentence: str, below: str = "") -> Broken:
    def error(violation: FieldViolation) -> InvalidModelApi:
        message = f"{violation.field} {violation.description}."
        return InvalidModelApi(error_type=error_type, message=message, violations=(violation,))

    return Broken(sentence, error, below)


TYPE_MISSING = _broken("TYPE_MISSING", IS_REQUIRED.sentence)
EMPTY_NAME = _broken("EMPTY_NAME", "must not be empty")
NESTING_TOO_DEEP = _broken("NESTING_TOO_DEEP", f"must be nested at most {MAX_DATA_TYPE_DEPTH} levels deep")


@says({**keywords_of(text_on_lines), "minLength": 1})
def name(value: str) -> Iterable[Broken]:
    """The name of an input, an output or a column, which is that of the data."""
    if not value:
        return (EMPTY_NAME,)
    if not (found := text_on_lines(value)):
        return ()
    return [_broken("INVALID_NAME", f"{broken.sentence}; rename it in the data, too") for broken in found]


def bounded(api: ModelApi) -> Iterable[Broken]:
    """A Model API that can be compared in a moment."""
    # So few bytes have no more parts in them. To count 2,000 columns takes 3.3 ms, and their bytes 0.16.
    if api.ByteSize() <= MAX_PARTS * _LEAST_BYTES:
        return
    parts = sum(map(_parts_of, api.inputs)) + sum(map(_parts_of, api.outputs))
    if parts > MAX_PARTS:
        sentence = f"must have at most {MAX_PARTS} inputs, outputs, columns and types in types together, not {parts}"
        yield _broken("TOO_LARGE", sentence)


def unique_columns(columns: Sequence[Column]) -> Iterable[Broken]:
    """Columns that can be told apart."""
    if len({column.name for column in columns}) == len(columns):
        return ()
    return _unique(columns, lambda column: ("name", column.name))


def unique_inputs(inputs: Sequence[ModelApiInput]) -> Iterable[Broken]:
    """Inputs that can be told apart, whatever their kind; an unsupported one has no name."""
    return _unique(inputs, _named)


def unique_outputs(outputs: Sequence[ModelApiOutput]) -> Iterable[Broken]:
    """Outputs that can be told apart, whatever their kind; an unsupported one has no name."""
    return _unique(outputs, _named)


def _parts_of(item: ModelApiInput | ModelApiOutput) -> int:
    """Return how many parts an input or an output is, with itself."""
    match item.WhichOneof("type"):
        case "tabular":
            return 1 + len(item.tabular.columns) + sum(_types_in(column.data_type) for column in item.tabular.columns)
        case "parameter":
            return 1 + _types_in(item.parameter.data_type)
        case _:
            return 1


def _types_in(data_type: DataType) -> int:
    """Return of how many other types a type is made, at all levels, however deep they are."""
    count, unseen = 0, [data_type]
    while unseen:
        match (one := unseen.pop()).WhichOneof("type"):
            case "array":
                unseen.append(one.array.item_type)
                count += 1
            case "map":
                unseen += [one.map.key_type, one.map.value_type]
                count += 2
    return count


def _named(item: ModelApiInput | ModelApiOutput) -> tuple[str, str]:
    match item.WhichOneof("type"):
        case "tabular":
            return "tabular.name", item.tabular.name
        case "parameter":
            return "parameter.name", item.parameter.name
        case _:
            return "", ""


def _unique(items: Sequence[_Item], named: Callable[[_Item], tuple[str, str]]) -> Iterable[Broken]:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        field, item_name = named(item)
        # An empty name is already broken, and no duplicate of another.
        if item_name and (other := first.setdefault(item_name, index)) != index:
            sentence = f"must be unique in its list, but {shown(item_name)} is also the name of item {other}"
            yield _broken("DUPLICATE_NAME", sentence, f"[{index}].{field}")
