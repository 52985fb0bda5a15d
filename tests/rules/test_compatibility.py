from __future__ import annotations

import contextvars
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from modelregistry.v1.compatibility_pb2 import CompatibilityFinding, CompatibilityRule, Severity
from modelregistry.v1.model_api_pb2 import (
    ArrayType,
    Column,
    DataType,
    MapType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularType,
    UnsupportedType,
)
from server.core import cancellation
from server.core.cancellation import Call, CallOver
from server.rules import compatibility
from tests.rules.compatibility_cases import (
    CASES,
    PARTS,
    Case,
    Part,
    both,
    data_type,
    error,
    inputs,
    outputs,
    parameter,
    spark,
    table,
    unsupported,
    warn,
)
from tests.strategies import messages, model_apis

KIBIBYTE = 1024


def compare(head: ModelApi, candidate: ModelApi) -> list[CompatibilityFinding]:
    """All that is found, where a record has room for it."""
    found = compatibility.compare(head, candidate)
    assert len(found.findings) == found.error_count + found.warning_count
    return list(found.findings)


def told(findings: Iterable[CompatibilityFinding]) -> list[tuple[str, str, str]]:
    """Findings without their messages, as the table of cases writes them."""
    return [
        (
            finding.path,
            CompatibilityRule.Name(finding.rule).removeprefix("COMPATIBILITY_RULE_"),
            Severity.Name(finding.severity).removeprefix("SEVERITY_"),
        )
        for finding in findings
    ]


def only_finding(head: ModelApi, candidate: ModelApi) -> CompatibilityFinding:
    [finding] = compare(head, candidate)
    return finding


# Rule by rule


def test_no_sentence_stands_for_two_cases() -> None:
    assert len(CASES) == sum(len(part) for part in PARTS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_breaks_somebody_is_found(case: Case) -> None:
    assert told(compare(case.head, case.candidate)) == case.expected


# What an input that took the type of a row (what an output that returns the type of a column) may take (returned)
# instead: `=` can, `<` takes less, `x` something else.
SCALARS = """
            any boolean date double float integer long string timestamp Tensor
any         =   <       <    <      <     <       <    <      <         <
boolean     =   =       x    x      x     x       x    x      x         x
date        =   x       =    x      x     x       x    x      x         x
double      =   x       x    =      <     <       <    x      x         x
float       =   x       x    =      =     x       x    x      x         x
integer     =   x       x    =      x     =       =    x      x         x
long        =   x       x    =      x     <       =    x      x         x
string      =   x       x    x      x     x       x    =      x         x
timestamp   =   x       x    x      x     x       x    x      =         x
Tensor      =   x       x    x      x     x       x    x      x         ?
"""


def scalar_pairs() -> Iterator[tuple[str, str, str]]:
    columns, *rows = (line.split() for line in SCALARS.strip().splitlines())
    for kind, *verdicts in rows:
        for other, verdict in zip(columns, verdicts, strict=True):
            yield kind, other, verdict


def test_values_of_one_scalar_type_are_given_where_another_is_expected() -> None:
    def findings(verdict: str, path: str, misfit: str) -> list[tuple[str, str, str]]:
        unknown = [warn(path, "UNSUPPORTED_TYPE")]
        return {"=": [], "<": [error(path, misfit)], "x": [error(path, "TYPE_CHANGED")], "?": unknown}[verdict]

    for value, expected, verdict in scalar_pairs():
        called = compare(inputs(parameter("k", value)), inputs(parameter("k", expected)))
        assert told(called) == findings(verdict, 'inputs["k"].data_type', "TYPE_NARROWED"), (value, expected)
        consumed = compare(outputs(parameter("k", expected)), outputs(parameter("k", value)))
        assert told(consumed) == findings(verdict, 'outputs["k"].data_type', "TYPE_WIDENED"), (value, expected)


def test_the_table_of_scalar_types_has_each() -> None:
    kinds = {field.name for field in DataType.DESCRIPTOR.fields}
    assert {data_type(kind).WhichOneof("type") for kind, _, _ in scalar_pairs()} == kinds - {"array", "map"}


def test_what_a_later_release_describes_is_unsupported_here() -> None:
    def later(kind: type[Any], content: bytes) -> Any:
        return kind.FromString(b"\xf2\x3f" + bytes([len(content)]) + content)  # The field 1022

    def api(content: bytes) -> ModelApi:
        typed = ParameterType(name="k", data_type=later(DataType, content))
        return ModelApi(inputs=[later(ModelApiInput, content), ModelApiInput(parameter=typed)])

    assert told(compare(api(b"a"), api(b"a"))) == [
        warn('inputs[unsupported ""]', "UNSUPPORTED_TYPE"),
        warn('inputs["k"].data_type', "UNSUPPORTED_TYPE"),
    ]
    assert told(compare(api(b"a"), api(b"b"))) == [
        error('inputs[unsupported ""]', "REMOVED"),
        error('inputs["k"].data_type', "TYPE_CHANGED"),
        error('inputs[unsupported ""]', "REQUIRED_ADDED"),
    ]


def test_a_format_of_a_later_release_is_called_by_its_number() -> None:
    frame = TabularType(name="df", format=7)
    found = only_finding(outputs(table("df")), outputs(frame))
    assert found.message.startswith('The output "df" is a format 7 data frame now instead of a pandas one: ')
    assert compare(outputs(frame), outputs(frame)) == []


# Messages

MESSAGES = {
    'The input "k" is new, and it must be given: callers do not give it yet.': (
        inputs(),
        inputs(parameter("k", "long")),
    ),
    'The input of the unsupported type "Tensor" is new, and nobody can tell whether it must be given: callers do not '
    "give it yet.": (inputs(), inputs(unsupported("Tensor"))),
    'The column "age" of the input "df" must be given now and was optional before: callers may leave it out.': (
        inputs(table("df", age="long?")),
        inputs(table("df", age="long")),
    ),
    'The output "k" may be missing now and was always there before: consumers may count on it.': (
        outputs(parameter("k", "long")),
        outputs(parameter("k", "long?")),
    ),
    'The column "age" of the input "df" is not taken now and was before: callers still send it.': (
        inputs(table("df", age="long")),
        inputs(table("df")),
    ),
    'The output "k" is not returned now and was before: consumers still read it.': (
        outputs(parameter("k", "long")),
        outputs(),
    ),
    'The column "age" of the input "df" takes integer now instead of long: callers may send values that no longer '
    "fit.": (inputs(table("df", age="long")), inputs(table("df", age="integer"))),
    'The input "k" takes array<map<long, array<…>>> for its keys now instead of any: callers may send values '
    "that no longer fit.": (
        inputs(parameter("k", "map<any, any>")),
        inputs(parameter("k", "map<array<map<long, array<date>>>, any>")),
    ),
    'The output "k" returns any now instead of array<map<string, array<…>>>: consumers may get values that do not '
    "fit.": (outputs(parameter("k", "array<map<string, array<long>>>")), outputs(parameter("k", "any"))),
    'The output "k" returns array<map<string, long>> now instead of date: what consumers get is of another type.': (
        outputs(parameter("k", "date")),
        outputs(parameter("k", "array<map<string, long>>")),
    ),
    'The input "k" takes unsupported "Tensor" now instead of one with other params: what callers send is of another '
    "type.": (inputs(parameter("k", "Tensor(dtype=f4)")), inputs(parameter("k", "Tensor"))),
    'The input "k" takes unsupported "Image" for its values now instead of unsupported "Tensor": what callers send '
    "is of another type.": (
        inputs(parameter("k", "map<long, Tensor>")),
        inputs(parameter("k", "map<long, Image>")),
    ),
    'The input "df" is a single value now instead of a table: callers still send the table.': (
        inputs(table("df")),
        inputs(parameter("df", "long")),
    ),
    'The output "df" is a Spark data frame now instead of a pandas one: consumers still read pandas.': (
        outputs(table("df")),
        outputs(spark(table("df"))),
    ),
    'The output "k" has the type unsupported "Tensor" for its items now as before: nobody can tell whether '
    "consumers can still read it.": (
        outputs(parameter("k", "array<Tensor>")),
        outputs(parameter("k", "array<Tensor>")),
    ),
    'The input of the unsupported type "Tensor" is there now as before: nobody can tell whether what callers send '
    "still fits.": (inputs(unsupported("Tensor")), inputs(unsupported("Tensor"))),
}


def test_a_message_is_a_sentence_for_people() -> None:
    for message, apis in MESSAGES.items():
        assert only_finding(*apis).message == message


# Size

LONGEST = 10_000


@pytest.mark.parametrize("character", ["n", "é", "😀", '"', "\x00"])
def test_a_finding_is_small_whatever_the_names_and_types(character: str) -> None:
    name = character * LONGEST
    tensor = DataType(unsupported=UnsupportedType(unsupported_type=name, params={name: name}))
    tensors = DataType(map=MapType(key_type=tensor, value_type=tensor))
    widest = DataType(map=MapType(key_type=tensors, value_type=tensors))

    def api(kind: Any, innermost: DataType) -> ModelApi:
        for _ in range(29):
            innermost = DataType(map=MapType(key_type=DataType(), value_type=innermost))
        frame = TabularType(name=name, columns=[Column(name=name, data_type=innermost)])
        return both(ModelApi(**{kind: [{"tabular": frame}]}), inputs(UnsupportedType(unsupported_type=name)))

    for kind in ("inputs", "outputs"):
        head, candidate = api(kind, widest), api(kind, DataType(array=ArrayType(item_type=tensors)))
        findings = [*compare(head, candidate), *compare(head, ModelApi()), *compare(ModelApi(), candidate)]
        assert "TYPE_CHANGED" in {rule for _, rule, _ in told(findings)}
        assert all(finding.ByteSize() < 8 * KIBIBYTE for finding in findings)


@pytest.mark.parametrize("errors", [1000, 9000])
def test_of_more_findings_than_a_record_has_room_for_the_first_are_kept_and_all_are_counted(errors: int) -> None:
    """Some columns take less, which are errors, and the others are gone, which are warnings."""
    names = [f"c{number}" for number in range(10_000)]
    head = inputs(table("df", **dict.fromkeys(names, "long")))
    candidate = inputs(table("df", **dict.fromkeys(names[:errors], "integer")))

    found = compatibility.compare(head, candidate)

    assert (found.error_count, found.warning_count) == (errors, len(names) - errors)
    paths = [f'inputs["df"].columns["{name}"]' for name in names]
    paths[:errors] = [f"{path}.data_type" for path in paths[:errors]]
    assert [finding.path for finding in found.findings] == paths[: len(found.findings)]
    assert 0.9 * 2**20 < found.ByteSize() <= 2**20


def test_a_comparison_ends_with_its_call_also_within_one_type() -> None:
    api, call = inputs(parameter("k", "map<array<long>, long>")), Call()
    call.end()

    def compare_for_nothing() -> None:
        cancellation.begin(call)
        compare(api, api)

    with pytest.raises(CallOver):
        contextvars.Context().run(compare_for_nothing)


def test_tables_of_2000_columns_are_compared_by_name() -> None:
    def frames(first: int, kind: str) -> TabularType:
        return table("df", **{f"column {number}": kind for number in range(first, first + 2000)})

    # 1,000 columns are gone, 1,000 are new, 1,000 are in both and take less.
    head, candidate = frames(0, "long"), frames(1000, "integer")
    found = compare(both(inputs(head), outputs(head)), both(inputs(candidate), outputs(candidate)))
    assert Counter((path.split("[")[0], rule, severity) for path, rule, severity in told(found)) == {
        ("inputs", "TYPE_NARROWED", "ERROR"): 1000,
        ("inputs", "REQUIRED_ADDED", "ERROR"): 1000,
        ("inputs", "REMOVED", "WARN"): 1000,
        ("outputs", "REMOVED", "ERROR"): 1000,
    }


# Laws

NAMES = ["größe", 'c"].columns["a']
SHAPES = ["{}", "array<{}>", "map<{}, long>", "map<string, array<{}>>"]
SCALAR_TYPES = ["integer", "long", "double", "any", "float", "string", "Tensor", "Tensor(dtype=f4)"]
TYPES = [shape.format(scalar) for shape in SHAPES for scalar in SCALAR_TYPES]


def marked_types(*marks: str) -> st.SearchStrategy[str]:
    """Types that are near to each other, so that two of them often have something in common."""
    shapes = st.just("{}") | st.sampled_from(SHAPES)
    scalars = st.sampled_from(SCALAR_TYPES[:4]) | st.sampled_from(SCALAR_TYPES)
    marks = marks or ("", "!", "?")
    return st.builds("{}{}".format, st.builds(str.format, shapes, scalars), st.sampled_from(marks))


def tables(name: str) -> st.SearchStrategy[TabularType]:
    names = st.sampled_from([name, f"{name}?", f"{name}!"])
    kept, *others = NAMES
    columns = st.fixed_dictionaries({kept: marked_types()}, optional={other: marked_types() for other in others})
    frames = st.builds(lambda name, columns: table(name, **columns), names, columns)
    return frames | frames.map(spark)


def part_lists() -> st.SearchStrategy[list[Part]]:
    kinds = [
        tables("df"),
        st.builds(parameter, st.just("k"), marked_types()),
        *(tables(name) | st.builds(parameter, st.just(name), marked_types()) for name in NAMES),
    ]
    named = (
        st.tuples(*kinds)
        .flatmap(lambda parts: st.permutations(parts))
        .flatmap(lambda parts: st.sampled_from([parts, parts[1:]]))
    )
    unnamed = st.lists(st.sampled_from(["Tensor", "Tensor(dtype=f4)", "Image"]).map(unsupported), max_size=3)
    return st.builds(list.__add__, named, unnamed)


def near_apis() -> st.SearchStrategy[ModelApi]:
    """Model APIs that are near to each other."""
    return st.builds(
        lambda taken, returned: both(inputs(*taken), outputs(*returned)),
        part_lists(),
        part_lists(),
    )


def copy_of(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def unsupported_in(message: Message) -> int:
    """How many unsupported types a message has, at any depth."""
    if isinstance(message, UnsupportedType):
        return 1
    fields = ((field, value) for field, value in message.ListFields() if field.message_type is not None)
    return sum(unsupported_in(each) for field, value in fields for each in (value if field.is_repeated else [value]))


def at_or_below(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


@given(model_apis())
def test_nothing_breaks_but_what_nobody_can_tell_when_nothing_is_changed(api: ModelApi) -> None:
    found = told(compare(api, copy_of(api)))
    assert {(rule, severity) for _, rule, severity in found} <= {("UNSUPPORTED_TYPE", "WARN")}
    assert len(found) == unsupported_in(api)


@given(near_apis(), near_apis(), st.data())
def test_what_is_new_and_need_not_be_given_breaks_nobody(
    head: ModelApi, candidate: ModelApi, data: st.DataObject
) -> None:
    more = copy_of(candidate)
    optional = parameter("new", data.draw(marked_types("?")))
    more.inputs.add().parameter.CopyFrom(optional)
    for item in (*more.inputs, *more.outputs):
        if item.HasField("tabular"):
            item.tabular.columns.add(name="new", required=False, data_type=optional.data_type)
    more.outputs.add().parameter.CopyFrom(parameter("new", data.draw(marked_types())))
    more.outputs.add().unsupported.CopyFrom(unsupported("New"))
    assert compare(head, more) == compare(head, candidate)


@given(near_apis(), near_apis(), st.randoms(use_true_random=False))
def test_the_order_in_an_api_changes_nothing_but_the_order_of_findings(
    head: ModelApi, candidate: ModelApi, random: Any
) -> None:
    def shuffled(api: ModelApi) -> ModelApi:
        api = copy_of(api)
        lists = [
            api.inputs,
            api.outputs,
            *(item.tabular.columns for item in (*api.inputs, *api.outputs) if item.HasField("tabular")),
        ]
        for each in lists:
            mixed: list[Any] = [copy_of(part) for part in each]
            random.shuffle(mixed)
            del each[:]
            each.extend(mixed)
        return api

    found, found_shuffled = (
        Counter(finding.SerializeToString(deterministic=True) for finding in findings)
        for findings in (compare(head, candidate), compare(shuffled(head), shuffled(candidate)))
    )
    assert found == found_shuffled


@given(near_apis(), near_apis())
def test_errors_come_first_and_then_both_in_the_order_of_the_api(head: ModelApi, candidate: ModelApi) -> None:
    found = compare(head, candidate)
    assert [finding.severity for finding in found] == sorted((each.severity for each in found), reverse=True)
    for _, each in itertools.groupby(found, key=lambda finding: finding.severity):
        sides = [finding.path.startswith("outputs") for finding in each]
        assert sides == sorted(sides)


STEP = re.compile(r'(\w+)(?:\[((?:unsupported )?)("(?:[^"\\]|\\.)*")\])?(?:\.|$)')


def put_back(path: str, head: ModelApi, candidate: ModelApi) -> ModelApi:
    """The candidate, but at a path with what the head has there."""
    result = copy_of(candidate)
    steps = STEP.findall(path)
    assert STEP.sub("", path) == ""
    _put_back(steps, head, result)
    return result


def _put_back(steps: list[tuple[str, str, str]], head: Any, target: Any) -> None:
    (field, *identity), *further = steps
    if isinstance(head, DataType | ModelApiInput | ModelApiOutput):
        head, target = (getattr(each, each.WhichOneof("type")) for each in (head, target))
    if identity[1]:
        before, after = ([copy_of(part) for part in getattr(each, field)] for each in (head, target))
        if further:
            [was], [now] = (
                [part for part in getattr(each, field) if identified(part) == identity] for each in (head, target)
            )
            return _put_back(further, was, now)
        target.ClearField(field)
        getattr(target, field).extend(part for part in after if identified(part) != identity)
        getattr(target, field).extend(part for part in before if identified(part) == identity)
    elif further:
        _put_back(further, getattr(head, field), getattr(target, field))
    else:
        target.ClearField(field)
        target.MergeFrom(type(head)(**{each.name: value for each, value in head.ListFields() if each.name == field}))
    return None


def identified(part: Any) -> list[str]:
    """How a path tells a part from the others of its list."""
    if isinstance(part, ModelApiInput | ModelApiOutput):
        part = getattr(part, str(part.WhichOneof("type")))
    if isinstance(part, UnsupportedType):
        return ["unsupported ", json.dumps(part.unsupported_type, ensure_ascii=False)]
    return ["", json.dumps(part.name, ensure_ascii=False)]


@given(near_apis(), near_apis())
def test_a_finding_is_gone_when_what_it_is_about_is_put_back(head: ModelApi, candidate: ModelApi) -> None:
    found = Counter(told(compare(head, candidate)))
    for finding in found:
        path, rule, _ = finding
        after = Counter(told(compare(head, put_back(path, head, candidate))))
        assert finding not in after or rule == "UNSUPPORTED_TYPE"
        assert all(at_or_below(other, path) and kind == "UNSUPPORTED_TYPE" for other, kind, _ in after - found)


MIRRORED = {
    "TYPE_NARROWED": "TYPE_WIDENED",
    "TYPE_WIDENED": "TYPE_NARROWED",
    "BECAME_REQUIRED": "BECAME_OPTIONAL",
    "BECAME_OPTIONAL": "BECAME_REQUIRED",
}


def mirrored(api: ModelApi) -> ModelApi:
    """The API with inputs for outputs and outputs for inputs."""
    return ModelApi(
        inputs=[ModelApiInput.FromString(item.SerializeToString()) for item in api.outputs],
        outputs=[ModelApiOutput.FromString(item.SerializeToString()) for item in api.inputs],
    )


def mirrored_path(path: str) -> str:
    return re.sub("^(in|out)puts", lambda match: "outputs" if match[1] == "in" else "inputs", path)


@given(near_apis(), near_apis())
def test_outputs_are_the_mirror_of_inputs(head: ModelApi, candidate: ModelApi) -> None:
    there, back = told(compare(head, candidate)), told(compare(mirrored(candidate), mirrored(head)))
    lists = {"REMOVED", "REQUIRED_ADDED"}
    expected = Counter(
        (mirrored_path(path), MIRRORED.get(rule, rule), severity) for path, rule, severity in there if rule not in lists
    )
    assert Counter(finding for finding in back if finding[1] not in lists) == expected
    # What callers must give anew is, in the mirror, what consumers miss.
    missed = {mirrored_path(path) for path, rule, _ in there if rule == "REQUIRED_ADDED"}
    assert missed <= {path for path, rule, _ in back if rule == "REMOVED"}


@pytest.mark.parametrize("side", [inputs, outputs])
def test_what_breaks_nobody_step_by_step_breaks_nobody_at_once(side: Any) -> None:
    def fits(head: str, candidate: str) -> bool:
        found = compare(side(parameter("k", head)), side(parameter("k", candidate)))
        return all(finding.severity < Severity.SEVERITY_ERROR for finding in found)

    steps = {(head, candidate) for head in TYPES for candidate in TYPES if fits(head, candidate)}
    assert all((first, first) in steps for first in TYPES)
    for first, second in steps:
        assert first == second or (second, first) not in steps
        assert all((first, third) in steps for third in TYPES if (second, third) in steps)


@given(near_apis(), near_apis())
def test_findings_are_the_same_for_what_was_stored_and_read(head: ModelApi, candidate: ModelApi) -> None:
    found = compare(head, candidate)
    assert compare(copy_of(head), copy_of(candidate)) == found
    assert [copy_of(finding) for finding in found] == found


@given(messages(ModelApi), messages(ModelApi))
def test_whatever_the_wire_can_bring_is_compared_and_left_as_it_is(head: ModelApi, candidate: ModelApi) -> None:
    before = copy_of(head), copy_of(candidate)
    found = compare(head, candidate)
    assert all(finding.path and finding.rule and finding.severity and finding.message for finding in found)
    assert all(finding.ByteSize() < 8 * KIBIBYTE for finding in found)
    assert (head, candidate) == before
