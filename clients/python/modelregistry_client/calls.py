"""Calls of threads: each with its token and, where that helps, an id; each failure a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from modelregistry_client.errors import typed
from modelregistry_client.requests import CallDetails, with_request_id, with_token


class Typed(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Stands between the stubs and a channel."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        self._token = token
        self._closed = False

    def close(self) -> None:
        """Let no more calls through: on a channel that is closed, gRPC crashes the process."""
        self._closed = True

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Call once, and get one answer."""
        details = self._authenticated(client_call_details)
        return _Call(continuation(details, with_request_id(details.method, request)))

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Call once, and get a stream."""
        return _Call(continuation(self._authenticated(client_call_details), request))

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Send a stream, and get one answer."""
        return _Call(continuation(self._authenticated(client_call_details), request_iterator))

    def _authenticated(self, details: Any) -> CallDetails:
        if self._closed:
            raise ValueError("the registry is closed")
        token = self._token if isinstance(self._token, str) else self._token()
        return CallDetails(
            method=details.method,
            timeout=details.timeout,
            metadata=with_token(details.metadata, token),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class _Call:
    """A call of gRPC's, whose failure is a typed error wherever it shows."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def result(self, timeout: float | None = None) -> Any:
        """Return the answer."""
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise typed(error) from error

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
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise typed(error) from error
