"""How many files a process may open. A connection is one, and so is all that the registry keeps."""

from __future__ import annotations

import resource

# What connections of one protocol may take of them. The rest is for the database, for model files, and for logs.
SHARE = 4
# Where the system promises any number, but takes none above this one (macOS).
MOST = 10240


def share_of_files() -> int:
    """Return how many connections of one protocol this process has files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system's word for "as many as you like" is a number, and on some systems a negative one.
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else max(1, soft // SHARE)


def raise_limit() -> None:
    """Let this process, and those that it forks, open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        if soft < MOST:
            resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, hard))
