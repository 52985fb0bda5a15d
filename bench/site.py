"""A registry that is measured: servers on a database, what that holds, and whether it all adds up."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import psutil

from bench.h2load import Generator, Load
from bench.machine import on_processors
from bench.sampler import Sample, ask_once, sampling
from bench.scenarios import CALLERS, Fleet, Scenario
from bench.stock import CALLER, Stock
from bench.tools import PGBOUNCER, Tool, find
from bench.void import Void, check
from bench.watchers import Seen, watching
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.delivery.receiver import Answer, Received, Receiver
from tests.pooler.pgbouncer import PgBouncer
from tests.postgres import database_name
from tests.processes import Server, run

_SETTLE_SECONDS = 20
# The caller on the side asks seldom where it only looks for failures, and steadily where it looks for refusals.
_SIDE: dict[str, Any] = {"callers": 1, "pause": 0.05}
_SIDE_OF_OVERLOAD: dict[str, Any] = {"callers": 4, "pause": 0.002}
# More than a worker takes, which are 100: otherwise callers who wait for answers would overload nothing.
_STREAMS_OF_OVERLOAD = 8


class Site:
    """Servers on one database, with its stock. What is asked beside the load is asked of the first of them."""

    def __init__(self, servers: list[Server], receiver: Receiver, tool: Tool, folder: Path, fleet: Fleet):
        self._servers = servers
        self._server = server = servers[0]
        self._receiver = receiver
        self._token = server.token(CALLER)
        self._channel = grpc.insecure_channel(server.address)
        self._user = server.user(self._channel, CALLER)
        self._generator = Generator(tool, folder, self._token)
        self.fleet = fleet
        self._stock = Stock(server.user(self._channel), self._user)
        self._written: dict[str, Model] = {}

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def measure(self, scenario: Scenario, seconds: float, rate: float | None) -> dict[str, Any]:
        """Return what a scenario comes to. Raises Void if it does not count."""
        messages = tuple(scenario.requests(self._stock))
        requests = tuple(message.SerializeToString() for message in messages)
        if len(self._servers) > 1 and len(requests) == 1:
            requests *= len(self._servers)
        if rate is not None:
            # In one process, callers at a fixed rate would ask all at the same moment, and wait for each other.
            requests = tuple(itertools.islice(itertools.cycle(requests), CALLERS))
        http = tuple(map(scenario.over_http, messages)) if scenario.over_http else ()
        load = Load(scenario.path, requests, CALLERS, rate, _STREAMS_OF_OVERLOAD if scenario.overloads else 1, http)
        addresses = [each.url.removeprefix("http://") if http else each.address for each in self._servers]
        models = tuple(scenario.writes_to(self._stock)) if scenario.writes_to else ()
        self._written |= {model.rid: model for model in models}
        before = self._stored(models)
        server_before, database_before, machine_before = *self._processor_seconds(), psutil.cpu_times()
        begin = time.monotonic()
        side = _SIDE_OF_OVERLOAD if scenario.overloads else _SIDE
        with (
            sampling(self._server.address, scenario.path, requests, self._token, **side) as sample,
            on_processors(self.fleet.size),
            watching(self._server.address, self._token, [model.rid for model in models], scenario.watchers) as seen,
            self._subscribed(models[: scenario.webhooks]) as delivered,
        ):
            measured = self._generator.run(addresses, load, seconds)
        elapsed = time.monotonic() - begin
        server_after, database_after = self._processor_seconds()
        result: dict[str, Any] = {
            "per_second": measured.per_second,
            "p50": measured.percentile(0.5),
            "p99": measured.percentile(0.99),
            "p99.9": measured.percentile(0.999),
            "calls": measured.calls,
            "sampled": sample.codes,
            "generator_share": measured.processor_share,
            "server_share": (server_after - server_before) / elapsed,
            "server_microseconds": (server_after - server_before) / measured.calls * 1_000_000,
            "database_seconds": (database_after - database_before) / measured.calls,
            "machine_share": _busy(machine_before),
        }
        if scenario.watchers:
            result |= {"told": seen.events, "told_p50": seen.p50, "told_p99": seen.p99}
        if scenario.webhooks:
            result |= {"delivered": delivered.events, "delivered_p50": delivered.p50, "delivered_p99": delivered.p99}
        if rate is not None:
            result["asked_per_second"] = rate
        if scenario.overloads:
            again = ask_once(self._server.address, scenario.path, requests[0], self._token)
            sample.answers.append(again)
            result |= _refusals(sample) | {"recovered": again.code.name, "recovered_milliseconds": again.milliseconds}
        result["stored"] = self._settled(models) - before
        result["stored_per_second"] = result["stored"] / elapsed
        check(scenario, measured, sample, load, result["stored"])
        if scenario.writes:
            self._read_back(scenario, sample)
        return result

    @contextmanager
    def _subscribed(self, models: Iterable[Model]) -> Iterator[Seen]:
        """Have the events of models sent to the receiver meanwhile. What is yielded says at the end what it saw."""
        delivered, delays = Seen(), list[float]()

        def note(received: Received) -> Answer:
            delays.append((time.time() - datetime.fromisoformat(json.loads(received.body)["time"]).timestamp()) * 1000)
            return Answer()

        self._receiver.answer = note
        subscribed = [
            self._user("CreateSubscription", resource_rid=model.rid, url=self._receiver.url).subscription
            for model in models
        ]
        try:
            yield delivered
        finally:
            for subscription in subscribed:
                self._user("DeleteSubscription", subscription_rid=subscription.rid)
        delivered.count(delays)

    def audit(self) -> None:
        """Read every branch that was written to from end to end. Raises Void if it lacks a number, or has too many."""
        for model in self._written.values():
            count = self._stored([model])
            numbers = list(self._numbers(model)) if count else []
            if numbers != list(range(count, 0, -1)):
                raise Void(f"the branch of {model.name} counts {count} versions, and lists {len(numbers)}")

    def _read_back(self, scenario: Scenario, sample: Sample) -> None:
        """Raise Void unless each version that was acknowledged to the caller on the side is there."""
        for answer in sample.of(grpc.StatusCode.OK):
            version = ModelVersion.FromString(answer.message)
            stored = self._user("GetModelVersion", model_rid=version.model_rid, model_version_rid=version.rid)
            if stored != version:
                raise Void(f"{scenario.name}: what was acknowledged as {version.rid} is stored otherwise")

    def _numbers(self, model: Model) -> Iterator[int]:
        token = None
        while True:
            page = self._user("ListModelVersions", model_rid=model.rid, page_size=1000, page_token=token)
            yield from (version.version_number for version in page.model_versions)
            if not page.HasField("next_page_token"):
                return
            token = page.next_page_token

    def _stored(self, models: Iterable[Model]) -> int:
        return sum(self._count(model) for model in models)

    def _count(self, model: Model) -> int:
        try:
            return int(self._user("GetBranch", model_rid=model.rid).version_count)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return 0
            raise

    def _settled(self, models: tuple[Model, ...]) -> int:
        """What is stored once the calls that were under way at the end have come to theirs."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        stored = self._stored(models)
        while models and time.monotonic() < deadline:
            time.sleep(0.1)
            last, stored = stored, self._stored(models)
            if last == stored:
                break
        return stored

    def _processor_seconds(self) -> tuple[float, float]:
        """What the servers have taken of the processors by now, and what PostgreSQL and a pooler before it have.

        These serve no others.
        """
        servers = [psutil.Process(server.process.pid) for server in self._servers]
        ours = psutil.Process().children(recursive=True)
        workers = [child for server in servers for child in server.children(recursive=True)]
        return _spent([*servers, *workers]), _spent(ours, "postgres", "pgbouncer")


def _spent(processes: Iterable[psutil.Process], *names: str) -> float:
    """What processes have taken of the processors, or those of some names."""
    seconds = 0.0
    for process in processes:
        # A database ends some of its own meanwhile.
        with suppress(psutil.NoSuchProcess):
            if not names or process.name().startswith(names):
                times = process.cpu_times()
                # With what those took that it has seen end.
                seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


@contextmanager
def site(tool: Tool, folder: Path, database_url: str | None, fleet: Fleet, **variables: str) -> Iterator[Site]:
    """Serve a database, with what is to be read in it already there; the server has these environment variables."""
    folder.mkdir()
    if database_url is not None:
        migrated = run("migrate", "--database-url", database_url, **variables)
        if migrated.returncode:
            raise RuntimeError(migrated.stderr)
    # A worker as it is where there are as many as processors, and none is in the way of those who call.
    with Receiver() as receiver:
        webhooks = ("--webhook-allow", "127.0.0.1/32", "--webhook-allow-http", "--webhook-ports", str(receiver.port))
        with ExitStack() as stack:
            arguments = ["--workers", str(fleet.workers)]
            if database_url is not None:
                url = stack.enter_context(_pooled(database_url)) if fleet.is_pooled else database_url
                arguments += ["--database-url", url]
            servers = []
            for _ in range(fleet.servers):
                with on_processors(None, fleet.size):
                    # In one folder, for the keys by which tokens are signed.
                    given = (*arguments, *webhooks)
                    server = Server(folder / "server", *given, makes_database=True, **variables)
                servers.append(stack.enter_context(server))
            open_site = Site(servers, receiver, tool, folder, fleet)
            stack.callback(open_site.close)
            yield open_site


@contextmanager
def _pooled(database_url: str) -> Iterator[str]:
    """Have PgBouncer before a database, as many use it: in transaction mode, with connections that stay."""
    tool = find(PGBOUNCER)
    with PgBouncer(database_url, tool.program, tool.environment, default_pool_size=20, server_lifetime=3600) as pooler:
        yield pooler.url(database_name(database_url))


def _refusals(sample: Sample) -> dict[str, Any]:
    refused = sorted(answer.milliseconds for answer in sample.of(grpc.StatusCode.RESOURCE_EXHAUSTED))
    if not refused:
        return {"refused": 0}
    return {
        "refused": len(refused),
        "refused_p50": refused[len(refused) // 2],
        "refused_p99": refused[int(len(refused) * 0.99)],
    }


def _busy(before: Any) -> float:
    after = psutil.cpu_times()
    total = sum(after) - sum(before)
    return (total - (after.idle - before.idle)) / total if total else 0.0
