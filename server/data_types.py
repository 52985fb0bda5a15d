"""Data types of a Model API: which values are values of which type, and how a message for people shows a type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from modelregistry.v1.model_api_pb2 import DataType

# How much is quoted of a name and shown of a type, so that a message stays small whatever it is about.
MAX_QUOTED: Final = 100
MAX_SHOWN_LEVELS: Final = 3

# Made once, since json.dumps makes one for each name.
_JSON: Final = json.JSONEncoder(ensure_ascii=False)

ANY: Final = "any"
UNSUPPORTED: Final = "unsupported"

# The fields with the types that a type is made of, and what their values are called.
INNER_TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "array": {"item_type": "items"},
    "map": {"key_type": "keys", "value_type": "values"},
}

# The types that take all values of a type, besides `any`. A double takes a long as data frames do: nearly.
_WIDER: Final[Mapping[str, frozenset[str]]] = {
    "integer": frozenset({"long", "double"}),
    "long": frozenset({"double"}),
    "float": frozenset({"double"}),
}


def kind_of(data_type: DataType) -> str:
    """Return which type it is, without what it is made of. One that a later release can describe is unsupported."""
    return data_type.WhichOneof("type") or UNSUPPORTED


def inner_type(data_type: DataType, field: str) -> DataType:
    """Return one of the types that a type is made of: the field is one of INNER_TYPES."""
    inner = getattr(getattr(data_type, kind_of(data_type)), field)
    assert isinstance(inner, DataType)
    return inner


def is_wider(kind: str, other: str) -> bool:
    """Whether the first of two kinds that differ takes all values of the second."""
    return kind == ANY or kind in _WIDER.get(other, ())


def shown(data_type: DataType, levels: int = MAX_SHOWN_LEVELS) -> str:
    """Return a type as a message shows it, such as `array<map<string, long>>`; its innermost levels may be left out."""
    kind = kind_of(data_type)
    if kind == UNSUPPORTED:
        return f"{UNSUPPORTED} {quoted(data_type.unsupported.unsupported_type)}"
    if kind not in INNER_TYPES:
        return kind
    if levels == 1:
        return f"{kind}<…>"
    return f"{kind}<{', '.join(shown(inner_type(data_type, field), levels - 1) for field in INNER_TYPES[kind])}>"


def quoted(name: str) -> str:
    """Return a name in quotes, cut if it is long."""
    return _JSON.encode(name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}…")
