"""What clients of gRPC may use up of a worker before a call of theirs is served."""

from __future__ import annotations

import dataclasses
import resource
from dataclasses import dataclass

# Of the files that a process may open, each of which a connection is: what connections of one protocol may take. The
# rest is for the database, for model files, and for logs.
SHARE_OF_FILES = 4


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of connections, and of what comes in over them; times are in seconds."""

    # Clients that balance their calls ask for the addresses of replicas anew when a connection ends, so each ends now
    # and then, if only when its calls do: otherwise a new replica would get no work from them.
    max_connection_age: float = 300
    # Of each worker.
    max_connections: int = 4096
    # Of each connection: more than a client has that calls from hundreds of threads.
    max_streams: int = 1000
    # For a message, from the call's first byte: 4 MiB at 4 Mbit/s.
    receive_timeout: float = 10
    # A client that went away without a word is noticed after this and 20 seconds more.
    keepalive: float = 60
    # gRPC's own 5 minutes are longer than many a load balancer remembers a connection.
    min_ping: float = 10

    def within_files(self) -> Limits:
        """Return the same with no more connections than this process has files for."""
        return dataclasses.replace(self, max_connections=min(self.max_connections, share_of_files()))


def share_of_files() -> int:
    """Return how many connections of one protocol this process has files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system's word for "as many as you like" is a number, and on some systems a negative one.
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else max(1, soft // SHARE_OF_FILES)


def raise_file_limit() -> None:
    """Let this process, and those that it forks, open as many files as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
