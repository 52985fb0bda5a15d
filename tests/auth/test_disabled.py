"""What a process knows of principals that are disabled, and what their tokens are worth."""

from __future__ import annotations

import pytest

from server.auth.credentials import Credentials
from server.auth.disabled import DisabledPrincipals
from server.auth.keys import JwksKeySet
from server.auth.tokens import TokenVerifier
from server.core.caller import Caller
from server.core.errors import StorageUnavailable
from tests.auth.forge import AUDIENCE, ISSUER, claims, jwks, key_pair

GET_MODEL = "/modelregistry.v1.ModelService/GetModel"
JANE = Caller(("user:jane",))


def unreadable() -> frozenset[str]:
    raise StorageUnavailable


def test_if_the_list_cannot_be_read_the_last_one_holds() -> None:
    disabled = DisabledPrincipals()
    disabled.refresh(lambda: frozenset({"user:jane"}))
    with pytest.raises(StorageUnavailable):
        disabled.refresh(unreadable)
    assert disabled.has_user(JANE)
    disabled.refresh(lambda: frozenset())
    assert not disabled.has_user(JANE)


def test_a_disabled_group_makes_no_member_an_administrator() -> None:
    key = key_pair()
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, AUDIENCE, frozenset({"group:ops"}))
    credentials = Credentials(verifier)
    token = f"Bearer {key.sign(claims(sub='jane', groups=['ops', 'ml'], scope='api:models-read'))}"
    found = credentials.verified(GET_MODEL, token).caller
    assert found is not None
    assert found.is_admin

    credentials.disabled.add("group:ops")

    for judged in (credentials.from_cache(GET_MODEL, token), credentials.verified(GET_MODEL, token)):
        assert judged is not None
        assert judged.caller == Caller(("user:jane", "group:ml"), found.scopes, is_admin=False)
        assert judged.error is None
