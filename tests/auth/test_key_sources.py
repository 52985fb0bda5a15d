from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest

from server.auth import keys as keys_module
from server.auth.keys import MAX_JWKS_BYTES, MIN_REFRESH_INTERVAL, JwksKeySet, jwks_file, jwks_url
from server.auth.tokens import TokenVerifier
from server.core.errors import KeysUnavailable
from tests.auth.forge import AUDIENCE, ISSUER, bearer, claims, jwks, key_pair, refuse


class Site(ThreadingHTTPServer):
    """A web site of one page on an ephemeral port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.document = b""
        self.requests = 0
        self.asked_with: Message = Message()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/jwks.json"


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.asked_with = self.headers
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.document)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.shutdown()
        thread.join()


# A file


def test_a_file_is_read_anew_each_time(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(key_pair(kid="old")))
    keys = JwksKeySet(jwks_file(path))
    path.write_bytes(jwks(key_pair(kid="new")))
    assert keys.find("new", "ES256")
    assert not keys.find("old", "ES256")


def test_a_file_that_is_absent_or_too_large_is_an_error(tmp_path):
    path = tmp_path / "jwks.json"
    with pytest.raises(ValueError, match=str(path)):
        JwksKeySet(jwks_file(path))
    path.write_bytes(jwks(key_pair()) + b" " * MAX_JWKS_BYTES)
    with pytest.raises(ValueError, match="larger"):
        JwksKeySet(jwks_file(path))


def test_a_file_that_is_gone_lets_callers_in_no_longer_than_an_issuer_that_is(tmp_path):
    path, now = tmp_path / "jwks.json", [0.0]
    path.write_bytes(jwks(key_pair(kid="a")))
    keys = JwksKeySet(jwks_file(path), lambda: now[0], max_age=600)
    path.unlink()
    now[0] += 600
    assert keys.find("a", "ES256")
    now[0] += 1
    with pytest.raises(KeysUnavailable):
        keys.find("a", "ES256")


# A URL


def test_tokens_are_verified_with_the_keys_at_a_url_while_they_rotate(site):
    old, new = key_pair(kid="old"), key_pair("RS256", kid="new")
    site.document = jwks(old)
    now = [0.0]
    verifier = TokenVerifier(JwksKeySet(jwks_url(site.url), lambda: now[0]), ISSUER, AUDIENCE)
    assert verifier.verify(bearer(old.sign(claims()))).user == "user:alice"
    refuse(verifier, bearer(new.sign(claims())))

    site.document = jwks(old, new)
    now[0] += MIN_REFRESH_INTERVAL
    assert verifier.verify(bearer(new.sign(claims()))).user == "user:alice"
    assert verifier.verify(bearer(old.sign(claims()))).user == "user:alice"
    assert site.requests == 3


def test_a_request_says_who_asks_and_for_what(site):
    site.document = jwks(key_pair())
    JwksKeySet(jwks_url(site.url))
    assert site.asked_with["User-Agent"] == f"modelregistry/{version('modelregistry')}"
    assert site.asked_with["Accept"].split(", ") == ["application/json", "application/jwk-set+json"]


@pytest.mark.parametrize("status", [204, 301, 404, 500])
def test_any_answer_but_a_document_is_an_error(site, status):
    site.status = status
    with pytest.raises(ValueError, match="JWKS"):
        JwksKeySet(jwks_url(site.url))


@pytest.mark.parametrize("target", ["/other", "ftp://127.0.0.1/", "file:///etc/passwd"])
def test_a_redirect_is_not_followed(site, target):
    site.status = 302
    site.headers = {"Location": target}
    with pytest.raises(ValueError, match="302"):
        JwksKeySet(jwks_url(site.url))
    assert site.requests == 1


def test_a_document_that_is_too_large_is_an_error(site):
    site.document = jwks(key_pair()) + b" " * MAX_JWKS_BYTES
    with pytest.raises(ValueError, match="larger"):
        JwksKeySet(jwks_url(site.url))


def test_an_issuer_that_is_not_there_is_an_error_that_names_it(site):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(ValueError, match=url):
        JwksKeySet(jwks_url(url))


@pytest.mark.parametrize("answer", [b"SSH-2.0\r\n", b""], ids=["no HTTP", "nothing"])
def test_an_answer_that_is_no_http_is_an_error(site, answer):
    with socket.create_server(("127.0.0.1", 0)) as odd:
        thread = threading.Thread(target=_answer, args=(odd, answer))
        thread.start()
        with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
            JwksKeySet(jwks_url(f"http://127.0.0.1:{odd.getsockname()[1]}/"))
        thread.join()


def test_an_issuer_that_never_answers_is_given_up(site, monkeypatch):
    monkeypatch.setattr(keys_module, "FETCH_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ValueError, match="timed out"):
        JwksKeySet(jwks_url(f"http://127.0.0.1:{silent.getsockname()[1]}/"))


@pytest.mark.parametrize(
    "url", ["file:///etc/jwks.json", "ftp://host/jwks", "jwks.json", "http://", "https:", "data:,x"]
)
def test_only_http_and_https_urls_are_taken(url):
    with pytest.raises(ValueError, match="https://"):
        jwks_url(url)


def _answer(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="password") as caught:
        jwks_url("http://user:secret@127.0.0.1:1/keys")
    assert "secret" not in str(caught.value)
