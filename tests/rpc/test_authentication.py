"""Credentials and scopes over a real channel."""

from __future__ import annotations

import json
import time
from typing import Any

import grpc
import jwt
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from server.auth.keys import JwksKeySet, Loader
from server.core.permissions import MODELS_READ, MODELS_WRITE, RPC_SCOPES
from tests.auth.forge import assemble, claims, key_pair, sign_with_secret
from tests.rpc.harness import METHODS, SOME_MODEL, Registry, User, path_of, serving

pytestmark = pytest.mark.database("shared")

HOUR = 3600


def is_refused(user: User) -> bool:
    failure = user.failure("GetModel", model_rid=SOME_MODEL)
    assert failure.parameters == {}
    return (failure.code, failure.name) == (grpc.StatusCode.UNAUTHENTICATED, "InvalidCredentials")


@pytest.mark.parametrize("rpc", METHODS)
def test_every_rpc_wants_credentials_before_it_looks_at_the_request(any_registry: Registry, rpc: str) -> None:
    failure = any_registry.nobody().failure_of_bytes(rpc, b"\xff\xff")
    assert (failure.code, failure.name) == (grpc.StatusCode.UNAUTHENTICATED, "MissingCredentials")


@pytest.mark.parametrize("rpc", METHODS)
def test_every_rpc_wants_its_scope_before_it_looks_at_the_request(any_registry: Registry, rpc: str) -> None:
    needed = RPC_SCOPES[path_of(rpc)]
    (other,) = {MODELS_READ, MODELS_WRITE} - {needed}
    failure = any_registry.user("admin", scopes=(other,)).failure_of_bytes(rpc, b"\xff\xff")
    assert (failure.code, failure.name) == (grpc.StatusCode.PERMISSION_DENIED, "ApiUsageDenied")
    assert failure.parameters == {"missingScope": needed}


def test_a_token_of_algorithm_none_is_refused(any_registry: Registry) -> None:
    assert is_refused(any_registry.bearing(assemble({"alg": "none", "kid": any_registry.key.kid}, claims(sub="admin"))))


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(any_registry: Registry) -> None:
    token = sign_with_secret(claims(sub="admin"), any_registry.key.public_pem, any_registry.key.kid)
    assert is_refused(any_registry.bearing(token))


def test_another_key_under_a_known_kid_is_refused(any_registry: Registry) -> None:
    stranger = key_pair(kid=any_registry.key.kid)
    assert is_refused(any_registry.bearing(stranger.sign(claims(sub="admin"))))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...},
        {"sub": ...},
        {"iss": ...},
        {"aud": ...},
        {"aud": "somebody-else"},
        {"iss": "https://evil.example"},
    ],
    ids=str,
)
def test_a_token_with_wrong_claims_is_refused(any_registry: Registry, changes: dict[str, Any]) -> None:
    assert is_refused(any_registry.bearing(any_registry.key.sign(claims(**changes))))


@pytest.mark.parametrize(("claim", "hours_from_now"), [("exp", -1), ("nbf", 10_000)])
def test_a_token_out_of_its_time_is_refused(any_registry: Registry, claim: str, hours_from_now: int) -> None:
    changes = {claim: time.time() + hours_from_now * HOUR}
    assert is_refused(any_registry.bearing(any_registry.key.sign(claims(**changes))))


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic YTpi", "Bearer a b", "Bearer ....", "bearer x.y.z"])
def test_what_is_no_bearer_token_is_refused(any_registry: Registry, authorization: str) -> None:
    assert is_refused(User(any_registry.channel, (("authorization", authorization),)))


def test_of_two_credentials_none_is_preferred(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    [(key, good)] = admin.metadata
    stranger = f"Bearer {registry.key.sign(claims(sub='stranger', scope=MODELS_READ))}"
    for values in (
        [good, stranger],
        [stranger, good],
        [good, good],
        [good, ""],
        ["", good],
        [good, "Bearer"],
        [good] * 3,
    ):
        assert is_refused(User(registry.channel, tuple((key, value) for value in values)))
    assert User(registry.channel, ((key, good),))("GetModel", model_rid=model.rid) == model


def test_the_refusal_does_not_say_why(any_registry: Registry) -> None:
    """Whoever forges tokens must not learn how far they got."""
    expired = any_registry.bearing(any_registry.key.sign(claims(exp=1))).failure("GetModel", model_rid=SOME_MODEL)
    garbage = any_registry.bearing("x.y.z").failure("GetModel", model_rid=SOME_MODEL)
    assert expired.message == garbage.message


def test_scopes_are_read_from_scp_too(registry: Registry) -> None:
    token = registry.key.sign(claims(sub="admin", scope=..., scp=[MODELS_READ]))
    assert registry.bearing(token).failure("GetModel", model_rid=SOME_MODEL).name == "ModelNotFound"


def test_groups_of_the_token_are_principals(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="group:ml", role=ROLE_VIEWER)
    assert registry.user("jane", "ml")("GetModel", model_rid=model.rid) == model
    assert registry.user("ml").failure("GetModel", model_rid=model.rid).name == "ModelNotFound"


def test_a_token_of_many_groups_is_taken_every_time(any_registry: Registry) -> None:
    groups = [f"a-rather-long-group-name-{number}" for number in range(250)]
    token = any_registry.key.sign(claims(sub="admin", scope=MODELS_READ, groups=groups))
    assert 9_000 < len(token) < 16_000
    for _ in range(30):
        assert any_registry.bearing(token)("ListModels") is not None


def test_a_user_cannot_pose_as_a_group_or_as_another_user(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="group:ml", role=ROLE_VIEWER)
    for name in ("group:ml", "user:admin", "admin "):
        assert registry.user(name).failure("GetModel", model_rid=model.rid).name == "ModelNotFound"


def test_the_library_really_would_accept_a_token_without_exp_unless_told() -> None:
    """Why `exp` is named among what tokens must have: PyJWT asks for nothing by itself."""
    key = key_pair()
    token = key.sign(claims(exp=...))
    public = jwt.PyJWK(key.jwk)
    assert jwt.decode(token, public, algorithms=["ES256"], audience="modelregistry")["sub"]


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "seconds", ["1" + "0" * 400, "-1" + "0" * 400, "1e400", "-1e400", "NaN"], ids=lambda text: text[:5]
)
def test_a_time_that_no_clock_shows_is_refused(any_registry: Registry, claim: str, seconds: str) -> None:
    payload = json.dumps(claims(sub="admin", scope=MODELS_READ, **{claim: "…"}))
    user = any_registry.bearing(any_registry.key.sign(payload.replace(json.dumps("…"), seconds).encode()))
    for _ in range(2):
        assert is_refused(user)


def test_a_token_is_let_in_by_no_key_that_could_not_be_refreshed_for_too_long(any_registry: Registry) -> None:
    now, is_there = [0.0], [True]

    def key_set_of(load: Loader) -> JwksKeySet:
        def load_if_there() -> bytes | str:
            if not is_there[0]:
                raise OSError("gone")
            return load()

        return JwksKeySet(load_if_there, lambda: now[0], max_age=1000)

    with serving(any_registry.repository, key_set_of=key_set_of) as registry:
        known, new = registry.user("admin"), registry.user("jane")
        assert known.failure("GetModel", model_rid=SOME_MODEL).name == "ModelNotFound"
        is_there[0] = False
        now[0] += 1001
        for user in (known, new):
            failure = user.failure("GetModel", model_rid=SOME_MODEL)
            assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "KeysUnavailable")
            assert failure.retry_seconds is not None
        assert registry.nobody().failure("GetModel", model_rid=SOME_MODEL).name == "MissingCredentials"
        is_there[0] = True
        now[0] += 30
        assert known.failure("GetModel", model_rid=SOME_MODEL).name == "ModelNotFound"
