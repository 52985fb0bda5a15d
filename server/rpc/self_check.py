"""A call that the server makes of itself, the way that the calls of others go: through the chain, and to the storage.

It is served only to the process that makes it, which shows a secret of its own: its one thread is kept for it, so that
however busy the server is the call is answered, and a stranger's call must not take that thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from server.auth.access import SELF_CHECK
from server.errors import Overloaded, RegistryError
from server.logs import get_logger
from server.rpc.health import NOT_SERVING, SERVING

METHOD = f"/{SELF_CHECK}/Check"
_KEY = "x-self-check"

log = get_logger(__name__)


class SelfCheck:
    """Answers SERVING while the storage answers."""

    def __init__(self) -> None:
        self._secret = secrets.token_hex(16)

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that may come in."""
        return ((_KEY, self._secret),)

    def may_call(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether a call shows the secret."""
        shown = [str(value) for key, value in details.invocation_metadata if key == _KEY]
        return len(shown) == 1 and secrets.compare_digest(shown[0].encode(), self._secret.encode())

    def add_to(self, server: grpc.Server, ping: Callable[[], None]) -> None:
        """Let the server serve it; `ping` returns if the storage answers, and raises RegistryError if it does not."""

        def check(_: object, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
            try:
                ping()
            except Overloaded:
                pass  # Busy is not away.
            except RegistryError as error:
                log.warning("the storage does not answer: %s", error.__cause__ or error)
                return health_pb2.HealthCheckResponse(status=NOT_SERVING)
            return health_pb2.HealthCheckResponse(status=SERVING)

        handler = grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SELF_CHECK, {"Check": handler}),))
