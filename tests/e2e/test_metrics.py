"""A server that is asked for its numbers, as Prometheus would, and what the documents say of them."""

from __future__ import annotations

import re
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import migrate
from tests.documents import table
from tests.postgres import create_database, drop_database
from tests.processes import Server, failure, run, until
from tests.rpc.harness import SOME_MODEL

OPERATIONS = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()
METRICS_ON = "metrics on "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Server]:
    """A server that has something to tell of everything: also of a standby, though what it reads from is none."""
    url = create_database(postgres_url)
    migrate(url)
    databases = {"MODELREGISTRY_DATABASE_URL": url, "MODELREGISTRY_READ_DATABASE_URL": url}
    folder = tmp_path_factory.mktemp("metrics") / "server"
    with Server(folder, MODELREGISTRY_METRICS_LISTEN="127.0.0.1:0", **databases) as server:
        yield server
    drop_database(postgres_url, url)


@pytest.fixture(scope="module")
def metrics_url(server: Server) -> str:
    return server.line(METRICS_ON)


def scrape(url: str) -> dict[str, Metric]:
    """What the server tells, by the name that it has in documents."""
    with urllib.request.urlopen(url, timeout=180) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {family.name + "_total" * (family.type == "counter"): family for family in families}


def value(families: dict[str, Metric], metric: str, /, **labels: str) -> float:
    """The sum of the samples with these labels, and maybe others."""
    samples = [sample for family in families.values() for sample in family.samples if sample.name == metric]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def work(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source, target = (admin.create_model(f"{name} {uuid.uuid4()}") for name in ("source", "target"))
        version = admin.create_version(source)
        for _ in range(3):
            admin.promote(version, target)
        admin("RollbackBranch", model_rid=target.rid, to_version_number=1)
        for _ in range(2):
            admin.failure("GetModel", model_rid=SOME_MODEL)
        admin("GetBranch", model_rid=target.rid)


def test_what_the_server_did_is_in_the_numbers(server: Server, metrics_url: str) -> None:
    before = scrape(metrics_url)
    work(server)

    def grown(metric: str, **labels: str) -> float:
        return value(scrape(metrics_url), metric, **labels) - value(before, metric, **labels)

    until(lambda: grown("grpc_server_handled_total", grpc_service="modelregistry.v1.ModelService") == 9)
    assert grown("grpc_server_handled_total", grpc_method="PromoteVersion", grpc_code="OK") == 3
    assert grown("grpc_server_handled_total", grpc_method="GetModel", grpc_code="NOT_FOUND") == 2
    assert grown("grpc_server_handling_seconds_count", grpc_method="PromoteVersion") == 3
    assert grown("modelregistry_errors_total", name="ModelNotFound") == 2
    assert grown("modelregistry_promotions_total", kind="promotion") == 3
    assert grown("modelregistry_promotions_total", kind="rollback") == 1
    assert grown("modelregistry_standby_reads_total", answered_by="primary") == 1
    until(lambda: value(scrape(metrics_url), "grpc_server_in_flight") == 0)
    assert value(scrape(metrics_url), "modelregistry_database_connections_limit") >= 1


def test_the_document_tells_exactly_what_is_served(server: Server, metrics_url: str) -> None:
    of_histograms = {"le"}
    work(server)
    served = {
        name: (family.type, {label for sample in family.samples for label in sample.labels} - of_histograms)
        for name, family in scrape(metrics_url).items()
    }

    told = {}
    for metric, kind, labels, _ in table(OPERATIONS, "What to watch"):
        told[metric.strip("`")] = (kind, {label.strip("` ") for label in labels.split(",") if label})
    assert told == served


def test_alerts_ask_for_what_is_served(server: Server, metrics_url: str) -> None:
    work(server)

    def served() -> set[str]:
        return {sample.name for family in scrape(metrics_url).values() for sample in family.samples} | {"up"}

    asked = [alert for alert, _, _ in table(OPERATIONS, "What to watch", 1)]
    names = {name for alert in asked for name in _names(alert)}
    assert len(names) > 4
    until(lambda: names <= served())


def _names(alert: str) -> set[str]:
    """The metrics in an expression."""
    return set(re.findall(r"\b(?:grpc|modelregistry)_[a-z_]+(?=[{\[)])|\bup\b", alert)) - {"grpc_method"}


def test_nothing_is_served_unless_it_is_asked_for(tmp_path: Path) -> None:
    with Server(tmp_path / "server") as server:
        server.stop()
        assert not any(line.startswith(METRICS_ON) for line in server.lines())


def test_a_port_that_is_taken_is_named(server: Server, metrics_url: str, tmp_path: Path) -> None:
    address = metrics_url.removeprefix("http://").removesuffix("/metrics")
    said = failure(run("serve", "--metrics-listen", address, cwd=tmp_path))
    assert said.startswith(f"cannot listen on {address}")
    assert said.endswith("(--metrics-listen)")
