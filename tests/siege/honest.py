"""Callers that mean well: what they were served, and how long each call took."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import math
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_service_pb2 import UploadModelFilesRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc.health import SERVING
from tests.builders import FOLDER
from tests.processes import Server
from tests.rpc.harness import User, request_of

TIMES = 100
DEADLINE_SECONDS = 5
# With one worker after the other, as the system shares connections out.
CALLS_PER_CONNECTION = 10
HONEST = "honest"

KINDS = ("GetModelVersion", "PromoteVersion", "CreateModelVersion", "UploadModelFiles", "GET", "POST")
KINDS += ("Health/Check", "reflection", "a new client that watches health")
ALL_SERVED = dict.fromkeys(KINDS, f"{TIMES} served")

_HEALTH = health_pb2.HealthCheckRequest(service="modelregistry.v1.ModelService")
_ALL_SERVICES = reflection_pb2.ServerReflectionRequest(list_services="")
_SERVICE_CONFIG = (Path(__file__).parents[2] / "protos/modelregistry/v1/service_config.json").read_text()
_FILES = b"x" * 2**16

Call = Callable[[], object]
# Connects, and yields what makes one call.
Connect = Callable[[], AbstractContextManager[Call]]


@dataclass
class Served:
    """How many calls of a kind were served, how long each took in milliseconds, and what came of one that was not."""

    milliseconds: list[float] = field(default_factory=list)
    failure: str | None = None

    def __str__(self) -> str:
        return f"{len(self.milliseconds)} served" + (f", then {self.failure}" if self.failure else "")

    def percentile(self, share: float) -> float:
        """How long so large a share of the calls took at most; of none, nothing is known."""
        return sorted(self.milliseconds)[int(len(self.milliseconds) * share)] if self.milliseconds else math.nan


class Honest:
    """A user with models of their own, to whom it should make no difference what others do.

    The calls over gRPC go to the server, or to a proxy before it at an address.
    """

    def __init__(self, server: Server, *, proxy: str | None = None, certificate: Path | None = None):
        self._address = proxy or server.address
        self._certificate = certificate
        self._url = urlsplit(server.url)
        self._server = server
        self._token = server.token(HONEST)
        self._numbers = itertools.count()
        with self._channel() as channel:
            server.user(channel)("GrantRole", resource_rid=FOLDER, principal=f"user:{HONEST}", role=ROLE_OWNER)
            user = self._user(channel)
            self._target, self._http_target = user.create_model("target"), user.create_model("target over HTTP")
            self._source = user.create_version(user.create_model("source"))

    @property
    def _version(self) -> dict[str, str]:
        return {"model_rid": self._source.model_rid, "model_version_rid": self._source.rid}

    def served(self) -> dict[str, str]:
        """Make all calls, and return how many of each kind were served, and what failed: ALL_SERVED, if nothing did."""
        return {kind: str(served) for kind, served in self.calls().items()}

    def calls(self) -> dict[str, Served]:
        """Make so many calls of each kind, the kinds beside each other, each until one fails."""
        how: dict[str, tuple[Connect, int]] = {
            "GetModelVersion": (self._reading, CALLS_PER_CONNECTION),
            "PromoteVersion": (self._promoting, CALLS_PER_CONNECTION),
            "CreateModelVersion": (self._creating, CALLS_PER_CONNECTION),
            "UploadModelFiles": (self._uploading, CALLS_PER_CONNECTION),
            "GET": (self._getting, CALLS_PER_CONNECTION),
            "POST": (self._posting, CALLS_PER_CONNECTION),
            "Health/Check": (self._checking, CALLS_PER_CONNECTION),
            "reflection": (self._reflecting, CALLS_PER_CONNECTION),
            "a new client that watches health": (self._connecting, 1),
        }
        with ThreadPoolExecutor(len(how)) as threads:
            running = {kind: threads.submit(_make_calls, *each) for kind, each in how.items()}
        return {kind: each.result() for kind, each in running.items()}

    def _reading(self) -> AbstractContextManager[Call]:
        return self._calling("GetModelVersion", **self._version)

    def _promoting(self) -> AbstractContextManager[Call]:
        names = {"model_rid": self._target.rid, "source_model_version_rid": self._source.rid}
        return self._calling("PromoteVersion", **names, preview=True)

    def _creating(self) -> AbstractContextManager[Call]:
        return self._calling("CreateModelVersion", model_rid=self._source.model_rid, model_api=self._source.model_api)

    @contextmanager
    def _calling(self, rpc: str, **fields: Any) -> Iterator[Call]:
        request = request_of(rpc, **fields).SerializeToString()
        with self._channel() as channel:
            user = self._user(channel)
            yield lambda: user.send(rpc, request, DEADLINE_SECONDS)

    @contextmanager
    def _connecting(self) -> Iterator[Call]:
        request = request_of("GetModelVersion", **self._version).SerializeToString()
        with self._channel(service_config=_SERVICE_CONFIG) as channel:
            # With a token that the server has not seen, either.
            user = self._user(channel, self._server.token(HONEST, str(next(self._numbers))))
            yield lambda: user.send("GetModelVersion", request, DEADLINE_SECONDS)

    @contextmanager
    def _uploading(self) -> Iterator[Call]:
        parts = [
            UploadModelFilesRequest(model_rid=self._source.model_rid),
            UploadModelFilesRequest(chunk=_FILES),
            UploadModelFilesRequest(sha256=hashlib.sha256(_FILES).hexdigest()),
        ]
        with self._channel() as channel:
            upload, metadata = ModelServiceStub(channel).UploadModelFiles, self._user(channel).metadata
            yield lambda: upload(iter(parts), metadata=metadata, timeout=DEADLINE_SECONDS)

    @contextmanager
    def _checking(self) -> Iterator[Call]:
        def check() -> None:
            assert stub.Check(_HEALTH, timeout=DEADLINE_SECONDS).status == SERVING

        with self._channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            yield check

    @contextmanager
    def _reflecting(self) -> Iterator[Call]:
        with self._channel() as channel:
            ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            yield lambda: list(ask(iter([_ALL_SERVICES]), timeout=DEADLINE_SECONDS))

    def _getting(self) -> AbstractContextManager[Call]:
        return self._asking("GET", f"/api/v2/models/{self._source.model_rid}/versions/{self._source.rid}", None)

    def _posting(self) -> AbstractContextManager[Call]:
        body = json.dumps({"sourceModelVersionRid": self._source.rid})
        return self._asking("POST", f"/api/v2/models/{self._http_target.rid}/promoteVersion?preview=true", body)

    @contextmanager
    def _asking(self, method: str, path: str, body: str | None) -> Iterator[Call]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        host, port = str(self._url.hostname), self._url.port

        def ask() -> None:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            assert (response.status, response.read()[:0]) == (200, b""), f"HTTP {response.status}"

        if self._certificate is None:
            connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
        else:
            context = ssl.create_default_context(cafile=str(self._certificate))
            connection = http.client.HTTPSConnection(host, port, timeout=DEADLINE_SECONDS, context=context)
        with closing(connection):
            yield ask

    def _channel(self, **options: str) -> grpc.Channel:
        # A pool of its own, so that each channel is a connection.
        arguments = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", to) for name, to in options.items())]
        if self._certificate is None:
            return grpc.insecure_channel(self._address, arguments)
        credentials = grpc.ssl_channel_credentials(self._certificate.read_bytes())
        return grpc.secure_channel(self._address, credentials, arguments)

    def _user(self, channel: grpc.Channel, token: str | None = None) -> User:
        return User(channel, (("authorization", f"Bearer {token or self._token}"),))


def _make_calls(connect: Connect, calls_per_connection: int) -> Served:
    served = Served()
    for _ in range(TIMES // calls_per_connection):
        try:
            with connect() as call:
                for _ in range(calls_per_connection):
                    begin = time.perf_counter()
                    call()
                    served.milliseconds.append((time.perf_counter() - begin) * 1000)
        except grpc.RpcError as error:
            served.failure = f"{error.code().name}: {error.details()}"
        except (OSError, http.client.HTTPException, AssertionError) as error:
            served.failure = f"{type(error).__name__}: {error}"
        if served.failure:
            break
    return served
