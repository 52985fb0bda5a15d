"""A server as it is deployed: worker processes, each on a processor of its own, behind the same ports."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from server import bootstrap, lifecycle, memory, open_files, processors
from server.auth import local_keys
from server.config import Settings, host_of, is_loopback
from server.logs import get_logger, write_in_background
from server.ports import Ports
from server.workers import Supervisor

# After how many new objects, less those that are gone, garbage is collected. Each call leaves some for a while.
GARBAGE = 10_000

log = get_logger(__name__)


def serve(settings: Settings, ports: Ports, workers: int, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called once calls are taken. Raises ConfigError."""

    if settings.uses_local_keys and not is_loopback(host_of(settings.listen)):
        key = settings.data_dir / local_keys.KEY_FILE
        log.warning("whoever can read %s can do anything: --local-keys is for trying things out", key)
    open_files.raise_limit()
    with contextlib.closing(ports), _metrics_folder(settings) as metrics_folder:

        def work(number: int, ready: Callable[[], None]) -> None:
            processors.settle(number, workers)
            memory.give_back_what_is_free()
            write_in_background()
            application = bootstrap.build(settings, ports, metrics_folder)
            _keep_what_is_there()
            lifecycle.run(application, ready)

        Supervisor(workers, work).run(announce, ports.close)


@contextlib.contextmanager
def _metrics_folder(settings: Settings) -> Iterator[Path | None]:
    """Make the folder where the workers count together, if they count."""
    if not settings.serves_metrics:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="modelregistry-metrics-") as folder:
        yield Path(folder)


def _keep_what_is_there() -> None:
    """Let the garbage collector look at what calls leave behind, and seldom: hardly any of it is in cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
