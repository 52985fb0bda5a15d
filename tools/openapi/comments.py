"""The comments of the protos, which are the reference documentation; the compiled modules leave them out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from server.core.descriptors import described

# What stands in the protos under a name of its own; other comments are about options and the like.
_NAMED = {"message_type", "nested_type", "field", "oneof_decl", "enum_type", "value", "service", "method"}
# A field's comment begins so, and a schema says it with `required`.
_PRESENCE = re.compile(r"(Required|Optional|Output only)\. ")


def comment_on(full_name: str) -> dict[str, str]:
    """Return the comment on a message, field, service or RPC as an OpenAPI description; nothing where there is none."""
    comment = _comments().get(full_name)
    return {"description": comment} if comment else {}


@cache
def _comments() -> dict[str, str]:
    return dict(pair for file in described().file for pair in _comments_of(file))


def _comments_of(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        name = _name_at(file, location.path)
        if name and location.leading_comments:
            lines = (line.removeprefix(" ") for line in location.leading_comments.rstrip().split("\n"))
            yield name, _PRESENCE.sub("", "\n".join(lines), count=1)


def _name_at(file: FileDescriptorProto, path: Sequence[int]) -> str | None:
    """Return the full name of what is at a path of field numbers and indexes, in turn; None if it has no name."""
    part: Any = file
    names = [file.package]
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = part.DESCRIPTOR.fields_by_number[number].name
        if field not in _NAMED:
            return None
        part = getattr(part, field)[index]
        names.append(part.name)
    return ".".join(names) if len(path) % 2 == 0 and path else None
