"""How many files a process may open: a connection is one, and so is all that the registry keeps."""

from __future__ import annotations

import dataclasses
import resource

from server.config import Limits
from server.logs import get_logger

# What connections of gRPC may take of them, and those of HTTP as many. The rest is for the database and model files.
SHARE = 4

log = get_logger(__name__)


def raise_limit() -> None:
    """Let this process, and those that it forks, open as many files as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # Some systems promise more than they give.
        log.warning("no more files can be opened than before: %s", error)


def bounded(limits: Limits) -> Limits:
    """Return the limits with no more connections than there are files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits
    return dataclasses.replace(limits, max_connections=min(limits.max_connections, max(1, soft // SHARE)))
