"""Load by h2load: callers who each wait for an answer before they ask again, or who ask at a fixed rate.

h2load sends one body to one path, so each request has a process of its own. It takes an error of gRPC for a success,
because its HTTP status is 200; who calls this must look at what was stored, at how many bytes came back, and at answers
of its own.
"""

from __future__ import annotations

import re
import resource
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.scenarios import HttpRequest
from bench.tools import Tool

_TRAFFIC = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: .* (\d+) failed, (\d+) errored, (\d+) timeout$", re.MULTILINE)
_TIME_TO_SPARE = 30
# The start of many processes, and their connections, are no part of what is measured; nor is what was asked meanwhile
# at a fixed rate, and is caught up with.
_WARM_UP_SECONDS = 0.6
_CATCH_UP_SECONDS = 1.0
# Who was held back asks within this time of the answer that was waited for, in microseconds.
_AT_ONCE = 500


@dataclass(frozen=True)
class Load:
    """Calls of one RPC with these requests, in turn by different callers; or requests of `http` instead.

    Each request has its share of the callers, and of the rate if there is one; with a rate, there are as many requests
    as callers. A caller has so many `streams`, which are calls under way at a time.
    """

    path: str
    requests: tuple[bytes, ...]
    callers: int
    rate: float | None = None
    streams: int = 1
    http: tuple[HttpRequest, ...] = ()

    @property
    def warm_up_seconds(self) -> float:
        """For how long the load is there before it is measured."""
        return _WARM_UP_SECONDS + (0 if self.rate is None else _CATCH_UP_SECONDS)

    @property
    def interval(self) -> float:
        """From one question of a caller to the next at the fixed rate, in microseconds."""
        assert self.rate is not None
        return self.callers / self.rate * 1_000_000


@dataclass(frozen=True)
class Measured:
    """What came of a load. All calls are counted; rate and latencies leave out those at the start."""

    calls: int
    per_second: float
    milliseconds: list[float]  # sorted
    answered_bytes: int
    processor_share: float  # that the load generator took, of one processor

    def percentile(self, share: float) -> float:
        """The latency that this share of the calls did not exceed, in milliseconds."""
        last = len(self.milliseconds) - 1
        return self.milliseconds[min(last, int(len(self.milliseconds) * share))]


class Generator:
    """h2load, which calls with one token, and keeps its files in one folder."""

    def __init__(self, tool: Tool, folder: Path, token: str):
        self._tool = tool
        self._folder = folder
        self._token = token

    def run(self, addresses: Sequence[str], load: Load, seconds: float) -> Measured:
        """Put a load on servers for so long, who share the callers.

        Raises RuntimeError if calls failed below gRPC, or over HTTP.
        """
        spent = -_processor_seconds_of_children()
        processes: list[subprocess.Popen[str]] = []
        started: list[float] = []
        try:
            for number in range(len(load.http or load.requests)):
                address = addresses[number % len(addresses)]
                processes.append(self._start(address, load, number, seconds))
                started.append(time.time() * 1_000_000)
            deadline = time.monotonic() + seconds + _TIME_TO_SPARE
            said = [process.communicate(timeout=deadline - time.monotonic())[0] for process in processes]
        finally:
            for process in processes:
                with process:  # closes the pipe, and waits
                    if process.poll() is None:
                        process.kill()
        spent += _processor_seconds_of_children()
        for process, text in zip(processes, said, strict=True):
            failed = _REQUESTS.search(text)
            if process.returncode or failed is None or any(map(int, failed.groups())):
                raise RuntimeError(f"h2load failed:\n{text}")
        logs = [_read(self._log(number)) for number in range(len(processes))]
        if load.rate is None:
            # Whoever asks all the time tells better when it began.
            started = [log[0].start for log in logs if log]
        else:
            logs = [from_when_they_were_due(log, load.interval) for log in logs]
        begin, end = _middle(started, load.warm_up_seconds, seconds)
        calls = [call for log in logs for call in log]
        answered = sum(begin <= call.start + call.duration < end for call in calls)
        late = [call for call in calls if call.start >= begin] or calls
        if not late:
            raise RuntimeError("the load is too short: not one call was answered")
        return Measured(
            calls=len(calls),
            per_second=answered / (end - begin) * 1_000_000,
            milliseconds=sorted(call.duration / 1000 for call in late),
            answered_bytes=sum(int(_TRAFFIC.findall(text)[0]) for text in said),
            processor_share=spent / (seconds + load.warm_up_seconds),
        )

    def _start(self, address: str, load: Load, number: int, seconds: float) -> subprocess.Popen[str]:
        path, request = self._request(load, number)
        self._log(number).unlink(missing_ok=True)
        count = len(load.http or load.requests)
        share = max(1, load.callers // count)
        rate = () if load.rate is None else (f"--rps={load.rate / count / share:.3f}",)
        options = [
            f"--clients={share}",
            f"--max-concurrent-streams={load.streams}",
            f"--duration={int((seconds + load.warm_up_seconds) * 1000)}ms",
            *rate,
            *request,
            f"--log-file={self._log(number)}",
            f"--header=authorization: Bearer {self._token}",
        ]
        return subprocess.Popen(
            [self._tool.program, *options, f"http://{address}{path}"],
            env=self._tool.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _request(self, load: Load, number: int) -> tuple[str, list[str]]:
        """Return the path of one of the requests, and what tells h2load the rest of it."""
        body = self._folder / f"body-{number}"
        if not load.http:
            message = load.requests[number]
            body.write_bytes(struct.pack(">BL", 0, len(message)) + message)
            return load.path, [f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers"]
        path, json = load.http[number]
        if json is None:
            return path, ["--h1"]
        body.write_bytes(json)
        return path, ["--h1", f"--data={body}", "--header=content-type: application/json"]

    def _log(self, number: int) -> Path:
        """Where the calls with one of the requests are written down."""
        return self._folder / f"calls-{number}"


class Call(NamedTuple):
    """When a call was begun, since the epoch, and how long it took, in microseconds."""

    start: int
    duration: int


def from_when_they_were_due(calls: list[Call], interval: float) -> list[Call]:
    """The calls of one caller at a fixed rate, as they would have been begun had none waited for the one before.

    h2load takes the time from when it asks. Where a slow answer kept the next questions back, they would look quick,
    and what is slow would be counted once only.
    """
    found: list[Call] = []
    due, free = 0.0, 0
    for call in calls:
        held_back = bool(found) and call.start <= free + _AT_ONCE
        due = min(due + interval, call.start) if held_back else call.start
        end = call.start + call.duration
        found.append(Call(round(due), end - round(due)))
        free = max(free, end)
    return found


def _read(log: Path) -> list[Call]:
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return sorted(Call(int(row[0]), int(row[2])) for row in rows)


def _middle(started: list[float] | list[int], warm_up: float, seconds: float) -> tuple[float, float]:
    """The time in which every process is at work, and none begins, in microseconds."""
    if not started:
        raise RuntimeError("the load is too short: not one call was answered")
    planned = min(started) + warm_up * 1_000_000
    begin, end = max(planned, *started), planned + seconds * 1_000_000
    if end <= begin:
        raise RuntimeError("the load is too short: some callers were done before others began")
    return begin, end


def _processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
