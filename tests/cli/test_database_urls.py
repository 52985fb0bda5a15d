"""Where the URL of the database comes from, and that its password goes nowhere else."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.postgres import PostgresServer
from tests.processes import Server, failure, run, side_by_side

PASSWORD = "qz9wk7"
AWAY = "127.0.0.1:1"
# A password with what should have been escaped, so that parts of it are taken for a host or a port.
CARELESS = ["qz9@wk7", "qz9@wk7:x", "qz9:x@wk7", "qz9/x@wk7", "qz9%wk7@x", "[qz9@wk7"]


class Guarded(PostgresServer):
    """A server that wants a password of one role."""

    def _create(self) -> None:
        super()._create()
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")

    def guarded_url(self, password: str = "") -> str:
        return f"postgresql://guarded{password and ':'}{password}@127.0.0.1:{self.port}/registry"


def test_a_password_comes_from_a_file_that_only_the_server_reads(tmp_path: Path) -> None:
    passwords, url_file = tmp_path / "passwords", tmp_path / "url"
    with Guarded() as database:
        with psycopg.connect(database.url(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE registry OWNER guarded")
        passwords.write_text(f"*:*:*:guarded:{PASSWORD}\n")
        passwords.chmod(0o600)
        url_file.write_text(f"{database.guarded_url(PASSWORD)}\n")
        migrate = partial(run, "migrate")
        without = ("--database-url", database.guarded_url())

        assert "no password supplied" in failure(migrate(*without, PGPASSFILE=str(tmp_path / "absent")))
        wrong = failure(migrate(MODELREGISTRY_DATABASE_URL=database.guarded_url("wr0ng")))
        assert "password authentication failed" in wrong
        assert "wr0ng" not in wrong
        for arguments, variables in [
            (without, {"PGPASSFILE": str(passwords)}),
            (("--database-url-file", url_file), {}),
            ((), {"MODELREGISTRY_DATABASE_URL_FILE": str(url_file)}),
            ((), {"MODELREGISTRY_DATABASE_URL": database.guarded_url(PASSWORD)}),
        ]:
            migrated = migrate(*arguments, **variables)
            assert (migrated.returncode, migrated.stderr) == (0, "the schema is up to date\n"), arguments
        warned = migrate("--database-url", database.guarded_url(PASSWORD))
        warning, done = warned.stderr.splitlines()
        assert "--database-url-file" in warning
        assert "PGPASSFILE" in warning
        assert PASSWORD not in warned.stderr
        assert done == "the schema is up to date"

        with Server(tmp_path / "cwd", "--database-url-file", url_file) as server:
            assert server.json("list-models") == {"data": []}
            processes = [psutil.Process(server.process.pid), *server.workers()]
            assert not any(PASSWORD in word for process in processes for word in process.cmdline())
            assert server.log()
            assert PASSWORD not in json.dumps(server.log())


@pytest.mark.parametrize("written", ["{}", "{}\n", "\n  {}\r\n", "'{}'\n", '"{}"'], ids=ascii)
def test_a_file_has_a_url_as_a_variable_may_have_it(tmp_path: Path, written: str) -> None:
    file = tmp_path / "url"
    file.write_text(written.format(f"sqlite:///{tmp_path}/registry.db"))
    assert run("migrate", "--database-url-file", file, cwd=tmp_path).returncode == 0
    assert (tmp_path / "registry.db").exists()


def test_a_file_without_a_url_or_a_url_beside_it_is_refused(tmp_path: Path) -> None:
    url, file, empty, binary = "sqlite:///registry.db", tmp_path / "url", tmp_path / "empty", tmp_path / "binary"
    file.write_text(url)
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe")
    of_file = {"MODELREGISTRY_DATABASE_URL_FILE": str(file)}
    for command in (("serve",), ("migrate",), ("gc",), ("import", "-")):
        for arguments, variables in [
            (("--database-url", url, "--database-url-file", file), {}),
            (("--database-url", url), of_file),
            (("--database-url-file", file), {"MODELREGISTRY_DATABASE_URL": url}),
            ((), {"MODELREGISTRY_DATABASE_URL": url, **of_file}),
        ]:
            said = failure(run(*command, *arguments, cwd=tmp_path, **variables))
            assert said == "give --database-url or --database-url-file, not both", (command, arguments)
    both = run("fsck", "--database-url", url, "--database-url-file", file, cwd=tmp_path)
    assert (both.returncode, both.stderr) == (2, "error: give --database-url or --database-url-file, not both\n")
    for given in (tmp_path / "absent", empty, binary, tmp_path):
        refused = run("migrate", "--database-url-file", given, cwd=tmp_path)
        assert refused.returncode == 2
        assert "--database-url-file" in refused.stderr
    assert not (tmp_path / "registry.db").exists()


def test_no_failure_repeats_a_password_however_it_is_written(tmp_path: Path) -> None:
    urls = [f"postgresql://u:{password}@{AWAY}/x" for password in (PASSWORD, *CARELESS)]
    urls += [f"postgresql://u@{AWAY}/x?password={PASSWORD}", f"postgresql://u:{PASSWORD}@h:port/x"]
    urls += [f"mysql://u:{PASSWORD}@h/x", f"u:{PASSWORD}@h/x", f"postgresql:/u:{PASSWORD}@h/x", f"{PASSWORD}"]
    calls = [partial(run, "migrate", cwd=tmp_path, MODELREGISTRY_DATABASE_URL=url) for url in urls]
    for variables in ({"DATABASE_URL": urls[1]}, {"FILES_URL": f"s3://key:{PASSWORD}@bucket/x"}):
        given = {f"MODELREGISTRY_{name}": value for name, value in {**variables, "HTTP_LISTEN": "none"}.items()}
        calls.append(partial(run, "serve", "--listen", "127.0.0.1:0", cwd=tmp_path, **given))
    for call, result in zip(calls, side_by_side(calls), strict=True):
        said = failure(result)
        assert not any(part in said for part in ("qz9", "wk7")), call


def test_a_password_on_the_command_line_of_a_server_is_warned_of_in_its_log(tmp_path: Path) -> None:
    refused = run(
        "serve", "--database-url", f"postgresql://u:{PASSWORD}@{AWAY}/x", "--http-listen", "none", cwd=tmp_path
    )
    warning, error = refused.stderr.splitlines()
    assert json.loads(warning)["level"] == "WARNING"
    assert "--database-url-file" in json.loads(warning)["message"]
    assert error.startswith("error: the database: ")
    assert PASSWORD not in refused.stderr
