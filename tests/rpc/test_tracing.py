"""The spans of calls and of the SQL below them. Each test has a server of its own, on each backend."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from server.observability.tracing import Tracing
from server.storage.sql.repository import SqlRepository
from tests.builders import model_api
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import SOME_MODEL, Registry, User, serving

SPAN_ID = "00f067aa0ba902b7"


class Collected:
    """The spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(self.provider)

    def calls(self, count: int = 1) -> list[ReadableSpan]:
        """The spans of calls, once there are so many."""
        until(lambda: len(self._of(SpanKind.SERVER)) >= count)
        return self._of(SpanKind.SERVER)

    def statements(self) -> list[ReadableSpan]:
        return self._of(SpanKind.CLIENT)

    def everything(self) -> str:
        """All that is told of the spans, as text."""
        return "\n".join(span.to_json() for span in self._exporter.get_finished_spans())

    def clear(self) -> None:
        self._exporter.clear()

    def _of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind == kind]


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def traced(migrated_url: str, backend: str, open_repository: OpenRepository, collected: Collected) -> SqlRepository:
    return open_repository(migrated_url, observer=collected.tracing.statements_of(backend))


@pytest.fixture
def registry(traced: SqlRepository, collected: Collected) -> Iterator[Registry]:
    """A server whose calls are traced."""
    with serving(traced, observers_of=[collected.tracing.observer_of]) as registry:
        yield registry


def calling(user: User, trace_id: str, sampled: bool = True) -> User:
    """The same user within a trace."""
    trace_parent = f"00-{trace_id}-{SPAN_ID}-0{int(sampled)}"
    return User(user.channel, (*user.metadata, ("traceparent", trace_parent), ("tracestate", "vendor=1")))


def test_a_call_is_a_span_of_its_callers_trace_and_its_statements_are_spans_below(
    admin: User, collected: Collected, backend: str
) -> None:
    version = admin.create_version(admin.create_model("one"))
    collected.calls(2)
    collected.clear()
    trace_id = uuid.uuid4().hex

    calling(admin, trace_id)("GetBranch", model_rid=version.model_rid, branch="master")

    [call] = collected.calls()
    assert call.context
    assert call.parent
    assert call.name == "modelregistry.v1.ModelService/GetBranch"
    assert (format_trace_id(call.context.trace_id), format_span_id(call.parent.span_id)) == (trace_id, SPAN_ID)
    assert call.context.trace_state.get("vendor") == "1"
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "modelregistry.v1.ModelService/GetBranch",
        "rpc.response.status_code": "OK",
    }
    statements = collected.statements()
    assert statements
    for statement in statements:
        assert statement.parent == call.context
        assert statement.name == "SELECT"
        assert statement.attributes
        assert statement.attributes["db.system.name"] == backend
        assert "WHERE " in str(statement.attributes["db.query.text"])


def test_the_commit_of_a_version_is_in_its_trace(admin: User, collected: Collected) -> None:
    model = admin.create_model("one")
    collected.calls(1)
    collected.clear()

    admin.create_version(model)

    creation = collected.calls(1)[-1]
    names = [span.name for span in collected.statements() if span.parent == creation.context]
    assert names[0] == "BEGIN"
    assert names[-1] == "COMMIT"
    assert "INSERT" in names


def test_the_statements_of_a_promotion_are_in_its_trace(admin: User, collected: Collected) -> None:
    version = admin.create_version(admin.create_model("one"))
    target = admin.create_model("two")
    admin.promote(version, target)
    collected.calls(4)
    collected.clear()

    admin.promote(version, target)

    promotion = collected.calls(1)[-1]
    names = [span.name for span in collected.statements() if span.parent == promotion.context]
    # PostgreSQL locks the branch first, and marks the transaction as one that decides, in one statement.
    first = [] if names[1:3] == ["SELECT", "UPDATE"] else ["SELECT"]
    # The version, its promotion, and the event.
    assert names == ["BEGIN", *first, "SELECT", "UPDATE", "INSERT", "INSERT", "INSERT", "COMMIT"]


def test_calls_without_a_trace_have_one_each_which_their_log_lines_name(
    admin: User, collected: Collected, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "modelregistry.calls"):
        for _ in range(8):
            admin("ListModels")
        spans = collected.calls(8)
        until(lambda: len(caplog.records) == 8)

    assert all(span.parent is None for span in spans)
    traces = [format_trace_id(span.context.trace_id) for span in spans if span.context]
    assert len(set(traces)) == 8
    assert sorted(traces) == sorted(vars(record)["fields"]["trace_id"] for record in caplog.records)


def test_a_failed_call_names_its_error_and_only_what_is_our_fault_is_one(
    traced: SqlRepository, admin: User, collected: Collected
) -> None:
    missing = admin.failure("GetModel", model_rid=SOME_MODEL)
    [theirs] = collected.calls()
    collected.clear()
    traced.write(lambda tx: tx.session.run("ALTER TABLE models RENAME TO lost"))
    broken = admin.failure("GetModel", model_rid=SOME_MODEL)
    [ours] = collected.calls()

    assert theirs.attributes
    assert theirs.attributes["error.type"] == "ModelNotFound"
    assert theirs.attributes["modelregistry.error_instance_id"] == missing.instance_id
    assert theirs.status.status_code == StatusCode.UNSET
    assert ours.attributes
    assert ours.attributes["modelregistry.error_instance_id"] == broken.instance_id
    assert ours.status.status_code == StatusCode.ERROR
    failed = [span for span in collected.statements() if span.status.status_code == StatusCode.ERROR]
    assert failed
    assert all(span.status.description is None and not span.events for span in failed)


def test_no_span_has_a_token_or_what_was_sent_or_stored(admin: User, registry: Registry, collected: Collected) -> None:
    staging, production = admin.create_model("a-secret-name"), admin.create_model("another-secret-name")
    version = admin.create_version(staging, model_api=model_api("a-secret-column"))
    promoted = admin.promote(version, production, reason="a-secret-reason")
    # Which the database itself refuses, and PostgreSQL says why.
    admin.failure("CreateModel", name="a-secret-name", parent_folder_rid=staging.parent_folder_rid)
    collected.calls(5)

    told = collected.everything()
    token = dict(admin.metadata)["authorization"].removeprefix("Bearer ")
    secrets = [token.split(".")[2], "secret", staging.rid, version.rid, promoted.rid, "user:admin"]
    assert len(collected.statements()) > 10
    assert [secret for secret in secrets if secret in told] == []


def test_statements_of_no_call_and_probes_make_no_spans(
    traced: SqlRepository, admin: User, collected: Collected
) -> None:
    admin("ListModels")
    collected.calls()
    collected.clear()

    traced.ping()

    assert collected.statements() == []
    assert collected.tracing.observer_of("/grpc.health.v1.Health/Check") is None


def test_a_trace_that_is_not_sampled_makes_no_spans_and_is_in_the_log(
    admin: User, collected: Collected, caplog: pytest.LogCaptureFixture
) -> None:
    trace_id = uuid.uuid4().hex
    with caplog.at_level("INFO", "modelregistry.calls"):
        calling(admin, trace_id, sampled=False)("ListModels")
        until(lambda: len(caplog.records) == 1)

    assert collected.everything() == ""
    assert vars(caplog.records[0])["fields"]["trace_id"] == trace_id


def test_the_stream_of_a_download_is_a_span_until_its_end(admin: User, collected: Collected) -> None:
    version = admin.create_version_with_files(admin.create_model("one"), b"x" * 1000)
    collected.calls(3)
    collected.clear()

    admin.download(version)

    [call] = collected.calls()
    assert call.name.endswith("/DownloadModelFiles")
    assert collected.statements()
    assert all(span.parent == call.context for span in collected.statements())
