"""From the first call to the last: start, wait for a signal, stop taking calls, finish what runs, close."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from server.bootstrap import Application

# Below the ten seconds after which container engines kill.
DRAIN_SECONDS = 8.0


def run(application: Application, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `announce` is called once calls are taken."""
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    start(application)
    announce()
    stopping.wait()
    stop_and_close(application)


def start(application: Application) -> None:
    """Take calls."""
    application.observers.start(application.repository.connections)
    application.server.start()
    application.readiness.start()
    if application.gateway is not None:
        application.gateway.start()


def stop_and_close(application: Application) -> None:
    """Say that no more calls are wanted, finish those that run, at most DRAIN_SECONDS, and close."""
    deadline = time.monotonic() + DRAIN_SECONDS
    application.readiness.stop()
    if application.gateway is not None:
        # Its requests are calls of the server behind it, which goes on until they are answered.
        application.gateway.stop(DRAIN_SECONDS)
    stopped = application.server.stop(max(0.0, deadline - time.monotonic()))
    application.chain.cancel_streams()
    stopped.wait()
    application.chain.close()
    application.private.close()
    application.observers.close()
    application.files.close()
    application.repository.close()
