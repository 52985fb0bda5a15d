"""TLS between bytes and bytes, over the interface that the standard library has for it.

asyncio's own takes a connection's place until the handshake is done: clients that never finish it could not be counted,
and what they do not read could not be seen.
"""

from __future__ import annotations

import contextlib
import ssl

_PLAIN_BYTES = 256 * 2**10


class TlsSession:
    """The server's side of TLS on one connection. What is to be sent after each call is taken with `sent`."""

    def __init__(self, context: ssl.SSLContext):
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._has_shaken_hands = False
        self._is_ending = False
        self.has_ended = False  # The client has said that it sends no more.

    def receive(self, data: bytes) -> bytes:
        """Return what the client has sent with these bytes. Raises ssl.SSLError."""
        self._incoming.write(data)
        plain = []
        try:
            if not self._has_shaken_hands:
                self._session.do_handshake()
                self._has_shaken_hands = True
            while part := self._session.read(_PLAIN_BYTES):
                plain.append(part)
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        return b"".join(plain)

    def send(self, data: bytes) -> None:
        """Send this to the client."""
        self._session.write(data)

    def end(self) -> bytes:
        """Return what says that no more is sent; nothing the second time. The client's word is not waited for."""
        if self._has_shaken_hands and not self._is_ending:
            with contextlib.suppress(ssl.SSLError):
                self._session.unwrap()
        self._is_ending = True
        return self.sent()

    def sent(self) -> bytes:
        """Take the bytes that are to be sent now."""
        return self._outgoing.read()
