"""What breaks when one Model API takes the place of another: callers by its inputs, consumers by its outputs.

The two are mirrors. Callers give what the head takes, and the candidate expects what it takes itself; the candidate
gives what it returns, and consumers expect what the head returned. What is given has to fit what is expected.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_BECAME_OPTIONAL as BECAME_OPTIONAL
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_BECAME_REQUIRED as BECAME_REQUIRED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_FORMAT_CHANGED as FORMAT_CHANGED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_KIND_CHANGED as KIND_CHANGED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_REMOVED as REMOVED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_REQUIRED_ADDED as REQUIRED_ADDED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_TYPE_CHANGED as TYPE_CHANGED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_TYPE_NARROWED as TYPE_NARROWED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_TYPE_WIDENED as TYPE_WIDENED
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_RULE_UNSUPPORTED_TYPE as UNSUPPORTED_TYPE
from modelregistry.v1.compatibility_pb2 import SEVERITY_ERROR as ERROR
from modelregistry.v1.compatibility_pb2 import SEVERITY_WARN as WARN
from modelregistry.v1.compatibility_pb2 import CompatibilityFinding, CompatibilityRule, Severity
from modelregistry.v1.model_api_pb2 import (
    TABULAR_FORMAT_PANDAS,
    TABULAR_FORMAT_SPARK,
    Column,
    DataType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularType,
    UnsupportedType,
)
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.cancellation import require_wanted

# Data types


# How much is quoted of a name and shown of a type, so that a message stays small whatever it is about.
MAX_QUOTED: Final = 100
MAX_SHOWN_LEVELS: Final = 3

# Made once, since json.dumps makes one for each name.
_JSON: Final = json.JSONEncoder(ensure_ascii=False)

ANY: Final = "any"
UNSUPPORTED: Final = "unsupported"

# The fields with the types that a type is made of, and what their values are called.
INNER_TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "array": {"item_type": "items"},
    "map": {"key_type": "keys", "value_type": "values"},
}

# The types that take all values of a type, besides `any`. A double takes a long as data frames do: nearly.
_WIDER: Final[Mapping[str, frozenset[str]]] = {
    "integer": frozenset({"long", "double"}),
    "long": frozenset({"double"}),
    "float": frozenset({"double"}),
}


def kind_of(data_type: DataType) -> str:
    """Return which type it is, without what it is made of. One that a later release can describe is unsupported."""
    return data_type.WhichOneof("type") or UNSUPPORTED


def inner_type(data_type: DataType, field: str) -> DataType:
    """Return one of the types that a type is made of: the field is one of INNER_TYPES."""
    inner = getattr(getattr(data_type, kind_of(data_type)), field)
    assert isinstance(inner, DataType)
    return inner


def is_wider(kind: str, other: str) -> bool:
    """Whether the first of two kinds that differ takes all values of the second."""
    return kind == ANY or kind in _WIDER.get(other, ())


def shown(data_type: DataType, levels: int = MAX_SHOWN_LEVELS) -> str:
    """Return a type as a message shows it, such as `array<map<string, long>>`; its innermost levels may be left out."""
    kind = kind_of(data_type)
    if kind == UNSUPPORTED:
        return f"{UNSUPPORTED} {quoted(data_type.unsupported.unsupported_type)}"
    if kind not in INNER_TYPES:
        return kind
    if levels == 1:
        return f"{kind}<…>"
    return f"{kind}<{', '.join(shown(inner_type(data_type, field), levels - 1) for field in INNER_TYPES[kind])}>"


def quoted(name: str) -> str:
    """Return a name in quotes, cut if it is long."""
    return _JSON.encode(name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}…")


# The comparison


# A verdict that was stored belongs to the rules that it was made by: raise this whenever a verdict can change.
RULES_VERSION: Final = 1

# How much of the findings is kept, in bytes of a message, and what one adds to its own bytes there.
MAX_FINDINGS_BYTES: Final = 2**20
_TAG_BYTES: Final = 8

# After so many parts, a comparison ends if it is not wanted any more, and lets other threads go on: these wait 0.4 ms
# for the interpreter then, and otherwise 5 ms each time. It takes a third longer itself.
PARTS_AT_A_TIME: Final = 64
_PAUSE_SECONDS: Final = 50e-6

_T = TypeVar("_T")
_Rule: TypeAlias = "CompatibilityRule.ValueType"
_Item: TypeAlias = TabularType | ParameterType | UnsupportedType
_Part: TypeAlias = _Item | Column
_P = TypeVar("_P", bound=_Part)
_Findings: TypeAlias = Iterator[CompatibilityFinding]

_FORMATS: Final[Mapping[int, str]] = {TABULAR_FORMAT_PANDAS: "pandas", TABULAR_FORMAT_SPARK: "Spark"}


def compare(head: ModelApi, candidate: ModelApi) -> Promotion:
    """Return what can break when the candidate replaces the head, as a message with findings and their counts.

    Errors come first, then warnings, as many as MAX_FINDINGS_BYTES have room for; all are counted. Each of the two in
    the order of the Model API: inputs before outputs, what the head has in its order, then what is new. The head and
    the candidate are valid. Raises CallOver.
    """
    kept, warnings, counts = _Record(), _Record(), Counter[int]()
    for side, before, after in ((_INPUTS, head.inputs, candidate.inputs), (_OUTPUTS, head.outputs, candidate.outputs)):
        for finding in _items(side, before, after):
            counts[finding.severity] += 1
            (kept if finding.severity == ERROR else warnings).add(finding)
    for finding in warnings.findings:
        kept.add(finding)
    return Promotion(findings=kept.findings, error_count=counts[ERROR], warning_count=counts[WARN])


class _Record:
    """As many findings as a record has room for: from the first that does not fit, none is kept."""

    def __init__(self) -> None:
        self.findings: list[CompatibilityFinding] = []
        self._bytes = 0

    def add(self, finding: CompatibilityFinding) -> None:
        if self._bytes <= MAX_FINDINGS_BYTES:
            self._bytes += finding.ByteSize() + _TAG_BYTES
        if self._bytes <= MAX_FINDINGS_BYTES:
            self.findings.append(finding)


def _paced(parts: Iterable[_T]) -> Iterator[_T]:
    """Yield the parts; every now and then, see that they are wanted, and let other threads go on. Raises CallOver."""
    for number, part in enumerate(parts, 1):
        yield part
        if number % PARTS_AT_A_TIME == 0:
            require_wanted()
            time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True)
class _Side:
    """The inputs or the outputs: which rules are broken there, how bad it is, and in which words."""

    noun: str
    presence_lost: _Rule
    type_misfit: _Rule
    column_removed: Severity.ValueType
    sentences: Mapping[_Rule, str]

    def flow(self, head: _T, candidate: _T) -> tuple[_T, _T]:
        """Return what is given and what is expected."""
        return (head, candidate) if self is _INPUTS else (candidate, head)


_INPUTS: Final = _Side(
    noun="input",
    presence_lost=BECAME_REQUIRED,
    type_misfit=TYPE_NARROWED,
    # Most models ignore a column that they do not know.
    column_removed=WARN,
    sentences={
        REQUIRED_ADDED: "The {subject} is new, and {demand}: callers do not give it yet.",
        BECAME_REQUIRED: "The {subject} must be given now and was optional before: callers may leave it out.",
        REMOVED: "The {subject} is not taken now and was before: callers still send it.",
        TYPE_NARROWED: "The {subject} takes {now} now instead of {was}: callers may send values that no longer fit.",
        TYPE_CHANGED: "The {subject} takes {now} now instead of {was}: what callers send is of another type.",
        KIND_CHANGED: "The {subject} is a {now} now instead of a {was}: callers still send the {was}.",
        FORMAT_CHANGED: "The {subject} is a {now} data frame now instead of a {was} one: callers still send {was}.",
        UNSUPPORTED_TYPE: "The {subject} {fact} now as before: nobody can tell whether what callers send still fits.",
    },
)
_OUTPUTS: Final = _Side(
    noun="output",
    presence_lost=BECAME_OPTIONAL,
    type_misfit=TYPE_WIDENED,
    column_removed=ERROR,
    sentences={
        BECAME_OPTIONAL: "The {subject} may be missing now and was always there before: consumers may count on it.",
        REMOVED: "The {subject} is not returned now and was before: consumers still read it.",
        TYPE_WIDENED: "The {subject} returns {now} now instead of {was}: consumers may get values that do not fit.",
        TYPE_CHANGED: "The {subject} returns {now} now instead of {was}: what consumers get is of another type.",
        KIND_CHANGED: "The {subject} is a {now} now instead of a {was}: consumers still read the {was}.",
        FORMAT_CHANGED: "The {subject} is a {now} data frame now instead of a {was} one: consumers still read {was}.",
        UNSUPPORTED_TYPE: "The {subject} {fact} now as before: nobody can tell whether consumers can still read it.",
    },
)


class _Place(NamedTuple):
    """Where something is: by its path, and in words."""

    path: str
    subject: str

    def at(self, field: str) -> _Place:
        return _Place(f"{self.path}.{field}", self.subject)


def _items(
    side: _Side,
    head: Iterable[ModelApiInput | ModelApiOutput],
    candidate: Iterable[ModelApiInput | ModelApiOutput],
) -> _Findings:
    def place(item: _Item) -> _Place:
        if isinstance(item, UnsupportedType):
            name = quoted(item.unsupported_type)
            return _Place(f"{side.noun}s[unsupported {name}]", f"{side.noun} of the unsupported type {name}")
        name = quoted(item.name)
        return _Place(f"{side.noun}s[{name}]", f"{side.noun} {name}")

    return _lists(side, place, _identified(head), _identified(candidate), ERROR)


def _columns(side: _Side, table: _Place, head: TabularType, candidate: TabularType) -> _Findings:
    def place(column: Column) -> _Place:
        name = quoted(column.name)
        return _Place(f"{table.path}.columns[{name}]", f"column {name} of the {table.subject}")

    before, after = ({column.name: column for column in each.columns} for each in (head, candidate))
    return _lists(side, place, before, after, side.column_removed)


def _lists(
    side: _Side,
    place: Callable[[_P], _Place],
    head: Mapping[_T, _P],
    candidate: Mapping[_T, _P],
    removed: Severity.ValueType,
) -> _Findings:
    """Compare two lists whose parts are matched by their keys."""
    for key, part in _paced(head.items()):
        if key in candidate:
            yield from _parts(side, place(part), part, candidate[key])
        else:
            yield _finding(side, REMOVED, place(part), removed)
    # No consumer reads a new output yet.
    if side is _INPUTS:
        for key, part in _paced(candidate.items()):
            if key not in head and _is_required(part):
                yield _finding(side, REQUIRED_ADDED, place(part), demand=_demand(part))


def _parts(side: _Side, place: _Place, head: _Part, candidate: _Part) -> _Findings:
    """Compare two parts that have one name, or that have none and are equal."""
    match head, candidate:
        case Column() | ParameterType(), Column() | ParameterType():
            yield from _presence(side, place.at("required"), head, candidate)
            yield from _data_types(side, place.at("data_type"), head.data_type, candidate.data_type)
        case TabularType(), TabularType():
            yield from _presence(side, place.at("required"), head, candidate)
            yield from _formats(side, place.at("format"), head, candidate)
            yield from _columns(side, place, head, candidate)
        case UnsupportedType(), UnsupportedType():
            yield _finding(side, UNSUPPORTED_TYPE, place, WARN, fact="is there")
        case _:
            was, now = ("table" if isinstance(part, TabularType) else "single value" for part in (head, candidate))
            yield _finding(side, KIND_CHANGED, place, was=was, now=now)


def _presence(side: _Side, place: _Place, head: _Part, candidate: _Part) -> _Findings:
    given, expected = side.flow(head, candidate)
    if _is_required(expected) and not _is_required(given):
        yield _finding(side, side.presence_lost, place)


def _formats(side: _Side, place: _Place, head: TabularType, candidate: TabularType) -> _Findings:
    was, now = (each.format or TABULAR_FORMAT_PANDAS for each in (head, candidate))
    if was != now:
        yield _finding(side, FORMAT_CHANGED, place, was=_format(was), now=_format(now))


def _data_types(side: _Side, place: _Place, head: DataType, candidate: DataType, whose: str = "") -> _Findings:
    """Compare two types; `whose` says which values of a type around them have these types."""
    was, now = kind_of(head), kind_of(candidate)
    if was == now and was != UNSUPPORTED:
        for field, values in INNER_TYPES.get(was, {}).items():
            # One column can have as many types in it as there are columns otherwise.
            require_wanted()
            inner_head, inner_candidate = inner_type(head, field), inner_type(candidate, field)
            yield from _data_types(side, place.at(field), inner_head, inner_candidate, f" for its {values}")
        return
    if head == candidate:
        yield _finding(side, UNSUPPORTED_TYPE, place, WARN, fact=f"has the type {shown(head)}{whose}")
        return
    given, expected = side.flow(was, now)
    if not is_wider(expected, given):
        rule = side.type_misfit if is_wider(given, expected) else TYPE_CHANGED
        yield _finding(side, rule, place, was=_before(head, candidate), now=shown(candidate) + whose)


def _before(head: DataType, candidate: DataType) -> str:
    """Return the type before, so that it can be told from the type now."""
    alike = kind_of(head) == kind_of(candidate) == UNSUPPORTED
    if alike and head.unsupported.unsupported_type == candidate.unsupported.unsupported_type:
        return "one with other params"
    return shown(head)


def _identified(items: Iterable[ModelApiInput | ModelApiOutput]) -> Mapping[Hashable, _Item]:
    """Return items by name; those without one by all they say, and by how many before them say the same."""
    found: dict[Hashable, _Item] = {}
    same: Counter[bytes] = Counter()
    for item in items:
        match item.WhichOneof("type"):
            case "tabular":
                found[item.tabular.name] = item.tabular
            case "parameter":
                found[item.parameter.name] = item.parameter
            case _:
                said = item.SerializeToString(deterministic=True)
                found[said, same[said]] = item.unsupported
                same[said] += 1
    return found


def _is_required(part: _Part) -> bool:
    # Of an unsupported type it is unknown whether it may be left out.
    return isinstance(part, UnsupportedType) or not part.HasField("required") or part.required


def _demand(part: _Part) -> str:
    return "nobody can tell whether it must be given" if isinstance(part, UnsupportedType) else "it must be given"


def _format(number: int) -> str:
    return _FORMATS.get(number, f"format {number}")


def _finding(
    side: _Side, rule: _Rule, place: _Place, severity: Severity.ValueType = ERROR, **words: str
) -> CompatibilityFinding:
    message = side.sentences[rule].format(subject=place.subject, **words)
    return CompatibilityFinding(path=place.path, rule=rule, severity=severity, message=message)
