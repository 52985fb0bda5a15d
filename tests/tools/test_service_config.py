"""The reads in the service config of clients are those of the API."""

from __future__ import annotations

from pathlib import Path

from tools.service_config import with_reads

CONFIG = Path(__file__).parents[2] / "protos/modelregistry/v1/service_config.json"


def test_the_committed_config_names_all_reads_and_nothing_else_is_touched() -> None:
    committed = CONFIG.read_text()

    assert with_reads(committed) == committed, "run make gen"
    forgotten = committed.replace('        {"service": "modelregistry.v1.ModelService", "method": "GetModel"},\n', "")
    assert forgotten != committed
    assert with_reads(forgotten) == committed
