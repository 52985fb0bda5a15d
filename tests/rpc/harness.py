"""A real server on a loopback port, and callers who speak to it over a real channel."""

from __future__ import annotations

import hashlib
import ipaddress
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from modelregistry.v1 import (
    access_service_pb2,
    event_service_pb2,
    model_service_pb2,
    promotion_request_service_pb2,
    promotion_service_pb2,
    recall_service_pb2,
    subscription_service_pb2,
)
from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import (
    DownloadModelFilesRequest,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.auth.credentials import Credentials
from server.auth.keys import JwksKeySet, Loader
from server.auth.secrets_key import SecretsKey
from server.auth.tokens import TokenVerifier
from server.core.config import NO_QUOTA, FileQuota, Limits
from server.core.permissions import SCOPES
from server.core.webhooks import WebhookRules
from server.process.ports import listen_privately
from server.rpc.chain import Chain
from server.rpc.event_watch import WatchLimits
from server.rpc.health import Health, Readiness
from server.rpc.in_process import InProcessServer
from server.rpc.server import SERVICES as SERVED
from server.rpc.server import build_server
from server.rpc.telemetry import ObserverOf
from server.storage.blobs import FileStore
from server.storage.contract import Repository
from tests.auth.forge import AUDIENCE, ISSUER, KeyPair, claims, jwks, key_pair
from tests.builders import FOLDER, file_store, model_api

SERVICES = [
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (model_service_pb2, "ModelService"),
        (promotion_service_pb2, "PromotionService"),
        (recall_service_pb2, "RecallService"),
        (promotion_request_service_pb2, "PromotionRequestService"),
        (event_service_pb2, "EventService"),
        (subscription_service_pb2, "SubscriptionService"),
        (access_service_pb2, "AccessService"),
    )
]
METHODS = {method.name: method for service in SERVICES for method in service.methods}

SOME_MODEL = "ri.models.main.model.00000000-0000-0000-0000-000000000000"
SOME_VERSION = "ri.models.main.model-version.00000000-0000-0000-0000-000000000000"
DEADLINE_SECONDS = 180
THREADS = 8

# The receivers of the tests are on this machine.
WEBHOOKS = WebhookRules(
    allow_http=True,
    ports=frozenset(range(1, 2**16)),
    networks=frozenset({ipaddress.ip_network("127.0.0.0/8")}),
)


@dataclass(frozen=True)
class Failure:
    """How a call failed, as a client sees it."""

    code: grpc.StatusCode
    message: str
    status: status_pb2.Status | None
    name: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)
    instance_id: str = ""
    reason: str = ""
    request_id: str = ""
    retry_seconds: float | None = None


def failure_of(error: Any) -> Failure:
    """Read an error as a client would."""
    status = rpc_status.from_call(error)
    found: dict[str, Any] = {}
    for detail in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
        if detail.Unpack(info):
            assert info.domain == "modelregistry"
            parameters = dict(info.metadata)
            found |= {"reason": info.reason, "name": parameters.pop("errorName")}
            found |= {"instance_id": parameters.pop("errorInstanceId"), "parameters": parameters}
        elif detail.Unpack(bad):
            found["violations"] = [(violation.field, violation.description) for violation in bad.field_violations]
        elif detail.Unpack(retry):
            found["retry_seconds"] = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(request):
            found["request_id"] = request.request_id
    return Failure(error.code(), error.details(), status, **found)


@dataclass(frozen=True)
class User:
    """Someone who calls with a token, or without one."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...]
    folder: str = FOLDER

    def __call__(self, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC with a request of these fields. Raises grpc.RpcError."""
        return self.send(rpc, request_of(rpc, **fields).SerializeToString())

    def send(self, rpc: str, request_bytes: bytes, timeout: float = DEADLINE_SECONDS) -> Any:
        """Call an RPC with whatever bytes; of a stream, return the first message. Raises grpc.RpcError."""
        method = METHODS[rpc]
        read = GetMessageClass(method.output_type).FromString
        if method.server_streaming:
            call = self.channel.unary_stream(path_of(rpc), response_deserializer=read)
            stream = call(request_bytes, metadata=self.metadata, timeout=timeout)
            try:
                return next(stream)
            finally:
                stream.cancel()
        call = self.channel.unary_unary(path_of(rpc), response_deserializer=read)
        return call(request_bytes, metadata=self.metadata, timeout=timeout)

    def send_parts(self, parts: Iterable[UploadModelFilesRequest]) -> UploadModelFilesResponse:
        """Call UploadModelFiles with whatever parts. Raises grpc.RpcError."""
        call = ModelServiceStub(self.channel).UploadModelFiles
        return call(iter(parts), metadata=self.metadata, timeout=DEADLINE_SECONDS)

    def upload(self, model: Model, data: bytes, chunk_bytes: int = 2**20) -> str:
        """Upload files for a version of a model, and return the id."""
        chunks = [data[begin : begin + chunk_bytes] for begin in range(0, len(data), chunk_bytes)]
        return self.send_parts(
            [
                UploadModelFilesRequest(model_rid=model.rid),
                *(UploadModelFilesRequest(chunk=chunk) for chunk in chunks),
                UploadModelFilesRequest(sha256=hashlib.sha256(data).hexdigest()),
            ]
        ).upload_id

    def create_version_with_files(self, model: Model, data: bytes, **fields: Any) -> ModelVersion:
        files = ModelFiles(uploaded=UploadedModelFiles(upload_id=self.upload(model, data)))
        return self.create_version(model, model_files=files, **fields)

    def download(self, version: ModelVersion) -> bytes:
        """The files of a version, which must be what the first part says of them. Raises grpc.RpcError."""
        request = DownloadModelFilesRequest(model_rid=version.model_rid, model_version_rid=version.rid)
        call = ModelServiceStub(self.channel).DownloadModelFiles
        parts = list(call(request, metadata=self.metadata, timeout=DEADLINE_SECONDS))
        data = b"".join(part.chunk for part in parts)
        assert (parts[0].size_bytes, parts[0].sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert not any(part.HasField("size_bytes") or part.HasField("sha256") for part in parts[1:])
        return data

    def failure(self, rpc: str, /, **fields: Any) -> Failure:
        """Call an RPC that must fail, and return how it did."""
        return self.failure_of_bytes(rpc, request_of(rpc, **fields).SerializeToString())

    def failure_of_bytes(self, rpc: str, request_bytes: bytes) -> Failure:
        try:
            answer = self.send(rpc, request_bytes)
        except grpc.RpcError as error:
            return failure_of(error)
        raise AssertionError(f"{rpc} succeeded: {answer}")

    def create_model(self, name: str, folder: str | None = None) -> Model:
        """Create a model, by default in the user's own folder, where its name has to be new."""
        return self("CreateModel", name=name, parent_folder_rid=folder or self.folder)

    def create_version(self, model: Model, **fields: Any) -> ModelVersion:
        return self("CreateModelVersion", **{"model_rid": model.rid, "model_api": model_api()} | fields)

    def promote(self, source: ModelVersion, target: Model, **fields: Any) -> ModelVersion:
        request = {"model_rid": target.rid, "source_model_version_rid": source.rid, "preview": True}
        return self("PromoteVersion", **request | fields)


def path_of(rpc: str) -> str:
    """`/modelregistry.v1.ModelService/GetModel` for `GetModel`."""
    return f"/{METHODS[rpc].containing_service.full_name}/{rpc}"


def request_of(rpc: str, **fields: Any) -> Message:
    """A request of an RPC."""
    return GetMessageClass(METHODS[rpc].input_type)(**fields)


@dataclass(frozen=True)
class Registry:
    """A server, and the issuer that it trusts."""

    address: str
    channel: grpc.Channel
    key: KeyPair
    repository: Repository
    health: Health
    chain: Chain
    files: FileStore
    readiness: Readiness
    credentials: Credentials
    secrets: SecretsKey
    in_process: InProcessServer

    def user(self, name: str, *groups: str, scopes: tuple[str, ...] = SCOPES) -> User:
        """Someone with an honest token; `admin` is an administrator."""
        changes: dict[str, Any] = {"sub": name, "scope": " ".join(scopes)} | (
            {"groups": list(groups)} if groups else {}
        )
        return self.bearing(self.key.sign(claims(**changes)))

    def bearing(self, token: str) -> User:
        return User(self.channel, (("authorization", f"Bearer {token}"),))

    def nobody(self) -> User:
        return User(self.channel, ())


@contextmanager
def serving(
    repository: Repository,
    max_message_bytes: int = 4 * 2**20,
    files: FileStore | None = None,
    observers_of: Sequence[ObserverOf] = (),
    limits: Limits = Limits(),  # noqa: B008, as it is frozen
    key_set_of: Callable[[Loader], JwksKeySet] = JwksKeySet,
    file_quota: FileQuota = NO_QUOTA,
    watch_limits: WatchLimits = WatchLimits(),  # noqa: B008, as it is frozen
) -> Iterator[Registry]:
    """Serve a repository on a loopback port."""
    with tempfile.TemporaryDirectory() as folder:
        store = files or file_store(repository, Path(folder))
        secrets = SecretsKey(Path(folder) / "secrets.key", may_create=True)
        yield from _serving(
            repository,
            store,
            observers_of,
            limits,
            max_message_bytes,
            key_set_of,
            file_quota,
            watch_limits,
            secrets,
        )


def _serving(
    repository: Repository,
    store: FileStore,
    observers_of: Sequence[ObserverOf],
    limits: Limits,
    max_message_bytes: int,
    key_set_of: Callable[[Loader], JwksKeySet],
    file_quota: FileQuota,
    watch_limits: WatchLimits,
    secrets: SecretsKey,
) -> Iterator[Registry]:
    key, health = key_pair(), Health(SERVED)
    verifier = TokenVerifier(key_set_of(lambda: jwks(key)), ISSUER, AUDIENCE, frozenset({"user:admin"}))
    credentials = Credentials(verifier)
    chain = Chain(credentials, observers_of, THREADS, limits.receive_timeout, max_message_bytes)
    server, in_process = build_server(
        repository,
        store,
        chain,
        health,
        max_message_bytes=max_message_bytes,
        limits=limits,
        file_quota=file_quota,
        watch_limits=watch_limits,
        secrets=secrets,
        webhooks=WEBHOOKS,
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    private = listen_privately(server)
    # It is not started: most tests tell by themselves how healthy the server is.
    readiness = Readiness(health, chain.self_check, private.target)
    server.start()
    try:
        with grpc.insecure_channel(address) as channel:
            yield Registry(
                address, channel, key, repository, health, chain, store, readiness, credentials, secrets, in_process
            )
    finally:
        readiness.stop()
        chain.end_streams()
        server.stop(0).wait()
        chain.close()
        private.close()
        store.close()
