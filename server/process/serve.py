"""A server as it is deployed: worker processes, each on a processor of its own, behind the same ports."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from server.auth import local_keys
from server.core.config import Settings
from server.core.logs import start_log_thread
from server.process import resources
from server.process.app import Application, build, database_file
from server.process.ports import Ports
from server.process.supervisor import Supervisor
from server.storage.file_identity import FileIdentity

# Below the ten seconds after which container engines kill.
DRAIN_SECONDS = 8.0
# After how many new objects, less those that are gone, garbage is collected. 300 requests of HTTP that wait make it
# seem that there are 10,000 new ones twice a second, and to look through these takes 25 ms, in which no call is served.
GARBAGE_OBJECTS = 50_000

log = logging.getLogger(__name__)


def run_server(settings: Settings, ports: Ports, workers: int, announce: Callable[[], None]) -> None:
    """Run worker processes until SIGTERM or SIGINT; `announce` is called once they take calls. Raises ConfigError."""
    _warn_of_what_is_exposed(settings)
    resources.keep_files_private()
    resources.raise_file_limit()
    # The database of the first worker, if it is a file: later workers neither make nor take another one.
    file: FileIdentity | None = None
    with contextlib.closing(ports), _metrics_folder(settings) as metrics_folder:

        def work(number: int, ready: Callable[[], None]) -> None:
            resources.pin_to_processor(number, workers)
            resources.trim_memory()
            start_log_thread()
            application = build(settings, ports, metrics_folder, file)
            _freeze_garbage_collector()
            _serve(application, ready)

        def remember_database() -> None:
            nonlocal file
            file = database_file(settings)

        # What is loaded by now is shared with the workers, as long as none looks for garbage in it: 16 MiB of each.
        _freeze_garbage_collector()
        Supervisor(workers, work).run(announce, ports.close, remember_database)


def _warn_of_what_is_exposed(settings: Settings) -> None:
    if settings.exposed and settings.uses_local_keys:
        key = settings.data_dir / local_keys.KEY_FILE
        log.warning("read access to %s is full access: --local-keys is for trying things out", key)
    if not settings.tls_cert:
        for option, address in settings.exposed.items():
            log.warning(
                "%s %s is plain text, tokens and all, for the network between: give --tls-cert and --tls-key, or let"
                " nothing but a proxy with TLS reach it",
                option,
                address,
            )


def _serve(application: Application, announce: Callable[[], None]) -> None:
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
    application.keys.start()
    application.observers.start(
        application.repository.connections, lambda: application.keys.loaded_at, application.repository.standby_seen_at
    )
    application.server.start()
    application.readiness.start()
    if application.gateway is not None:
        application.gateway.start()
    application.deliverer.start()


def stop_and_close(application: Application) -> None:
    """Say that no more calls are wanted, finish those that run, at most DRAIN_SECONDS, and close."""
    deadline = time.monotonic() + DRAIN_SECONDS
    application.readiness.stop()
    # They do not end by themselves, nor do those over HTTP.
    application.chain.end_streams()
    application.deliverer.stop()
    if application.gateway is not None:
        # The threads for calls, and the gRPC server for its streams, go on until its requests are answered.
        application.gateway.stop(DRAIN_SECONDS)
    stopped = application.server.stop(max(0.0, deadline - time.monotonic()))
    application.chain.cancel_streams()
    stopped.wait()
    application.chain.close()
    application.deliverer.close(max(0.0, deadline - time.monotonic()))
    application.private.close()
    application.observers.close()
    application.keys.stop()
    application.files.close()
    application.repository.close()


@contextlib.contextmanager
def _metrics_folder(settings: Settings) -> Iterator[Path | None]:
    """Make the folder where the workers share their metrics, if there are metrics."""
    if not settings.serves_metrics:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="modelregistry-metrics-") as folder:
        yield Path(folder)


def _freeze_garbage_collector() -> None:
    """Have garbage collected seldom, and only what calls leave: hardly any of it is in cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
