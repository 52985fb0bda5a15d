"""A server for reads alone, on a standby: what docs/operations.md says of it."""

from __future__ import annotations

from pathlib import Path

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from tests.conftest import migrate
from tests.postgres import PostgresServer, Standby
from tests.processes import Server
from tests.rpc.watching import Watching, watching

SERVING = health_pb2.HealthCheckResponse.SERVING


def test_a_server_on_a_standby_answers_reads_and_no_writes(tmp_path: Path) -> None:
    with PostgresServer() as primary:
        migrate(primary.url())
        with Standby(primary) as standby, psycopg.connect(primary.url(), autocommit=True) as database:
            # Commits then wait until the standby shows what they changed, so that this test need not.
            database.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            database.execute("SELECT pg_reload_conf()")
            folder = tmp_path / "cwd"
            with (
                Server(folder, "--database-url", primary.url()) as writing,
                Server(folder, "--database-url", standby.url()) as reading,
                grpc.insecure_channel(writing.address) as to_writing,
                grpc.insecure_channel(reading.address) as to_reading,
            ):
                admin, reader = writing.user(to_writing), reading.user(to_reading)
                source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
                promoted = admin.promote(source, target)

                assert reader("GetBranch", model_rid=target.rid, branch="master").head == promoted
                assert reader("ListPromotions", model_rid=target.rid).promotions
                check = reader(
                    "CheckPromotion", model_rid=target.rid, source_model_version_rid=source.rid, preview=True
                )
                assert check.would_succeed

                # What is being decided at the primary is not known here, and might come before what is there.
                for in_order in (
                    lambda: reader.failure("ListEvents"),
                    lambda: reader.failure("ListPromotions", order=LIST_ORDER_OLDEST_FIRST),
                    lambda: Watching(reader).rest()[1],
                ):
                    failure = in_order()
                    assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                    assert failure.retry_seconds is not None

                request = {"model_rid": target.rid, "source_model_version_rid": source.rid, "preview": True}
                failure = reader.failure("PromoteVersion", **request)
                assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                health = health_pb2_grpc.HealthStub(to_reading)
                assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
                assert admin("GetBranch", model_rid=target.rid, branch="master").version_count == 1


def test_a_server_whose_standby_takes_over_tells_what_happens(tmp_path: Path) -> None:
    with PostgresServer() as primary:
        migrate(primary.url())
        with (
            Standby(primary) as standby,
            Server(tmp_path / "cwd", "--database-url", standby.url()) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            admin = server.user(channel)
            # Nothing has happened yet, and that is known here, too.
            with watching(admin) as watch:
                watch.bookmark()
                primary.kill()
                with psycopg.connect(standby.url(), autocommit=True) as database:
                    database.execute("SELECT pg_promote()")
                model = admin.create_model("m")
                assert watch.next_event().model_rid == model.rid
            assert [event.model_rid for event in admin("ListEvents").events] == [model.rid] * 2
