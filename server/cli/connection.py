"""What client commands share: a client of the server, requests read from files, one way to print and one to fail."""

from __future__ import annotations

import functools
import inspect
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from google.protobuf.message import Message

from modelregistry_client import Registry, RegistryError, connect
from server.cli.options import TARGET, CaCert, ClientCert, ClientKey, Output, Target, Tls, Token
from server.cli.output import fail, show
from server.codec.json_form import from_json, loads
from server.core.config import is_loopback
from server.core.errors import FieldViolation, InvalidArgument

# Exit codes of failed calls are 64 plus the gRPC status code, as grpcurl has them.
EXIT_CODE_BASE = 64
# How much is told of what is wrong with a file: as much as the server would tell.
MAX_VIOLATIONS = 20

RequestT = TypeVar("RequestT", bound=Message)


def client_command(run: Callable[..., Message | None]) -> Callable[..., None]:
    """Make a command of a function that takes a Registry and the command's own options, and may return an answer.

    The command gets the options of the connection and of the output in addition; it prints the answer, or the error.
    A function with an option `output` of its own prints its answer itself.
    """
    own = dict(list(inspect.signature(run, eval_str=True).parameters.items())[1:])

    @functools.wraps(run)
    def command(*, output: Any, **arguments: Any) -> None:
        connection = {name: arguments.pop(name) for name in _connection_parameters}
        if "output" in own:
            arguments["output"] = output
        with open_registry(**connection) as registry:
            try:
                answer = run(registry, **arguments)
            except RegistryError as error:
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


def open_registry(
    target: Target = TARGET,
    token: Token = None,
    tls: Tls = False,
    ca_cert: CaCert = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
) -> Registry:
    """Return a client of the server; any option about certificates means TLS."""
    if token is not None and not (token.isascii() and token.isprintable()):
        fail("--token: a JWT has none but printable ASCII characters")
    _check_certificates(ca_cert, client_cert, client_key)
    roots, chain, key = (path.read_bytes() if path else None for path in (ca_cert, client_cert, client_key))
    is_local = is_loopback(target.rpartition(":")[0].strip("[]"))
    return connect(
        target,
        token or None,
        plaintext=not (tls or roots or chain or key),
        root_certificates=roots,
        client_certificate=chain,
        client_key=key,
        wait_for_ready=False,
        # gRPC would ask a proxy for this very machine, too.
        options=[("grpc.enable_http_proxy", 0)] if is_local else [],
    )


def fail_call(error: RegistryError) -> NoReturn:
    """Say in one line which error it was, with its instance id, and exit."""
    if error.error_instance_id:
        line = f"{error.details()} [instance {error.error_instance_id}]"
    else:
        line = f"{error.code().name}: {error.details()}"
    fail(line, EXIT_CODE_BASE + error.code().value[0])


def read_request(file: str, request_type: type[RequestT]) -> RequestT:
    """Return the request that `--file` names; fail if it is none. `-` is the standard input."""
    try:
        return from_json(loads(_read(file)), request_type)
    except InvalidArgument as error:
        fail(f"--file {file}: {_told(error.violations)}")


def _check_certificates(ca_cert: Path | None, client_cert: Path | None, client_key: Path | None) -> None:
    """Fail for files that cannot be used, of which gRPC would say that the server cannot be reached."""
    if bool(client_cert) != bool(client_key):
        fail("--client-cert and --client-key need each other")
    if not (ca_cert or client_cert):
        return
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except OSError as error:
        fail(f"--ca-cert {ca_cert}: {error}")
    try:
        if client_cert:
            context.load_cert_chain(client_cert, client_key, password="")
    except OSError as error:
        fail(f"--client-cert {client_cert}, --client-key {client_key}: {error}")


def _read(file: str) -> bytes:
    try:
        if file != "-":
            return Path(file).read_bytes()
        if sys.stdin is None:
            fail("--file -: the standard input is closed")
        return sys.stdin.buffer.read()
    except OSError as error:
        fail(f"--file {file}: {error.strerror}")


def _told(violations: tuple[FieldViolation, ...]) -> str:
    shown = [": ".join(filter(None, violation)) for violation in violations[:MAX_VIOLATIONS]]
    if more := len(violations) - len(shown):
        shown.append(f"and {more} more")
    return "; ".join(shown)


_connection_parameters = inspect.signature(open_registry, eval_str=True).parameters
