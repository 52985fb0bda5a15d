"""The Python client package: every kind of call against a real server, typed errors, tokens and TLS."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import pickle
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

import modelregistry_client
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    GetModelRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
    UploadModelFilesRequest,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from modelregistry.v1.promotion_service_pb2 import ListPromotionsRequest
from modelregistry_client import Registry, RegistryError, aio, connect, errors
from tests.builders import model_api, new_folder_rid
from tests.certificates import Authority
from tests.processes import Server, run
from tests.rpc.fronts import Front, listening

PARTS = [b"model " * 1000, b"files"]
NO_MODEL = "ri.models.main.model.none"
NO_FILES = DownloadModelFilesRequest(model_rid=NO_MODEL, model_version_rid="ri.models.main.model-version.none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("client") / "server") as server:
        yield server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with connect(server.address, server.token(), plaintext=True) as registry:
        yield registry


def new_model() -> CreateModelRequest:
    return CreateModelRequest(name="model", parent_folder_rid=new_folder_rid())


def upload(model: Model) -> Iterator[UploadModelFilesRequest]:
    for part in PARTS:
        yield UploadModelFilesRequest(model_rid=model.rid, chunk=part)
    yield UploadModelFilesRequest(sha256=hashlib.sha256(b"".join(PARTS)).hexdigest())


def with_files(model: Model, upload_id: str) -> CreateModelVersionRequest:
    files = ModelFiles(uploaded=UploadedModelFiles(upload_id=upload_id))
    return CreateModelVersionRequest(model_rid=model.rid, model_api=model_api(), model_files=files)


def promotion(version: ModelVersion) -> PromoteVersionRequest:
    return PromoteVersionRequest(model_rid=version.model_rid, source_model_version_rid=version.rid, preview=True)


def test_all_kinds_of_calls_of_threads(registry: Registry) -> None:
    models = registry.models
    model = models.CreateModel(request=new_model())
    taken = models.UploadModelFiles(request_iterator=upload(model))
    version, call = models.CreateModelVersion.with_call(with_files(model, taken.upload_id))
    assert call.code() == grpc.StatusCode.OK
    promoted = models.PromoteVersion.future(promotion(version)).result()
    wanted = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=promoted.rid)
    assert b"".join(part.chunk for part in models.DownloadModelFiles(wanted)) == b"".join(PARTS)
    [record] = registry.promotions.ListPromotions(ListPromotionsRequest(model_rid=model.rid)).promotions
    assert record.model_version_rid == promoted.rid


def test_all_kinds_of_calls_of_asyncio(server: Server) -> None:
    async def calls() -> None:
        async with aio.connect(server.address, server.token(), plaintext=True) as registry:
            models = registry.models
            model = await models.CreateModel(new_model())
            taken = await models.UploadModelFiles(upload(model))
            version = await models.CreateModelVersion(with_files(model, taken.upload_id))
            promoted = await models.PromoteVersion(promotion(version))
            wanted = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=promoted.rid)
            parts = [part.chunk async for part in models.DownloadModelFiles(wanted)]
            assert b"".join(parts) == b"".join(PARTS)

    asyncio.run(calls())


def test_failures_of_threads_are_typed(registry: Registry) -> None:
    missing = GetModelRequest(model_rid=NO_MODEL)
    with pytest.raises(errors.ModelNotFound) as failed:
        registry.models.GetModel(missing)
    error = failed.value
    assert (error.name, error.model_rid, error.parameters) == ("ModelNotFound", NO_MODEL, {"modelRid": NO_MODEL})
    assert (error.code(), error.violations, error.retry_after) == (grpc.StatusCode.NOT_FOUND, (), None)
    assert str(error).endswith(f"[{error.error_instance_id}]")
    assert isinstance(error.__cause__, grpc.RpcError)
    with pytest.raises(errors.ModelNotFound):
        registry.models.GetModel.with_call(missing)
    assert isinstance(registry.models.GetModel.future(missing).exception(), errors.ModelNotFound)
    with pytest.raises(errors.ModelVersionNotFound):
        next(registry.models.DownloadModelFiles(NO_FILES))
    with pytest.raises(errors.ModelNotFound):
        registry.models.UploadModelFiles(iter([UploadModelFilesRequest(model_rid=NO_MODEL, sha256="0" * 64)]))


def test_failures_of_asyncio_are_typed(server: Server) -> None:
    async def calls() -> None:
        async with aio.connect(server.address, server.token(), plaintext=True) as registry:
            with pytest.raises(errors.ModelNotFound) as failed:
                await registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))
            assert failed.value.model_rid == NO_MODEL
            with pytest.raises(errors.ModelVersionNotFound):
                [part async for part in registry.models.DownloadModelFiles(NO_FILES)]
            with pytest.raises(errors.ModelNotFound):
                await registry.models.UploadModelFiles([UploadModelFilesRequest(model_rid=NO_MODEL, sha256="0" * 64)])

    asyncio.run(calls())


def test_asyncio_writes_and_reads_part_by_part(server: Server) -> None:
    async def calls() -> None:
        async with aio.connect(server.address, server.token(), plaintext=True) as registry:
            models = registry.models
            model = await models.CreateModel(new_model())
            uploading = models.UploadModelFiles()
            for part in upload(model):
                await uploading.write(part)
            await uploading.done_writing()
            version = await models.CreateModelVersion(with_files(model, (await uploading).upload_id))
            wanted = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)
            downloading = models.DownloadModelFiles(wanted)
            parts = []
            while (part := await downloading.read()) is not grpc.aio.EOF:
                parts.append(part.chunk)
            assert b"".join(parts) == b"".join(PARTS)
            failing = models.UploadModelFiles()
            await failing.write(UploadModelFilesRequest(model_rid=NO_MODEL, sha256="0" * 64))
            await failing.done_writing()
            with pytest.raises(errors.ModelNotFound):
                await failing
            assert await failing.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(errors.ModelVersionNotFound):
                await models.DownloadModelFiles(NO_FILES).read()

    asyncio.run(calls())


def test_an_error_names_the_fields_at_fault(registry: Registry) -> None:
    with pytest.raises(errors.InvalidArgument) as failed:
        registry.models.GetModel(GetModelRequest(model_rid="no RID"))
    [violation] = failed.value.violations
    assert violation.field == "model_rid"


def test_a_failure_of_grpc_itself_has_no_name(registry: Registry) -> None:
    with pytest.raises(RegistryError) as failed:
        registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL), timeout=-1)
    assert (failed.value.name, failed.value.code()) == (None, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert type(failed.value) is RegistryError


def test_a_write_gets_an_id_and_the_request_of_the_caller_stays_as_it_is(registry: Registry, server: Server) -> None:
    model = registry.models.CreateModel(new_model())
    version = registry.models.CreateModelVersion(CreateModelVersionRequest(model_rid=model.rid, model_api=ModelApi()))
    request = promotion(version)
    first, second = registry.models.PromoteVersion(request), registry.models.PromoteVersion(request)
    assert first.rid != second.rid
    assert not request.HasField("request_id")
    request.request_id = "5d4b6f0e-52fd-4f4e-8f2b-3f7f5f6f2b11"
    third, again = registry.models.PromoteVersion(request), registry.models.PromoteVersion(request)
    assert third == again
    listed = registry.models.ListModelVersions(ListModelVersionsRequest(model_rid=model.rid))
    assert [each.version_number for each in listed.model_versions] == [4, 3, 2, 1]
    assert registry.promotions.CheckPromotion(promotion(version)).would_succeed


@pytest.mark.parametrize("calls", ["of threads", "of asyncio"])
def test_a_promotion_whose_answer_is_lost_is_made_once(calls: str, registry: Registry, server: Server) -> None:
    model = registry.models.CreateModel(new_model())
    version = registry.models.CreateModelVersion(CreateModelVersionRequest(model_rid=model.rid, model_api=ModelApi()))

    async def promote(target: str) -> ModelVersion:
        async with aio.connect(target, server.token(), plaintext=True) as losing:
            return await losing.models.PromoteVersion(promotion(version))

    with grpc.insecure_channel(server.address) as behind:
        front = Front(behind)
        front.fail_next(grpc.StatusCode.UNAVAILABLE, carried_out=True, method="PromoteVersion")
        with listening(front) as port:
            target = f"127.0.0.1:{port}"
            if calls == "of asyncio":
                promoted = asyncio.run(promote(target))
            else:
                with connect(target, server.token(), plaintext=True) as losing:
                    promoted = losing.models.PromoteVersion(promotion(version))
    assert front.failed == 1
    listed = registry.models.ListModelVersions(ListModelVersionsRequest(model_rid=model.rid))
    assert list(listed.model_versions) == [promoted, version]


def test_the_token_is_asked_for_before_each_call(server: Server) -> None:
    tokens = itertools.chain(["outdated"], itertools.repeat(server.token() + "\n"))
    with connect(server.address, lambda: next(tokens), plaintext=True) as registry:
        with pytest.raises(errors.InvalidCredentials):
            registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))
        with pytest.raises(errors.ModelNotFound):
            registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))

    async def token() -> str:
        return server.token()

    async def call() -> None:
        async with aio.connect(server.address, token, plaintext=True) as registry:
            with pytest.raises(errors.ModelNotFound):
                await registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))

    asyncio.run(call())


def test_the_connection_has_tls_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path / "servers"), Authority(tmp_path / "clients")
    cert, key = authority.issue("server")
    own_cert, own_key = (file.read_bytes() for file in clients.issue("client"))
    options = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients.cert)
    root, missing = authority.cert.read_bytes(), GetModelRequest(model_rid=NO_MODEL)
    with Server(tmp_path / "server", *options) as server:
        given = {"root_certificates": root, "client_certificate": own_cert, "client_key": own_key}
        with connect(server.address, server.token(), **given) as registry, pytest.raises(errors.ModelNotFound):
            registry.models.GetModel(missing)
        # Without a certificate that it trusts, neither side talks to the other.
        for trusted in ({"root_certificates": root}, {"client_certificate": own_cert, "client_key": own_key}):
            with connect(server.address, server.token(), **trusted) as registry, pytest.raises(RegistryError) as failed:
                registry.models.GetModel(missing, timeout=20, wait_for_ready=False)
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        # Nor does the client talk to a server without TLS.
        with Server(tmp_path / "plaintext") as plain, connect(plain.address, plain.token()) as registry:
            with pytest.raises(RegistryError) as failed:
                registry.models.GetModel(missing, timeout=20, wait_for_ready=False)
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ValueError, match="client_key"):
        connect("localhost:1", "token", client_certificate=own_cert)


def test_a_client_that_does_not_wait_fails_where_there_is_no_server() -> None:
    with connect("127.0.0.1:1", "token", plaintext=True, wait_for_ready=False) as registry:
        for method, request in (
            (registry.models.GetModel, GetModelRequest()),
            (registry.models.CreateModel, new_model()),
        ):
            with pytest.raises(RegistryError) as failed:
                method(request)
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_that_does_not_wait_takes_what_a_server_that_is_not_healthy_answers() -> None:
    calls = []

    class Unavailable(ModelServiceServicer):
        def GetModel(self, request: GetModelRequest, context: grpc.ServicerContext) -> Model:
            calls.append(request)
            context.abort(grpc.StatusCode.UNAVAILABLE, "no database")

    health = HealthServicer()
    health.set("modelregistry.v1.ModelService", HealthCheckResponse.NOT_SERVING)
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        add_ModelServiceServicer_to_server(Unavailable(), server)
        add_HealthServicer_to_server(health, server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        with (
            connect(target, "token", plaintext=True, wait_for_ready=False) as registry,
            pytest.raises(RegistryError, match="no database"),
        ):
            registry.models.GetModel(GetModelRequest())
        server.stop(None).wait()
    assert len(calls) == 1


def test_calls_without_a_token_have_none(server: Server) -> None:
    async def call() -> None:
        async with aio.connect(server.address, None, plaintext=True) as registry:
            with pytest.raises(errors.MissingCredentials):
                await registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))

    with connect(server.address, None, plaintext=True) as registry, pytest.raises(errors.MissingCredentials):
        registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))
    asyncio.run(call())


def test_an_error_can_go_to_another_process(registry: Registry) -> None:
    with pytest.raises(errors.ModelNotFound) as failed:
        registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))
    arrived = pickle.loads(pickle.dumps(failed.value))
    assert type(arrived) is errors.ModelNotFound
    assert (str(arrived), arrived.model_rid, arrived.code()) == (str(failed.value), NO_MODEL, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("when", ["before the call", "while the token is asked for"])
def test_a_registry_that_is_closed_says_so(when: str) -> None:
    """gRPC can crash a process for that, so this is another one. In it, no method was called before."""
    program = f"""
from modelregistry.v1.model_service_pb2 import GetModelRequest
from modelregistry_client import connect
def token():
    registry.close()
    return "token"
registry = connect("127.0.0.1:1", token, plaintext=True)
if {when!r} == "before the call":
    registry.close()
registry.models.GetModel(GetModelRequest())
"""
    ended = run("-c", program, command=Path(sys.executable))
    assert ended.returncode == 1
    assert "ValueError: Cannot invoke RPC on closed channel!" in ended.stderr


def test_options_of_the_caller_win(server: Server) -> None:
    options = [("grpc.service_config", "{}"), ("grpc.max_send_message_length", 1)]
    with connect(server.address, server.token(), plaintext=True, options=options) as registry:
        with pytest.raises(RegistryError) as failed:
            registry.models.GetModel(GetModelRequest(model_rid=NO_MODEL))
        assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_package_is_typed() -> None:
    assert Path(modelregistry_client.__file__).with_name("py.typed").exists()
