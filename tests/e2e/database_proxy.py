"""The way from a server to its PostgreSQL, as a TCP proxy that can lose what passes at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading

from sqlalchemy import make_url

# The end of its text in PostgreSQL's protocol. A BEGIN has the word in its isolation level, and goes on behind it.
COMMIT = b"COMMIT\x00"
BYTES = 2**16

Address = tuple[str, int]


class DatabaseProxy:
    """Passes connections on from a loopback port, which it keeps when it is closed and opened again."""

    def __init__(self, database_url: str) -> None:
        self._url = make_url(database_url)
        assert self._url.host
        assert self._url.port
        self.lost = threading.Event()
        self.port = 0
        self._database: Address = (self._url.host, self._url.port)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        # Whether the next COMMIT still reaches the database; None while none is to be lost.
        self._loses: bool | None = None

    def __enter__(self) -> DatabaseProxy:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where a client finds the database through the proxy, once that was opened."""
        return self._url.set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def open(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Break all connections, and refuse new ones."""
        with self._lock:
            if self._listener is not None:
                _hang_up(self._listener)
                self._listener = None
            for each in self._open:
                _hang_up(each)
            self._open.clear()

    def lose_a_commit(self, *, arrives: bool) -> None:
        """Break the next connection that commits: before its COMMIT arrives, or when the database has answered it."""
        self._loses = arrives

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with self._lock:
                    if self._listener is not listener:
                        client.close()
                        return
                    database = socket.create_connection(self._database)
                    self._open |= {client, database}
                silent = threading.Event()
                for source, target, is_client in ((client, database, True), (database, client, False)):
                    threading.Thread(
                        target=self._pass, args=(source, target, silent), kwargs={"asks": is_client}, daemon=True
                    ).start()

    def _pass(self, source: socket.socket, target: socket.socket, silent: threading.Event, *, asks: bool) -> None:
        """Pass on what one side says; the database's answers end when `silent` is set."""
        with contextlib.suppress(OSError):
            while data := source.recv(BYTES):
                if asks and COMMIT in data and self._loses is not None:
                    arrives, self._loses = self._loses, None
                    silent.set()
                    if not arrives:
                        break
                elif not asks and silent.is_set():
                    break  # Its answer to the COMMIT: it has been carried out.
                target.sendall(data)
            if silent.is_set():
                self.lost.set()
        _hang_up(source)
        _hang_up(target)


def _hang_up(connection: socket.socket) -> None:
    """End a connection, or stop to listen; whoever waits for it is woken up."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
