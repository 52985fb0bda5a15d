"""A server as it is deployed: worker processes, each on a processor of its own, behind the same ports."""

from __future__ import annotations

import logging
from collections.abc import Callable

from server import bootstrap, lifecycle, processors
from server.auth import local_keys
from server.config import Settings, host_of, is_loopback
from server.ports import Ports
from server.workers import Supervisor

log = logging.getLogger(__name__)


def serve(settings: Settings, ports: Ports, workers: int, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called once calls are taken. Raises ConfigError."""

    def work(number: int, ready: Callable[[], None]) -> None:
        processors.settle(number, workers)
        lifecycle.run(bootstrap.build(settings, ports), ready)

    if settings.uses_local_keys and not is_loopback(host_of(settings.listen)):
        key = settings.data_dir / local_keys.KEY_FILE
        log.warning("whoever can read %s can do anything: --local-keys is for trying things out", key)
    try:
        Supervisor(workers, work).run(announce)
    finally:
        ports.close()
