"""A real PgBouncer, from Debian's package `pgbouncer`: each transaction gets a server connection that is free."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.postgres import DEADLINE_SECONDS, folder_open_to_all, unprivileged_account, unused_port


class PgBouncer:
    """A pooler before one PostgreSQL, in transaction mode, with few server connections that live for a second each.

    Used in a `with` statement, it is stopped at the end.
    """

    def __init__(
        self,
        postgres_url: str,
        program: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: str | int,
    ) -> None:
        """The program is looked for, unless it is given, with what it must find in its environment.

        Settings are some of those in its section `[pgbouncer]`.
        """
        self._program = program
        self._environment = environment
        few = {"default_pool_size": 2, "server_lifetime": 1, "server_idle_timeout": 1}
        lines = [f"{name} = {value}" for name, value in {**few, **settings}.items()]
        self._postgres = make_url(postgres_url)
        self._folder = Path(tempfile.mkdtemp(prefix="modelregistry-pgbouncer-", dir=folder_open_to_all()))
        self._port = unused_port()
        (self._folder / "users").write_text('"postgres" ""\n')
        lines += [
            "listen_addr = 127.0.0.1",
            f"listen_port = {self._port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {self._folder / 'users'}",
            "admin_users = postgres",
            "pool_mode = transaction",
        ]
        place = f"* = host={self._postgres.host} port={self._postgres.port}"
        (self._folder / "pgbouncer.ini").write_text("\n".join(["[databases]", place, "[pgbouncer]", *lines, ""]))

    def __enter__(self) -> PgBouncer:
        program = self._program or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "PgBouncer is not on this machine: apt-get install pgbouncer"
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, self._folder / "pgbouncer.ini"],
                stdout=log,
                stderr=log,
                env=self._environment,
                **self._identity(),
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._takes_connections():
            has_ended = self._process.poll() is not None
            said = (self._folder / "log").read_text()
            assert not has_ended, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """Where a client finds a database through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def replace_server_connections(self) -> None:
        """Have the next transactions carried out by new processes of PostgreSQL."""
        with psycopg.connect(self.url("pgbouncer"), autocommit=True) as admin:
            admin.execute("RECONNECT")

    def _takes_connections(self) -> bool:
        try:
            psycopg.connect(self.url("pgbouncer"), autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    def _identity(self) -> dict[str, Any]:
        """As whom to run it, since it refuses to run as root."""
        if os.geteuid() != 0:
            return {}
        account = unprivileged_account()
        for path in (self._folder, *self._folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
