"""Calls of threads: each with its token and, where that helps, an id; each failure a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from modelregistry_client.errors import failures_typed, typed
from modelregistry_client.requests import with_request_id, with_token


class Calls:
    """Stands between the stubs and a channel.

    It wraps the channel's methods, and is no interceptor: at each call those ask the channel for the method, and if it
    was closed just then, gRPC crashes the process.
    """

    def __init__(self, channel: grpc.Channel, token: str | Callable[[], str] | None) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, name: str, *arguments: Any, **more: Any) -> _Method:
        """Return a method with one request and one answer."""
        return _Method(self._channel.unary_unary(name, *arguments, **more), name, self._token)

    def stream_unary(self, name: str, *arguments: Any, **more: Any) -> _Method:
        """Return a method with a stream of requests and one answer."""
        return _Method(self._channel.stream_unary(name, *arguments, **more), name, self._token)

    def unary_stream(self, name: str, *arguments: Any, **more: Any) -> _Stream:
        """Return a method with one request and a stream of answers."""
        return _Stream(self._channel.unary_stream(name, *arguments, **more), name, self._token)


class _Method:
    """A method of the channel."""

    def __init__(self, method: Any, name: str, token: str | Callable[[], str] | None) -> None:
        self._method = method
        self._name = name
        self._token = token

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self._called(self._method, *arguments, **more)

    def with_call(self, *arguments: Any, **more: Any) -> Any:
        """Return the answer, and the call that it came from."""
        return self._called(self._method.with_call, *arguments, **more)

    def future(self, *arguments: Any, **more: Any) -> _Call:
        """Return a call that goes on."""
        return _Call(self._called(self._method.future, *arguments, **more))

    def _called(
        self,
        way: Callable[..., Any],
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        *arguments: Any,
        request_iterator: Any = None,
        **more: Any,
    ) -> Any:
        sent = request_iterator if request is None else with_request_id(self._name, request)
        token = self._token() if callable(self._token) else self._token
        with failures_typed():
            return way(sent, timeout, with_token(metadata, token), *arguments, **more)


class _Stream(_Method):
    """A method of the channel whose answers are a stream."""

    def __call__(self, *arguments: Any, **more: Any) -> _Call:
        return _Call(super().__call__(*arguments, **more))


class _Call:
    """A call of gRPC's, whose failure is a typed error wherever it shows."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def result(self, timeout: float | None = None) -> Any:
        """Return the answer."""
        with failures_typed():
            return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return why there is no answer, or None if there is one."""
        error = self._call.exception(timeout)
        return typed(error) if isinstance(error, grpc.RpcError) else error

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Let the callback have this call when it has ended."""
        self._call.add_done_callback(lambda _: callback(self))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with failures_typed():
            return next(self._call)
