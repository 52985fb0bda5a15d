"""What is measured: which RPC, with which requests, and beside what it is put."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest

from bench.stock import LISTED, Stock, api_of
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    GetBranchRequest,
    GetModelVersionRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
)

HEALTH = "/grpc.health.v1.Health/Check"
SERVICE = "/modelregistry.v1.ModelService"
CEILING = "ceiling"
CALLERS = 32
COLUMNS = (10, 2000)
WATCHERS = 100


class Fleet(NamedTuple):
    """How many servers there are on one database, how many workers each has, and whether a pooler is between."""

    servers: int = 1
    workers: int = 1
    is_pooled: bool = False

    @property
    def is_for_sqlite(self) -> bool:
        """Whether a database that is a file can have it: that has one machine, and so one server."""
        return self.servers == 1 and not self.is_pooled

    @property
    def size(self) -> int:
        """How many workers there are."""
        return self.servers * self.workers


ONE_WORKER = Fleet()


class HttpRequest(NamedTuple):
    """A request of HTTP: its path with the query, and its JSON; None is a GET."""

    path: str
    body: bytes | None = None


@dataclass(frozen=True)
class Scenario:
    """One line of the table.

    `share` makes the callers ask at a fixed rate: that share of what the scenario `beside` reached in the same round.
    Without it, each asks again as soon as it is answered, and the rate is put beside that of the other scenario.
    Of a `fleet`, what a call takes of the processors is put beside that of one worker. Meanwhile, so many `watchers`
    follow the models that are written to, and the events of so many of these are sent to `webhooks`. With `over_http`,
    the callers send what that makes of the requests.
    """

    name: str
    title: str
    path: str
    requests: Callable[[Stock], Iterable[Message]]
    writes_to: Callable[[Stock], Iterable[Model]] | None = None
    beside: str = CEILING
    share: float | None = None
    fleet: Fleet = ONE_WORKER
    overloads: bool = False
    watchers: int = 0
    webhooks: int = 0
    over_http: Callable[[Any], HttpRequest] | None = None

    @property
    def writes(self) -> bool:
        """Whether versions are stored by it."""
        return self.writes_to is not None


def _get_version(stock: Stock) -> list[Message]:
    return [GetModelVersionRequest(model_rid=stock.source.model_rid, model_version_rid=stock.source.rid)]


def _get_branch(stock: Stock) -> list[Message]:
    return [GetBranchRequest(model_rid=stock.listed.rid)]


def _list_versions(stock: Stock) -> list[Message]:
    return [ListModelVersionsRequest(model_rid=stock.listed.rid, page_size=LISTED)]


def _get_over_http(request: GetModelVersionRequest) -> HttpRequest:
    return HttpRequest(f"/api/v2/models/{request.model_rid}/versions/{request.model_version_rid}")


def _promote_over_http(request: PromoteVersionRequest) -> HttpRequest:
    body = json.dumps({"sourceModelVersionRid": request.source_model_version_rid})
    return HttpRequest(f"/api/v2/models/{request.model_rid}/promoteVersion?preview=true", body.encode())


def _promote(stock: Stock, targets: Iterable[Model]) -> list[Message]:
    return [
        PromoteVersionRequest(model_rid=target.rid, source_model_version_rid=stock.source.rid, preview=True)
        for target in targets
    ]


def _many(stock: Stock) -> Iterable[Model]:
    return stock.models("target", CALLERS)


def _hot(stock: Stock) -> Iterable[Model]:
    return stock.models("hot", 1)


def _protected(stock: Stock) -> Iterable[Model]:
    return stock.protected("protected", CALLERS)


def _read(name: str, title: str, rpc: str, requests: Callable[[Stock], Iterable[Message]], **more: Any) -> Scenario:
    return Scenario(name, title, f"{SERVICE}/{rpc}", requests, **more)


def _promotion(name: str, title: str, into: Callable[[Stock], Iterable[Model]], **more: Any) -> Scenario:
    def requests(stock: Stock) -> list[Message]:
        return _promote(stock, into(stock))

    return Scenario(name, title, f"{SERVICE}/PromoteVersion", requests, writes_to=into, **more)


def _creation(columns: int) -> Scenario:
    def into(stock: Stock) -> Iterable[Model]:
        return stock.models(f"with {columns} columns", CALLERS)

    def requests(stock: Stock) -> list[Message]:
        api = api_of(columns)
        return [CreateModelVersionRequest(model_rid=model.rid, model_api=api) for model in into(stock)]

    return Scenario(
        f"create_{columns}",
        f"CreateModelVersion, {columns:,} columns",
        f"{SERVICE}/CreateModelVersion",
        requests,
        writes_to=into,
    )


ALONE = (
    Scenario(CEILING, "Health/Check: the ceiling", HEALTH, lambda _: [HealthCheckRequest()]),
    _read("get_version", "GetModelVersion", "GetModelVersion", _get_version),
    _read("get_branch", "GetBranch", "GetBranch", _get_branch),
    _read("list_versions", f"ListModelVersions({LISTED})", "ListModelVersions", _list_versions),
    _promotion("promote_many", "PromoteVersion into 32 targets", _many),
    _promotion("promote_hot", "PromoteVersion into one hot branch", _hot),
    _promotion(
        "promote_protected", "PromoteVersion into 32 targets with every rule", _protected, beside="promote_many"
    ),
    _promotion(
        "promote_watched",
        f"PromoteVersion into 32 targets, {WATCHERS} watchers of these and a webhook of one",
        _many,
        beside="promote_many",
        watchers=WATCHERS,
        webhooks=1,
    ),
    _read(
        "get_version_http",
        "GetModelVersion over HTTP",
        "GetModelVersion",
        _get_version,
        beside="get_version",
        over_http=_get_over_http,
    ),
    _promotion(
        "promote_many_http",
        "PromoteVersion into 32 targets over HTTP",
        _many,
        beside="promote_many",
        over_http=_promote_over_http,
    ),
    *map(_creation, COLUMNS),
    _read(
        "get_version_at_half",
        "GetModelVersion at 50 %",
        "GetModelVersion",
        _get_version,
        beside="get_version",
        share=0.5,
    ),
    _read(
        "get_version_at_most",
        "GetModelVersion at 80 %",
        "GetModelVersion",
        _get_version,
        beside="get_version",
        share=0.8,
    ),
    _promotion("promote_at_half", "PromoteVersion into 32 targets at 50 %", _many, beside="promote_many", share=0.5),
    _promotion("promote_at_most", "PromoteVersion into 32 targets at 80 %", _many, beside="promote_many", share=0.8),
    _promotion(
        "overload", "PromoteVersion into 32 targets at 400 %", _many, beside="promote_many", share=4, overloads=True
    ),
)
FLEETS = {
    "two_workers": ("two workers", Fleet(workers=2)),
    "four_workers": ("four workers", Fleet(workers=4)),
    "two_servers": ("two servers", Fleet(servers=2)),
    "pgbouncer": ("through PgBouncer", Fleet(is_pooled=True)),
}
SCENARIOS = (
    *ALONE,
    *(
        replace(each, name=f"{each.name}_{suffix}", title=f"{each.title}, {words}", beside=each.name, fleet=fleet)
        for each in ALONE
        if each.name in ("get_version", "promote_many")
        for suffix, (words, fleet) in FLEETS.items()
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def selected(names: Iterable[str] | None) -> list[Scenario]:
    """The scenarios of these names, all if there are none, and those that they are put beside; in their order.

    Raises KeyError for a name that none has.
    """
    chosen = set(BY_NAME if names is None else ())
    ahead = list(names or ())
    while ahead:
        scenario = BY_NAME[ahead.pop()]
        chosen.add(scenario.name)
        ahead += {scenario.beside} - chosen
    return [scenario for scenario in SCENARIOS if scenario.name in chosen]
