"""What deploy/envoy repeats by itself is what the service config lets every client repeat."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.rpc.harness import METHODS, path_of

ROOT = Path(__file__).parents[2]


def repeated_by_clients() -> set[str]:
    """The RPCs that a client repeats after an answer of which it cannot tell whether they were carried out."""
    config = json.loads((ROOT / "protos/modelregistry/v1/service_config.json").read_text())
    entries = [
        {name["method"] for name in entry["name"]}
        for entry in config["methodConfig"]
        if "UNAVAILABLE" in entry.get("retryPolicy", {}).get("retryableStatusCodes", ())
    ]
    return {method for methods in entries if methods & {"GetModel", "GrantRole"} for method in methods}


def expressions(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "safe_regex" in part:
            yield part["safe_regex"]["regex"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from expressions(each)


def test_envoy_repeats_what_clients_repeat() -> None:
    config = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    [repeated] = {expression for expression in expressions(config) if "Get|List" in expression}
    assert {rpc for rpc in METHODS if re.fullmatch(repeated, path_of(rpc))} == repeated_by_clients()
