"""A client of modelregistry: the generated stubs, with what a client does well to set, and typed errors.

`connect` is for threads; `modelregistry_client.aio.connect` for asyncio. Messages are in `modelregistry.v1`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, cast

import grpc

from modelregistry.v1.access_service_pb2_grpc import AccessServiceStub
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceStub
from modelregistry_client.calls import Calls
from modelregistry_client.channels import channel_credentials, channel_options
from modelregistry_client.errors import FieldViolation as FieldViolation
from modelregistry_client.errors import RegistryError as RegistryError


def connect(
    target: str,
    token: str | Callable[[], str],
    *,
    plaintext: bool = False,
    root_certificates: bytes | None = None,
    client_certificate: bytes | None = None,
    client_key: bytes | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Registry:
    """Return a client of the registry at a gRPC target, such as `dns:///registry.example.com:443`.

    `token` is a JWT, or what returns one that is good now; it is asked before each call. The connection has TLS, which
    trusts the usual authorities or those of `root_certificates` (PEM), unless `plaintext` says that anybody on the way
    may read the token. `options` are more of gRPC's channel arguments.

    Calls raise `modelregistry_client.errors.RegistryError`, or one of its subclasses. They wait for a server that can
    be reached, until their timeout: 10 s for reads and 60 s for writes, unless a shorter one is given.
    """
    arguments = channel_options(options)
    if plaintext:
        channel = grpc.insecure_channel(target, arguments)
    else:
        credentials = channel_credentials(root_certificates, client_certificate, client_key)
        channel = grpc.secure_channel(target, credentials, arguments)
    return Registry(channel, token)


class Registry:
    """The services of one registry, over one channel. May be shared by threads; closed at the end of `with`."""

    def __init__(self, channel: grpc.Channel, token: str | Callable[[], str]) -> None:
        self._channel = channel
        calls = cast("grpc.Channel", Calls(channel, token))
        self.models = ModelServiceStub(calls)
        self.promotions = PromotionServiceStub(calls)
        self.access = AccessServiceStub(calls)

    def close(self) -> None:
        """End all calls that run, and the connections."""
        self._channel.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
