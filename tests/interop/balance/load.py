"""A client that reads and promotes until its standard input is closed; load.go beside it does the same.

It says `ready` when each caller has had an answer, and at the end, as JSON, how many calls there were, which versions
they promoted, and what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from modelregistry.v1.model_service_pb2 import GetBranchRequest, PromoteVersionRequest
from modelregistry_client import Registry, RegistryError, connect


class Load:
    """The calls of some callers, and what came of them."""

    def __init__(self, registry: Registry, model: str, version: str, concurrency: int) -> None:
        self._models = registry.models
        self._model = model
        self._version = version
        self._concurrency = concurrency
        self._ends = threading.Event()
        self._ready = threading.Barrier(concurrency + 1)

    def run(self) -> dict[str, Any]:
        """Call until standard input ends, and return what came of it."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            callers = [threads.submit(self._call) for _ in range(self._concurrency)]
            self._ready.wait()
            print("ready", flush=True)
            sys.stdin.read()
            self._ends.set()
        reads, versions, failures = zip(*(caller.result() for caller in callers), strict=True)
        return {
            "reads": sum(reads),
            "promotions": sum(map(len, versions)),
            "versions": list(chain.from_iterable(versions)),
            "failures": list(chain.from_iterable(failures)),
        }

    def _call(self) -> tuple[int, list[str], list[str]]:
        reads, versions, failures = 0, [], []
        while not self._ends.is_set():
            try:
                self._models.GetBranch(GetBranchRequest(model_rid=self._model))
                reads += 1
                request = PromoteVersionRequest(
                    model_rid=self._model, source_model_version_rid=self._version, preview=True
                )
                versions.append(self._models.PromoteVersion(request).rid)
            except RegistryError as error:
                failures.append(str(error))
            if reads == 1:
                self._ready.wait()
        return reads, versions, failures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-model")
    parser.add_argument("-version")
    parser.add_argument("-concurrency", type=int, default=4)
    parser.add_argument("-config", type=Path)
    parser.add_argument("-resolve", default="100ms")
    given = parser.parse_args()
    options = [
        ("grpc.service_config", given.config.read_text()),
        ("grpc.dns_min_time_between_resolutions_ms", int(given.resolve.removesuffix("ms"))),
    ]
    target, token = os.environ["MODELREGISTRY_TARGET"], os.environ["MODELREGISTRY_TOKEN"]
    with connect(target, token, plaintext=True, options=options) as registry:
        load = Load(registry, given.model, given.version, given.concurrency)
        print(json.dumps(load.run()))


if __name__ == "__main__":
    main()
