"""The network between the nodes of a cluster, on one machine: TCP proxies that can be cut, as a cable can.

Over a cut link nothing passes, and nobody is told: connections stay open and silent, new ones are never answered. What
was sent meanwhile arrives when the link is mended.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.postgres import unused_port

BYTES = 2**16
LOOPBACK = "127.0.0.1"


class Link:
    """A way to a loopback port, by way of another port."""

    def __init__(self, target_port: int) -> None:
        self.port = unused_port()
        self._target_port = target_port
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server((LOOPBACK, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def cut(self) -> None:
        """Let nothing pass."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything pass, what was held back first."""
        self._whole.set()

    def close(self) -> None:
        """Take no more connections."""
        self._whole.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._whole.wait()
        try:
            target = socket.create_connection((LOOPBACK, self._target_port))
        except OSError:
            client.close()
            return
        for connection in (client, target):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pass, args=(client, target), daemon=True).start()
        self._pass(target, client)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BYTES):
                self._whole.wait()
                target.sendall(data)
            # That one side hangs up is news as well.
            self._whole.wait()
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        source.close()
