"""The shape of a message, before anything is looked up: no grpc, no SQL, no clock.

`table` says what holds for which field, `rules` and `model_api` what each rule means, `keywords` what JSON Schema says
of it, `walk` finds what is broken.
"""

from __future__ import annotations

from google.protobuf.message import Message

from server.core.errors import FieldViolation, InvalidArgument
from server.validation.walk import find_broken


def validate(message: Message) -> None:
    """Return if every field has the shape that the contract gives it.

    Raises the violation's own error, such as InvalidBranchName, if exactly one field is broken and it has one;
    otherwise InvalidArgument with every violation, up to a bound. Whether `preview` is set and whether a page token is
    a good one is for others to say.
    """
    found = find_broken(message)
    if not found:
        return
    violations = tuple(FieldViolation(path, broken.sentence) for path, broken in found)
    if len(found) == 1 and (error_for := found[0][1].error) is not None:
        raise error_for(violations[0])
    raise InvalidArgument(violations=violations)
