"""The same client for asyncio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc.aio

from modelregistry.v1.access_service_pb2_grpc import AccessServiceStub
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceStub
from modelregistry_client.channels import channel_credentials, channel_options
from modelregistry_client.errors import typed
from modelregistry_client.requests import CallDetails, with_request_id, with_token

if TYPE_CHECKING:
    from modelregistry.v1.access_service_pb2_grpc import AccessServiceAsyncStub
    from modelregistry.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceAsyncStub

Token = str | Callable[[], str | Awaitable[str]]


def connect(
    target: str,
    token: Token,
    *,
    plaintext: bool = False,
    root_certificates: bytes | None = None,
    client_certificate: bytes | None = None,
    client_key: bytes | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Registry:
    """Return a client of the registry, as `modelregistry_client.connect` does; `token` may return an awaitable."""
    arguments = channel_options(options)
    interceptors: list[grpc.aio.ClientInterceptor] = [_UnaryUnary(token), _UnaryStream(token), _StreamUnary(token)]
    if plaintext:
        channel = grpc.aio.insecure_channel(target, arguments, interceptors=interceptors)
    else:
        credentials = channel_credentials(root_certificates, client_certificate, client_key)
        channel = grpc.aio.secure_channel(target, credentials, arguments, interceptors=interceptors)
    return Registry(channel)


class Registry:
    """The services of one registry, over one channel of one event loop. Closed at the end of `async with`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.models: ModelServiceAsyncStub = ModelServiceStub(channel)
        self.promotions: PromotionServiceAsyncStub = PromotionServiceStub(channel)
        self.access: AccessServiceAsyncStub = AccessServiceStub(channel)

    async def close(self) -> None:
        """End all calls that run, and the connections."""
        await self._channel.close()

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


class _Authenticated:
    """Gives each call its token."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def _authenticated(self, details: Any) -> Any:
        token = self._token if isinstance(self._token, str) else self._token()
        if inspect.isawaitable(token):
            token = await token
        return CallDetails(
            method=details.method,
            timeout=details.timeout,
            metadata=grpc.aio.Metadata(*with_token(details.metadata, token)),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=None,
        )


class _UnaryUnary(_Authenticated, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = await self._authenticated(client_call_details)
        return await _ended(await continuation(details, with_request_id(details.method.decode(), request)))


class _StreamUnary(_Authenticated, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await _ended(await continuation(await self._authenticated(client_call_details), request_iterator))


class _UnaryStream(_Authenticated, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _parts(await continuation(await self._authenticated(client_call_details), request))


async def _ended(call: Any) -> Any:
    """Return a call when it has its answer. Raises a typed error if it gets none."""
    try:
        await call
    except grpc.RpcError as error:
        raise typed(error) from error
    return call


async def _parts(call: Any) -> AsyncIterator[Any]:
    try:
        async for part in call:
            yield part
    except grpc.RpcError as error:
        raise typed(error) from error
