"""`token` mints what the server with the same data folder trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from server.core.permissions import MODELS_READ, MODELS_WRITE
from tests.processes import Server, failure, run


def minted(folder: Path, *options: str, **variables: str) -> dict[str, Any]:
    """The claims of a token."""
    result = run("token", *options, cwd=folder, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return jwt.decode(result.stdout.rstrip("\n"), options={"verify_signature": False})


def test_a_token_is_for_an_hour_of_everything_as_an_administrator(server: Server, tmp_path: Path) -> None:
    claims = minted(tmp_path)
    assert (claims["sub"], claims["scope"].split()) == ("admin", [MODELS_READ, MODELS_WRITE])
    assert claims["exp"] - claims["iat"] == 3600
    assert "groups" not in claims
    good = run("token", "--data-dir", server.data_dir).stdout.rstrip("\n")
    assert "data" in server.json("list-models", token=good)


def test_a_token_is_for_whom_and_what_the_options_say(tmp_path: Path) -> None:
    options = ("--subject", "jane", "--group", "ml", "--group", "ops", "--scope", MODELS_READ, "--ttl", "15m")
    claims = minted(tmp_path, *options)
    assert (claims["sub"], claims["groups"], claims["scope"]) == ("jane", ["ml", "ops"], MODELS_READ)
    assert claims["exp"] - claims["iat"] == 15 * 60


def test_a_token_takes_its_options_from_the_environment(tmp_path: Path) -> None:
    claims = minted(tmp_path, MODELREGISTRY_SUBJECT="jane", MODELREGISTRY_TTL="2d", MODELREGISTRY_DATA_DIR="elsewhere")
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("jane", 2 * 24 * 3600)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--ttl", "1x"),
        ("--ttl", "0s"),
        ("--ttl", ""),
        ("--scope", "everything"),
        ("--subject", ""),
        ("--group", "a\nb"),
    ],
)
def test_what_no_token_can_say_is_refused_in_one_line(tmp_path: Path, option: str, value: str) -> None:
    assert option.removeprefix("--").replace("subject", "user") in failure(run("token", option, value, cwd=tmp_path))


def test_a_key_that_is_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "local-key.pem").write_text("garbage")
    assert failure(run("token", "--data-dir", tmp_path)).startswith(
        f"{tmp_path / 'local-key.pem'} is not a private key"
    )
