"""Where the contract's JSON has a field: violations are found in messages, and told to those who sent JSON."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor

_PART = re.compile(r'\.?(?P<name>\w+)|(?P<subscript>\[(?:\d+|"(?:[^"\\]|\\.)*")\])')


def json_path(descriptor: Descriptor | None, path: str) -> str:
    """Return the path in JSON of a path in a message: `model_api.inputs[0].tabular.name` is `modelApi.inputs[0].name`.

    A part that the message does not have stays as it is.
    """
    result = ""
    for part in _PART.finditer(path):
        if part["subscript"]:
            result += part["subscript"]
            continue
        field = descriptor.fields_by_name.get(part["name"]) if descriptor else None
        is_member = field is not None and field.containing_oneof is not None and field.containing_oneof.name == "type"
        if not is_member:  # members of a union have no key of their own
            result += f".{field.json_name if field else part['name']}"
        descriptor = field.message_type if field else None
    return result.removeprefix(".")
