"""What no call can be made of is refused with the right status and the JSON envelope, whatever it is."""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from server.gateway.limits import HttpLimits
from tests.builders import FOLDER
from tests.processes import Server

MODELS = "/api/v2/models"
NO_MODEL = f"{MODELS}/ri.models.main.model.none"
PROMOTE = f"{NO_MODEL}/promoteVersion"
PREVIEW = f"{PROMOTE}?preview=true"
SOURCE = "ri.models.main.model-version.none"
BODY = json.dumps({"sourceModelVersionRid": SOURCE}).encode()
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The envelope, which must be one."""
        assert self.headers["content-type"] == "application/json"
        body: dict[str, Any] = json.loads(self.content)
        assert set(body) == {"errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"}
        return body

    @property
    def fields(self) -> set[str]:
        return {violation["field"] for violation in self.error["parameters"]["fieldViolations"]}


def ask(server: Server, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> Answer:
    """Send a request with an honest token, if no other is given, and as JSON."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    bearer = {"Authorization": f"Bearer {server.token() if token is None else token}"}
    sent = {**JSON, **bearer, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, body, {name: value for name, value in sent.items() if value})
    response = connection.getresponse()
    told = {name.lower(): value for name, value in response.getheaders()}
    answer = Answer(response.status, told, response.read())
    connection.close()
    return answer


@dataclass(frozen=True)
class Bad:
    """A bad request, and how it is answered."""

    what: str
    status: int
    name: str
    method: str = "POST"
    path: str = PREVIEW
    body: Any = BODY
    headers: dict[str, str] = field(default_factory=dict)
    fields: frozenset[str] = frozenset()


def invalid(what: str, body: Any = BODY, *fields: str, path: str = PREVIEW) -> Bad:
    return Bad(what, 400, "InvalidArgument", body=body, path=path, fields=frozenset(fields))


BAD = [
    Bad("an unknown path", 404, "RouteNotFound", "GET", "/api/v2/nothing", None),
    Bad("the root", 404, "RouteNotFound", "GET", "/", None),
    Bad("a slash too many", 404, "RouteNotFound", "GET", f"{NO_MODEL}/", None),
    Bad("a wrong method", 405, "MethodNotAllowed", "DELETE", NO_MODEL, None),
    Bad("an unheard-of method", 405, "MethodNotAllowed", "PATCH", PROMOTE, BODY),
    Bad("no content type", 415, "UnsupportedMediaType", headers={"Content_Type": ""}),
    Bad("a form", 415, "UnsupportedMediaType", headers={"Content_Type": "application/x-www-form-urlencoded"}),
    Bad("another character set", 415, "UnsupportedMediaType", headers={"Content_Type": "application/json; charset=x"}),
    Bad("a compressed body", 415, "UnsupportedMediaType", headers={"Content_Encoding": "gzip"}),
    Bad("a large body", 413, "RequestTooLarge", body=b" " * (5 * 2**20)),
    Bad("a large body in chunks", 413, "RequestTooLarge", body=[b" " * 2**20] * 5),
    Bad("no preview", 400, "ApiFeaturePreviewUsageOnly", path=PROMOTE),
    Bad("preview=false", 400, "ApiFeaturePreviewUsageOnly", path=f"{PROMOTE}?preview=false"),
    Bad("no preview and a broken body", 400, "ApiFeaturePreviewUsageOnly", path=PROMOTE, body=b"{"),
    Bad("a model that is not there", 404, "ModelNotFound"),
    invalid("broken JSON", b'{"sourceModelVersionRid": '),
    invalid("no body", b""),
    invalid("a list", b"[]"),
    invalid("null", b"null"),
    invalid("bytes that are no UTF-8", b'{"sourceModelVersionRid": "\xff"}'),
    invalid("a lone surrogate", b'{"sourceModelVersionRid": "\\ud800"}'),
    invalid("NaN", b'{"sourceModelVersionRid": NaN}'),
    invalid("deep nesting", b"[" * 100_000),
    invalid("a key twice", b'{"branch": "a", "branch": "b"}'),
    invalid("an unknown key", b'{"sourceModelVersionRid": "x", "bogus": 1}', "bogus"),
    invalid("the path's key in the body", b'{"modelRid": "x"}', "modelRid"),
    invalid("a number for a string", b'{"sourceModelVersionRid": 1}', "sourceModelVersionRid"),
    invalid("an object for a string", b'{"sourceModelVersionRid": {}}', "sourceModelVersionRid"),
    invalid("a malformed RID", b'{"sourceModelVersionRid": "nonsense"}', "sourceModelVersionRid"),
    invalid("an encoded slash", BODY, "modelRid", path=f"{MODELS}/a%2Fb/promoteVersion?preview=true"),
    invalid("an encoding of no character", BODY, "modelRid", path=f"{MODELS}/%ff/promoteVersion?preview=true"),
    invalid("an unknown parameter", BODY, "bogus", path=f"{PREVIEW}&bogus=1"),
    invalid("a parameter twice", BODY, "preview", path=f"{PREVIEW}&preview=true"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_a_bad_request_has_its_status_and_its_name(server: Server, bad: Bad) -> None:
    answer = ask(server, bad.method, bad.path, bad.body, **bad.headers)

    assert (answer.status, answer.error["errorName"]) == (bad.status, bad.name)
    if bad.name == "InvalidArgument":
        assert bad.fields <= answer.fields
        assert all(violation["description"] for violation in answer.error["parameters"]["fieldViolations"])


@pytest.mark.parametrize("body", [BODY, b"{", b" " * 100], ids=["good", "broken", "blank"])
@pytest.mark.parametrize("token", ["", "nonsense"], ids=["no token", "a bad token"])
def test_a_stranger_learns_nothing_but_that_a_token_is_wanted(server: Server, token: str, body: bytes) -> None:
    answer = ask(server, "POST", PREVIEW, body, Authorization=f"Bearer {token}" if token else "")

    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.error["errorName"] == ("InvalidCredentials" if token else "MissingCredentials")
    assert answer.error["parameters"] == {}


def test_percent_encoded_rids_are_rids(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        model = server.user(channel).create_model("encoded")

    encoded = "".join(f"%{byte:02X}" for byte in model.rid.encode())

    assert ask(server, "GET", f"{MODELS}/{encoded}").status == 200
    assert ask(server, "GET", f"{MODELS}/{quote(model.rid)}").status == 200


def test_head_answers_like_get_but_without_a_body(server: Server) -> None:
    head, get = ask(server, "HEAD", NO_MODEL), ask(server, "GET", NO_MODEL)

    assert (head.status, head.content) == (get.status, b"")
    assert head.headers["content-type"] == "application/json"


def test_options_and_a_refused_method_tell_what_is_allowed(server: Server) -> None:
    options, refused = ask(server, "OPTIONS", NO_MODEL), ask(server, "PUT", NO_MODEL)

    assert (options.status, options.content) == (204, b"")
    assert options.headers["allow"] == refused.headers["allow"] == "GET, HEAD, OPTIONS"


def test_a_request_id_comes_back_and_is_in_the_log(server: Server) -> None:
    answer = ask(server, "GET", NO_MODEL, X_Request_Id="night-shift-7")

    assert answer.headers["x-request-id"] == "night-shift-7"
    line = server.logged(request_id="night-shift-7")
    assert line["error_instance_id"] == answer.error["errorInstanceId"]


def test_a_deadline_passes_through(server: Server) -> None:
    body = json.dumps({"name": "in no time", "parentFolderRid": FOLDER})
    with closing(sqlite3.connect(server.data_dir / "modelregistry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = ask(server, "POST", MODELS, body, Grpc_Timeout="200m")
        other.execute("ROLLBACK")

    assert (answer.status, answer.error["errorName"]) == (504, "DeadlineExceeded")


def raw(server: Server, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes the connection."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("sent", "status", "name"),
    [
        (b"nonsense\r\n\r\n", 400, "MalformedHttpRequest"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "MalformedHttpRequest"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "MalformedHttpRequest"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * HttpLimits().max_head_bytes + b"\r\n\r\n", 431, "RequestHeadersTooLarge"),
        (b"GET /" + b"x" * HttpLimits().max_head_bytes + b" HTTP/1.1\r\n\r\n", 431, "RequestHeadersTooLarge"),
    ],
    ids=["no request", "no header", "TLS", "a huge header", "a huge path"],
)
def test_bytes_that_are_no_request_end_the_connection_with_json(
    server: Server, sent: bytes, status: int, name: str
) -> None:
    head, _, body = raw(server, sent).partition(b"\r\n\r\n")

    assert head.split()[1] == str(status).encode()
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body)["errorName"] == name


def test_who_never_finishes_a_request_is_told_so_and_holds_up_nobody(server: Server) -> None:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert ask(server, "GET", NO_MODEL).status == 404

        answer = b"".join(iter(lambda: slow.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errorName"] == "RequestTimeout"


def test_requests_sent_at_once_are_answered_in_their_order(server: Server) -> None:
    first = b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"GET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answers = raw(server, first + second)

    assert answers.count(b"HTTP/1.1 404 ") == 2
    assert answers.index(b'"/first"') < answers.index(b'"/second"')


def test_the_oldest_clients_are_answered_too(server: Server) -> None:
    assert b" 404 " in raw(server, b"GET /old HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


def test_a_key_that_occurs_twice_is_named(server: Server) -> None:
    answer = ask(server, "POST", PREVIEW, b'{"branch": "a", "branch": "b"}')

    (violation,) = answer.error["parameters"]["fieldViolations"]
    assert "'branch' occurs twice" in violation["description"]
