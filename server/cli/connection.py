"""What client commands share: a channel to the server, one way to print, one way to fail."""

from __future__ import annotations

import functools
import inspect
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from modelregistry.v1.access_service_pb2_grpc import AccessServiceStub
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from modelregistry.v1.promotion_service_pb2_grpc import PromotionServiceStub
from server.cli.options import TARGET, CaCert, ClientCert, ClientKey, Output, Target, Tls, Token
from server.cli.output import fail, show
from server.core.config import is_loopback

DEADLINE_SECONDS = 30.0
# Of calls that stream files; the server's own bound.
TRANSFER_SECONDS = 6 * 3600.0
T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

# Exit codes of failed calls are 64 plus the gRPC status code, as grpcurl has them.
EXIT_CODE_BASE = 64


@dataclass(frozen=True)
class Client:
    """The services of a server, called with a token and a deadline."""

    models: ModelServiceStub
    promotions: PromotionServiceStub
    access: AccessServiceStub
    token: str | None

    def call(self, method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Call one of the methods. Raises grpc.RpcError."""
        return method(request, metadata=self._metadata(), timeout=DEADLINE_SECONDS)

    def call_streaming(self, method: Callable[..., T], request: object) -> T:
        """Call one of the methods with streams of files. Raises grpc.RpcError, also from what it returns."""
        return method(request, metadata=self._metadata(), timeout=TRANSFER_SECONDS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def client_of(channel: grpc.Channel, token: str | None) -> Client:
    """Return the services behind a channel."""
    return Client(ModelServiceStub(channel), PromotionServiceStub(channel), AccessServiceStub(channel), token)


def client_command(run: Callable[..., Message | None]) -> Callable[..., None]:
    """Make a command of a function that takes a Client and the command's own options, and may return an answer.

    The command gets the options of the connection and of the output in addition; it prints the answer, or the error.
    A function with an option `output` of its own prints its answer itself.
    """
    own = dict(list(inspect.signature(run, eval_str=True).parameters.items())[1:])

    @functools.wraps(run)
    def command(*, output: Any, **arguments: Any) -> None:
        connection = {name: arguments.pop(name) for name in _connection_parameters}
        if "output" in own:
            arguments["output"] = output
        with open_channel(**connection) as channel:
            client = client_of(channel, connection["token"])
            try:
                answer = run(client, **arguments)
            except grpc.RpcError as error:
                fail_call(error)
            except ValueError as error:
                fail(f"no request can say this: {error}")
        if answer is not None:
            show(answer, output)

    output_parameter = inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default="json", annotation=Output)
    parameters = [
        *(parameter for name, parameter in own.items() if name != "output"),
        *_connection_parameters.values(),
        own.get("output", output_parameter),
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def open_channel(
    target: Target = TARGET,
    token: Token = None,
    tls: Tls = False,
    ca_cert: CaCert = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
) -> grpc.Channel:
    """Return a channel to the server; any option about certificates means TLS."""
    if token is not None and not (token.isascii() and token.isprintable()):
        fail("--token: a JWT has none but printable ASCII characters")
    # gRPC would ask a proxy for this very machine, too.
    options = [("grpc.enable_http_proxy", 0)] if is_loopback(target.rpartition(":")[0].strip("[]")) else []
    # The server bounds what it answers; what it has stored must not look like a failure.
    options.append(("grpc.max_receive_message_length", -1))
    if not (tls or ca_cert or client_cert or client_key):
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, _credentials(ca_cert, client_cert, client_key), options)


def error_info(error: Any) -> dict[str, str]:
    """Return the name, the parameters and the instance id of an error; nothing if it is none of the registry's."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return dict(info.metadata)
    return {}


def fail_call(error: grpc.RpcError) -> NoReturn:
    """Say in one line which error it was, with its instance id, and exit."""
    call: Any = error
    code: grpc.StatusCode = call.code()
    info = error_info(error)
    instance = f" [instance {info['errorInstanceId']}]" if info else ""
    line = call.details() if instance else f"{code.name}: {call.details()}"
    fail(line + instance, EXIT_CODE_BASE + code.value[0])


def _credentials(ca_cert: Path | None, client_cert: Path | None, client_key: Path | None) -> grpc.ChannelCredentials:
    if bool(client_cert) != bool(client_key):
        fail("--client-cert and --client-key need each other")
    # Of a file that it cannot use gRPC says that the server cannot be reached, so they are tried here first.
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except OSError as error:
        fail(f"--ca-cert {ca_cert}: {error}")
    try:
        if client_cert:
            context.load_cert_chain(client_cert, client_key, password="")
    except OSError as error:
        fail(f"--client-cert {client_cert}, --client-key {client_key}: {error}")
    roots, chain, key = (path.read_bytes() if path else None for path in (ca_cert, client_cert, client_key))
    return grpc.ssl_channel_credentials(roots, key, chain)


_connection_parameters = inspect.signature(open_channel, eval_str=True).parameters
