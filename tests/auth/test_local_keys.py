from __future__ import annotations

import logging
import stat
import subprocess
import sys
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.auth.local_keys import ADMIN, AUDIENCE, ISSUER, KEY_FILE, LocalKeys
from server.auth.tokens import TokenVerifier
from tests.auth.forge import bearer, claims, key_pair, refuse


def verifier_of(keys: LocalKeys) -> TokenVerifier:
    return TokenVerifier(keys.key_set(), ISSUER, AUDIENCE, admins=frozenset({ADMIN}))


# The key file


def test_the_key_is_created_for_its_owner_alone(tmp_path, caplog):
    data_dir = tmp_path / "new" / "data"
    assert LocalKeys.open(data_dir).created
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in data_dir.iterdir()] == [KEY_FILE]
    assert not caplog.records


def test_the_key_stays_when_it_is_opened_again(tmp_path):
    first = LocalKeys.open(tmp_path)
    again = LocalKeys.open(tmp_path)
    assert not again.created
    assert again.kid == first.kid
    assert verifier_of(again).verify(bearer(first.mint("alice", []))).user == "user:alice"


_OPEN_EACH = """
import sys
from pathlib import Path
from server.auth.local_keys import LocalKeys
print("ready", flush=True)
sys.stdin.readline()
for name in sys.argv[1:]:
    keys = LocalKeys.open(Path(name))
    print(keys.kid, keys.created, flush=True)
"""


def test_processes_that_race_for_the_first_key_end_with_one(tmp_path):
    folders = [str(tmp_path / f"{number}") for number in range(20)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN_EACH, *folders], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=180)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    for folder, lines in zip(folders, zip(*outputs, strict=True), strict=True):
        kids, created = zip(*(line.split() for line in lines), strict=True)
        assert set(kids) == {LocalKeys.open(tmp_path / folder).kid}
        assert sorted(created) == ["False", "False", "False", "True"]


def _pem(key, password=None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\x00",
        _pem(Ed25519PrivateKey.generate())[:60],
        _pem(Ed25519PrivateKey.generate(), b"password"),
        _pem(key_pair("ES256").private_key),
        key_pair("EdDSA").public_pem,
    ],
    ids=["empty", "garbage", "binary", "cut off", "encrypted", "another kind", "public"],
)
def test_a_damaged_key_file_is_an_error_that_names_it_and_is_left_alone(tmp_path, content):
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        LocalKeys.open(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_file_that_others_can_read_is_warned_about(tmp_path, caplog, mode):
    LocalKeys.open(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    LocalKeys.open(tmp_path)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / KEY_FILE) in record.getMessage()


# The tokens


def test_a_minted_token_says_what_was_asked(tmp_path):
    keys = LocalKeys.open(tmp_path)
    token = keys.mint("alice", ["api:models-read", "api:models-write"], groups=["a", "b"], ttl=timedelta(minutes=5))
    caller = verifier_of(keys).verify(bearer(token))
    assert caller.principals == ("user:alice", "group:a", "group:b")
    assert caller.scopes == {"api:models-read", "api:models-write"}
    assert not caller.is_admin

    said = jwt.decode(token, options={"verify_signature": False})
    assert said["exp"] - said["iat"] == 300
    assert said.keys() == {"iss", "aud", "sub", "iat", "exp", "scope", "groups"}
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": keys.kid}


def test_the_subject_admin_is_an_administrator(tmp_path):
    keys = LocalKeys.open(tmp_path)
    assert verifier_of(keys).verify(bearer(keys.mint("admin", []))).is_admin
    assert not verifier_of(keys).verify(bearer(keys.mint("other", [], groups=["admin"]))).is_admin


def test_a_minted_token_expires(tmp_path):
    keys = LocalKeys.open(tmp_path)
    refuse(verifier_of(keys), bearer(keys.mint("alice", [], ttl=timedelta(seconds=-11))))


def test_tokens_of_another_folder_are_refused(tmp_path):
    ours, theirs = LocalKeys.open(tmp_path / "ours"), LocalKeys.open(tmp_path / "theirs")
    refuse(verifier_of(ours), bearer(theirs.mint("admin", [])))
    forged = key_pair("EdDSA", ours.kid).sign(claims(iss=ISSUER, aud=AUDIENCE))
    refuse(verifier_of(ours), bearer(forged))


def test_a_replaced_key_file_revokes_the_tokens_minted_before(tmp_path):
    old = LocalKeys.open(tmp_path)
    verifier = verifier_of(old)
    (tmp_path / KEY_FILE).unlink()
    new = LocalKeys.open(tmp_path)
    assert verifier.verify(bearer(new.mint("admin", []))).is_admin
    refuse(verifier, bearer(old.mint("admin", [])))


@pytest.mark.parametrize("who", [{"subject": ""}, {"subject": "a\nb"}, {"subject": "a", "groups": ["g" * 250]}])
def test_a_token_that_would_not_be_accepted_is_not_minted(tmp_path, who):
    with pytest.raises(ValueError, match=r"user|group"):
        LocalKeys.open(tmp_path).mint(scopes=[], **who)


def test_the_key_id_is_the_thumbprint_of_rfc_8037(tmp_path):
    # The key of RFC 8037, appendix A.1, whose thumbprint is in A.3.
    secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    (tmp_path / KEY_FILE).write_bytes(_pem(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))))
    assert LocalKeys.open(tmp_path).kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
