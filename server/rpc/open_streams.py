"""Streams of the services that are open to anyone, which end with their clients, or when the server wants them to."""

from __future__ import annotations

import grpc


class OpenStreams:
    """The calls of streams, while they are open; safe to share between threads."""

    def __init__(self, most: int | None = None) -> None:
        """Where there may be no more than so many, the oldest makes room for one more."""
        self._most = most
        self._contexts: dict[grpc.ServicerContext, None] = {}
        self._closing = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._contexts)

    def add(self, context: grpc.ServicerContext) -> None:
        """Take one that has begun."""
        self._contexts[context] = None
        still_open = context.add_callback(lambda: self._contexts.pop(context, None))
        if not still_open:
            self._contexts.pop(context, None)
        elif self._closing:
            context.cancel()
        elif self._most is not None and len(contexts := tuple(self._contexts)) > self._most:
            self._contexts.pop(contexts[0], None)
            contexts[0].cancel()

    def cancel_all(self) -> None:
        """End those that are open, and those that begin from now on."""
        self._closing = True
        for context in tuple(self._contexts):
            context.cancel()
