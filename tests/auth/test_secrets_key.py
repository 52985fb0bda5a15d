"""Secrets are encrypted under a key in a file, which can be replaced."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from server.auth.secrets_key import SecretsKey
from server.core.errors import SecretsUnavailable


def new_key() -> bytes:
    return base64.b64encode(os.urandom(32)) + b"\n"


def test_the_key_is_made_for_the_first_secret_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "data" / "secrets.key"
    secrets = SecretsKey(file, may_create=True)
    assert not file.exists()
    sealed = secrets.seal(b"a secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert b"a secret" not in sealed
    assert secrets.seal(b"a secret") != sealed
    assert SecretsKey(file, may_create=True).unseal(sealed) == b"a secret"


def test_a_new_key_in_front_encrypts_and_earlier_ones_decrypt(tmp_path: Path) -> None:
    file, old, new = tmp_path / "keys", new_key(), new_key()
    file.write_bytes(old)
    secrets = SecretsKey(file, may_create=False)
    first = secrets.seal(b"first")
    file.write_bytes(new + old)
    second = secrets.seal(b"second")
    assert (secrets.unseal(first), secrets.unseal(second)) == (b"first", b"second")
    file.write_bytes(new)
    assert secrets.unseal(second) == b"second"
    with pytest.raises(SecretsUnavailable):
        secrets.unseal(first)


def test_what_was_altered_is_not_decrypted(tmp_path: Path) -> None:
    secrets = SecretsKey(tmp_path / "keys", may_create=True)
    sealed = secrets.seal(b"a secret")
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(SecretsUnavailable):
            secrets.unseal(bytes(altered))


@pytest.mark.parametrize("content", [b"", b"\n", b"no key", base64.b64encode(b"short"), b"A" * 43 + b"=\nx\n"])
def test_a_file_without_good_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=str(file)):
        SecretsKey(file, may_create=False).check()
    with pytest.raises(SecretsUnavailable):
        SecretsKey(file, may_create=True).seal(b"a secret")


def test_a_file_that_is_named_is_not_made(tmp_path: Path) -> None:
    secrets = SecretsKey(tmp_path / "keys", may_create=False)
    with pytest.raises(FileNotFoundError):
        secrets.check()
    with pytest.raises(SecretsUnavailable):
        secrets.seal(b"a secret")


def test_a_secret_that_was_altered_is_told_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secrets = SecretsKey(tmp_path / "secrets.key", may_create=True)
    sealed = bytearray(secrets.seal(b"secret"))
    sealed[-1] ^= 1
    with pytest.raises(SecretsUnavailable):
        secrets.unseal(bytes(sealed))
    assert "a secret cannot be decrypted: it was altered; see --secrets-key-file" in caplog.text
