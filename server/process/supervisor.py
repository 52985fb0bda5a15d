"""Worker processes that share the ports, and the supervisor that keeps them running.

The supervisor answers no calls, has no threads and opens nothing but the ports, so that it can fork at any time. A
worker builds a whole server of its own. One that dies is restarted with exponential backoff; when the supervisor
itself dies, its workers do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from server.core.config import ConfigError
from server.core.logs import stop_log_thread, write_waiting_lines

log = logging.getLogger(__name__)

# How long the supervisor waits before it starts a worker again that died soon: longer each time.
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 30.0
# A worker that lived for so long did not die of how it was started: its backoff begins anew.
SETTLED_SECONDS = 60.0
# How often the supervisor tries again to write lines whose reader has stalled.
LOG_SECONDS = 1.0
# Beyond what workers take to finish their calls; below that after which container engines kill.
STOP_SECONDS = 9.0

_READY = b"+"

# Serves until it is told to stop. It is given the number of the worker, and what it calls once it takes calls; it
# raises ConfigError if it cannot.
Work = Callable[[int, Callable[[], None]], None]


@dataclass
class _Worker:
    """A worker process: where it says that it is ready, or why not, and when it was started."""

    pid: int
    says: int
    started_at: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs so many workers, until it is told to stop."""

    def __init__(self, workers: int, work: Work):
        self._count = workers
        self._work = work
        self._running: dict[int, _Worker] = {}
        self._failures = [0] * workers
        self._due: dict[int, float] = {}
        self._signals: list[int] = []
        # What wakes the supervisor, and what tells workers that it is gone.
        self._woken, self._wake = os.pipe()
        self._alive, self._held = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)

    def run(
        self, announce: Callable[[], None], close_ports: Callable[[], None], first_is_ready: Callable[[], None]
    ) -> None:
        """Serve until SIGTERM or SIGINT, then let the workers finish; SIGHUP replaces them one by one.

        `first_is_ready` is called once the first worker takes calls, and before there are others: what it remembers,
        they know. `announce` is called once all take calls, `close_ports` before the workers finish: as long as one
        process holds a port, the system takes connections there. Raises ConfigError if the first worker cannot take
        calls, and what `first_is_ready` raises.
        """
        with self._handling_signals():
            # One before the others: what it makes, such as a database, is there for them.
            self._start(0)
            self._await_ready(0)
            if not self._told_to_stop():
                first_is_ready()
            for number in range(1, self._count):
                self._start(number)
            for number in range(1, self._count):
                self._await_ready(number)
            announce()
            self._supervise()
            close_ports()
            workers = list(self._running.values())
            self._running.clear()
            self._finish(workers)

    def _supervise(self) -> None:
        while not self._told_to_stop():
            if signal.SIGHUP in self._signals:
                self._signals.remove(signal.SIGHUP)
                self._replace_all()
            for number, due in list(self._due.items()):
                if due <= time.monotonic():
                    del self._due[number]
                    self._start(number)
            waits = [max(0.0, due - time.monotonic()) for due in self._due.values()]
            if not write_waiting_lines():
                waits.append(LOG_SECONDS)
            self._sleep(min(waits, default=None))
            for number in self._ended():
                self._start_later(number)

    def _start_later(self, number: int) -> None:
        worker = self._running.pop(number)
        said = _read_all(worker.says).removeprefix(_READY).decode()
        os.close(worker.says)
        lived = time.monotonic() - worker.started_at
        self._failures[number] = 0 if lived > SETTLED_SECONDS else self._failures[number] + 1
        backoff = FIRST_BACKOFF_SECONDS * 2 ** (self._failures[number] - 1) if self._failures[number] else 0.0
        backoff = min(backoff, MAX_BACKOFF_SECONDS)
        self._due[number] = time.monotonic() + backoff
        fields = {"worker": number, "pid": worker.pid, "seconds": round(lived, 1), "restart_in_seconds": backoff}
        fields |= {"error": said} if said else {}
        log.warning("a worker died", extra={"fields": fields})

    def _replace_all(self) -> None:
        """Start another worker for each, and let the old one finish when that takes calls."""
        for number in list(self._running):
            old = self._running.pop(number)
            self._start(number)
            try:
                self._await_ready(number)
            except ConfigError as error:
                log.error("a new worker cannot start, so the old one stays: %s", error)
                self._end(self._running.pop(number))
                self._running[number] = old
                return
            self._finish([old])
            if self._told_to_stop():
                return

    # One worker

    def _start(self, number: int) -> None:
        says, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(says)
            self._be_worker(number, ready)
        os.close(ready)
        self._running[number] = _Worker(pid, says)

    def _be_worker(self, number: int, ready: int) -> None:
        """Work, in the process that was forked, and end it."""
        code = 1
        try:
            os.close(self._held)
            signal.set_wakeup_fd(-1)
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            threading.Thread(target=self._die_with_supervisor, name="supervisor", daemon=True).start()
            self._work(number, lambda: _say(ready, _READY))
            code = 0
        except ConfigError as error:
            _say(ready, str(error).encode())
        except BaseException:
            log.exception("a worker failed")
        finally:
            stop_log_thread()
            # A thread that waits for a database which hangs would keep the process for as long.
            os._exit(code)

    def _die_with_supervisor(self) -> None:
        os.read(self._alive, 1)  # Nothing is ever written: this returns when the other end is closed.
        os._exit(1)

    def _await_ready(self, number: int) -> None:
        """Return when the worker takes calls, or when this is to stop. Raises ConfigError if it says that it cannot."""
        worker = self._running[number]
        while not self._told_to_stop():
            readable, _, _ = select.select([worker.says, self._woken], [], [])
            if worker.says in readable:
                said = _read_all(worker.says)
                if said == _READY:
                    return
                raise ConfigError(said.decode() or "a worker died while it started; the log says why")
            self._drain_wakeups()

    def _finish(self, workers: list[_Worker]) -> None:
        """Let workers finish what they do, and end those that take too long."""
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            self._await_end(worker, deadline)

    def _await_end(self, worker: _Worker, deadline: float) -> None:
        while os.waitpid(worker.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                self._end(worker)
                return
            self._sleep(max(0.0, min(0.1, deadline - time.monotonic())))
        os.close(worker.says)

    def _end(self, worker: _Worker) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker.pid, 0)
        os.close(worker.says)

    def _ended(self) -> Iterator[int]:
        for number, worker in list(self._running.items()):
            if os.waitpid(worker.pid, os.WNOHANG)[0]:
                yield number

    # Signals

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            self._signals.append(number)

        # SIGCHLD only wakes the supervisor, which then looks which workers have ended. A terminal that is closed does
        # not ask for other workers.
        hangup = () if os.isatty(0) else (signal.SIGHUP,)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, *hangup)
        before = [signal.signal(number, note) for number in numbers]
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            for worker in self._running.values():
                self._end(worker)
            signal.set_wakeup_fd(-1)
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _told_to_stop(self) -> bool:
        return signal.SIGTERM in self._signals or signal.SIGINT in self._signals

    def _sleep(self, seconds: float | None) -> None:
        """Return after so many seconds, or earlier when a signal arrives."""
        select.select([self._woken], [], [], seconds)
        self._drain_wakeups()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass


def _say(pipe: int, said: bytes) -> None:
    os.write(pipe, said)
    os.close(pipe)


def _read_all(pipe: int) -> bytes:
    said = b""
    while part := os.read(pipe, 65536):
        said += part
    return said
