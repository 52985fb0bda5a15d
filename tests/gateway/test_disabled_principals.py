"""A user that is disabled is refused over HTTP, too, with a token that the server knows."""

from __future__ import annotations

import uuid

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from tests.gateway.registry import Registry, good
from tests.gateway.test_refusals import MODELS, ask


def test_a_disabled_user_is_refused_from_the_next_request_on(registry: Registry) -> None:
    name = f"mallory-{uuid.uuid4()}"
    registry.admin("GrantRole", resource_rid=registry.target.rid, principal=f"user:{name}", role=ROLE_VIEWER)
    token, path = registry.server.token(name), f"{MODELS}/{registry.target.rid}"
    assert good(ask(registry.server, "GET", path, token=token))["rid"] == registry.target.rid

    registry.admin("DisablePrincipal", principal=f"user:{name}", reason="has left")

    answer = ask(registry.server, "GET", path, token=token)
    assert (answer.status, answer.error["errorCode"], answer.error["errorName"]) == (
        403,
        "PERMISSION_DENIED",
        "PrincipalDisabled",
    )
    assert answer.error["parameters"] == {"principal": f"user:{name}"}
