"""The rules for single values: each takes a field's value and returns what is broken about it, at best nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, NamedTuple

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.model_pb2 import ModelVersionSource
from server.core import rids
from server.core.caller import MAX_PRINCIPAL_BYTES, invisible_character
from server.core.errors import FieldViolation, InvalidBranchName, InvalidDisplayName, InvalidPageSize, RegistryError
from server.core.webhooks import MAX_URL_BYTES, SECRET_PREFIX, parse_url, secret_bytes
from server.validation.keywords import Keywords, keywords_of, says

MAX_DISPLAY_NAME = 700
MAX_BRANCH_NAME = 255
MAX_PAGE_SIZE = 1000
MAX_REASON_BYTES = 4096

# Unicode category Cc, all of it.
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PRINCIPAL = re.compile(r"(?:user|group):.+")

_MOST_SECONDS = 10**9

# The years 1 to 9999, which are what Timestamp and its JSON form can say.
_SECONDS = range(-62_135_596_800, 253_402_300_800)
_NANOS = range(0, 1_000_000_000, 1_000_000)

_LIKE = {
    rids.MODEL: "ri.models.main.model.<uuid>",
    rids.MODEL_VERSION: "ri.models.main.model-version.<uuid>",
    rids.PROMOTION: "ri.models.main.promotion.<uuid>",
    rids.YANK: "ri.models.main.yank.<uuid>",
    rids.PROMOTION_REQUEST: "ri.models.main.promotion-request.<uuid>",
    rids.SUBSCRIPTION: "ri.models.main.subscription.<uuid>",
    rids.FOLDER: "ri.<service>.<instance>.folder.<locator>",
}
_ANY_RID = "a RID, like ri.<service>.<instance>.<type>.<locator>,"


class Broken(NamedTuple):
    """A broken rule: the sentence that completes “this field …”, and the error that names it when it stands alone."""

    sentence: str
    error: Callable[[FieldViolation], RegistryError] | None = None
    below: str = ""  # where the fault lies, seen from the rule's field, such as `[3].name`


Rule = Callable[[Any], Iterable[Broken]]

IS_REQUIRED = Broken("is required")

# For JSON Schema, whose patterns are searched for: without anchors they would allow anything around a match.
_NO_CONTROLS: Keywords = {"pattern": f"^[^{_CONTROLS}]*$"}
_IS_IDENTIFIER: Keywords = {"type": "string", "pattern": f"^(?:{rids.pattern()}|{_UUID.pattern})$"}


# Text


@says(_NO_CONTROLS)
def text(value: str) -> Iterable[Broken]:
    """Any text without control characters."""
    if control := _CONTROL.search(value):
        return (Broken(f"must not contain control characters, but has U+{ord(control[0]):04X} in {shown(value)}"),)
    return ()


@says({"pattern": f"^(?:[\\t\\n\\r]|[^{_CONTROLS}])*$"})
def text_on_lines(value: str) -> Iterable[Broken]:
    """Any text without control characters other than tabs and what ends lines: as of people, and in spreadsheets."""
    if control := _CONTROL_BUT_LINES.search(value):
        sentence = "must not contain control characters other than tab, line feed and carriage return, but has"
        return (Broken(f"{sentence} U+{ord(control[0]):04X} in {shown(value)}"),)
    return ()


@says({**_NO_CONTROLS, "minLength": 1})
def required_text(value: str) -> Iterable[Broken]:
    """Text that is not empty."""
    return text(value) if value else (IS_REQUIRED,)


def opaque(value: str | bytes) -> Iterable[Broken]:
    """Text or bytes that their reader alone can judge."""
    return ()


@says({"minLength": 1})
def given(value: str) -> Iterable[Broken]:
    """Text that is not empty, and that its reader alone can judge."""
    return () if value else (IS_REQUIRED,)


@says({"pattern": f"^{_SHA256.pattern}$"})
def sha256(value: str) -> Iterable[Broken]:
    """A digest, as text."""
    return () if _SHA256.fullmatch(value) else (Broken(f"must be 64 hexadecimal digits, not {shown(value)}"),)


@says({"pattern": f"^{_UUID.pattern}$"})
def uuid(value: str) -> Iterable[Broken]:
    """The id of a request, which its caller makes up."""
    return () if _UUID.fullmatch(value) else (Broken(f"must be a UUID, not {shown(value)}"),)


@says({**keywords_of(text_on_lines), "maxLength": MAX_REASON_BYTES})
def reason(value: str) -> Iterable[Broken]:
    """Free text of a person, of any number of lines."""
    if (size := len(value.encode())) > MAX_REASON_BYTES:
        return (Broken(f"must be at most {MAX_REASON_BYTES} bytes long, not {size}"),)
    return text_on_lines(value)


@says({**keywords_of(reason), "minLength": 1})
def required_reason(value: str) -> Iterable[Broken]:
    """Free text of a person, who has to give some."""
    return reason(value) if value else (IS_REQUIRED,)


@says({"minLength": 1, "maxLength": MAX_DISPLAY_NAME, "pattern": f"^[^/{_CONTROLS}]*$", "not": {"enum": [".", ".."]}})
def display_name(value: str) -> Iterable[Broken]:
    """The name of a model in its folder."""

    def error(violation: FieldViolation) -> RegistryError:
        return InvalidDisplayName(display_name=value, violations=(violation,))

    if not 1 <= len(value) <= MAX_DISPLAY_NAME:
        yield Broken(f"must be 1 to {MAX_DISPLAY_NAME} characters long, not {len(value)}", error)
    elif value in {".", ".."} or "/" in value:
        yield Broken(f"must not be '.' or '..' and must not contain '/', not {shown(value)}", error)
    else:
        yield from (Broken(broken.sentence, error) for broken in text(value))


@says({**_NO_CONTROLS, "minLength": 1, "maxLength": MAX_BRANCH_NAME, "not": _IS_IDENTIFIER})
def branch_name(value: str) -> Iterable[Broken]:
    """The name of a branch, which cannot be mistaken for an identifier."""

    def error(violation: FieldViolation) -> RegistryError:
        return InvalidBranchName(branch_name=value, violations=(violation,))

    if not 1 <= len(value) <= MAX_BRANCH_NAME:
        yield Broken(f"must be 1 to {MAX_BRANCH_NAME} characters long, not {len(value)}", error)
    elif rids.rid_type(value) is not None or _UUID.fullmatch(value):
        yield Broken(f"must not be shaped like a RID or a UUID, as {shown(value)} is", error)
    else:
        yield from (Broken(broken.sentence, error) for broken in text(value))


@says({**_NO_CONTROLS, "minLength": 1, "maxLength": MAX_BRANCH_NAME})
def foreign_branch_name(value: str) -> Iterable[Broken]:
    """The name of a branch in another system, whose rules are its own."""
    if len(value) > MAX_BRANCH_NAME:
        return (Broken(f"must be at most {MAX_BRANCH_NAME} characters long, not {len(value)}"),)
    return required_text(value)


@says({"pattern": f"^(?:user|group):[^{_CONTROLS}]+$", "maxLength": MAX_PRINCIPAL_BYTES})
def principal(value: str) -> Iterable[Broken]:
    """A user or a group."""
    if not value:
        yield IS_REQUIRED
    elif (size := len(value.encode())) > MAX_PRINCIPAL_BYTES:
        yield Broken(f"must be at most {MAX_PRINCIPAL_BYTES} bytes long, not {size}")
    elif _CONTROL.search(value):
        yield from text(value)
    elif not _PRINCIPAL.fullmatch(value):
        yield Broken(f"must be 'user:<sub>' or 'group:<name>', not {shown(value)}")


@says(keywords_of(principal))
def new_grantee(value: str) -> Iterable[Broken]:
    """A user or a group who is given something: what others can neither see nor tell apart is not in its name."""
    broken = list(principal(value))
    if not broken and (invisible := invisible_character(value)) is not None:
        sentence = "must not contain what is not seen, turns characters around or can be taken for a blank, but has"
        broken.append(Broken(f"{sentence} U+{ord(invisible):04X} in {value!a}"))
    return broken


# Webhooks


# Not all that these let through is a host, but whoever reads them sees what is.
_HOSTS = (
    r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9_-]*\.?",
    r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
    r"\[[0-9A-Fa-f:.]+\]",
)
_URL = rf"https://(?:{'|'.join(_HOSTS)})(?::[0-9]{{1,5}})?(?:[/?][!\x22$-\[\]-~]*)?"


@says({"maxLength": MAX_URL_BYTES, "pattern": f"^{_URL}$"})
def webhook_url(value: str) -> Iterable[Broken]:
    """Where webhooks are sent to."""
    if not value:
        return (IS_REQUIRED,)
    try:
        parse_url(value)
    except ValueError as error:
        return (Broken(str(error)),)
    return ()


_SIGN = "[A-Za-z0-9+/]"
# 24 to 64 bytes: in Base64, four signs are three of them.
_SECRET = f"(?:{_SIGN}{{4}}){{8,21}}(?:{_SIGN}{{2}}==)?|(?:{_SIGN}{{4}}){{8,20}}{_SIGN}{{3}}="


@says({"pattern": f"^{SECRET_PREFIX}(?:{_SECRET})$"})
def webhook_secret(value: str) -> Iterable[Broken]:
    """What signs webhooks. What is told of a broken one has nothing of it."""
    try:
        secret_bytes(value)
    except ValueError as error:
        return (Broken(str(error)),)
    return ()


# RIDs


def rid(*types: str, required: bool = True) -> Rule:
    """Return the rule for a RID of one of these types; of any type if none is named."""
    expected = " or ".join(f"the RID of a {kind}, like {_LIKE[kind]}," for kind in types) or _ANY_RID

    @says({"pattern": f"^{rids.pattern(*types)}$", "maxLength": rids.MAX_BYTES})
    def rule(value: str) -> Iterable[Broken]:
        if not value and required:
            return (IS_REQUIRED,)
        kind = rids.rid_type(value)
        if kind is not None and (not types or kind in types):
            return ()
        if (size := len(value.encode())) > rids.MAX_BYTES:
            return (Broken(f"must be {expected} of at most {rids.MAX_BYTES} bytes, not {size}"),)
        return (Broken(f"must be {expected} not {shown(value)}"),)

    return rule


# Numbers, enums and other messages


@says({"minimum": 0, "maximum": MAX_PAGE_SIZE})
def page_size(value: int) -> Iterable[Broken]:
    """How much to return at most; 0 leaves it to the server."""

    def error(violation: FieldViolation) -> RegistryError:
        return InvalidPageSize(page_size=value, violations=(violation,))

    if not 0 <= value <= MAX_PAGE_SIZE:
        yield Broken(f"must be 0 to {MAX_PAGE_SIZE}, not {value}", error)


@says({"minimum": 1})
def version_number(value: int) -> Iterable[Broken]:
    """A position on a branch, which counts from 1."""
    return () if value > 0 else (Broken(f"must be 1 or more, not {value}"),)


@says({"minimum": 0})
def not_negative(value: int) -> Iterable[Broken]:
    """A count, or a position that counts from 1; 0 is what an unset one looks like."""
    return (Broken(f"must not be negative, but is {value}"),) if value < 0 else ()


def between(least: int, most: int) -> Rule:
    """Return the rule for a number of a range, both ends included."""

    @says({"minimum": least, "maximum": most})
    def rule(value: int) -> Iterable[Broken]:
        return () if least <= value <= most else (Broken(f"must be {least} to {most}, not {value}"),)

    return rule


def known(enum: EnumDescriptor, *, required: bool = False) -> Rule:
    """Return the rule for an enum field: a number that the enum has, and if required not the unspecified one."""
    expected = ", ".join(value.name for value in enum.values if value.number)

    def rule(value: int) -> Iterable[Broken]:
        if value not in enum.values_by_number:
            return (Broken(f"must be one of {expected}, not {value}"),)
        return (Broken(f"is required, one of {expected}"),) if required and not value else ()

    return rule


def one_of(*names: str) -> Rule:
    """Return the rule for a text that is one of these."""

    @says({"enum": list(names)})
    def rule(value: str) -> Iterable[Broken]:
        return () if value in names else (Broken(f"must be one of {', '.join(names)}, not {shown(value)}"),)

    return rule


def whole_milliseconds(value: Timestamp) -> Iterable[Broken]:
    """A time that is stored and shown without loss."""
    if value.seconds not in _SECONDS or value.nanos not in _NANOS:
        yield Broken(
            f"must be whole milliseconds in the years 1 to 9999, not {value.seconds} s and {value.nanos} ns",
        )


@says({"pattern": r"^(?!0+(?:\.0+)?s$)[0-9]{1,9}(?:\.[0-9]{1,3})?s$"})
def lasting(value: Duration) -> Iterable[Broken]:
    """A duration that is more than none, and is stored and shown without loss."""
    is_none = not value.seconds and not value.nanos
    if is_none or value.seconds not in range(_MOST_SECONDS) or value.nanos not in _NANOS:
        yield Broken(
            f"must be whole milliseconds, more than none and less than {_MOST_SECONDS} s, not {value.seconds} s and"
            f" {value.nanos} ns"
        )


@says({"not": {"required": ["type"], "properties": {"type": {"const": "promoted"}}}})
def claimable_source(value: ModelVersionSource) -> Iterable[Broken]:
    """A source that a client may name: only a promotion makes a promoted version."""
    if value.HasField("promoted"):
        yield Broken("is set by PromoteVersion alone", below=".promoted")


# Rules from rules


def unless_empty(rule: Rule) -> Rule:
    """Return the rule for a field whose presence is checked elsewhere."""
    return lambda value: rule(value) if value else ()


def each(rule: Rule) -> Rule:
    """Return the rule for a list whose every item keeps this rule."""

    @says({"items": keywords_of(rule)})
    def every(values: Iterable[Any]) -> Iterable[Broken]:
        for index, value in enumerate(values):
            for broken in rule(value):
                yield broken._replace(below=f"[{index}]{broken.below}")

    return every


def from_1_to(most: int) -> Rule:
    """Return the rule for a list that has something in it, and no more than so much."""
    return _counted(1, most)


def at_most(most: int) -> Rule:
    """Return the rule for a list that has no more than so much in it."""
    return _counted(0, most)


def _counted(least: int, most: int) -> Rule:
    @says({"minItems": least, "maxItems": most})
    def counted(values: Sized) -> Iterable[Broken]:
        if not least <= len(values) <= most:
            yield Broken(f"must have {least} to {most} entries, not {len(values)}")

    return counted


def all_of(*rules: Rule) -> Rule:
    """Return the rule for a value that keeps all of these rules; what breaks one is not asked for the next."""

    @says({key: value for rule in rules for key, value in keywords_of(rule).items()})
    def every(value: Any) -> Iterable[Broken]:
        return next((broken for rule in rules if (broken := tuple(rule(value)))), ())

    return every


def entries(rule: Rule) -> Rule:
    """Return the rule for a map whose every key and value keeps this rule."""

    @says({"propertyNames": keywords_of(rule), "additionalProperties": keywords_of(rule)})
    def every(values: Mapping[str, Any]) -> Iterable[Broken]:
        for key, value in values.items():
            for broken in rule(key):
                yield Broken(f"has a key that {broken.sentence}", below=_subscript(key))
            for broken in rule(value):
                yield broken._replace(below=_subscript(key) + broken.below)

    return every


def shown(value: str) -> str:
    """Return a value as a sentence quotes it: on one line, and not without end."""
    quoted = repr(value[:100])
    return quoted if len(quoted) <= 100 and len(value) <= 100 else f"{quoted[:98]}…{quoted[-1]}"


def _subscript(key: str) -> str:
    quoted = json.dumps(key[:100], ensure_ascii=False)
    return f"[{_CONTROL.sub(_escaped, quoted)}]"


def _escaped(control: re.Match[str]) -> str:
    return f"\\u{ord(control[0]):04x}"
