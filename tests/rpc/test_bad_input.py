"""Whatever arrives is answered with a precise error, and the server goes on serving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelregistry.v1.model_api_pb2 import ModelApi
from server.core.logs import JsonFormatter
from server.storage.sql.repository import SqlRepository
from tests.builders import FOLDER, file_store, model_api
from tests.conftest import NewDatabase, OpenRepository
from tests.rpc.harness import (
    DEADLINE_SECONDS,
    METHODS,
    SOME_MODEL,
    SOME_VERSION,
    Registry,
    User,
    failure_of,
    request_of,
    serving,
)
from tests.strategies import messages, model_apis

OWN_CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    # A cursor that is none.
    grpc.StatusCode.OUT_OF_RANGE,
}
FUZZ = settings(max_examples=30)


def code_of(user: User, rpc: str, request_bytes: bytes) -> grpc.StatusCode:
    try:
        user.send(rpc, request_bytes)
    except grpc.RpcError as error:
        return failure_of(error).code
    return grpc.StatusCode.OK


# Where they begin with a line feed, it is the tag of the first string of the request.
NO_MESSAGES = {
    "garbage": b"\xff",
    "length": b"\x0a\xff",
    "truncated": b"\x0a\x05ab",
    "utf-8": b"\x0a\x02\xc3\x28",
    "tag 0": b"\x00",
    "open group": b"\x0b",
    "surrogate": b"\x0a\x03\xed\xa0\x80",
}

pytestmark = pytest.mark.database("shared")


@pytest.fixture(autouse=True)
def still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the server answers as before."""
    caller: User = request.getfixturevalue("admin" if "backend" in request.fixturenames else "any_admin")
    yield
    assert caller("ListModels") is not None


@pytest.mark.parametrize("rpc", METHODS)
def test_bytes_that_are_no_message_are_an_invalid_argument(any_admin: User, rpc: str) -> None:
    fields = METHODS[rpc].input_type.fields
    tag = bytes([next(field.number for field in fields if field.type == field.TYPE_STRING) << 3 | 2])
    for what, no_message in NO_MESSAGES.items():
        request_bytes = no_message.replace(b"\x0a", tag, 1)
        failure = any_admin.failure_of_bytes(rpc, request_bytes)
        assert (failure.code, failure.name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument"), what
        assert failure.violations, what


@pytest.mark.parametrize("rpc", METHODS)
def test_no_bytes_yield_internal_or_unknown(any_admin: User, rpc: str) -> None:
    @FUZZ
    @given(st.binary(max_size=200))
    def check(request_bytes: bytes) -> None:
        assert code_of(any_admin, rpc, request_bytes) in OWN_CODES

    check()


@pytest.mark.parametrize("rpc", METHODS)
def test_no_request_yields_internal_or_unknown(admin: User, rpc: str) -> None:
    @FUZZ
    @given(messages(type(request_of(rpc))))
    def check(request: Any) -> None:
        assert code_of(admin, rpc, request.SerializeToString()) in OWN_CODES

    check()


def test_any_valid_model_api_survives_create_promote_and_get_unchanged(admin: User) -> None:
    source, target = admin.create_model("source"), admin.create_model("target")

    @FUZZ
    @given(model_apis())
    def check(api: ModelApi) -> None:
        created = admin.create_version(source, model_api=api)
        promoted = admin.promote(created, target)
        read = admin("GetModelVersion", model_rid=target.rid, model_version_rid=promoted.rid)
        assert created.model_api == promoted.model_api == read.model_api == api

    check()


def test_broken_probes_are_an_invalid_argument_too(any_registry: Registry) -> None:
    check = any_registry.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\xff", timeout=180)
    assert failure_of(caught.value).name == "InvalidArgument"


def test_broken_watchers_are_an_invalid_argument_too(any_registry: Registry) -> None:
    watch = any_registry.channel.unary_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.RpcError) as caught:
        list(watch(b"\xff", timeout=180))
    assert failure_of(caught.value).name == "InvalidArgument"


def test_broken_reflection_requests_are_an_invalid_argument_too(any_registry: Registry) -> None:
    for version in ("v1", "v1alpha"):
        call = any_registry.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b"\xff"]), timeout=180))
        assert failure_of(caught.value).name == "InvalidArgument"


@pytest.mark.parametrize("path", ["/nope", "/modelregistry.v1.ModelService/Nope", "/a.b/C", "/", "nope"])
def test_an_unknown_method_is_unimplemented(any_registry: Registry, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        any_registry.channel.unary_unary(path)(b"", timeout=180)
    assert failure_of(caught.value).code == grpc.StatusCode.UNIMPLEMENTED


def test_an_oversized_message_is_refused_before_it_is_read(any_admin: User) -> None:
    failure = any_admin.failure(
        "CreateModelVersion", model_rid=SOME_MODEL, model_api=model_api(), conda_requirements=["x" * 5 * 2**20]
    )
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_version_that_could_not_be_read_back_is_too_large(admin: User) -> None:
    model = admin.create_model("m")
    request = {"model_rid": model.rid, "model_api": model_api()}
    failure = admin.failure("CreateModelVersion", conda_requirements=["x" * (4 * 2**20 - 1000)], **request)
    assert (failure.name, failure.code) == ("RequestTooLarge", grpc.StatusCode.RESOURCE_EXHAUSTED)
    created = admin("CreateModelVersion", conda_requirements=["x" * (4 * 2**20 - 10_000)], **request)
    assert admin("GetBranch", model_rid=model.rid).head == created
    assert created.version_number == 1


MALFORMED_RIDS = [
    "",
    "x",
    SOME_MODEL + "\n",
    "\n" + SOME_MODEL,
    SOME_MODEL.upper(),
    SOME_MODEL.replace("model.", "módel."),
    SOME_VERSION,
    "ri.models.main.model.",
    "ri.models.main.model." + "x" * 235,
    "ri.models.main.model." + "é",
    "ri.models.main.model.a\x00b",
    "x" * 10_000,
]


def test_a_malformed_rid_is_named_with_its_field(any_admin: User) -> None:
    for rid in MALFORMED_RIDS:
        failure = any_admin.failure("GetModel", model_rid=rid)
        assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["model_rid"]), rid


def test_a_malformed_display_name_is_named(any_admin: User) -> None:
    for name in ("", ".", "..", "a/b", "a\x00b", "\x1b[2J", "\x85", "😀" * 701, "x" * 10_000):
        failure = any_admin.failure("CreateModel", name=name, parent_folder_rid=FOLDER)
        assert failure.name == "InvalidDisplayName", name


def test_unusual_names_are_names(admin: User) -> None:
    for name in ("😀" * 700, "‮", "…", "a\u200db", "' OR 1=1 --", "%", "_", "\\", "名前", " "):
        created = admin.create_model(name)
        assert admin("GetModel", model_rid=created.rid).name == name


def test_a_branch_name_of_astral_characters_survives(admin: User) -> None:
    model = admin.create_model("m")
    created = admin.create_version(model, branch="🚀" * 255)
    assert admin("GetBranch", model_rid=model.rid, branch="🚀" * 255).head == created


@pytest.mark.parametrize("depth", [33, 45])
def test_data_types_nested_too_deep_are_named(any_admin: User, depth: int) -> None:
    failure = any_admin.failure_of_bytes("CreateModelVersion", nested_request(depth))
    assert (failure.name, failure.parameters["errorType"]) == ("InvalidModelApi", "NESTING_TOO_DEEP")


@pytest.mark.parametrize("depth", [60, 1000, 20_000])
def test_nesting_beyond_what_protobuf_parses_is_an_invalid_argument(any_admin: User, depth: int) -> None:
    assert any_admin.failure_of_bytes("CreateModelVersion", nested_request(depth)).name == "InvalidArgument"


def test_several_violations_are_told_at_once(any_admin: User) -> None:
    failure = any_admin.failure("PromoteVersion", model_rid="x", source_model_version_rid="y", branch="", preview=True)
    assert failure.name == "InvalidArgument"
    assert {field for field, _ in failure.violations} == {"model_rid", "source_model_version_rid", "branch"}


def test_the_longest_error_reaches_the_client_with_its_details(any_admin: User) -> None:
    worst = ["\x00" + "🚀" * 3000 for _ in range(100)]
    request = {"model_rid": SOME_MODEL, "model_api": model_api()}
    failure = any_admin.failure("CreateModelVersion", conda_requirements=worst, **request)
    assert failure.name == "InvalidArgument"
    assert failure.violations[-1] == ("", f"and {100 - (len(failure.violations) - 1)} more")


def test_a_reflection_stream_that_stays_open_holds_no_thread_that_serves_calls(registry: Registry, admin: User) -> None:
    reflect = registry.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    ended = threading.Event()
    streams = [reflect(iter(ended.wait, True), timeout=DEADLINE_SECONDS) for _ in range(20)]
    assert admin("ListModels") is not None
    ended.set()
    for stream in streams:
        stream.cancel()


def test_an_unforeseen_exception_is_internal_and_told_to_the_log_alone(
    new_database: NewDatabase, open_repository: OpenRepository, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    class Broken(SqlRepository):
        def read(self, query: Any) -> Any:
            raise RuntimeError("SELECT secret FROM /etc/passwd")

    url = new_database("sqlite", migrated=True)
    sound = open_repository(url)
    with serving(Broken(sound._database), files=file_store(sound, tmp_path)) as registry, caplog.at_level(logging.INFO):
        failure = registry.user("admin").failure("ListModels")
    assert (failure.code, failure.name, failure.parameters) == (grpc.StatusCode.INTERNAL, "Internal", {})
    assert failure.status is not None
    assert b"secret" not in failure.status.SerializeToString()
    told = [record for record in caplog.records if getattr(record, "fields", {}).get("error_instance_id")]
    assert {record.fields["error_instance_id"] for record in told} == {failure.instance_id}  # type: ignore[attr-defined]
    assert any(record.exc_info for record in told)


def nested_request(depth: int) -> bytes:
    """CreateModelVersion with a parameter whose type is `depth` levels deep, made by hand: no library builds it."""

    def field(number: int, payload: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(payload)) + payload

    data_type = field(10, b"")
    for _ in range(depth - 1):
        data_type = field(2, field(1, data_type))
    parameter = field(1, b"p") + field(3, data_type)
    return field(1, SOME_MODEL.encode()) + field(3, field(1, field(2, parameter)))


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def test_a_log_line_is_short_whatever_was_asked(any_admin: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        any_admin.failure("CreateModel", name="😀" * 900_000, parent_folder_rid=FOLDER)
        any_admin.failure("ListModels", page_token="x" * 3_000_000)
    assert len(caplog.records) == 2
    assert all(len(JsonFormatter().format(record)) < 4000 for record in caplog.records)
