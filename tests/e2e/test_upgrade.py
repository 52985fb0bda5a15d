"""The next release takes over from this one under load, as docs/operations.md says, and no call fails.

The next release is made up: this code, and some migrations more.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

import server
from server.storage.sql import migrate as schema
from tests.conftest import NewDatabase
from tests.e2e.load import Promotions
from tests.postgres import unused_port
from tests.processes import COMMAND, Server, failure, run
from tests.records import consistent_records
from tests.rpc.test_service_config import CONFIG
from tests.storage.inspection import open_engine

CLIENTS = 4
SOME = 30

# Of each kind of change that a release may bring while the servers of the one before it work. The tables come in the
# order that is the worse one for calls, which have versions when they ask for promotions.
MIGRATIONS = [
    """
    op.add_column("promotions", sa.Column("ticket", sa.Text))
    op.create_index("ix_promotions_ticket", "promotions", ["ticket"])
    """,
    """
    op.add_column("versions", sa.Column("stars", sa.Integer, nullable=False, server_default="0"))
    """,
    """
    op.create_table(
        "comments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version_id", sa.BigInteger, sa.ForeignKey("versions.id"), nullable=False),
    )
    """,
]
MIGRATION = '''
"""Made up."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{down_revision}"


def upgrade() -> None:
    {body}
'''


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the next release."""
    folder = tmp_path_factory.mktemp("next-release")
    code = folder / "server"
    shutil.copytree(Path(server.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = code / "storage/sql/migrations"
    revision = ScriptDirectory(str(scripts)).get_current_head()
    for number, body in enumerate(MIGRATIONS):
        revision, down_revision = f"900{number}", revision
        source = MIGRATION.format(revision=revision, down_revision=down_revision, body=body.strip())
        (scripts / f"versions/{revision}_made_up.py").write_text(source)
    command = folder / "modelregistry"
    # -P: the working directory may be where the code of this release is.
    command.write_text(f'#!/bin/sh\nexec env PYTHONPATH={folder} {sys.executable} -P -m server "$@"\n')
    command.chmod(0o755)
    return command


@contextmanager
def replicas(*servers: Server) -> Iterator[None]:
    """Let servers run, and see that each one ends in order."""
    with ExitStack() as stack:
        for each in servers:
            stack.enter_context(each)
        yield


def test_the_next_release_takes_over_and_no_call_fails(
    backend: str, new_database: NewDatabase, next_release: Path, tmp_path: Path
) -> None:
    url = new_database(backend, migrated=True)
    ports = [unused_port() for _ in range(4)]

    started = itertools.count()

    def start(number: int, command: Path) -> Server:
        # One data folder, and so one key pair: each trusts what the others sign. But each has a log of its own.
        options = ("--database-url", url, "--data-dir", tmp_path / "0/modelregistry-data")
        return Server(tmp_path / str(next(started)), *options, command=command, listen=f"127.0.0.1:{ports[number]}")

    def connect() -> grpc.Channel:
        # As a name would do that has all replicas; those that are not there yet, or no more, get no calls.
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        return grpc.insecure_channel(f"ipv4:{addresses}", options=[("grpc.service_config", CONFIG)])

    if backend == "postgresql":
        refused = run("serve", "--database-url", url, command=next_release, cwd=tmp_path)
        assert "older than this server" in failure(refused)

    old = [start(number, COMMAND) for number in (0, 1)]
    with replicas(*old), connect() as channel:
        admin = old[0].user(channel)
        source = admin.create_version(admin.create_model("source"))
        targets = [admin.create_model(f"target-{number}") for number in range(2)]
        load = Promotions(connect, old[0].user, source, targets)
        with ExitStack() as later:
            with load.running(CLIENTS):
                load.wait_for_more(SOME)
                migrated = run("migrate", "--database-url", url, command=next_release)
                assert (migrated.returncode, migrated.stderr) == (0, "the schema is up to date\n")
                assert changed(url)
                load.wait_for_more(SOME)
                new = [start(number, next_release) for number in (2, 3)]
                later.enter_context(replicas(*new))
                load.wait_for_more(SOME)
                for each in old:
                    each.stop()
                    load.wait_for_more(SOME)
                # Who has second thoughts starts the old release again, and it works with the newer tables.
                later.enter_context(replicas(start(0, COMMAND)))
                load.wait_for_more(SOME)
                for each in new:
                    each.stop()
                    load.wait_for_more(SOME)
            found = consistent_records(admin, source.model_rid, *(target.rid for target in targets)).versions
    assert load.failures == []
    assert load.acknowledged.items() <= found.items()
    # What was asked for is there once: each request was acknowledged, and beside these there is the source alone.
    assert found.keys() - load.acknowledged.keys() == {source.rid}
    assert changed(url)


def changed(url: str) -> bool:
    """Whether the tables are those of the next release."""
    engine = open_engine(url)
    try:
        schema.check(engine)
        inspector = inspect(engine)
        columns = {column["name"] for column in inspector.get_columns("versions")}
        return inspector.has_table("comments") and "stars" in columns
    finally:
        engine.dispose()
