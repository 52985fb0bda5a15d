"""What fails in telemetry never costs a call its answer: here each part of it fails."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from server.core.logs import LogHandler
from server.rpc.telemetry import ObserverOf
from tests.conftest import OpenRepository
from tests.rpc.harness import SOME_MODEL, Registry, User, serving


def fail(*_: Any) -> Any:
    raise RuntimeError("telemetry fails")


def assert_all_is_answered(registry: Registry) -> None:
    """Calls of each kind that the chain tells apart are answered as usual, and carried out once."""
    admin = registry.user("admin")
    source = admin.create_version(admin.create_model("source"))
    target = admin.create_model("target")
    assert admin.promote(source, target).version_number == 1
    assert [version.version_number for version in admin("ListModelVersions", model_rid=target.rid).model_versions] == [
        1
    ]
    assert admin.download(admin.create_version_with_files(target, b"weights")) == b"weights"
    missing = admin.failure("GetModel", model_rid=SOME_MODEL)
    assert (missing.code, missing.name) == (grpc.StatusCode.NOT_FOUND, "ModelNotFound")
    stranger = registry.nobody().failure("GetModel", model_rid=SOME_MODEL)
    assert (stranger.code, stranger.name) == (grpc.StatusCode.UNAUTHENTICATED, "MissingCredentials")
    forged = User(registry.channel, (("authorization", "Bearer a.b.c"),)).failure("GetModel", model_rid=SOME_MODEL)
    assert (forged.code, forged.name) == (grpc.StatusCode.UNAUTHENTICATED, "InvalidCredentials")


class Broken(io.StringIO):
    """A stream that takes no line, and counts those that it should take."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def write(self, text: str) -> int:
        self.refused += 1
        raise RuntimeError("no line can be written")


@contextmanager
def broken_log(*, in_thread: bool) -> Iterator[None]:
    root, stream = logging.getLogger(), Broken()
    level, handler = root.level, LogHandler(stream)
    if in_thread:
        handler.start()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.stop()
    assert stream.refused


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_log_that_cannot_be_written(registry: Registry, in_thread: bool) -> None:
    with broken_log(in_thread=in_thread):
        assert_all_is_answered(registry)


def test_a_log_that_cannot_be_written_where_another_failure_is_logged(
    open_repository: OpenRepository, migrated_url: str
) -> None:
    repository = open_repository(migrated_url, promoted=fail, observer=fail)
    with serving(repository, observers_of=[fail]) as registry, broken_log(in_thread=False):
        assert_all_is_answered(registry)


OBSERVERS: dict[str, ObserverOf] = {
    "of a method": fail,
    "of the begin of a call": lambda method: fail,
    "of the end of a call": lambda method: lambda record, context: fail,
}


@pytest.mark.parametrize("observer_of", OBSERVERS.values(), ids=OBSERVERS)
def test_a_metric_or_a_span_of_calls(
    open_repository: OpenRepository, migrated_url: str, observer_of: ObserverOf
) -> None:
    ended: list[str] = []
    others: ObserverOf = lambda method: lambda record, context: lambda record: ended.append(record.code)  # noqa: E731
    with serving(open_repository(migrated_url), observers_of=[observer_of, others]) as registry:
        assert_all_is_answered(registry)
    assert {"OK", "NOT_FOUND", "UNAUTHENTICATED"} <= set(ended)


@pytest.mark.parametrize("watch", [fail, lambda statement: fail], ids=["begin", "end"])
def test_a_span_of_statements(open_repository: OpenRepository, migrated_url: str, watch: Callable[[str], Any]) -> None:
    with serving(open_repository(migrated_url, observer=watch)) as registry:
        assert_all_is_answered(registry)


def test_a_count_of_promotions(open_repository: OpenRepository, migrated_url: str) -> None:
    with serving(open_repository(migrated_url, promoted=fail)) as registry:
        assert_all_is_answered(registry)
