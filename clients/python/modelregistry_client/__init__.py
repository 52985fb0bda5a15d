"""A client of modelregistry: the generated stubs, with what a client does well to set, and typed errors.

`connect` is for threads; `modelregistry_client.aio.connect` for asyncio. Messages are in `modelregistry.v1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import grpc

from modelregistry.v1.access_service_pb2_grpc import AccessServiceStub
from modelregistry.v1.event_service_pb2_grpc import EventServiceStub
from modelregistry.v1.model_service_pb2 import DownloadModelFilesRequest, UploadModelFilesResponse
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from modelregistry.v1.promotion_request_service_pb2_grpc import PromotionRequestServiceStub
from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceStub
from modelregistry.v1.recall_service_pb2_grpc import RecallServiceStub
from modelregistry.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from modelregistry_client.calls import Calls
from modelregistry_client.channels import channel_credentials, channel_options
from modelregistry_client.errors import FieldViolation as FieldViolation
from modelregistry_client.errors import RegistryError as RegistryError
from modelregistry_client.files import TRANSFER_SECONDS, Download, Upload
from modelregistry_client.files import DigestMismatch as DigestMismatch
from modelregistry_client.files import DownloadedFiles as DownloadedFiles
from modelregistry_client.watching import Watch as Watch
from modelregistry_client.watching import watch_request


def connect(
    target: str,
    token: str | Callable[[], str] | None,
    *,
    plaintext: bool = False,
    root_certificates: bytes | None = None,
    client_certificate: bytes | None = None,
    client_key: bytes | None = None,
    wait_for_ready: bool = True,
    options: Sequence[tuple[str, Any]] = (),
) -> Registry:
    """Return a client of the registry at a gRPC target, such as `dns:///registry.example.com:443`.

    `token` is a JWT, or a function that returns one, called before each call; None for calls without. The connection
    has TLS, which trusts the usual authorities or those of `root_certificates` (PEM), unless `plaintext`: then the
    token can be read by everything between client and server. `options` are more of gRPC's channel arguments.

    Calls raise `modelregistry_client.errors.RegistryError`, or one of its subclasses. They wait for a server that can
    be reached, until their timeout: 10 s for reads and 60 s for writes, unless a shorter one is given. For programs
    with a person in front of them, `wait_for_ready=False`: a call fails at once where no server can be reached, or with
    what a server without its database says, and UNAVAILABLE is not retried.
    """
    arguments = channel_options(options, wait_for_ready=wait_for_ready)
    if plaintext:
        channel = grpc.insecure_channel(target, arguments)
    else:
        credentials = channel_credentials(root_certificates, client_certificate, client_key)
        channel = grpc.secure_channel(target, credentials, arguments)
    return Registry(channel, token)


class Registry:
    """The services of one registry, over one channel. May be shared by threads; closed at the end of `with`."""

    def __init__(self, channel: grpc.Channel, token: str | Callable[[], str] | None) -> None:
        self._channel = channel
        calls = cast("grpc.Channel", Calls(channel, token))
        self.models = ModelServiceStub(calls)
        self.promotions = PromotionServiceStub(calls)
        self.recalls = RecallServiceStub(calls)
        self.promotion_requests = PromotionRequestServiceStub(calls)
        self.events = EventServiceStub(calls)
        self.subscriptions = SubscriptionServiceStub(calls)
        self.access = AccessServiceStub(calls)

    def upload_files(
        self, model_rid: str, file: str | PathLike[str], *, timeout: float = TRANSFER_SECONDS
    ) -> UploadModelFilesResponse:
        """Upload a file, and return the upload that a version can name. Raises OSError if it cannot be read.

        `timeout` is in seconds.
        """
        with Path(file).open("rb") as source:
            upload = Upload(model_rid, source)
            try:
                return self.models.UploadModelFiles(iter(upload), timeout=timeout)
            except RegistryError:
                if upload.read_error:
                    raise upload.read_error from None
                raise

    def download_files(
        self,
        model_rid: str,
        model_version_rid: str,
        to: str | PathLike[str],
        *,
        timeout: float = TRANSFER_SECONDS,
    ) -> DownloadedFiles:
        """Write the model files of a version to a file, which is made or replaced when all of them have arrived.

        Raises OSError if it cannot be written, DigestMismatch if the bytes are not those of the version. `timeout` is
        in seconds.
        """
        request = DownloadModelFilesRequest(model_rid=model_rid, model_version_rid=model_version_rid)
        with closing(Download(Path(to))) as download:
            parts: Any = self.models.DownloadModelFiles(request, timeout=timeout)
            try:
                for part in parts:
                    download.add(part)
            finally:
                parts.cancel()
            return download.complete()

    def watch_events(
        self,
        *,
        after_cursor: str | None = None,
        model_rid: str | None = None,
        parent_folder_rid: str | None = None,
        branch: str | None = None,
        types: Iterable[str] = (),
    ) -> Watch:
        """Return events as they happen, from now on or behind a cursor: those that every filter given lets through.

        Where the stream breaks, since a server stops, is lost or the token expires, it goes on by itself behind the
        last one, so that none is missed and none comes twice.
        """
        request = watch_request(after_cursor, model_rid, parent_folder_rid, branch, types)
        return Watch(self.events.WatchEvents, request)

    def close(self) -> None:
        """End all calls that run, and the connections."""
        self._channel.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
