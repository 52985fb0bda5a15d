"""What HTTP clients are told when PostgreSQL is lost: whether a promotion may be sent again, which is never a guess."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.conftest import NewDatabase
from tests.e2e.database_proxy import DatabaseProxy
from tests.processes import Server

HINT = "QoS-Retry-Hint"


@dataclass(frozen=True)
class Registry:
    """A server, the way to its database, and a version to promote into a model."""

    server: Server
    proxy: DatabaseProxy
    source: ModelVersion
    target: Model

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
        """The status, the headers and the JSON of an answer."""
        connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=180)
        honest = {"Authorization": f"Bearer {self.server.token()}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, honest | headers)
        response = connection.getresponse()
        answer = response.status, response.headers, json.loads(response.read())
        connection.close()
        return answer

    def promote(self, **headers: str) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
        path = f"/api/v2/models/{self.target.rid}/promoteVersion?preview=true"
        return self.ask("POST", path, {"sourceModelVersionRid": self.source.rid}, **headers)

    def promoted(self) -> int:
        """How many versions the target has."""
        status, _, answer = self.ask("GET", f"/api/v2/models/{self.target.rid}/versions")
        assert status == 200
        return len(answer["data"])


@pytest.fixture
def registry(new_database: NewDatabase, tmp_path: Path) -> Iterator[Registry]:
    url = new_database("postgresql", migrated=True)
    with DatabaseProxy(url) as proxy, Server(tmp_path / "cwd", "--database-url", proxy.url) as server:
        with grpc.insecure_channel(server.address) as channel:
            admin = server.user(channel)
            source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
        yield Registry(server, proxy, source, target)


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "not committed"])
def test_a_promotion_whose_commit_has_an_unknown_end_is_not_to_be_sent_again(registry: Registry, arrives: bool) -> None:
    registry.proxy.lose_a_commit(arrives=arrives)

    status, headers, answer = registry.promote()

    assert registry.proxy.lost.wait(60)
    assert (status, answer["errorCode"], answer["errorName"]) == (503, "UNAVAILABLE", "StorageUnavailable")
    assert headers[HINT] == "do-not-retry"
    assert "Retry-After" not in headers
    assert registry.promoted() == (1 if arrives else 0)


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "not committed"])
def test_with_a_key_it_is_made_once_all_the_same(registry: Registry, arrives: bool) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    registry.proxy.lose_a_commit(arrives=arrives)

    status, _, made = registry.promote(**key)

    assert registry.proxy.lost.wait(60)
    assert status == 200
    assert registry.promote(**key)[2] == made
    assert registry.promoted() == 1


def test_a_promotion_that_found_no_database_may_be_sent_again(registry: Registry) -> None:
    registry.proxy.close()

    status, headers, answer = registry.promote()

    assert (status, answer["errorCode"], answer["errorName"]) == (503, "UNAVAILABLE", "StorageUnavailable")
    assert headers["Retry-After"] == "1"
    assert HINT not in headers

    registry.proxy.open()
    assert registry.promoted() == 0
    assert registry.promote()[0] == 200
    assert registry.promoted() == 1


def test_a_question_may_be_asked_again_in_any_case(registry: Registry) -> None:
    registry.proxy.close()

    status, headers, answer = registry.ask("GET", f"/api/v2/models/{registry.target.rid}")

    assert (status, answer["errorName"]) == (503, "StorageUnavailable")
    assert headers["Retry-After"] == "1"
    assert HINT not in headers
