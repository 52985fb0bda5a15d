"""The routes that the protos give to RPCs with `google.api.http`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

PREVIEW = "preview"

# The RPCs that stream what others list, by these. HTTP can have but one of two RPCs at a path.
_STREAMS = {"/modelregistry.v1.EventService/ListEvents": "WatchEvents"}

_HTTP_METHODS = ("get", "put", "post", "delete", "patch")
_VARIABLE = re.compile(r"\{(\w+)\}")
_PATH = re.compile(r"(?:/(?:[\w.-]+|\{\w+\}))+")
# What text in a path or a query can stand for, beside a time.
_AS_TEXT = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_ENUM,
}


@dataclass(frozen=True)
class Route:
    """One way to call an RPC over HTTP. What the path and the query hold is named as in JSON."""

    http_method: str
    path: str  # such as `/api/v2/models/{modelRid}`
    method: MethodDescriptor
    request_type: type[Message]
    response_type: type[Message]
    path_fields: frozenset[str]
    query_fields: Mapping[str, FieldDescriptor]
    has_body: bool

    @cached_property
    def rpc(self) -> str:
        """The full name of the RPC, such as `/modelregistry.v1.ModelService/GetModel`."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @cached_property
    def is_in_preview(self) -> bool:
        """Whether a caller has to say that a preview is wanted."""
        return PREVIEW in self.request_type.DESCRIPTOR.fields_by_name

    @cached_property
    def changes_something(self) -> bool:
        """Whether the RPC has side effects."""
        asks = self.method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        return self.http_method != "GET" and not asks


def routes_of(services: Iterable[str]) -> list[Route]:
    """Return the routes of the RPCs of these services, by full name, in the order of the protos.

    Raises TypeError for an annotation that asks for what the gateway cannot do.
    """
    pool = descriptor_pool.Default()
    found = []
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            if method.GetOptions().HasExtension(annotations_pb2.http):
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                found += [_route(method, each) for each in (rule, *rule.additional_bindings)]
    return found


def stream_of(route: Route) -> Route | None:
    """Return the route that streams what a route lists, to clients that ask for Server-Sent Events; None if none does.

    It has the same path, and the query of its own request.
    """
    name = _STREAMS.get(route.rpc)
    if name is None:
        return None
    method = route.method.containing_service.methods_by_name[name]
    return dataclasses.replace(
        route,
        method=method,
        request_type=message_factory.GetMessageClass(method.input_type),
        response_type=message_factory.GetMessageClass(method.output_type),
        query_fields={field.json_name: field for field in method.input_type.fields},
    )


def _route(method: MethodDescriptor, rule: HttpRule) -> Route:
    pattern = rule.WhichOneof("pattern")
    template = getattr(rule, pattern) if pattern in _HTTP_METHODS else ""
    fields = method.input_type.fields_by_name
    in_path = _VARIABLE.findall(template)
    has_body = rule.body == "*"
    in_query = [] if has_body else [name for name in fields if name not in in_path and name != PREVIEW]
    if (
        not _PATH.fullmatch(template)
        or rule.body not in {"", "*"}
        or not {*in_path} <= {*fields}
        or not all(_is_text(fields[name]) for name in (*in_path, *in_query))
        or any(fields[name].is_repeated for name in in_path)
        or method.client_streaming
        or method.server_streaming
    ):
        raise TypeError(f"{method.full_name}: the gateway has no way to serve the route {template or pattern!r}")
    return Route(
        http_method=pattern.upper(),
        path=_VARIABLE.sub(lambda variable: f"{{{fields[variable[1]].json_name}}}", template),
        method=method,
        request_type=message_factory.GetMessageClass(method.input_type),
        response_type=message_factory.GetMessageClass(method.output_type),
        path_fields=frozenset(fields[name].json_name for name in in_path),
        query_fields={fields[name].json_name: fields[name] for name in in_query},
        has_body=has_body,
    )


def _is_text(field: FieldDescriptor) -> bool:
    is_time = field.message_type is not None and field.message_type.full_name == Timestamp.DESCRIPTOR.full_name
    return field.type in _AS_TEXT or is_time
