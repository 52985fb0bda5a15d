"""The shape of a message, before anything is looked up: no grpc, no SQL, no clock.

`table` says what holds for which field, `rules` and `model_api` what each rule means, `keywords` what JSON Schema says
of it, `walk` finds what is broken.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from server.core.errors import FieldViolation, InvalidArgument
from server.validation.keywords import Keywords, keywords_of
from server.validation.walk import find_broken, rule_of


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


def must_be_given(message: Descriptor) -> set[str]:
    """Return the names of the fields without which no message of this kind is valid."""
    return {path for path, _ in find_broken(GetMessageClass(message)())}


def keywords(field: FieldDescriptor) -> Keywords:
    """Return what JSON Schema can say of the values that a field may have, beside their type."""
    return keywords_of(rule_of(field))
