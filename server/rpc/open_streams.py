"""Streams of the services that are open to anyone, which end with their clients, or when the server wants them to."""

from __future__ import annotations

import grpc


class OpenStreams:
    """The calls of streams, while they are open; safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._contexts: dict[grpc.ServicerContext, None] = {}
        self._closing = False

    @property
    def is_full(self) -> bool:
        """Whether as many are open as there may be."""
        return len(self._contexts) >= self._most

    def add(self, context: grpc.ServicerContext) -> None:
        """Take one that has begun. The oldest ends if that is one too many."""
        self._contexts[context] = None
        still_open = context.add_callback(lambda: self._contexts.pop(context, None))
        if not still_open:
            self._contexts.pop(context, None)
        elif self._closing:
            context.cancel()
        elif len(contexts := tuple(self._contexts)) > self._most:
            self._contexts.pop(contexts[0], None)
            contexts[0].cancel()

    def cancel_all(self) -> None:
        """End those that are open, and those that begin from now on."""
        self._closing = True
        for context in tuple(self._contexts):
            context.cancel()
