"""`serve`: what it makes, prints and refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.auth.local_keys import KEY_FILE
from tests.auth.forge import AUDIENCE, ISSUER, claims, jwks, key_pair
from tests.builders import FOLDER
from tests.certificates import Authority
from tests.conftest import NewDatabase
from tests.processes import COMMAND, DEADLINE_SECONDS, Server, environment, failure, run, side_by_side, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

PERMISSION_DENIED = 71

Refusals = dict[str, subprocess.CompletedProcess[str]]

TRUSTED = ("--issuer", ISSUER, "--audience", AUDIENCE)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What it makes and prints


def test_without_options_it_makes_a_database_and_a_key_that_only_its_user_can_use(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(b"x")
    options = ("--metrics-listen", "127.0.0.1:0")
    before = os.umask(0)
    try:
        with (
            # With a short path, as that of a socket has to be.
            tempfile.TemporaryDirectory() as temporary,
            Server(tmp_path / "empty", *options, makes_database=True, TMPDIR=temporary) as server,
        ):
            assert server.address.startswith("127.0.0.1:")
            assert server.line("try a promotion")
            model = server.json("create-model", "x", "--folder", FOLDER)
            server.json("upload-files", model["rid"], sent)
            made = {path.name: path for path in (*server.data_dir.rglob("*"), *Path(temporary).rglob("*"))}
            assert made.keys() >= {f"modelregistry.db{end}" for end in ("", "-wal", "-shm", "-turn", "-next")}
            assert made.keys() >= {KEY_FILE, "files", "0.json"}
            assert [path for path in made.values() if path.is_file() and mode(path) != 0o600] == []
            assert [path for path in (server.data_dir, *made.values()) if path.is_dir() and mode(path) != 0o700] == []
            assert list(server.data_dir.parent.iterdir()) == [server.data_dir]
    finally:
        os.umask(before)


def test_it_says_on_standard_error_in_json_what_it_was_asked(server: Server) -> None:
    server.json("list-models")
    assert server.logged(method="/modelregistry.v1.ModelService/ListModels", code="OK")["user"] == "user:admin"


def test_an_issuers_tokens_are_trusted_and_administrators_named(tmp_path: Path) -> None:
    key = key_pair()
    jwks_file = tmp_path / "jwks.json"
    jwks_file.write_bytes(jwks(key))

    def token(subject: str, *groups: str) -> str:
        return key.sign(claims(sub=subject, groups=list(groups), scope="api:models-write"))

    with Server(
        tmp_path / "cwd", *TRUSTED, "--admin", "user:alice", MODELREGISTRY_JWKS_FILE=str(jwks_file),
        MODELREGISTRY_ADMINS="user:carol, group:ops,",
    ) as server:  # fmt: skip
        administrators = {"alice": token("alice"), "carol": token("carol"), "bob": token("bob", "ops")}
        for name, good in administrators.items():
            server.json("create-model", name, "--folder", FOLDER, token=good)
        denied = server.run("create-model", "x", "--folder", FOLDER, token=token("bob", "dev"))
        assert failure(denied, PERMISSION_DENIED).startswith("CreateModelPermissionDenied: ")
        assert not (server.data_dir / KEY_FILE).exists()
        server.stop()
        assert server.lines() == []


def test_with_certificates_it_speaks_tls_and_prints_a_line_that_does(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("localhost")
    with Server(tmp_path / "cwd", "--tls-cert", cert, "--tls-key", key) as server:
        assert server.json("list-models", "--ca-cert", authority.cert) == {"data": []}
        line = server.line("  ")
        assert f"grpcurl -cacert {cert} " in line
        assert f"--ca-cert {cert})" in line


def test_with_a_client_authority_it_wants_a_certificate_of_it(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path / "authority"), Authority(tmp_path / "clients")
    cert, key = authority.issue("localhost")
    client_cert, client_key = clients.issue("jane")
    with Server(tmp_path / "cwd", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients.cert) as server:
        trusting = ("--ca-cert", authority.cert)
        shown = ("--client-cert", client_cert, "--client-key", client_key)
        assert server.json("list-models", *trusting, *shown) == {"data": []}
        failure(server.run("list-models", *trusting), 78)


# Where it listens


def test_beyond_loopback_it_wants_to_be_told_that_local_keys_are_meant(tmp_path: Path) -> None:
    line = failure(run("serve", "--http-listen", "0.0.0.0:0", cwd=tmp_path))
    assert "0.0.0.0" in line
    line = failure(run("serve", "--listen", "0.0.0.0:0", cwd=tmp_path))
    assert line.startswith("0.0.0.0 is not a loopback address")
    assert "--local-keys" in line
    assert list(tmp_path.iterdir()) == []


def test_local_keys_beyond_loopback_are_served_with_a_warning(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd", "--local-keys", listen="0.0.0.0:0") as server:
        local_keys, plain_text = [line["message"] for line in server.log() if line["level"] == "WARNING"]
        assert KEY_FILE in local_keys
        assert plain_text.startswith("--listen 0.0.0.0:0 is plain text")
        here = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        assert server.json("list-models", MODELREGISTRY_TARGET=here) == {"data": []}


def test_each_address_that_others_reach_in_plain_text_is_warned_of(tmp_path: Path) -> None:
    key = key_pair()
    (tmp_path / "jwks.json").write_bytes(jwks(key))
    trusted = ("--jwks-file", tmp_path / "jwks.json", *TRUSTED)
    public = {"listen": "0.0.0.0:0", "MODELREGISTRY_HTTP_LISTEN": "[::]:0"}
    with Server(tmp_path / "plain", *trusted, **public) as server:
        warnings = [line["message"] for line in server.log() if line["level"] == "WARNING"]
        assert [text.split()[:2] for text in warnings] == [["--listen", "0.0.0.0:0"], ["--http-listen", "[::]:0"]]
        assert all("--tls-cert" in text for text in warnings)
    authority = Authority(tmp_path / "authority")
    cert, private_key = authority.issue("localhost")
    with Server(tmp_path / "tls", *trusted, "--tls-cert", cert, "--tls-key", private_key, **public) as server:
        assert server.log() == []


def test_local_keys_are_warned_of_where_http_alone_is_reached(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd", "--local-keys", MODELREGISTRY_HTTP_LISTEN="0.0.0.0:0") as server:
        local_keys, plain_text = [line["message"] for line in server.log() if line["level"] == "WARNING"]
        assert KEY_FILE in local_keys
        assert plain_text.startswith("--http-listen 0.0.0.0:0 is plain text")


def test_a_port_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    line = failure(run("serve", "--listen", server.address, cwd=tmp_path))
    assert line.startswith(f"cannot listen on {server.address}: ")
    taken = server.url.removeprefix("http://")
    line = failure(run("serve", "--http-listen", taken, cwd=tmp_path))
    assert line.startswith(f"cannot listen on {taken}: ")
    assert "--http-listen" in line


# What it refuses


# What `serve` is told, and what its answer must name.
IMPOSSIBLE = [
    (["--listen", "nonsense"], ["HOST:PORT", "'nonsense'"]),
    (["--http-listen", "nonsense"], ["HOST:PORT", "'nonsense'"]),
    (["--listen", "127.0.0.1:65536"], ["HOST:PORT", "'127.0.0.1:65536'"]),
    (["--admin", "jane"], ["'jane'", "user:", "group:"]),
    (["--admin", "user:jane\u200b"], ["U+200B", "'user:jane\\u200b'"]),
    (["--tls-cert", "cert.pem"], ["--tls-cert", "--tls-key"]),
    (["--tls-key", "key.pem"], ["--tls-cert", "--tls-key"]),
    (["--tls-client-ca", "ca.pem"], ["--tls-client-ca", "--tls-cert"]),
    (["--tls-cert", "broken", "--tls-key", "broken"], ["--tls-cert", "broken"]),
    (["--tls-cert", "absent", "--tls-key", "absent"], ["--tls-cert", "absent"]),
    (["--tls-cert", "cert", "--tls-key", "key", "--tls-client-ca", "broken"], ["--tls-client-ca", "broken"]),
    (["--issuer", "x"], ["--issuer", "--jwks-file"]),
    (["--jwks-file", "keys.json"], ["--issuer", "--audience"]),
    (["--jwks-file", "keys.json", "--jwks-url", "https://x", *TRUSTED], ["--jwks-file", "--jwks-url"]),
    (["--jwks-file", "keys.json", "--local-keys", *TRUSTED], ["--jwks-file", "--local-keys"]),
    (["--jwks-file", "keys.json", *TRUSTED, "--audience", ""], ["--audience", "empty"]),
    (["--scope-claim", "roles", "--leeway", "60"], ["--scope-claim", "--jwks-file", "--jwks-url"]),
    (["--groups-claim", "a", "--audience-claim", "b"], ["--audience-claim, --groups-claim", "--jwks-file"]),
    (["--subject-claim", "upn"], ["--subject-claim", "--jwks-file"]),
    (["--default-scope", "api:models-read"], ["--default-scope", "--jwks-file"]),
    (["--scope-prefix", "registry/"], ["--scope-prefix", "--jwks-file"]),
    (["--jwks-file", "keys.json", *TRUSTED, "--scope-claim", ""], ["--scope-claim", "''"]),
    (
        ["--jwks-file", "keys.json", *TRUSTED, "--groups-claim", "groups", "--groups-claim", " x"],
        ["--groups-claim", "' x'"],
    ),
    (["--jwks-file", "keys.json", *TRUSTED, "--subject-claim", ""], ["--subject-claim", "''"]),
    (["--jwks-file", "keys.json", *TRUSTED, "--audience-claim", ""], ["--audience-claim", "''"]),
    (["--jwks-file", "keys.json", *TRUSTED, "--scope-prefix", "a b"], ["--scope-prefix", "'a b'"]),
    (["--jwks-file", "keys.json", *TRUSTED, "--default-scope", "x"], ["--default-scope", "x", "api:models-read"]),
    (["--leeway", "-1"], ["--leeway", "300", "-1"]),
    (["--leeway", "301"], ["--leeway", "300", "301"]),
    (["--trusted-proxy", "proxy.internal"], ["--trusted-proxy", "'proxy.internal'", "10.0.0.0/8"]),
    (["--trusted-proxy", "10.0.0.1/8"], ["--trusted-proxy", "10.0.0.1/8", "host bits"]),
    (["--jwks-file", "twice", *TRUSTED], ["JWKS", "2 keys for ES256 have the kid 'a'"]),
    (["--jwks-file", "absent", *TRUSTED], ["JWKS", "absent"]),
    (["--jwks-file", "broken", *TRUSTED], ["JWKS"]),
    (["--jwks-url", "http://127.0.0.1:1/keys", *TRUSTED], ["JWKS", "http://127.0.0.1:1/keys"]),
    (["--data-dir", "broken"], ["broken"]),
    (["--database-url", "nonsense"], ["the database", "URL"]),
    (["--database-url", "mysql://127.0.0.1/x"], ["the database", "'mysql'"]),
    (["--database-url", "sqlite:///broken/registry.db"], ["broken"]),
    (["--database-url", "sqlite:///broken"], ["not a database"]),
    (["--database-url", "postgresql://u@127.0.0.1:1/x"], ["the database", "Connection refused"]),
    (["--database-url", "postgresql://127.0.0.1/x?nonsense=1"], ["nonsense"]),
]
IDS = [" ".join(options) for options, _ in IMPOSSIBLE]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    """How each of them is refused."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "broken").write_text("neither PEM nor JSON nor a database, " * 100)
    (folder / "twice").write_bytes(jwks(key_pair(kid="a"), key_pair(kid="a")))
    for file, name in zip(Authority(folder / "authority").issue("localhost"), ("cert", "key"), strict=True):
        file.rename(folder / name)
    calls = [partial(run, "serve", *options, cwd=folder) for options, _ in IMPOSSIBLE]
    return dict(zip(IDS, side_by_side(calls), strict=True))


@pytest.mark.parametrize(("options", "words"), IMPOSSIBLE, ids=IDS)
def test_settings_that_cannot_work_are_refused_in_one_line(
    refusals: Refusals, options: list[str], words: list[str]
) -> None:
    line = failure(refusals[" ".join(options)])
    assert [word for word in words if word not in line] == []


def test_a_schema_that_is_not_there_is_refused_until_it_is_migrated(new_database: NewDatabase, tmp_path: Path) -> None:
    url = new_database("postgresql")
    assert "modelregistry migrate" in failure(run("serve", cwd=tmp_path, MODELREGISTRY_DATABASE_URL=url))
    for _ in range(2):
        migration = run("migrate", "--database-url", url)
        assert (migration.returncode, migration.stdout) == (0, "")
        assert migration.stderr == "the schema is up to date\n"
    with Server(tmp_path / "cwd", "--database-url", url) as server:
        model = server.json("create-model", "x", "--folder", FOLDER)
        run("migrate", MODELREGISTRY_DATABASE_URL=url)
        assert server.json("get-model", model["rid"]) == model
        assert not (server.data_dir / "modelregistry.db").exists()


def test_migrate_makes_the_embedded_database_too(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("migrate", cwd=tmp_path).returncode == 0
    with Server(tmp_path) as server:
        assert server.json("list-models") == {"data": []}


def test_it_holds_a_reserve_beside_its_database_and_other_commands_hold_none(tmp_path: Path) -> None:
    data = tmp_path / "cwd/modelregistry-data"
    reserve = data / "modelregistry.db-reserve"
    data.parent.mkdir()
    for command in (["migrate"], ["import", "-"], ["gc"]):
        assert run(*command, cwd=data.parent).returncode == 0
        assert not reserve.exists()
    for size in (3 * 2**20, 0):
        with Server(data.parent, "--disk-reserve", str(size)):
            assert (reserve.stat().st_size if reserve.exists() else 0) == size
            assert not size or (mode(reserve) == 0o600 and reserve.stat().st_blocks * 512 >= size)


def test_migrate_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    assert "Connection refused" in failure(run("migrate", "--database-url", "postgresql://127.0.0.1:1/x"))


# How it ends


def test_sigterm_lets_running_calls_finish_and_takes_no_more(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        version = admin.create_version(admin.create_model("source"))
        request = PromoteVersionRequest(
            model_rid=admin.create_model("target").rid, source_model_version_rid=version.rid, preview=True
        )
        writer = sqlite3.connect(server.data_dir / "modelregistry.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")  # The promotion has to wait.
        promotion = ModelServiceStub(channel).PromoteVersion.future(
            request, metadata=admin.metadata, timeout=DEADLINE_SECONDS
        )
        health = health_pb2_grpc.HealthStub(channel)
        # An answer to what was sent later on the same connection: the promotion has been taken, too.
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert next(watch).status == SERVING
        server.terminate()
        assert next(watch).status == NOT_SERVING
        watch.cancel()
        assert refused(server.address) == grpc.StatusCode.UNAVAILABLE
        until(lambda: refuses_connections(server.url))
        assert not promotion.done()
        writer.execute("ROLLBACK")
        writer.close()
        assert promotion.result(DEADLINE_SECONDS).version_number == 1
        server.stop()


def refuses_connections(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def refused(address: str) -> grpc.StatusCode:
    """How a server refuses a new client; until it does, it must say that it is not ready."""
    while True:
        with grpc.insecure_channel(address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS
                )
            except grpc.RpcError as error:
                # gRPC cancels what arrives in the very moment between the two.
                if error.code() != grpc.StatusCode.CANCELLED:
                    return error.code()
            else:
                assert answer.status == NOT_SERVING


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(DEADLINE_SECONDS) == 0
        assert server.log() == []


def test_an_open_watch_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert next(watch).status == SERVING
        server.terminate()
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        server.stop()


@pytest.mark.parametrize("name", ["a?b", "p%41q", "spaces and 'quotes'"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with Server(tmp_path / "cwd", "--data-dir", folder):
        assert {"local-key.pem", "modelregistry.db"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"cwd", name}


def test_a_server_whose_output_nobody_reads_goes_on_serving(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [COMMAND, "serve", "--listen", address], cwd=tmp_path, stdout=full, env=environment()
        )
    try:
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            def status() -> int:
                asked = health_pb2.HealthCheckRequest()
                return health.Check(asked, timeout=DEADLINE_SECONDS, wait_for_ready=True).status

            # It listens a moment before it has found out that its database answers.
            until(lambda: status() == SERVING)
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0


def test_a_name_that_the_locale_lacks_is_no_failure(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server:
        created = server.run("create-model", "日本 🚀", "--folder", FOLDER, call=run, PYTHONIOENCODING="ascii")
        assert created.returncode == 0
        assert "日本 🚀" in created.stdout


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [COMMAND, "token"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=environment()
        )
    assert result.returncode == 1
    assert result.stderr == "error: [Errno 28] No space left on device\n"
