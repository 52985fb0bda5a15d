"""A server with a version to promote into a model, for those who promote over HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import grpc

from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.builders import model_api
from tests.gateway.test_refusals import MODELS, Answer, ask
from tests.processes import Server
from tests.rpc.harness import User

PROMOTIONS = "/api/v2/promotions"


@dataclass(frozen=True)
class Registry:
    """A server, an administrator who calls it over gRPC, and a version to promote into a model."""

    server: Server
    admin: User
    source: ModelVersion
    target: Model

    def get(self, path: str, **query: Any) -> Answer:
        return ask(self.server, "GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, rpc: str, key: str = "", **body: Any) -> Answer:
        """Send an RPC of the target, with a key if there is one."""
        path = f"{MODELS}/{self.target.rid}/{rpc}?preview=true"
        return ask(self.server, "POST", path, json.dumps(body), Idempotency_Key=key)

    def promote(self, key: str = "", **body: Any) -> Answer:
        return self.post("promoteVersion", key, **{"sourceModelVersionRid": self.source.rid} | body)

    def set_policy(self, **body: Any) -> Answer:
        return ask(self.server, "PUT", f"{MODELS}/{self.target.rid}/branchPolicy", json.dumps(body))

    def without_age(self) -> ModelVersion:
        """A version that breaks those who call one like the source: the column `age` is of another type."""
        other = ModelApi()
        other.CopyFrom(model_api())
        other.inputs[0].tabular.columns[0].data_type.boolean.SetInParent()
        return self.admin.create_version(self.admin.create_model(f"broken {uuid.uuid4()}"), model_api=other)


@contextmanager
def new_registry(server: Server) -> Iterator[Registry]:
    """Make what can be promoted in a server."""
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source = admin.create_version(admin.create_model(f"source {uuid.uuid4()}"))
        yield Registry(server, admin, source, admin.create_model(f"target {uuid.uuid4()}"))


def good(answer: Answer) -> Any:
    assert answer.status == 200, answer.content
    return json.loads(answer.content)


def made(answer: Answer) -> list[str]:
    """The RIDs of the versions that the promotions of a list made."""
    return [promotion["modelVersionRid"] for promotion in good(answer)["data"]]
