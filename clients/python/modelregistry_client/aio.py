"""The same client for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import grpc.aio

from modelregistry.v1.access_service_pb2_grpc import AccessServiceStub
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsRequest
from modelregistry.v1.event_service_pb2_grpc import EventServiceStub
from modelregistry.v1.model_service_pb2 import (
    DownloadModelFilesRequest,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from modelregistry.v1.promotion_request_service_pb2_grpc import PromotionRequestServiceStub
from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceStub
from modelregistry.v1.recall_service_pb2_grpc import RecallServiceStub
from modelregistry.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from modelregistry_client.channels import channel_credentials, channel_options
from modelregistry_client.errors import InvalidArgument, RegistryError, failures_typed
from modelregistry_client.files import TRANSFER_SECONDS, Download, DownloadedFiles, Upload
from modelregistry_client.requests import with_request_id, with_token
from modelregistry_client.watching import Progress, watch_request

if TYPE_CHECKING:
    from modelregistry.v1.access_service_pb2_grpc import AccessServiceAsyncStub
    from modelregistry.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from modelregistry.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from modelregistry.v1.promotion_request_service_pb2_grpc import PromotionRequestServiceAsyncStub
    from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceAsyncStub
    from modelregistry.v1.recall_service_pb2_grpc import RecallServiceAsyncStub
    from modelregistry.v1.subscription_service_pb2_grpc import SubscriptionServiceAsyncStub

# How long to wait for the reason of a refusal.
_REFUSAL_SECONDS = 10.0

Token = str | Callable[[], str | Awaitable[str]] | None


def connect(
    target: str,
    token: Token,
    *,
    plaintext: bool = False,
    root_certificates: bytes | None = None,
    client_certificate: bytes | None = None,
    client_key: bytes | None = None,
    wait_for_ready: bool = True,
    options: Sequence[tuple[str, Any]] = (),
) -> Registry:
    """Return a client of the registry, as `modelregistry_client.connect` does; `token` may return an awaitable."""
    arguments = channel_options(options, wait_for_ready=wait_for_ready)
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
        calls = cast("grpc.aio.Channel", _Typed(channel))
        self.models: ModelServiceAsyncStub = ModelServiceStub(calls)
        self.promotions: PromotionServiceAsyncStub = PromotionServiceStub(calls)
        self.recalls: RecallServiceAsyncStub = RecallServiceStub(calls)
        self.promotion_requests: PromotionRequestServiceAsyncStub = PromotionRequestServiceStub(calls)
        self.events: EventServiceAsyncStub = EventServiceStub(calls)
        self.subscriptions: SubscriptionServiceAsyncStub = SubscriptionServiceStub(calls)
        self.access: AccessServiceAsyncStub = AccessServiceStub(calls)

    async def upload_files(
        self, model_rid: str, file: str | PathLike[str], *, timeout: float = TRANSFER_SECONDS
    ) -> UploadModelFilesResponse:
        """Upload a file, as `modelregistry_client.Registry.upload_files` does."""
        with Path(file).open("rb") as source:
            upload = Upload(model_rid, source)
            try:
                return await self.models.UploadModelFiles(_from_thread(upload), timeout=timeout)
            except (RegistryError, asyncio.CancelledError) as error:  # The latter is how gRPC ends it then.
                if upload.read_error:
                    raise upload.read_error from None
                if _hides_a_refusal(error):
                    await self._raise_refusal(model_rid, min(timeout, _REFUSAL_SECONDS))
                raise

    async def _raise_refusal(self, model_rid: str, timeout: float) -> None:
        """Raise what the server refuses an upload to this model with, if it does so before anything of the file."""
        begun = UploadModelFilesRequest(model_rid=model_rid)
        with suppress(InvalidArgument):  # It is not complete.
            await self.models.UploadModelFiles(_from_thread([begun]), timeout=timeout)

    async def download_files(
        self,
        model_rid: str,
        model_version_rid: str,
        to: str | PathLike[str],
        *,
        timeout: float = TRANSFER_SECONDS,
    ) -> DownloadedFiles:
        """Write the model files of a version to a file, as `modelregistry_client.Registry.download_files` does."""
        request = DownloadModelFilesRequest(model_rid=model_rid, model_version_rid=model_version_rid)
        with closing(Download(Path(to))) as download:
            parts: Any = self.models.DownloadModelFiles(request, timeout=timeout)
            try:
                async for part in parts:
                    await asyncio.to_thread(download.add, part)
            finally:
                parts.cancel()
            return await asyncio.to_thread(download.complete)

    def watch_events(
        self,
        *,
        after_cursor: str | None = None,
        model_rid: str | None = None,
        parent_folder_rid: str | None = None,
        branch: str | None = None,
        types: Iterable[str] = (),
    ) -> Watch:
        """Return events as they happen, as `modelregistry_client.Registry.watch_events` does, for `async for`."""
        request = watch_request(after_cursor, model_rid, parent_folder_rid, branch, types)
        return Watch(self.events.WatchEvents, request)

    async def close(self) -> None:
        """End all calls that run, and the connections."""
        await self._channel.close()

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


class Watch:
    """Events as they happen, as `modelregistry_client.Watch` has them, in one task. `close` ends the iteration."""

    def __init__(self, open_stream: Callable[[WatchEventsRequest], Any], request: WatchEventsRequest) -> None:
        self._open = open_stream
        self._progress = Progress(request)
        self._stream: Any = None
        self._closed = asyncio.Event()

    @property
    def cursor(self) -> str | None:
        """Where to go on behind the event that came last; keep it where it outlasts the process."""
        return self._progress.cursor

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._closed.is_set():
            event = self._progress.next_event()
            if event is not None:
                return event
            if self._stream is None:
                self._stream = self._open(self._progress.request)
            try:
                message = await self._stream.read()
            except RegistryError as error:
                if self._closed.is_set():
                    break
                pause = self._progress.pause_after(error)
            except asyncio.CancelledError:
                # gRPC ends a call that was cancelled with this, whoever did it.
                if self._closed.is_set():
                    break
                raise
            else:
                if message is not grpc.aio.EOF:
                    self._progress.took(message)
                    continue
                pause = self._progress.pause_after(None)
            self._stream = None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause)
        raise StopAsyncIteration

    def close(self) -> None:
        """End it."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _hides_a_refusal(error: BaseException) -> bool:
    """Whether the server may have refused a stream for another reason than the one that this error names.

    grpcio says this where a message was about to be sent when the refusal came: github.com/grpc/grpc/issues/36066.
    """
    return isinstance(error, RegistryError) and error.details() == "Internal error from Core"


async def _from_thread(requests: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield the requests of an upload, which are read in a thread, so that the disk does not hold up the loop."""
    iterator = iter(requests)
    while (request := await asyncio.to_thread(next, iterator, None)) is not None:
        yield request


class _Typed:
    """Stands between the stubs and a channel: the failures of its calls are typed errors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, *arguments: Any, **more: Any) -> Callable[..., _Call]:
        return _typed(self._channel.unary_unary(*arguments, **more))

    def unary_stream(self, *arguments: Any, **more: Any) -> Callable[..., _Call]:
        return _typed(self._channel.unary_stream(*arguments, **more), _Stream)

    def stream_unary(self, *arguments: Any, **more: Any) -> Callable[..., _Call]:
        return _typed(self._channel.stream_unary(*arguments, **more))


def _typed(method: Callable[..., Any], kind: type[_Call] | None = None) -> Callable[..., _Call]:
    return lambda *arguments, **more: (kind or _Call)(method(*arguments, **more))


class _Call:
    """A call of gRPC's, whose failure is a typed error wherever it shows."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return _of(self._call).__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        with failures_typed():
            async for part in self._call:
                yield part

    async def read(self) -> Any:
        """Return the next part of the answer, or `grpc.aio.EOF`."""
        return await _of(self._call.read())

    async def write(self, request: Any) -> None:
        """Send the next part of the request."""
        await _of(self._call.write(request))

    async def done_writing(self) -> None:
        """Say that no part follows."""
        await _of(self._call.done_writing())

    async def wait_for_connection(self) -> None:
        """Wait until a server has taken the call."""
        await _of(self._call.wait_for_connection())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Let the callback have this call when it has ended."""
        self._call.add_done_callback(lambda _: callback(self))


class _Stream(_Call):
    """A call whose answers are a stream, cancelled when it is garbage-collected.

    gRPC's own goes on without a reader, and occupies one of the server's threads for streams.
    """

    def __del__(self) -> None:
        if not self._call.done():
            self._call.cancel()


async def _of(awaited: Awaitable[Any]) -> Any:
    with failures_typed():
        return await awaited


class _Authenticated:
    """Gives each call its token."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def _authenticated(self, details: Any) -> Any:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        return details._replace(metadata=grpc.aio.Metadata(*with_token(details.metadata, token)))


class _UnaryUnary(_Authenticated, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = await self._authenticated(client_call_details)
        return await continuation(details, with_request_id(details.method.decode(), request))


class _StreamUnary(_Authenticated, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(await self._authenticated(client_call_details), request_iterator)


class _UnaryStream(_Authenticated, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(await self._authenticated(client_call_details), request)
