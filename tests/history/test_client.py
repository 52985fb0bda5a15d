"""A client records what an answer or an error says of its call, and repeats what can be repeated without harm."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.core.errors import (
    Internal,
    InvalidArgument,
    ModelNotFound,
    Overloaded,
    RegistryError,
    StorageUnavailable,
)
from server.rpc.status import abort, grpc_code
from tests.history import Client, Operation, Outcome, Recorder, assert_kept, read_state
from tests.history.client import outcome_of
from tests.history.operations import Failure
from tests.rpc.harness import Registry, User
from tests.storage.conftest import at_once

CLIENTS = 6
ROUNDS = 6


class Scene:
    """A version to promote, a model to promote it into, and a recorder."""

    def __init__(self, admin: User) -> None:
        self.admin = admin
        self.source: ModelVersion = admin.create_version(admin.create_model("source"))
        self.target: Model = admin.create_model("target")
        self.recorder = Recorder()
        self.before = read_state(admin, self.source.model_rid, self.target.rid)

    @property
    def last(self) -> Operation:
        return self.recorder.operations()[-1]

    def assert_kept(self) -> None:
        after = read_state(self.admin, self.source.model_rid, self.target.rid)
        assert_kept(self.recorder.operations(), after, self.before)


@pytest.fixture
def scene(admin: User) -> Scene:
    return Scene(admin)


@pytest.fixture
def gone() -> Iterator[User]:
    """A caller of a server that is not there."""
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        yield User(channel, ())


@contextmanager
def answering(*errors: RegistryError) -> Iterator[User]:
    """A caller of a server that fails with these, one call after the other, and then answers that all is well."""
    coming = iter(errors)

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        if (error := next(coming, None)) is not None:
            abort(context, error, "")
        return ModelVersion(rid="made").SerializeToString()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), (Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield User(channel, ())
    server.stop(0).wait()


# What is recorded


def test_a_promotion_marks_its_version_with_its_request_id(scene: Scene) -> None:
    request_id = str(uuid.uuid4())
    made = Client(scene.recorder, "client", scene.admin).promote(
        scene.source.rid, scene.target.rid, request_id=request_id
    )
    (stored,) = read_state(scene.admin, scene.target.rid).versions
    assert (stored.rid, stored.tag, scene.last.tag) == (made.rid, request_id, request_id)
    assert scene.last.versions == (stored._replace(tag=None),)
    scene.assert_kept()


def test_a_promotion_without_an_id_is_marked_too(scene: Scene) -> None:
    Client(scene.recorder, "client", scene.admin).promote(scene.source.rid, scene.target.rid, request_id=None)
    (stored,) = read_state(scene.admin, scene.target.rid).versions
    assert stored.tag == scene.last.tag != ""
    scene.assert_kept()


def test_a_reason_that_is_given_is_the_mark(scene: Scene) -> None:
    Client(scene.recorder, "client", scene.admin).promote(scene.source.rid, scene.target.rid, reason="because")
    (stored,) = read_state(scene.admin, scene.target.rid).versions
    assert stored.tag == scene.last.tag == "because"


def test_a_created_version_is_marked_by_its_experiment(scene: Scene) -> None:
    client = Client(scene.recorder, "client", scene.admin)
    created = client.create_version(scene.target.rid)
    client.promote(created.rid, scene.target.rid)
    promoted, stored = read_state(scene.admin, scene.target.rid).versions
    assert (promoted.tag, stored.tag) == (scene.last.tag, scene.recorder.operations()[0].tag)
    assert promoted.tag != stored.tag
    scene.assert_kept()


def test_what_was_not_marked_comes_from_nowhere(scene: Scene) -> None:
    scene.admin.promote(scene.source, scene.target)
    with pytest.raises(AssertionError, match="no operation made"):
        scene.assert_kept()


def test_a_refusal_is_recorded_with_the_head_that_it_tells(scene: Scene) -> None:
    client = Client(scene.recorder, "client", scene.admin, patience_seconds=60)
    head = client.promote(scene.source.rid, scene.target.rid).rid
    with pytest.raises(grpc.RpcError):
        client.promote(scene.source.rid, scene.target.rid, expected_head=scene.source.rid)
    assert scene.last.outcome is Outcome.FAIL
    assert scene.last.failures == (Failure("ABORTED", "BranchHeadChanged", None, head),)
    scene.assert_kept()


def test_calls_of_many_clients_at_once_keep_the_promises(scene: Scene, registry: Registry) -> None:
    """Some calls are refused for what others did, which tells as much as an answer."""

    models, chance = [scene.source.model_rid, scene.target.rid], random.Random(1)

    def call_each(client: Client) -> None:
        attempt(lambda: client.get_branch(scene.target.rid))
        made = client.promote(scene.source.rid, scene.target.rid)
        attempt(lambda: client.promote(made.rid, scene.target.rid, expected_head=made.rid))
        attempt(lambda: client.roll_back(scene.target.rid, made.version_number))
        entries = [{"model_rid": each, "source_model_version_rid": made.rid} for each in models]
        client.promote_all(chance.sample(entries, 2))
        client.list_versions(scene.target.rid, page_size=20)
        client.get_version(scene.target.rid, made.rid)

    def call_on_and_on(number: int) -> None:
        with grpc.insecure_channel(registry.address) as channel:
            client = Client(scene.recorder, f"client-{number}", User(channel, scene.admin.metadata))
            for _ in range(ROUNDS):
                call_each(client)

    at_once(CLIENTS, call_on_and_on)

    scene.assert_kept()
    history = scene.recorder.operations()
    assert len(history) == CLIENTS * ROUNDS * 7
    assert {operation.outcome for operation in history} == {Outcome.OK, Outcome.FAIL}
    names = {failure.name for operation in history for failure in operation.failures}
    assert {"BranchHeadChanged", "VersionAlreadyHead"} & names


def attempt(call: Callable[[], Any]) -> None:
    """Make a call that may be refused for what others do meanwhile; the recorder has the reason."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() in {  # noqa: PT017 - it may succeed as well
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.NOT_FOUND,
        }


# What an error says


@pytest.mark.parametrize("may_be_repeated", [True, False])
def test_only_a_defect_and_a_lost_storage_leave_open_what_happened(may_be_repeated: bool) -> None:
    failures = [Failure("CODE", kind.__name__, 1.0) for kind in RegistryError.__subclasses__()]
    assert len(failures) > 20
    open_ = {each.name for each in failures if outcome_of(each, may_be_repeated=may_be_repeated) is Outcome.UNKNOWN}
    assert open_ == {"Internal"} | ({"StorageUnavailable"} if may_be_repeated else set())


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_what_grpc_says_by_itself_settles_nothing_but_that_there_is_no_method(code: grpc.StatusCode) -> None:
    expected = Outcome.FAIL if code is grpc.StatusCode.UNIMPLEMENTED else Outcome.UNKNOWN
    assert outcome_of(Failure(code.name), may_be_repeated=False) is expected


def test_a_storage_that_does_not_say_when_to_try_again_leaves_it_open() -> None:
    assert outcome_of(Failure("UNAVAILABLE", "StorageUnavailable"), may_be_repeated=False) is Outcome.UNKNOWN


# What is repeated

OPEN = StorageUnavailable(retry_after=None)


@pytest.mark.parametrize(
    ("errors", "with_id", "outcome", "failures"),
    [
        ([], False, Outcome.OK, 0),
        ([Overloaded()], False, Outcome.OK, 1),
        ([StorageUnavailable(), Overloaded()], False, Outcome.OK, 2),
        ([OPEN], False, Outcome.UNKNOWN, 1),
        ([Overloaded(), OPEN], False, Outcome.UNKNOWN, 2),
        ([Internal()], False, Outcome.UNKNOWN, 1),
        ([OPEN, Internal(), Overloaded(), StorageUnavailable()], True, Outcome.OK, 4),
        ([Overloaded(), ModelNotFound(model_rid="")], True, Outcome.FAIL, 2),
        ([InvalidArgument()], True, Outcome.FAIL, 1),
        ([Internal(), InvalidArgument()], True, Outcome.UNKNOWN, 2),
    ],
    ids=lambda value: "-".join(each.name for each in value) if isinstance(value, list) else str(value),
)
def test_a_call_is_repeated_while_it_does_no_harm(
    errors: list[RegistryError], with_id: bool, outcome: Outcome, failures: int
) -> None:
    recorder = Recorder()
    with answering(*errors) as user:
        client = Client(recorder, "client", user, patience_seconds=60)
        changes = {} if with_id else {"request_id": None}
        try:
            assert client.promote("source", "target", **changes).rid == "made"
        except grpc.RpcError as error:
            assert error.code().name == grpc_code(errors[-1])  # noqa: PT017 - it may succeed as well
    (operation,) = recorder.operations()
    assert (operation.outcome, len(operation.failures)) == (outcome, failures)


def test_a_read_is_repeated_whatever_happened() -> None:
    with answering(OPEN, Internal(), StorageUnavailable()) as user:
        assert Client(Recorder(), "client", user, patience_seconds=60).get_version("model", "made").rid == "made"


def test_the_next_replica_is_asked_when_one_fails(scene: Scene, gone: User) -> None:
    client = Client(scene.recorder, "client", gone, scene.admin, patience_seconds=60)
    made = client.promote(scene.source.rid, scene.target.rid)
    assert (scene.last.outcome, scene.last.failures) == (Outcome.OK, (Failure("UNAVAILABLE"),))
    assert client.get_branch(scene.target.rid).head == made
    assert scene.last.failures == ()
    scene.assert_kept()


def test_a_refusal_after_an_attempt_of_unknown_end_settles_nothing(scene: Scene, gone: User) -> None:
    client = Client(scene.recorder, "client", gone, scene.admin, patience_seconds=60)
    with pytest.raises(grpc.RpcError):
        client.promote(scene.source.rid, scene.target.rid, expected_head=scene.source.rid)
    assert scene.last.outcome is Outcome.UNKNOWN
    assert [failure.name for failure in scene.last.failures] == ["", "BranchHeadChanged"]
    scene.assert_kept()


def test_a_client_without_patience_gives_up_at_once(scene: Scene, gone: User) -> None:
    with pytest.raises(grpc.RpcError):
        Client(scene.recorder, "client", gone, scene.admin).promote(scene.source.rid, scene.target.rid)
    assert (scene.last.outcome, scene.last.failures) == (Outcome.UNKNOWN, (Failure("UNAVAILABLE"),))


def test_a_client_that_is_stopped_gives_up_at_once(gone: User) -> None:
    recorder = Recorder()
    client = Client(recorder, "client", gone, patience_seconds=600)
    client.stop()
    with pytest.raises(grpc.RpcError):
        client.get_branch("model")
    assert [len(operation.failures) for operation in recorder.operations()] == [1]


def test_a_call_that_expired_may_have_been_carried_out(scene: Scene) -> None:
    client = Client(scene.recorder, "client", scene.admin, attempt_seconds=1e-6)
    with pytest.raises(grpc.RpcError):
        client.promote(scene.source.rid, scene.target.rid)
    assert (scene.last.outcome, scene.last.failures) == (Outcome.UNKNOWN, (Failure("DEADLINE_EXCEEDED"),))


def test_a_call_that_ends_in_no_way_at_all_may_have_been_carried_out(scene: Scene, registry: Registry) -> None:
    channel = grpc.insecure_channel(registry.address)
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        Client(scene.recorder, "client", User(channel, ())).promote(scene.source.rid, scene.target.rid)
    assert (scene.last.outcome, scene.last.failures) == (Outcome.UNKNOWN, ())
    assert scene.last.completed
