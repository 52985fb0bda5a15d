"""What every failure has: a name, a gRPC code, an HTTP status, parameters. `server.errors` lists the failures."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import ClassVar, NamedTuple

from google.rpc import code_pb2


class FieldViolation(NamedTuple):
    """What is wrong with a field of a request: its path, like `model_api.inputs[0].tabular.name`, and a sentence."""

    field: str
    description: str


# What HTTP says for a gRPC code, unless an error's class says otherwise.
HTTP_STATUS = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.CANCELLED: 499,
    code_pb2.INTERNAL: 500,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}


@dataclass(eq=False, kw_only=True)
class RegistryError(Exception):
    """A failure with a name; subclasses add their parameters as fields."""

    code: ClassVar[int]  # google.rpc.Code
    http_status: ClassVar[int]
    description: ClassVar[str]

    violations: tuple[FieldViolation, ...] = ()
    # When a retry can help; None where it cannot, or where the call may have been executed.
    retry_after: timedelta | None = None
    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "http_status" not in vars(cls):
            cls.http_status = HTTP_STATUS[cls.code]

    @property
    def name(self) -> str:
        """The name that clients switch on, such as `ModelNotFound`."""
        return type(self).__name__

    @property
    def parameters(self) -> dict[str, str]:
        """The offending values by parameter name, such as `modelRid`."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(RegistryError)}
        return {lower_camel(f.name): str(getattr(self, f.name)) for f in fields(self) if f.name in own}

    def __str__(self) -> str:
        details = [f"{key}: {value}" for key, value in self.parameters.items()]
        details += [f"{violation.field}: {violation.description}" for violation in self.violations]
        return self.description + (f" ({'; '.join(details)})" if details else "")


def lower_camel(snake: str) -> str:
    """`model_rid` → `modelRid`."""
    first, *rest = snake.split("_")
    return first + "".join(word.capitalize() for word in rest)
