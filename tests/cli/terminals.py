"""The installed command at a terminal, where somebody reads what it asks and answers."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from pathlib import Path

from tests.processes import COMMAND, DEADLINE_SECONDS, Server, environment

END_OF_FILE = "\x04"


class Terminal:
    """A client command against a server, with standard input and standard error on a terminal of its own."""

    def __init__(
        self,
        server: Server,
        *arguments: str | Path,
        command: str | Path = COMMAND,
        token: str | None = None,
        **variables: str,
    ) -> None:
        own, theirs = pty.openpty()
        self._terminal, self._shown = own, b""
        called = {"MODELREGISTRY_TARGET": server.address, "MODELREGISTRY_TOKEN": token or server.token()}
        self.process = subprocess.Popen(
            [command, *arguments],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(**{"TERM": "dumb", **called, **variables}),
            # As a shell starts what has its terminal; tests that run in the background inherit that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)

    def shows(self, text: str) -> str:
        """Wait until this was shown, and return everything that was shown until then."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was not shown: {self.shown}"
        return self.shown

    def answer(self, text: str) -> None:
        """Type a line."""
        self.type(f"{text}\n")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end, and return it with what was shown as the standard error."""
        while self._read():
            pass
        os.close(self._terminal)
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, output.decode(), self.shown)

    @property
    def shown(self) -> str:
        return self._shown.decode().replace("\r\n", "\n")

    def _read(self) -> bool:
        """Take what is shown next; whether there is any, as there is none when the process has ended."""
        ready, _, _ = select.select([self._terminal], [], [], DEADLINE_SECONDS)
        assert ready, f"nothing more was shown: {self.shown}"
        try:
            read = os.read(self._terminal, 65536)
        except OSError:  # how Linux tells that the other side is closed
            return False
        self._shown += read
        return bool(read)
