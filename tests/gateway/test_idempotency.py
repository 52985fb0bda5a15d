"""The header `Idempotency-Key`: it is the request's id, so a POST with it can be sent again, and nothing bends it."""

from __future__ import annotations

import json
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.validation.rules import uuid as uuid_rule
from tests.builders import FOLDER
from tests.gateway.registry import Registry, good
from tests.gateway.test_refusals import MODELS, SOURCE, Answer, ask
from tests.processes import Server

KEY = "8a0c96e7-8d08-4f54-8d62-fec9561f2d8a"
OTHER = "00000000-0000-0000-0000-000000000001"
PROMOTE = f"{MODELS}/ri.models.main.model.none/promoteVersion?preview=true"
BODY = {"sourceModelVersionRid": SOURCE}


def new_key() -> str:
    return str(uuid.uuid4())


def promoted(registry: Registry) -> int:
    """How many versions the target has."""
    return len(registry.admin("ListModelVersions", model_rid=registry.target.rid).model_versions)


def rid(answer: Answer) -> str:
    found: str = good(answer)["rid"]
    return found


# Safe to repeat


def test_a_post_with_the_same_key_gives_the_same_version_again(registry: Registry) -> None:
    key = new_key()

    first, second = registry.promote(key), registry.promote(key)

    assert first.content == second.content
    assert rid(first) == rid(second)
    assert promoted(registry) == 1


def test_each_key_is_a_promotion_of_its_own_and_so_is_each_post_without_one(registry: Registry) -> None:
    answers = [registry.promote(new_key()), registry.promote(new_key()), registry.promote(), registry.promote()]

    assert len({rid(answer) for answer in answers}) == 4


def test_the_same_key_many_times_at_once_is_one_promotion(registry: Registry) -> None:
    key = new_key()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: registry.promote(key), range(8)))

    assert len({rid(answer) for answer in answers}) == 1
    assert promoted(registry) == 1


@pytest.mark.parametrize(
    "said", ["{}", '"{}"', "{} ", '\t"{}"\t'], ids=["bare", "quoted", "a blank behind it", "quoted between tabs"]
)
def test_every_way_to_say_a_key_says_the_same(registry: Registry, said: str) -> None:
    key = new_key()

    assert rid(registry.promote(said.format(key))) == rid(registry.promote(said.format(key.upper())))
    assert rid(registry.promote(key)) == rid(registry.promote(requestId=key))
    assert promoted(registry) == 1


def test_the_key_of_http_is_the_request_id_of_grpc(registry: Registry) -> None:
    key = new_key()

    over_grpc = registry.admin.promote(registry.source, registry.target, request_id=key)

    assert rid(registry.promote(f'"{key}"')) == over_grpc.rid
    assert promoted(registry) == 1


def test_a_key_that_the_body_repeats_is_fine(registry: Registry) -> None:
    key = new_key()

    assert rid(registry.promote(key, requestId=key.upper())) == rid(registry.promote(f'"{key}"', requestId=None))


def test_a_key_is_not_for_another_request(registry: Registry) -> None:
    key = new_key()
    registry.promote(key)

    answer = registry.promote(key, branch="other")

    assert (answer.status, answer.error["errorCode"], answer.error["errorName"]) == (
        409,
        "ALREADY_EXISTS",
        "RequestIdAlreadyUsed",
    )
    assert answer.error["parameters"] == {"requestId": key}
    assert "qos-retry-hint" not in answer.headers


def test_a_check_with_the_key_of_a_promotion_tells_what_that_made(registry: Registry) -> None:
    key = new_key()
    made = rid(registry.promote(key))

    answer = registry.post("checkPromotion", key, sourceModelVersionRid=registry.source.rid)

    assert json.loads(answer.content)["repeatedVersionRid"] == made


def test_every_request_that_can_have_an_id_takes_the_key(registry: Registry) -> None:
    target = registry.target.rid
    registry.promote()
    registry.promote()
    batch = json.dumps({"promotions": [{"modelRid": target, "sourceModelVersionRid": registry.source.rid}]})
    requests = {
        MODELS: json.dumps({"name": f"by key {uuid.uuid4()}", "parentFolderRid": FOLDER}),
        f"{MODELS}/{target}/versions": json.dumps({"modelApi": {}}),
        f"{MODELS}/{target}/rollbackBranch": json.dumps({"toVersionNumber": 1}),
        "/api/v2/batchPromoteVersions": batch,
    }

    for path, body in requests.items():
        key = new_key()
        first, second = (ask(registry.server, "POST", path, body, Idempotency_Key=key) for _ in range(2))
        assert (first.status, second.status) == (200, 200), path
        assert first.content == second.content, path


def test_where_there_is_no_such_field_the_header_is_ignored(registry: Registry) -> None:
    path = f"{MODELS}/{registry.target.rid}"

    get = ask(registry.server, "GET", path, Idempotency_Key="nonsense")
    put = ask(
        registry.server,
        "PUT",
        f"{path}/branchPolicy",
        json.dumps({"compatibility": "WARN"}),
        Idempotency_Key="nonsense",
    )

    assert (get.status, put.status) == (200, 200)


# What is no key


def sent(server: Server, *values: bytes, path: str = PROMOTE, token: str | None = None, body: Any = BODY) -> Answer:
    """Send these values each as a header of its own, byte by byte."""
    content = json.dumps(body).encode()
    keys = b"".join(b"Idempotency-Key: %s\r\n" % value for value in values)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
    bearer = f"Authorization: Bearer {server.token() if token is None else token}\r\n".encode()
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head + bearer + keys + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    first, _, rest = answer.partition(b"\r\n")
    headers, _, got = rest.partition(b"\r\n\r\n")
    told = dict(line.split(": ", 1) for line in headers.decode().lower().split("\r\n"))
    return Answer(int(first.split()[1]), told, got)


def violation(answer: Answer) -> dict[str, str]:
    """The one violation of an invalid argument."""
    assert (answer.status, answer.error["errorName"]) == (400, "InvalidArgument")
    (found,) = answer.error["parameters"]["fieldViolations"]
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b"nonsense",
        b"x" * 30_000,
        f'"{KEY}'.encode(),
        f'{KEY}"'.encode(),
        f'""{KEY}""'.encode(),
        f"'{KEY}'".encode(),
        f'"{KEY}";a=1'.encode(),
        f"{KEY}, {OTHER}".encode(),
        f'"{KEY}", "{KEY}"'.encode(),
        f"{KEY}a".encode(),
        KEY.replace("-", "").encode(),
        f"{KEY[:-1]}\u00b2".encode("latin-1"),
        "ключ".encode(),
        b"\xff\xfe\x80",
        b"\\\"'",
        b":8a0c96e7:",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_no_uuid_is_no_key(server: Server, value: bytes) -> None:
    found = violation(sent(server, value))

    assert found["field"] == "Idempotency-Key"
    assert found["description"].startswith("must be a UUID, not ")
    assert len(found["description"]) < 130


def test_the_words_are_those_for_the_field(server: Server) -> None:
    (broken,) = uuid_rule("nonsense")

    assert violation(sent(server, b"nonsense"))["description"] == broken.sentence
    assert violation(sent(server, body=BODY | {"requestId": "nonsense"})) == {
        "field": "requestId",
        "description": broken.sentence,
    }


@pytest.mark.parametrize("value", [b"a\x01b", b"a\x00b", b"a\x7f", b"a\r\n b"], ids=repr)
def test_what_no_header_can_hold_is_no_request(server: Server, value: bytes) -> None:
    answer = sent(server, value)

    assert (answer.status, answer.error["errorName"]) == (400, "MalformedHttpRequest")


@pytest.mark.parametrize("second", [KEY, OTHER, "", "nonsense"], ids=["the same", "another", "empty", "nonsense"])
def test_a_key_is_given_once(server: Server, second: str) -> None:
    found = violation(sent(server, KEY.encode(), second.encode()))

    assert found == {"field": "Idempotency-Key", "description": "must be given once, not 2 times"}


@pytest.mark.parametrize("in_body", [OTHER, "", "x" * 200], ids=["another", "empty", "long"])
def test_a_key_that_is_not_the_id_in_the_body_is_told_with_both(server: Server, in_body: str) -> None:
    found = violation(sent(server, f'"{KEY}"'.encode(), body=BODY | {"requestId": in_body}))

    assert found["field"] == "Idempotency-Key"
    assert found["description"].startswith(f"is '{KEY}', but requestId is '{in_body[:90]}")
    assert len(found["description"]) < 200


def test_an_id_in_the_body_that_is_no_text_is_what_is_wrong(server: Server) -> None:
    assert violation(sent(server, KEY.encode(), body=BODY | {"requestId": 5}))["field"] == "requestId"


def test_what_else_is_wrong_is_told_too(server: Server) -> None:
    answer = sent(server, b"nonsense", body=BODY | {"bogus": 1})

    assert answer.fields == {"Idempotency-Key", "bogus"}


@pytest.mark.parametrize("values", [[b"nonsense"], [KEY.encode()] * 2], ids=["nonsense", "twice"])
def test_who_may_not_call_and_who_forgot_the_preview_learn_nothing_of_the_key(
    server: Server, values: list[bytes]
) -> None:
    reader = server.token("jane", scopes=["api:models-read"])

    assert sent(server, *values, token="").error["errorName"] in {"MissingCredentials", "InvalidCredentials"}
    assert sent(server, *values, token="nonsense").error["errorName"] == "InvalidCredentials"
    assert sent(server, *values, token=reader).error["errorName"] == "ApiUsageDenied"
    no_preview = PROMOTE.removesuffix("?preview=true")
    assert sent(server, *values, path=no_preview).error["errorName"] == "ApiFeaturePreviewUsageOnly"
    assert violation(sent(server, *values))["field"] == "Idempotency-Key"


def test_a_large_body_is_no_way_around_it(server: Server) -> None:
    body = {"promotions": [], "requestId": "x" * 100_000}

    found = violation(sent(server, KEY.encode(), path="/api/v2/batchPromoteVersions", body=body))

    assert found["field"] == "Idempotency-Key"
