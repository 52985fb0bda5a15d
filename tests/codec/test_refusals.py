"""What is refused, and with which words."""

from __future__ import annotations

import json

import pytest

from modelregistry.v1.model_api_pb2 import Column, DataType, TabularType
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from server.codec.json_form import from_json, loads
from server.core.errors import InvalidArgument
from tests.codec.samples import SEED, refusal, text_refusal


@pytest.mark.parametrize(
    ("value", "path", "sentence"),
    [
        ([], "", "must be an object, not a list"),
        (None, "", "must be an object, not null"),
        ({"rid": 1}, "rid", "must be a string, not 1"),
        ({"rid": True}, "rid", "must be a string, not true"),
        ({"rid": {}}, "rid", "must be a string, not an object"),
        ({"rid": "a\ud800"}, "rid", "'utf-8' codec can't encode character '\\ud800' in position 1"),
        ({"condaRequirements": "numpy"}, "condaRequirements", "must be a list, not 'numpy'"),
        ({"condaRequirements": {}}, "condaRequirements", "must be a list, not an object"),
        ({"condaRequirements": ["a", None]}, "condaRequirements[1]", "must be a string, not null"),
        ({"condaRequirements": ["\udfff"]}, "condaRequirements[0]", "'utf-8' codec can't encode"),
        ({"versionNumber": True}, "versionNumber", "must be a whole number, not true"),
        ({"versionNumber": False}, "versionNumber", "must be a whole number, not false"),
        ({"versionNumber": "1"}, "versionNumber", "must be a whole number, not '1'"),
        ({"versionNumber": 1.5}, "versionNumber", "must be a whole number, not 1.5"),
        (loads('{"versionNumber": 0.5e-1}'), "versionNumber", "must be a whole number, not 0.05"),
        (loads('{"versionNumber": 7.00000000000000000001}'), "versionNumber", "must be a whole number, not 7.0"),
        (loads('{"versionNumber": 2147483648.0}'), "versionNumber", "2147483648"),
        (loads('{"versionNumber": -1e20}'), "versionNumber", f"-{10**20}"),
        (loads('{"versionNumber": 1e400}'), "versionNumber", "must be a whole number, not Infinity"),
        (loads('{"versionNumber": 1e999999999}'), "versionNumber", "must be a whole number, not Infinity"),
        (loads(f'{{"versionNumber": 1e{"9" * 30}}}'), "versionNumber", "must be a whole number, not Infinity"),
        (loads('{"versionNumber": 1e-999999999}'), "versionNumber", "must be a whole number, not 0.0"),
        ({"versionNumber": float("inf")}, "versionNumber", "must be a whole number, not Infinity"),
        ({"versionNumber": 2**31}, "versionNumber", "2147483648"),
        ({"versionNumber": -(2**31) - 1}, "versionNumber", "-2147483649"),
        (loads(f'{{"versionNumber": {10**99}}}'), "versionNumber", str(10**99)),
        ({"modelApi": []}, "modelApi", "must be an object, not a list"),
        ({"modelApi": {"inputs": {}}}, "modelApi.inputs", "must be a list, not an object"),
        ({"modelApi": {"inputs": ["x"]}}, "modelApi.inputs[0]", "must be an object, not 'x'"),
        ({"modelApi": {"inputs": [None]}}, "modelApi.inputs[0]", "must be an object, not null"),
        ({"source": "sdk"}, "source", "must be an object, not 'sdk'"),
        ({"source": {"branch": "b"}}, "source.type", "must be one of codeRepository, codeWorkspace, external"),
        ({"source": {"type": "legacy"}}, "source.type", "promoted, sdk, not 'legacy'"),
        ({"source": {"type": "code_repository"}}, "source.type", "not 'code_repository'"),
        ({"source": {"type": ["sdk"]}}, "source.type", "not a list"),
        ({"source": {"type": 7}}, "source.type", "not 7"),
        ({"source": {"type": "sdk", "branch": "b"}}, "source.branch", "is not a known key"),
        ({"source": {"type": "sdk", "sdk": {}}}, "source.sdk", "is not a known key"),
        ({"model_rid": "r"}, "model_rid", "is not a known key"),
        ({"nonsense": None}, "nonsense", "is not a known key"),
        ({"type": "x"}, "type", "is not a known key"),
        ({"a key": 1}, '["a key"]', "is not a known key"),
        ({"\ud800": 1}, r'["\ud800"]', "is not a known key"),
        ({"createdTime": 1_052_224_496_789}, "createdTime", "must be a time in whole milliseconds"),
        ({"createdTime": "yesterday"}, "createdTime", "like 2003-05-06T12:34:56.789Z, not 'yesterday'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_values_are_refused_at_their_path(value: object, path: str, sentence: str) -> None:
    refused = refusal(value)

    assert list(refused) == [path]
    assert sentence in refused[path]


@pytest.mark.parametrize("name", ["UNSPECIFIED", "TABULAR_FORMAT_PANDAS", "pandas", "", "ARROW", 0, 1, True, [], {}])
def test_an_enum_is_one_of_its_bare_names(name: object) -> None:
    refused = refusal({"format": name}, TabularType)

    assert refused["format"].startswith("must be one of PANDAS, SPARK, not ")


@pytest.mark.parametrize("required", [1, 0, "true", []])
def test_a_truth_value_is_true_or_false(required: object) -> None:
    assert refusal({"required": required}, Column)["required"].startswith("must be true or false, not ")


@pytest.mark.parametrize(
    ("params", "path", "sentence"),
    [
        ([], "params", "must be an object, not a list"),
        ({"size": 1}, "params.size", "must be a string, not 1"),
        ({"size": None}, "params.size", "must be a string, not null"),
        ({"a.b[0]": {}}, 'params["a.b[0]"]', "must be a string, not an object"),
        ({"\ud800": "x"}, r'params["\ud800"]', "can't encode"),
        ({"size": "\ud800"}, "params.size", "can't encode"),
    ],
    ids=str,
)
def test_a_map_holds_text_under_any_key(params: object, path: str, sentence: str) -> None:
    refused = refusal({"type": "unsupported", "unsupportedType": "x", "params": params}, DataType)

    assert list(refused) == [path]
    assert sentence in refused[path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2003-05-06",
        "2003-05-06T12:34:56.789",
        "2003-05-06 12:34:56.789Z",
        "2003-05-06T12:34:56,789Z",
        "2003-05-06T12:34:56.Z",
        "2003-05-06T12:34Z",
        "2003-5-6T12:34:56Z",
        "20030506T123456Z",
        "2003-05-06T12:34:56.789+0100",
        "2003-05-06T12:34:56.789+24:00",
        "2003-05-06T12:34:56.789+01:60",
        "2003-05-06T24:00:00Z",
        "2003-05-06T12:60:00Z",
        "2003-05-06T12:34:60Z",
        "2003-02-29T12:34:56Z",
        "2003-13-06T12:34:56Z",
        "٢٠٠٣-05-06T12:34:56Z",
        "2003-05-06T12:34:56.789Z\n",
        "2003-05-06T12:34:56.7891Z",
        "2003-05-06T12:34:56.000001Z",
        "2003-05-06T12:34:56.789000001Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
    ],
)
def test_a_time_that_is_not_one_in_whole_milliseconds_is_refused(text: str) -> None:
    refused = refusal({"createdTime": text}, Model)

    assert refused == {
        "createdTime": f"must be a time in whole milliseconds, like 2003-05-06T12:34:56.789Z, not {text!r}"
    }


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1.s", ".5s", "1.0001s", "1 s", "1h", "٣s", "315576000001s", "1e3s", "+1s"]
)
def test_a_duration_that_is_not_one_in_whole_milliseconds_is_refused(text: str) -> None:
    refused = refusal({"minTimeAsHead": text}, SetBranchPolicyRequest)

    assert refused == {"minTimeAsHead": f"must be a duration in whole milliseconds, like 3600s or 0.500s, not {text!r}"}


def test_all_that_is_wrong_is_told_at_once_and_where() -> None:
    value = json.loads(SEED)
    value["rid"] = 7
    value["modelApi"]["inputs"][0]["columns"] += [{}, {"name": 4, "dataType": {"type": "array", "itemType": 1}}]
    value["modelApi"]["outputs"] = [{"type": "tabular", "format": "ARROW", "colour": "red"}]

    refused = refusal(value)

    assert refused == {
        "rid": "must be a string, not 7",
        "modelApi.inputs[0].columns[3].name": "must be a string, not 4",
        "modelApi.inputs[0].columns[3].dataType.itemType": "must be an object, not 1",
        "modelApi.outputs[0].format": "must be one of PANDAS, SPARK, not 'ARROW'",
        "modelApi.outputs[0].colour": "is not a known key",
    }


def test_paths_begin_where_the_value_stands_in_a_larger_document() -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_json({"rid": 1, "x y": 2}, Model, "lines[3].model")

    assert [path for path, _ in caught.value.violations] == ["lines[3].model.rid", 'lines[3].model["x y"]']


def test_long_keys_and_values_are_cut() -> None:
    refused = refusal({"createdTime": "é" * 5000, "k" * 5000: 1})

    assert [len(path) < 120 for path in refused] == [True, True]
    assert all(len(sentence) < 200 for sentence in refused.values())
    assert f"not '{'é' * 100}'…" in refused["createdTime"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Expecting value: line 1 column 1"),
        ("{", "Expecting property name"),
        ('{"a": 1,}', "line 1 column"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1} {}', "Extra data"),
        ('"\x00"', "Invalid control character"),
        ("\ufeff{}", "BOM"),
        ("NaN", "NaN is not a number"),
        ('{"versionNumber": Infinity}', "Infinity is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' occurs twice"),
        ('[{"x": {"a": null, "\\u0061": 1}}]', "the key 'a' occurs twice"),
        ('{"name": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udc00": 1}', "surrogates not allowed"),
        ('["\\udc00\\ud800"]', "surrogates not allowed"),
        ('{"name": "\ud800"}', "surrogates not allowed"),
        (b'{"name": "\xff"}', "can't decode byte 0xff"),
        (b'{"name": "\xed\xa0\x80"}', "can't decode byte 0xed"),
        (b"\xff\xfe{\x00}\x00", "can't decode byte 0xff"),
        ("1" * 101, "is too long"),
        ("1" * 5000, "is too long"),
        ("-" + "1" * 5000, "is too long"),
        ("[" * 10_000 + "]" * 10_000, "recursion"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "recursion"),
        ("[" * 100_000, "recursion"),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_text_that_is_not_strict_json_is_refused(text: str | bytes, sentence: str) -> None:
    refused = text_refusal(text)

    assert refused.startswith("the text is not valid JSON: ")
    assert sentence in refused
    assert len(refused.encode()) < 200


def test_escaped_surrogate_pairs_are_the_character_that_they_spell() -> None:
    assert loads('{"name": "\\ud83d\\ude80 \\\\ud800"}') == {"name": "🚀 \\ud800"}
