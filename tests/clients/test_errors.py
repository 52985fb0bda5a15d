"""What the Python client makes of failures: those of the server's table, and those that no server answers with yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from modelregistry.v1.model_service_pb2 import GetModelRequest
from modelregistry_client import Registry, RegistryError, aio, connect, errors
from modelregistry_client.error_base import Parameter
from tests.rpc.test_status import TABLE

# The server has no health to ask for, and its failures are not repeated.
OPTIONS = [("grpc.service_config", "{}")]
NOT_FOUND, UNAVAILABLE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE


class Failing(grpc.GenericRpcHandler):
    """Fails all calls, with the details that a test wants."""

    def __init__(self) -> None:
        self.code, self.details = NOT_FOUND, b""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._fail)

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
        context.abort(self.code, "as a proxy words it")


@pytest.fixture(scope="module")
def failing() -> Failing:
    return Failing()


@pytest.fixture(scope="module")
def target(failing: Failing) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[failing])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(scope="module")
def registry(target: str) -> Iterator[Registry]:
    with connect(target, "token", plaintext=True, options=OPTIONS) as registry:
        yield registry


def status(**metadata: str) -> Status:
    status = Status(code=NOT_FOUND.value[0], message="as the server words it")
    status.details.add().Pack(ErrorInfo(metadata=metadata))
    return status


def failure(registry: Registry) -> RegistryError:
    with pytest.raises(RegistryError) as failed:
        registry.models.GetModel(GetModelRequest())
    return failed.value


def test_the_errors_of_the_server_are_known_with_their_parameters() -> None:
    known = {
        kind.__name__: {each.key for each in vars(kind).values() if isinstance(each, Parameter)}
        for kind in RegistryError.__subclasses__()
    }
    assert known == {name: set(parameters) for name, (_, _, parameters) in TABLE.items()}


def test_an_error_that_is_new_has_what_the_server_told(failing: Failing, registry: Registry) -> None:
    failing.code, failing.details = NOT_FOUND, status(errorName="Newer", why="it is").SerializeToString()
    error = failure(registry)
    assert (type(error), error.name, error.parameters) == (RegistryError, "Newer", {"why": "it is"})


def test_an_error_that_another_sentence_came_with_is_known(failing: Failing, registry: Registry) -> None:
    failing.code, failing.details = NOT_FOUND, status(errorName="ModelNotFound", modelRid="a").SerializeToString()
    error = failure(registry)
    assert isinstance(error, errors.ModelNotFound)
    assert (error.model_rid, error.details()) == ("a", "as a proxy words it")


def test_an_error_with_another_code_than_its_details_have_is_what_the_code_says(
    failing: Failing, registry: Registry
) -> None:
    failing.code, failing.details = UNAVAILABLE, status(errorName="ModelNotFound", modelRid="a").SerializeToString()
    error = failure(registry)
    assert (type(error), error.name, error.code()) == (RegistryError, None, UNAVAILABLE)


@pytest.mark.parametrize("of", ["the status", "its details"])
def test_details_that_cannot_be_read_are_none(of: str, failing: Failing, registry: Registry) -> None:
    broken = Status(code=NOT_FOUND.value[0], details=[Any(type_url="type/google.rpc.ErrorInfo", value=b"\xff")])
    failing.code, failing.details = NOT_FOUND, b"\xff" if of == "the status" else broken.SerializeToString()
    error = failure(registry)
    assert (type(error), error.name, error.code()) == (RegistryError, None, NOT_FOUND)


def test_a_parameter_that_the_server_did_not_tell_is_no_attribute(failing: Failing, registry: Registry) -> None:
    metadata = {"errorName": "VersionNumberNotFound", "branchName": "live", "versionNumber": "many"}
    failing.code, failing.details = NOT_FOUND, status(**metadata).SerializeToString()
    error = failure(registry)
    assert isinstance(error, errors.VersionNumberNotFound)
    assert error.branch_name == "live"
    assert not hasattr(error, "model_rid")
    with pytest.raises(AttributeError, match="versionNumber"):
        error.version_number  # noqa: B018 - that it cannot be read is what is tested


def test_who_is_called_back_gets_a_call_whose_failure_is_typed(
    failing: Failing, registry: Registry, target: str
) -> None:
    failing.code, failing.details = NOT_FOUND, status(errorName="ModelNotFound", modelRid="a").SerializeToString()
    ended: Future[BaseException] = Future()
    registry.models.GetModel.future(GetModelRequest()).add_done_callback(
        lambda call: ended.set_result(call.exception())
    )
    assert isinstance(ended.result(timeout=20), errors.ModelNotFound)

    async def calls() -> None:
        async with aio.connect(target, "token", plaintext=True, options=OPTIONS) as registry:
            ended = asyncio.get_running_loop().create_future()
            registry.models.GetModel(GetModelRequest()).add_done_callback(ended.set_result)
            with pytest.raises(errors.ModelNotFound):
                await (await asyncio.wait_for(ended, 20))

    asyncio.run(calls())


def test_who_waits_for_a_connection_in_vain_gets_a_typed_error() -> None:
    async def calls() -> None:
        async with aio.connect("127.0.0.1:1", "token", plaintext=True, options=OPTIONS) as registry:
            with pytest.raises(RegistryError) as failed:
                await registry.models.GetModel(GetModelRequest(), timeout=20).wait_for_connection()
            assert failed.value.code() == UNAVAILABLE

    asyncio.run(calls())
