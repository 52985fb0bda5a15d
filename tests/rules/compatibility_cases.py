"""What is compatible and what is not, as a table of sentences, and the short notation that it is written in.

`long`, `array<map<string, long>>`  types; a capital letter begins an unsupported one: `Tensor`, `Tensor(dtype=f4)`
`long?`, `long!`, `long`            optional, required in so many words, required because nothing is said
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from google.protobuf.message_factory import GetMessageClass

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

Part = TabularType | ParameterType | UnsupportedType

_REQUIRED = {"?": False, "!": True}


# The notation


def inputs(*parts: Part) -> ModelApi:
    return ModelApi(inputs=[ModelApiInput(**_one_of(part)) for part in parts])


def outputs(*parts: Part) -> ModelApi:
    return ModelApi(outputs=[ModelApiOutput(**_one_of(part)) for part in parts])


def both(first: ModelApi, second: ModelApi) -> ModelApi:
    return ModelApi(inputs=[*first.inputs, *second.inputs], outputs=[*first.outputs, *second.outputs])


def table(name: str, /, **columns: str) -> TabularType:
    """A table; its name may be marked like a type: `df?` is an optional table."""
    return TabularType(
        **_presence(name),
        columns=[Column(name=column, **_typed(marked)) for column, marked in columns.items()],
    )


def pandas(frame: TabularType) -> TabularType:
    frame.format = TabularFormat.TABULAR_FORMAT_PANDAS
    return frame


def spark(frame: TabularType) -> TabularType:
    frame.format = TabularFormat.TABULAR_FORMAT_SPARK
    return frame


def parameter(name: str, marked: str) -> ParameterType:
    return ParameterType(name=name, **_typed(marked))


def unsupported(text: str) -> UnsupportedType:
    match = re.fullmatch(r"(\w+)(?:\((\w+)=(\w+)\))?", text)
    assert match, text
    return UnsupportedType(unsupported_type=match[1], params={match[2]: match[3]} if match[2] else {})


def data_type(text: str) -> DataType:
    if text[0].isupper():
        return DataType(unsupported=unsupported(text))
    kind, _, inner = text.removesuffix(">").partition("<")
    if kind == "array":
        return DataType(array=ArrayType(item_type=data_type(inner)))
    if kind == "map":
        commas = [match.start() for match in re.finditer(", ", inner)]
        comma = next(at for at in commas if inner.count("<", 0, at) == inner.count(">", 0, at))
        return DataType(map=MapType(key_type=data_type(inner[:comma]), value_type=data_type(inner[comma + 2 :])))
    return DataType(**{kind: GetMessageClass(DataType.DESCRIPTOR.fields_by_name[kind].message_type)()})


def _one_of(part: Part) -> dict[str, Any]:
    names = {TabularType: "tabular", ParameterType: "parameter", UnsupportedType: "unsupported"}
    return {names[type(part)]: part}


def _typed(marked: str) -> dict[str, Any]:
    text = marked.rstrip("?!")
    return {"required": _REQUIRED.get(marked[len(text) :]), "data_type": data_type(text)}


def _presence(marked: str) -> dict[str, Any]:
    name = marked.rstrip("?!")
    return {"required": _REQUIRED.get(marked[len(name) :]), "name": name}


# The cases


class Case(NamedTuple):
    head: ModelApi
    candidate: ModelApi
    expected: list[tuple[str, str, str]]


def case(head: ModelApi, candidate: ModelApi, *expected: tuple[str, str, str]) -> Case:
    return Case(head, candidate, list(expected))


def error(path: str, rule: str) -> tuple[str, str, str]:
    return path, rule, "ERROR"


def warn(path: str, rule: str) -> tuple[str, str, str]:
    return path, rule, "WARN"


NOTHING = ModelApi()

# What comes and goes, in a list.
PRESENCE = {
    "nothing is compatible with nothing": case(NOTHING, NOTHING),
    "a new input must be given": case(NOTHING, inputs(parameter("k", "long")), error('inputs["k"]', "REQUIRED_ADDED")),
    "a new input must be given, in so many words": case(
        NOTHING, inputs(parameter("k", "long!")), error('inputs["k"]', "REQUIRED_ADDED")
    ),
    "a new input may be given": case(NOTHING, inputs(parameter("k", "long?"))),
    "a new table must be given, and its columns are no news of their own": case(
        NOTHING, inputs(table("df", age="long")), error('inputs["df"]', "REQUIRED_ADDED")
    ),
    "a new table may be given, whatever its columns": case(NOTHING, inputs(table("df?", age="long"))),
    "a new column of an input must be given": case(
        inputs(table("df", age="long")),
        inputs(table("df", age="long", sex="string")),
        error('inputs["df"].columns["sex"]', "REQUIRED_ADDED"),
    ),
    "a new column must be given in a table that may be left out": case(
        inputs(table("df?")),
        inputs(table("df?", sex="string")),
        error('inputs["df"].columns["sex"]', "REQUIRED_ADDED"),
    ),
    "a new column of an input may be given": case(inputs(table("df")), inputs(table("df", sex="string?"))),
    "a new output": case(NOTHING, outputs(parameter("k", "long"))),
    "a new output that may be missing": case(NOTHING, outputs(parameter("k", "long?"))),
    "a new table is returned": case(NOTHING, outputs(table("df", age="long"))),
    "a new column of an output": case(outputs(table("df")), outputs(table("df", age="long"))),
    "an input is gone": case(inputs(parameter("k", "long")), NOTHING, error('inputs["k"]', "REMOVED")),
    "an input that was optional is gone": case(
        inputs(parameter("k", "long?")), NOTHING, error('inputs["k"]', "REMOVED")
    ),
    "a table is gone, and its columns are no loss of their own": case(
        inputs(table("df", age="long")), NOTHING, error('inputs["df"]', "REMOVED")
    ),
    "a column of an input is gone": case(
        inputs(table("df", age="long")), inputs(table("df")), warn('inputs["df"].columns["age"]', "REMOVED")
    ),
    "an output is gone": case(outputs(parameter("k", "long")), NOTHING, error('outputs["k"]', "REMOVED")),
    "an output that might be missing is gone": case(
        outputs(parameter("k", "long?")), NOTHING, error('outputs["k"]', "REMOVED")
    ),
    "a column of an output is gone": case(
        outputs(table("df", age="long")), outputs(table("df")), error('outputs["df"].columns["age"]', "REMOVED")
    ),
    "a column of an output that might be missing is gone": case(
        outputs(table("df", age="long?")), outputs(table("df")), error('outputs["df"].columns["age"]', "REMOVED")
    ),
    "an input becomes an output": case(
        inputs(parameter("k", "long")), outputs(parameter("k", "long")), error('inputs["k"]', "REMOVED")
    ),
}

# What has another name is something else.
RENAMES = {
    "an input is renamed": case(
        inputs(parameter("k", "long")),
        inputs(parameter("n", "long")),
        error('inputs["k"]', "REMOVED"),
        error('inputs["n"]', "REQUIRED_ADDED"),
    ),
    "an input that is optional is renamed": case(
        inputs(parameter("k", "long?")), inputs(parameter("n", "long?")), error('inputs["k"]', "REMOVED")
    ),
    "a column of an input is renamed": case(
        inputs(table("df", age="long")),
        inputs(table("df", years="long")),
        error('inputs["df"].columns["years"]', "REQUIRED_ADDED"),
        warn('inputs["df"].columns["age"]', "REMOVED"),
    ),
    "an output is renamed": case(
        outputs(parameter("k", "long")), outputs(parameter("n", "long")), error('outputs["k"]', "REMOVED")
    ),
    "a column of an output is renamed": case(
        outputs(table("df", age="long")),
        outputs(table("df", years="long")),
        error('outputs["df"].columns["age"]', "REMOVED"),
    ),
    "a name is written in capitals": case(
        outputs(parameter("k", "long")), outputs(parameter("K", "long")), error('outputs["k"]', "REMOVED")
    ),
    "a name with quotes is quoted": case(
        outputs(parameter('a"].b', "long")), NOTHING, error(r'outputs["a\"].b"]', "REMOVED")
    ),
    "a name beyond ASCII is itself": case(
        outputs(parameter("größe", "long")), NOTHING, error('outputs["größe"]', "REMOVED")
    ),
    "a name of 100 characters is whole": case(
        outputs(parameter("n" * 100, "long")), NOTHING, error(f'outputs["{"n" * 100}"]', "REMOVED")
    ),
    "a longer name is cut": case(
        outputs(parameter("n" * 101, "long")), NOTHING, error(f'outputs["{"n" * 100}…"]', "REMOVED")
    ),
    "an input and an output share a name": case(
        both(inputs(parameter("k", "long")), outputs(parameter("k", "long"))),
        both(inputs(parameter("k", "integer")), outputs(parameter("k", "integer"))),
        error('inputs["k"].data_type', "TYPE_NARROWED"),
    ),
}

# What must be given, and what may be missing.
REQUIRED = {
    "that an input is required is said in so many words": case(
        inputs(parameter("k", "long")), inputs(parameter("k", "long!"))
    ),
    "that an input is required is not said any more": case(
        inputs(parameter("k", "long!")), inputs(parameter("k", "long"))
    ),
    "that an output is required is said in so many words": case(
        outputs(table("df", age="long")), outputs(table("df!", age="long!"))
    ),
    "that an output is required is not said any more": case(
        outputs(table("df!", age="long!")), outputs(table("df", age="long"))
    ),
    "an input becomes required": case(
        inputs(parameter("k", "long?")),
        inputs(parameter("k", "long")),
        error('inputs["k"].required', "BECAME_REQUIRED"),
    ),
    "a table becomes required": case(
        inputs(table("df?")), inputs(table("df!")), error('inputs["df"].required', "BECAME_REQUIRED")
    ),
    "a column of an input becomes required": case(
        inputs(table("df", age="long?")),
        inputs(table("df", age="long")),
        error('inputs["df"].columns["age"].required', "BECAME_REQUIRED"),
    ),
    "an input, a table and a column become optional": case(
        inputs(parameter("k", "long"), table("df", age="long")),
        inputs(parameter("k", "long?"), table("df?", age="long?")),
    ),
    "an output may be missing": case(
        outputs(parameter("k", "long")),
        outputs(parameter("k", "long?")),
        error('outputs["k"].required', "BECAME_OPTIONAL"),
    ),
    "a table may be missing": case(
        outputs(table("df!")), outputs(table("df?")), error('outputs["df"].required', "BECAME_OPTIONAL")
    ),
    "a column of an output may be missing": case(
        outputs(table("df", age="long")),
        outputs(table("df", age="long?")),
        error('outputs["df"].columns["age"].required', "BECAME_OPTIONAL"),
    ),
    "an output, a table and a column are always there": case(
        outputs(parameter("k", "long?"), table("df?", age="long?")),
        outputs(parameter("k", "long"), table("df", age="long")),
    ),
}

# What kind of thing it is, and in which data frame.
KINDS = {
    "an input table becomes a single value": case(
        inputs(table("df", age="long")), inputs(parameter("df", "long")), error('inputs["df"]', "KIND_CHANGED")
    ),
    "an input becomes a table, and required, which is no finding of its own": case(
        inputs(parameter("df", "long?")), inputs(table("df")), error('inputs["df"]', "KIND_CHANGED")
    ),
    "an output table becomes a single value, and optional, which is no finding of its own": case(
        outputs(table("df", age="long")), outputs(parameter("df", "long?")), error('outputs["df"]', "KIND_CHANGED")
    ),
    "an output becomes a table": case(
        outputs(parameter("df", "long")), outputs(table("df")), error('outputs["df"]', "KIND_CHANGED")
    ),
    "an input table goes from pandas to Spark": case(
        inputs(pandas(table("df"))), inputs(spark(table("df"))), error('inputs["df"].format', "FORMAT_CHANGED")
    ),
    "an input table goes from no format to Spark": case(
        inputs(table("df")), inputs(spark(table("df"))), error('inputs["df"].format', "FORMAT_CHANGED")
    ),
    "an input table goes from Spark to no format": case(
        inputs(spark(table("df"))), inputs(table("df")), error('inputs["df"].format', "FORMAT_CHANGED")
    ),
    "no format is pandas": case(inputs(table("df")), inputs(pandas(table("df")))),
    "pandas is no format": case(outputs(pandas(table("df"))), outputs(table("df"))),
    "an output table goes from Spark to pandas": case(
        outputs(spark(table("df"))), outputs(pandas(table("df"))), error('outputs["df"].format', "FORMAT_CHANGED")
    ),
}

# Types, at the innermost place where they differ; the whole order of scalar types is in test_compatibility.py.
TYPES = {
    "an input takes more": case(inputs(parameter("k", "integer")), inputs(parameter("k", "long"))),
    "an input takes anything": case(inputs(parameter("k", "array<long>")), inputs(parameter("k", "any"))),
    "an input takes less": case(
        inputs(parameter("k", "double")),
        inputs(parameter("k", "float")),
        error('inputs["k"].data_type', "TYPE_NARROWED"),
    ),
    "an input took anything": case(
        inputs(parameter("k", "any")),
        inputs(parameter("k", "array<long>")),
        error('inputs["k"].data_type', "TYPE_NARROWED"),
    ),
    "an input takes something else": case(
        inputs(parameter("k", "long")),
        inputs(parameter("k", "string")),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "a column of an input takes less": case(
        inputs(table("df", age="long")),
        inputs(table("df", age="integer")),
        error('inputs["df"].columns["age"].data_type', "TYPE_NARROWED"),
    ),
    "an output returns less": case(outputs(parameter("k", "double")), outputs(parameter("k", "float"))),
    "an output returned anything": case(outputs(parameter("k", "any")), outputs(parameter("k", "map<long, long>"))),
    "an output returns more": case(
        outputs(parameter("k", "integer")),
        outputs(parameter("k", "double")),
        error('outputs["k"].data_type', "TYPE_WIDENED"),
    ),
    "an output returns anything": case(
        outputs(parameter("k", "long")),
        outputs(parameter("k", "any")),
        error('outputs["k"].data_type', "TYPE_WIDENED"),
    ),
    "an output returns something else": case(
        outputs(parameter("k", "date")),
        outputs(parameter("k", "timestamp")),
        error('outputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "a column of an output returns more": case(
        outputs(table("df", age="float")),
        outputs(table("df", age="double")),
        error('outputs["df"].columns["age"].data_type', "TYPE_WIDENED"),
    ),
    "a value becomes a list of values": case(
        inputs(parameter("k", "long")),
        inputs(parameter("k", "array<long>")),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "a list becomes a dictionary": case(
        outputs(parameter("k", "array<long>")),
        outputs(parameter("k", "map<long, long>")),
        error('outputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "the items of an input take more": case(
        inputs(parameter("k", "array<integer>")), inputs(parameter("k", "array<double>"))
    ),
    "the items of an input take less": case(
        inputs(parameter("k", "array<long>")),
        inputs(parameter("k", "array<integer>")),
        error('inputs["k"].data_type.item_type', "TYPE_NARROWED"),
    ),
    "the keys of an output are more, and its values less": case(
        outputs(parameter("k", "map<integer, long>")),
        outputs(parameter("k", "map<long, integer>")),
        error('outputs["k"].data_type.key_type', "TYPE_WIDENED"),
    ),
    "the keys of an input are less, and its values others": case(
        inputs(parameter("k", "map<any, date>")),
        inputs(parameter("k", "map<string, boolean>")),
        error('inputs["k"].data_type.key_type', "TYPE_NARROWED"),
        error('inputs["k"].data_type.value_type', "TYPE_CHANGED"),
    ),
    "a difference deep inside": case(
        outputs(table("scores", tags="array<map<string, array<float>>>")),
        outputs(table("scores", tags="array<map<string, array<double>>>")),
        error('outputs["scores"].columns["tags"].data_type.item_type.value_type.item_type', "TYPE_WIDENED"),
    ),
    "differences in two keys of keys": case(
        inputs(parameter("k", "map<map<long, any>, long>")),
        inputs(parameter("k", "map<map<integer, date>, long>")),
        error('inputs["k"].data_type.key_type.key_type', "TYPE_NARROWED"),
        error('inputs["k"].data_type.key_type.value_type', "TYPE_NARROWED"),
    ),
    "anything within a list": case(inputs(parameter("k", "array<array<long>>")), inputs(parameter("k", "array<any>"))),
}

# What cannot be described.
UNSUPPORTED = {
    "an unsupported type stays what it is": case(
        inputs(parameter("k", "Tensor")),
        inputs(parameter("k", "Tensor")),
        warn('inputs["k"].data_type', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported type with its params stays what it is": case(
        outputs(table("df", x="Tensor(dtype=f4)")),
        outputs(table("df", x="Tensor(dtype=f4)")),
        warn('outputs["df"].columns["x"].data_type', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported type deep inside stays what it is": case(
        outputs(parameter("k", "map<Tensor, array<Image>>")),
        outputs(parameter("k", "map<Tensor, array<Image>>")),
        warn('outputs["k"].data_type.key_type', "UNSUPPORTED_TYPE"),
        warn('outputs["k"].data_type.value_type.item_type', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported type becomes another one": case(
        inputs(parameter("k", "Tensor")),
        inputs(parameter("k", "Image")),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "an unsupported type gets other params": case(
        outputs(parameter("k", "array<Tensor(dtype=f4)>")),
        outputs(parameter("k", "array<Tensor(dtype=f8)>")),
        error('outputs["k"].data_type.item_type', "TYPE_CHANGED"),
    ),
    "an unsupported type gets params": case(
        inputs(parameter("k", "Tensor")),
        inputs(parameter("k", "Tensor(dtype=f8)")),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "a type becomes unsupported": case(
        inputs(parameter("k", "string")),
        inputs(parameter("k", "Text")),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "an unsupported type becomes supported": case(
        outputs(parameter("k", "Text")),
        outputs(parameter("k", "string")),
        error('outputs["k"].data_type', "TYPE_CHANGED"),
    ),
    "anything is taken in place of an unsupported type": case(
        inputs(parameter("k", "Tensor")), inputs(parameter("k", "any"))
    ),
    "an unsupported type is taken in place of anything": case(
        inputs(parameter("k", "any")),
        inputs(parameter("k", "Tensor")),
        error('inputs["k"].data_type', "TYPE_NARROWED"),
    ),
    "anything is returned in place of an unsupported type": case(
        outputs(parameter("k", "Tensor")),
        outputs(parameter("k", "any")),
        error('outputs["k"].data_type', "TYPE_WIDENED"),
    ),
    "an unsupported type is returned in place of anything": case(
        outputs(parameter("k", "any")), outputs(parameter("k", "Tensor"))
    ),
    "an unsupported input stays what it is": case(
        inputs(unsupported("Tensor")),
        inputs(unsupported("Tensor")),
        warn('inputs[unsupported "Tensor"]', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported output stays what it is": case(
        outputs(unsupported("Tensor(dtype=f4)")),
        outputs(unsupported("Tensor(dtype=f4)")),
        warn('outputs[unsupported "Tensor"]', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported input is new, and nobody can tell whether it must be given": case(
        NOTHING, inputs(unsupported("Tensor")), error('inputs[unsupported "Tensor"]', "REQUIRED_ADDED")
    ),
    "an unsupported output is new": case(NOTHING, outputs(unsupported("Tensor"))),
    "an unsupported input is gone": case(
        inputs(unsupported("Tensor")), NOTHING, error('inputs[unsupported "Tensor"]', "REMOVED")
    ),
    "an unsupported output is gone": case(
        outputs(unsupported("Tensor")), NOTHING, error('outputs[unsupported "Tensor"]', "REMOVED")
    ),
    "an unsupported input gets other params, and is another one": case(
        inputs(unsupported("Tensor(dtype=f4)")),
        inputs(unsupported("Tensor(dtype=f8)")),
        error('inputs[unsupported "Tensor"]', "REMOVED"),
        error('inputs[unsupported "Tensor"]', "REQUIRED_ADDED"),
    ),
    "one of three equal unsupported inputs is gone": case(
        inputs(unsupported("Tensor"), unsupported("Tensor"), unsupported("Tensor")),
        inputs(unsupported("Tensor"), unsupported("Tensor")),
        error('inputs[unsupported "Tensor"]', "REMOVED"),
        warn('inputs[unsupported "Tensor"]', "UNSUPPORTED_TYPE"),
        warn('inputs[unsupported "Tensor"]', "UNSUPPORTED_TYPE"),
    ),
    "an unsupported input comes to one that is equal": case(
        inputs(unsupported("Tensor")),
        inputs(unsupported("Tensor"), unsupported("Tensor")),
        error('inputs[unsupported "Tensor"]', "REQUIRED_ADDED"),
        warn('inputs[unsupported "Tensor"]', "UNSUPPORTED_TYPE"),
    ),
    "a table becomes an unsupported input, which has no name to know it by": case(
        inputs(table("df", age="long")),
        inputs(unsupported("DataFrame")),
        error('inputs["df"]', "REMOVED"),
        error('inputs[unsupported "DataFrame"]', "REQUIRED_ADDED"),
    ),
    "an unsupported output becomes a single value": case(
        outputs(unsupported("Tensor")),
        outputs(parameter("Tensor", "long")),
        error('outputs[unsupported "Tensor"]', "REMOVED"),
    ),
}

# Order, and several at once.
ORDER = {
    "columns in another order": case(
        inputs(table("df", age="long", sex="string")), inputs(table("df", sex="string", age="long"))
    ),
    "inputs in another order": case(
        inputs(parameter("k", "long"), table("df"), parameter("n", "date")),
        inputs(parameter("n", "date"), parameter("k", "long"), table("df")),
    ),
    "outputs in another order": case(
        outputs(parameter("k", "long"), parameter("n", "date")),
        outputs(parameter("n", "date"), parameter("k", "long")),
    ),
    "errors before warnings, inputs before outputs": case(
        both(inputs(parameter("t", "Tensor"), parameter("k", "long")), outputs(parameter("u", "Tensor"), table("df"))),
        both(inputs(parameter("t", "Tensor"), parameter("k", "date")), outputs(parameter("u", "Tensor"))),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
        error('outputs["df"]', "REMOVED"),
        warn('inputs["t"].data_type', "UNSUPPORTED_TYPE"),
        warn('outputs["u"].data_type', "UNSUPPORTED_TYPE"),
    ),
    "the order of the head, then that of the candidate": case(
        inputs(parameter("d", "long"), parameter("b", "long"), parameter("c", "long")),
        inputs(parameter("z", "long"), parameter("c", "integer"), parameter("y", "long"), parameter("b", "date")),
        error('inputs["d"]', "REMOVED"),
        error('inputs["b"].data_type', "TYPE_CHANGED"),
        error('inputs["c"].data_type', "TYPE_NARROWED"),
        error('inputs["z"]', "REQUIRED_ADDED"),
        error('inputs["y"]', "REQUIRED_ADDED"),
    ),
    "all that a table and its columns can break at once": case(
        inputs(table("df?", age="long?", gone="date", sex="any")),
        inputs(spark(table("df", new="long", sex="string", age="integer"))),
        error('inputs["df"].required', "BECAME_REQUIRED"),
        error('inputs["df"].format', "FORMAT_CHANGED"),
        error('inputs["df"].columns["age"].required', "BECAME_REQUIRED"),
        error('inputs["df"].columns["age"].data_type', "TYPE_NARROWED"),
        error('inputs["df"].columns["sex"].data_type', "TYPE_NARROWED"),
        error('inputs["df"].columns["new"]', "REQUIRED_ADDED"),
        warn('inputs["df"].columns["gone"]', "REMOVED"),
    ),
    "a column of one name in two tables": case(
        outputs(table("a", x="integer"), table("b", x="integer")),
        outputs(table("a", x="integer"), table("b", x="long")),
        error('outputs["b"].columns["x"].data_type', "TYPE_WIDENED"),
    ),
}

PARTS = (PRESENCE, RENAMES, REQUIRED, KINDS, TYPES, UNSUPPORTED, ORDER)
CASES = {sentence: each for part in PARTS for sentence, each in part.items()}
