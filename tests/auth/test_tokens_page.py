"""docs/tokens.md: what each issuer's tokens become with the options that the page shows, and through a real server."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from server.auth.tokens import TokenVerifier
from server.cli import build_app, server_commands
from server.core.config import Settings
from server.core.permissions import MODELS_READ, MODELS_WRITE, SCOPES
from server.process import app, ports
from tests.auth.forge import AUDIENCE, ISSUER, KeyPair, bearer, claims, jwks, key_pair, refuse
from tests.builders import FOLDER
from tests.processes import Server, failure

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "tokens.md").read_text()
ISSUERS = ["Entra ID", "Okta", "Auth0", "Keycloak", "Cognito", "ADFS", "Kubernetes service accounts"]

NOT_FOUND = 69
PERMISSION_DENIED = 71


class Example(NamedTuple):
    """A token of the page, and what that says of it."""

    issuer: str
    command: str
    header: dict[str, Any] | None
    claims: dict[str, Any]
    principals: list[str]
    scopes: list[str]


def examples() -> Iterator[Example]:
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        issuer, _, text = section.partition("\n")
        [shell] = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        [command] = re.findall(r"^modelregistry serve .*", shell.replace("\\\n", ""), re.MULTILINE)
        shown = re.findall(
            r"(?:^```json header\n([^`]*)^```\n\n)?^```json token\n([^`]*)^```\n\n^> (.*) with (.*)$",
            text,
            re.MULTILINE,
        )
        assert len(shown) == text.count("```json token") == text.count("\n> ")
        for header, said, principals, scopes in shown:
            yield Example(
                issuer,
                command,
                json.loads(header) if header else None,
                json.loads(said),
                re.findall(r"`([^`]+)`", principals),
                re.findall(r"`([^`]+)`", scopes),
            )


EXAMPLES = list(examples())
IDS = [f"{example.issuer}: {example.principals[0]}" for example in EXAMPLES]


class Parsed(Exception):
    """What the command line made of a command, when it would begin to listen."""

    def __init__(self, settings: Settings):
        self.settings = settings


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return key_pair("RS256", kid="made-up")


@pytest.fixture
def keys_file(tmp_path: Path, key: KeyPair) -> Path:
    """The keys of an issuer: an older one, too, so that a token without kid does not say which one it means."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(key_pair("RS256", kid="older"), key))
    return file


def options_of(command: str, keys_file: Path) -> list[str]:
    """The options of a command of the page, with the keys in a file."""
    words = shlex.split(command)
    assert words[:2] == ["modelregistry", "serve"]
    [keys] = [place for place, word in enumerate(words) if word in ("--jwks-url", "--jwks-file")]
    return [*words[2:keys], "--jwks-file", str(keys_file), *words[keys + 2 :]]


@pytest.fixture
def verifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, keys_file: Path) -> TokenVerifier:
    def parsed(settings: Settings) -> None:
        raise Parsed(settings)

    monkeypatch.setattr(ports, "bind", parsed)
    # The logs of the tests go on as they are.
    monkeypatch.setattr(server_commands, "configure_logs", lambda: None)
    options = options_of(request.getfixturevalue("example").command, keys_file)
    result = CliRunner().invoke(build_app(), ["serve", *options], env={"COLUMNS": "200"})
    assert isinstance(result.exception, Parsed), result.output
    settings = result.exception.settings
    return app._verifier(settings, app._keys(settings))


def signed(key: KeyPair, example: Example, **changes: Any) -> str:
    """An example's token, as if its issuer had made it now."""
    late = int(time.time()) - example.claims["iat"]
    moved = {name: example.claims[name] + late for name in ("iat", "nbf", "exp") if name in example.claims}
    said = {name: value for name, value in (example.claims | moved | changes).items() if value is not ...}
    nameless = KeyPair(key.algorithm, None, key.private_key)
    if example.header is None:
        return bearer(key.sign(said))
    # A thumbprint of the page, if there is one, is that of the made-up key.
    header = example.header | ({"kid": key.kid} if "kid" in example.header else {})
    return bearer(nameless.sign(said, **header))


def test_the_page_has_an_example_of_each_issuer_and_links_it() -> None:
    assert list(dict.fromkeys(example.issuer for example in EXAMPLES)) == ISSUERS
    anchors = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert anchors == [issuer.lower().replace(" ", "-") for issuer in ISSUERS]
    assert any(example.header and "kid" not in example.header for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_a_token_of_the_page_becomes_what_the_page_says(
    example: Example, verifier: TokenVerifier, key: KeyPair
) -> None:
    caller = verifier.verify(signed(key, example))
    assert list(caller.principals) == example.principals
    assert caller.scopes == set(example.scopes)
    assert caller.scopes & set(SCOPES)
    assert not caller.is_admin


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_the_options_of_the_page_leave_nothing_unchecked(
    example: Example, verifier: TokenVerifier, key: KeyPair
) -> None:
    [audience] = {"aud", "client_id"} & example.claims.keys() - ({"client_id"} if "aud" in example.claims else set())
    expired = {"exp": int(time.time()) - 301, "iat": int(time.time()) - 3600, "nbf": int(time.time()) - 3600}
    for changes in (
        {"iss": "https://other.example"}, {"iss": ...}, {audience: "other"}, {audience: ...}, expired, {"exp": ...},
        {"sub": ..., "upn": ..., "appid": ..., "oid": ...},
    ):  # fmt: skip
        refuse(verifier, signed(key, example, **changes))
    refuse(verifier, signed(key_pair("RS256", kid=key.kid), example))


def test_every_linked_file_is_there_and_the_page_is_linked() -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", PAGE):
        assert (DOCS / target).exists(), target
    for page in ("../README.md", "contract.md", "operations.md", "../deploy/kubernetes/README.md"):
        assert "tokens.md)" in (DOCS / page).read_text(), page


# Through a server


def test_a_grant_to_a_group_serves_a_caller_whose_token_has_one_group_as_a_string(tmp_path: Path) -> None:
    key, other = key_pair(kid="a"), key_pair(kid="b")
    keys_file = tmp_path / "jwks.json"
    keys_file.write_bytes(jwks(key, key, other))
    scopes = f"{MODELS_READ} {MODELS_WRITE}"

    def token(subject: str, signer: KeyPair = key, **said: Any) -> str:
        return signer.sign(claims(sub=subject, **said))

    trusted = ("--jwks-file", keys_file, "--issuer", ISSUER, "--audience", AUDIENCE, "--admin", "user:root")
    with Server(
        tmp_path / "cwd", *trusted, MODELREGISTRY_SCOPE_CLAIM="scp roles", MODELREGISTRY_GROUPS_CLAIM="groups teams.ml",
        MODELREGISTRY_LEEWAY="120",
    ) as server:  # fmt: skip
        root = token("root", roles=[MODELS_READ, MODELS_WRITE])
        model = server.json("create-model", "m", "--folder", FOLDER, token=root)
        server.json("grant", model["rid"], "group:ml", "viewer", token=root)

        nameless = KeyPair(other.algorithm, None, other.private_key)
        for good in (
            token("jane", scp=scopes, groups="ml"),
            token("jane", scp=[MODELS_READ], groups=["ml", 7, None, ""]),
            token("jane", scp=MODELS_READ, groups=None, teams={"ml": "ml"}),
            token("jane", scp=None, roles=MODELS_READ, groups="ml"),
            token("jane", nameless, scp=MODELS_READ, groups="ml"),
            token("jane", scp=MODELS_READ, groups="ml", exp=int(time.time()) - 60),
        ):
            assert server.json("get-model", model["rid"], token=good) == model

        for groups in ("m", "ml other", "group:ml", ["m", "l"], None):
            stranger = server.run("get-model", model["rid"], token=token("jane", scp=scopes, groups=groups))
            assert failure(stranger, NOT_FOUND).startswith("ModelNotFound: ")
        for said in ({"scp": "", "roles": [MODELS_READ]}, {"scope": MODELS_READ}):
            denied = server.run("get-model", model["rid"], token=token("jane", groups="ml", **said))
            assert failure(denied, PERMISSION_DENIED).startswith("ApiUsageDenied: ")
