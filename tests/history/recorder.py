"""Records operations of many threads, and of many processes in files that are read together."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.history.operations import Operation, Outcome, operation_from_json


class Recorder:
    """A history in the making; safe to share between threads.

    With a file, each beginning and each end is a line there at once, so what a killed client had asked for is known.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._operations: dict[str, Operation] = {}
        self._file = file.open("a", encoding="utf-8", buffering=1) if file else None

    def begin(self, client: str, rpc: str, **asked: Any) -> str:
        """Record that a client calls now, and return the id of the operation."""
        with self._lock:
            operation = Operation(
                id=f"{client}#{next(self._numbers)}", client=client, rpc=rpc, invoked=time.monotonic_ns(), **asked
            )
            self._operations[operation.id] = operation
            if self._file:
                self._file.write(f"{json.dumps({'began': asdict(operation)})}\n")
        return operation.id

    def end(self, operation_id: str, outcome: Outcome, **answered: Any) -> None:
        """Record that an operation has ended by now."""
        ended = {"completed": time.monotonic_ns(), "outcome": outcome, **answered}
        with self._lock:
            self._operations[operation_id] = replace(self._operations[operation_id], **ended)
            if self._file:
                self._file.write(f"{json.dumps({'ended': {'id': operation_id, **ended}})}\n")

    def operations(self) -> list[Operation]:
        """All operations so far; what has not ended is unknown."""
        with self._lock:
            return list(self._operations.values())

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file:
            self._file.close()


def read_history(*files: Path) -> list[Operation]:
    """The operations that recorders wrote to these files, whose clients have different names.

    The last line may be torn, where its process was killed.
    """
    operations: dict[str, dict[str, Any]] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            event = json.loads(line)
            if began := event.get("began"):
                if began["id"] in operations:
                    raise ValueError(f"{file} has another {began['id']}")
                operations[began["id"]] = began
            else:
                operations[event["ended"]["id"]] |= event["ended"]
    return [operation_from_json(fields) for fields in operations.values()]
