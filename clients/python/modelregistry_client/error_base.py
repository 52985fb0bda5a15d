"""What all errors of the client have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, NamedTuple, TypeVar, overload

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo

Value = TypeVar("Value")


class FieldViolation(NamedTuple):
    """What is wrong with a field of a request: its path, like `model_api.inputs[0].tabular.name`, and a sentence."""

    field: str
    description: str


class RegistryError(grpc.RpcError):
    """A call failed. `code()`, `details()` and the like are those of gRPC's own error, which is the cause."""

    def __init__(self, error: Any, name: str | None = None, details: Mapping[type, Any] | None = None) -> None:
        super().__init__(error.details())
        found = details or {}
        # And not the error itself, which cannot go to another process.
        self._code: grpc.StatusCode = error.code()
        self._initial_metadata = tuple((key, value) for key, value in error.initial_metadata() or ())
        self._trailing_metadata = tuple((key, value) for key, value in error.trailing_metadata() or ())
        self.name = name
        """The name that docs/contract.md lists; None where gRPC itself failed."""
        info = dict(found[ErrorInfo].metadata) if ErrorInfo in found else {}
        info.pop("errorName", None)
        self.error_instance_id: str | None = info.pop("errorInstanceId", None)
        """What the server's log has for this very failure."""
        self.parameters: Mapping[str, str] = info
        """The offending values by name, such as `modelRid`."""
        bad = found[BadRequest].field_violations if BadRequest in found else ()
        self.violations = tuple(FieldViolation(each.field, each.description) for each in bad)
        """The fields of the request that are at fault."""
        self.retry_after: timedelta | None = found[RetryInfo].retry_delay.ToTimedelta() if RetryInfo in found else None
        """When the same request may succeed, and certainly was not carried out."""
        self.call_id: str | None = found[RequestInfo].request_id if RequestInfo in found else None
        """What the server's log has for this call."""

    def code(self) -> grpc.StatusCode:
        """Return the status code of gRPC."""
        return self._code

    def details(self) -> str:
        """Return a sentence for people."""
        return self.args[0] or ""

    def initial_metadata(self) -> Any:
        """Return the headers of the answer."""
        return self._initial_metadata

    def trailing_metadata(self) -> Any:
        """Return the trailers of the answer."""
        return self._trailing_metadata

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        instance = f" [{self.error_instance_id}]" if self.error_instance_id else ""
        return f"{self.code().name}: {self.details()}{instance}"


def _restored(kind: type[RegistryError], args: tuple[Any, ...], state: Mapping[str, Any]) -> RegistryError:
    """Return an error that was copied, or came from another process."""
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class Parameter(Generic[Value]):
    """A parameter of an error as an attribute: `model_rid` is the parameter `modelRid`."""

    def __init__(self, read: Callable[[str], Value]) -> None:
        self._read = read

    def __set_name__(self, owner: type[RegistryError], name: str) -> None:
        first, *rest = name.split("_")
        self.key = first + "".join(word.capitalize() for word in rest)

    @overload
    def __get__(self, error: None, owner: type[RegistryError]) -> Parameter[Value]: ...

    @overload
    def __get__(self, error: RegistryError, owner: type[RegistryError]) -> Value: ...

    def __get__(self, error: RegistryError | None, owner: type[RegistryError]) -> Parameter[Value] | Value:
        if error is None:
            return self
        try:
            return self._read(error.parameters[self.key])
        except (KeyError, ValueError):
            raise AttributeError(f"the server told no {self.key} that can be read: {error.parameters}") from None
