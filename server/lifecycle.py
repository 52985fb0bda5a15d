"""From the first call to the last: start, wait for a signal, stop taking calls, finish what runs, close."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from server.bootstrap import Application

# Below the ten seconds after which container engines kill.
DRAIN_SECONDS = 8.0


def run(application: Application, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `announce` is told the address once calls are taken."""
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    start(application)
    announce(application.address)
    stopping.wait()
    stop_and_close(application)


def start(application: Application) -> None:
    """Take calls."""
    application.readiness.start()
    application.server.start()


def stop_and_close(application: Application) -> None:
    """Say that no more calls are wanted, finish those that run, at most DRAIN_SECONDS, and close."""
    application.readiness.stop()
    stopped = application.server.stop(DRAIN_SECONDS)
    application.chain.cancel_streams()
    stopped.wait()
    application.repository.close()
