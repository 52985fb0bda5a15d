"""Two servers on one database, as clients find them: at one port, each at an address of its own."""

from __future__ import annotations

from pathlib import Path

from tests.postgres import unused_port
from tests.processes import Server, until

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
# Enough that shares of 40 to 60 % are no matter of chance.
CALLS = 400


class Replicas:
    """Two servers on one database and one port, each at an address of its own, which can be stopped and started."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.port = unused_port()
        self._folder = folder
        # One data folder, and so one key pair: each trusts what the other signs.
        keys = folder / FIRST / "modelregistry-data"
        self._options = ("--database-url", database_url, "--data-dir", keys, "--max-connection-age", "1")
        self._running: dict[str, Server] = {}

    def __getitem__(self, host: str) -> Server:
        return self._running[host]

    def start(self, host: str) -> None:
        """Start the server at an address, and return when it serves."""
        self._running[host] = Server(self._folder / host, *self._options, listen=f"{host}:{self.port}")

    def stop(self, host: str) -> None:
        """Stop it, which it must do in order."""
        self._running.pop(host).stop()

    def kill(self, host: str) -> None:
        """SIGKILL it, and all that it started."""
        server = self._running.pop(host)
        workers = server.workers()
        server.kill()
        until(lambda: not any(worker.is_running() for worker in workers))

    def close(self) -> None:
        """Stop all that run."""
        for host in list(self._running):
            self.stop(host)

    def served(self, host: str) -> int:
        """How many calls of the load a server has answered, whichever process it was."""
        log = (self._folder / f"{host}.log").read_text()
        return sum(log.count(f"ModelService/{method}") for method in ("GetBranch", "PromoteVersion"))

    def shares(self) -> list[float]:
        """The shares of both of the next calls."""
        before = self._counts()
        until(lambda: sum(self._counts()) - sum(before) >= CALLS)
        more = [now - then for now, then in zip(self._counts(), before, strict=True)]
        return [each / sum(more) for each in more]

    def await_calls(self, host: str) -> None:
        """Return when a server has got some more calls."""
        before = self.served(host)
        until(lambda: self.served(host) >= before + CALLS / 20)

    def _counts(self) -> list[int]:
        return [self.served(host) for host in (FIRST, SECOND)]


def fair(shares: list[float]) -> bool:
    """Whether neither has much more than the other."""
    return all(0.4 <= share <= 0.6 for share in shares)
