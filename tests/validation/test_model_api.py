"""The Model API."""

from __future__ import annotations

from typing import Any

import pytest

from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    MapType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularType,
)
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest
from server.core.errors import FieldViolation, InvalidArgument, InvalidModelApi
from server.validation import validate
from tests.validation.samples import (
    ANY,
    MODEL,
    arrays,
    broken_paths,
    create_version,
    failure,
    with_columns,
    with_data_type,
)


def test_a_model_api_is_required() -> None:
    error = failure(CreateModelVersionRequest(model_rid=MODEL))

    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation("model_api", "is required"),)


@pytest.mark.parametrize(
    ("model_api", "path"),
    [
        (ModelApi(inputs=[ModelApiInput()]), "inputs[0].type"),
        (
            ModelApi(outputs=[ModelApiOutput(unsupported={"unsupported_type": "u"}), ModelApiOutput()]),
            "outputs[1].type",
        ),
        (ModelApi(inputs=[ModelApiInput(parameter={"name": "p"})]), "inputs[0].parameter.data_type"),
        (
            ModelApi(inputs=[ModelApiInput(parameter={"name": "p", "data_type": {}})]),
            "inputs[0].parameter.data_type.type",
        ),
    ],
)
def test_every_input_and_output_has_a_type(model_api: ModelApi, path: str) -> None:
    error = failure(create_version(model_api=model_api))

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "TYPE_MISSING"
    assert error.message == f"model_api.{path} is required."
    assert error.violations == (FieldViolation(f"model_api.{path}", "is required"),)


@pytest.mark.parametrize(
    ("column", "path"),
    [
        (Column(name="c"), "data_type"),
        (Column(name="c", data_type=DataType()), "data_type.type"),
        (Column(name="c", data_type=DataType(array={})), "data_type.array.item_type"),
        (Column(name="c", data_type=DataType(array={"item_type": {}})), "data_type.array.item_type.type"),
        (Column(name="c", data_type=DataType(map={"value_type": ANY})), "data_type.map.key_type"),
        (Column(name="c", data_type=DataType(map={"key_type": ANY})), "data_type.map.value_type"),
        (
            Column(name="c", data_type=DataType(map={"key_type": ANY, "value_type": {}})),
            "data_type.map.value_type.type",
        ),
    ],
)
def test_every_column_has_a_type_to_its_depth(column: Column, path: str) -> None:
    error = failure(with_columns(column))

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "TYPE_MISSING"
    assert [violation.field for violation in error.violations] == [f"model_api.inputs[0].tabular.columns[0].{path}"]


@pytest.mark.parametrize(
    ("model_api", "path"),
    [
        (ModelApi(inputs=[ModelApiInput(tabular={})]), "inputs[0].tabular.name"),
        (ModelApi(outputs=[ModelApiOutput(parameter={"data_type": ANY})]), "outputs[0].parameter.name"),
        (
            ModelApi(inputs=[ModelApiInput(tabular={"name": "t", "columns": [{"data_type": ANY}]})]),
            "inputs[0].tabular.columns[0].name",
        ),
    ],
)
def test_inputs_outputs_and_columns_have_names(model_api: ModelApi, path: str) -> None:
    error = failure(model_api)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "EMPTY_NAME"
    assert error.message == f"{path} must not be empty."


# What comes from headers of spreadsheets, and what else text can have.
NAMES = [
    "Amount\n(EUR)",
    "Amount\r\n(EUR)",
    "\tamount\t",
    " amount ",
    "\xa0amount",
    "a\u200bb",
    "\u202eamount",
    "a\u2028b",
    "\ufeffamount",
    "x" * 10_000,
]


def test_a_name_is_that_of_the_data() -> None:
    for name in NAMES:
        column = Column(name=name, data_type=ANY)
        table = {"name": name, "columns": [column, Column(name="amount", data_type=ANY)]}
        validate(ModelApi(inputs=[tabular(name)], outputs=[parameter(name)]))
        validate(ModelApi(inputs=[ModelApiInput(tabular=table)]))


def test_a_name_has_no_control_characters_but_those_of_lines() -> None:
    for control in map(chr, (*range(0x20), *range(0x7F, 0xA0))):
        api = with_columns(Column(name="fine", data_type=ANY), Column(name=f"a\n{control}b", data_type=ANY))
        if control in "\t\n\r":
            validate(api)
            continue
        error = failure(api)

        assert isinstance(error, InvalidModelApi), ascii(control)
        assert error.error_type == "INVALID_NAME"
        (violation,) = error.violations
        assert violation.field == "model_api.inputs[0].tabular.columns[1].name"
        assert violation.description == (
            "must not contain control characters other than tab, line feed and carriage return, "
            f"but has U+{ord(control):04X} in 'a\\n\\x{ord(control):02x}b'; rename it in the data, too"
        )


def test_an_unsupported_type_says_which() -> None:
    for api in (ModelApi(inputs=[ModelApiInput(unsupported={})]), ModelApi(outputs=[ModelApiOutput(unsupported={})])):
        error = failure(api)

        assert isinstance(error, InvalidArgument)
        assert error.violations[0].field.endswith("puts[0].unsupported.unsupported_type")
        assert error.violations[0].description == "is required"


def tabular(name: str) -> Any:
    return {"tabular": {"name": name}}


def parameter(name: str) -> Any:
    return {"parameter": {"name": name, "data_type": ANY}}


@pytest.mark.parametrize(
    ("model_api", "path", "first"),
    [
        (ModelApi(inputs=[tabular("x"), tabular("y"), tabular("x")]), "inputs[2].tabular.name", 0),
        (ModelApi(inputs=[tabular("x"), parameter("x")]), "inputs[1].parameter.name", 0),
        (ModelApi(outputs=[tabular("y"), parameter("x"), tabular("x")]), "outputs[2].tabular.name", 1),
        (
            ModelApi(inputs=[{"tabular": {"name": "t", "columns": [{"name": "x", "data_type": ANY}] * 2}}]),
            "inputs[0].tabular.columns[1].name",
            0,
        ),
    ],
)
def test_a_name_is_given_once_in_a_list(model_api: ModelApi, path: str, first: int) -> None:
    error = failure(model_api)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "DUPLICATE_NAME"
    assert error.violations == (
        FieldViolation(path, f"must be unique in its list, but 'x' is also the name of item {first}"),
    )


@pytest.mark.parametrize(
    "model_api",
    [
        ModelApi(inputs=[tabular("x")], outputs=[tabular("x")]),
        ModelApi(
            inputs=[tabular("x"), tabular("X"), tabular("x "), tabular("é"), tabular("e\N{COMBINING ACUTE ACCENT}")]
        ),
        ModelApi(inputs=[{"unsupported": {"unsupported_type": "u"}}] * 2),
        ModelApi(inputs=[{"tabular": {"name": name, "columns": [{"name": "x", "data_type": ANY}]}} for name in "xy"]),
    ],
)
def test_the_same_name_elsewhere_is_no_duplicate(model_api: ModelApi) -> None:
    validate(model_api)


def test_empty_names_are_no_duplicates_of_each_other() -> None:
    error = failure(ModelApi(inputs=[tabular(""), tabular("")]))

    assert [violation.description for violation in error.violations] == ["must not be empty"] * 2


def sized(inputs: int, columns: int, outputs: int, levels: int = 1) -> ModelApi:
    """A Model API of so many tables, each with so many columns, whose types are so deep, and of so many values."""
    made = [Column(name=f"c{number}", data_type=arrays(levels)) for number in range(columns)]
    return ModelApi(
        inputs=[ModelApiInput(tabular=TabularType(name=f"t{number}", columns=made)) for number in range(inputs)],
        outputs=[
            ModelApiOutput(parameter=ParameterType(name=f"p{number}", data_type=arrays(1))) for number in range(outputs)
        ],
    )


def test_a_model_api_has_at_most_20000_parts() -> None:
    for api in (sized(1, 19_999, 0), sized(0, 0, 20_000), sized(20, 998, 20), sized(20, 249, 0, levels=4)):
        validate(create_version(model_api=api))


def test_one_of_more_parts_is_refused_and_told_how_many_it_has() -> None:
    for api, parts in ((sized(1, 20_000, 0), 20_001), (sized(20, 998, 21), 20_001), (sized(20, 250, 0, 4), 20_020)):
        for request in (create_version(model_api=api), ModelVersion(model_api=api, branch="master")):
            error = failure(request)
            assert isinstance(error, InvalidModelApi)
            assert error.error_type == "TOO_LARGE"
            assert error.message == (
                f"model_api must have at most 20000 inputs, outputs, columns and types in types together, not {parts}."
            )
            assert [violation.field for violation in error.violations] == ["model_api"]


def test_parts_are_counted_however_small_they_are() -> None:
    error = failure(create_version(model_api=ModelApi(inputs=[ModelApiInput()] * 20_001)))
    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "TOO_LARGE"


def test_types_in_maps_are_parts_too() -> None:
    def full(levels: int) -> DataType:
        if levels == 1:
            return arrays(1)
        return DataType(map=MapType(key_type=full(levels - 1), value_type=full(levels - 1)))

    error = failure(with_data_type(full(15)))
    assert isinstance(error, InvalidModelApi)
    # The table, its column, and all types but the outermost.
    assert error.message.endswith(f"not {2 + 2**15 - 2}.")


def test_a_data_type_may_be_32_levels_deep() -> None:
    validate(with_data_type(arrays(32)))


@pytest.mark.parametrize("levels", [33, 40, 2000])
def test_a_data_type_deeper_than_32_levels_is_refused_without_following_it(levels: int) -> None:
    request = CreateModelVersionRequest()
    innermost = request.model_api.inputs.add().parameter.data_type
    for _ in range(levels - 1):
        innermost = innermost.array.item_type
    innermost.any.SetInParent()
    request.model_rid = MODEL
    request.model_api.inputs[0].parameter.name = "p"
    error = failure(request)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "NESTING_TOO_DEEP"
    assert error.message == "model_api.inputs[0].parameter.data_type must be nested at most 32 levels deep."
    assert [violation.field for violation in error.violations] == ["model_api.inputs[0].parameter.data_type"]


def test_a_deep_map_is_one_violation_however_many_parts_are_too_deep() -> None:
    deep = arrays(32)
    request = with_data_type(DataType(map=MapType(key_type=deep, value_type=deep)))

    assert isinstance(failure(request), InvalidModelApi)


def test_each_column_has_its_own_depth() -> None:
    columns = [Column(name=str(index), data_type=arrays(depth)) for index, depth in enumerate([33, 32, 1, 40])]

    paths = [f"model_api.inputs[0].tabular.columns[{index}].data_type" for index in (0, 3)]
    assert broken_paths(with_columns(*columns)) == paths
