"""TLS and mTLS, as the flags of `serve` set them up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from modelregistry.v1.model_service_pb2 import ListModelsRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.auth.local_keys import LocalKeys
from server.core.config import ConfigError, Settings
from server.core.permissions import SCOPES
from server.process import serve
from server.process.app import build
from server.process.ports import bind
from tests.certificates import Authority

DEADLINE_SECONDS = 180


@contextmanager
def listening(settings: Settings) -> Iterator[str]:
    ports = bind(settings)
    application = build(settings, ports)
    serve.start(application)
    try:
        yield ports.grpc_address
    finally:
        serve.stop_and_close(application)


def call(address: str, credentials: grpc.ChannelCredentials | None, token: str | None) -> object:
    """Call the server once."""
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with channel:
        return ModelServiceStub(channel).ListModels(ListModelsRequest(), metadata=metadata, timeout=DEADLINE_SECONDS)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls(tmp_path: Path, authority: Authority) -> Settings:
    cert, key = authority.issue("localhost")
    return Settings(
        listen="127.0.0.1:0", http_listen="127.0.0.1:0", data_dir=tmp_path / "data", tls_cert=cert, tls_key=key
    )


def trusting(authority: Authority, *identity: Path) -> grpc.ChannelCredentials:
    cert, key = (path.read_bytes() for path in identity) if identity else (None, None)
    return grpc.ssl_channel_credentials(authority.cert.read_bytes(), key, cert)


def code_of(address: str, credentials: grpc.ChannelCredentials | None, token: str | None) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, credentials, token)
    return caught.value.code()


def test_a_client_that_trusts_the_authority_calls_over_tls_and_others_do_not(
    tls: Settings, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    with listening(tls) as address:
        token = LocalKeys.open(tls.data_dir).mint("admin", SCOPES)
        assert call(address, trusting(authority), token) is not None
        assert code_of(address, trusting(stranger), token) == grpc.StatusCode.UNAVAILABLE
        assert code_of(address, None, token) == grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_wants_a_certificate_of_the_authority_and_a_token_as_well(
    tls: Settings, authority: Authority, tmp_path: Path
) -> None:
    clients, strangers = Authority(tmp_path / "clients"), Authority(tmp_path / "strangers")
    mutual = Settings(**{**vars(tls), "tls_client_ca": clients.cert})
    with listening(mutual) as address:
        token = LocalKeys.open(tls.data_dir).mint("admin", SCOPES)
        known = trusting(authority, *clients.issue("jane"))
        assert call(address, known, token) is not None
        assert code_of(address, known, None) == grpc.StatusCode.UNAUTHENTICATED
        assert code_of(address, trusting(authority), token) == grpc.StatusCode.UNAVAILABLE
        unknown = trusting(authority, *strangers.issue("jane"))
        assert code_of(address, unknown, token) == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_is_none_is_refused_at_the_start(tls: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for changes in ({"tls_cert": broken}, {"tls_key": broken}, {"tls_cert": tmp_path / "absent.pem"}):
        changed = Settings(**{**vars(tls), **changes})
        with contextlib.closing(bind(changed)) as ports, pytest.raises(ConfigError):
            build(changed, ports)
