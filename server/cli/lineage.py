"""A lineage as text: for terminals, for Graphviz, for Mermaid, for programs.

Each function takes the nodes as they arrive, page by page, and the index of the one that was traced; it yields lines.
Nodes may arrive twice, and before those that they were promoted from; a lineage that was imported may be a circle.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from modelregistry.v1.promotion_pb2 import LineageNode
from server.cli.output import escaped, json_text

INVISIBLE = "(not visible to you)"


def tree(nodes: Iterable[LineageNode], traced_index: int) -> Iterator[str]:
    """Draw a version a line, below the one that it was promoted from.

    What was promoted once goes on in the same column, and so does the largest part of what was promoted more often. So
    a chain of any length stays in its column, and the columns are never more than the logarithm of the versions.
    """
    labels: dict[int, str] = {}
    previous: dict[int, int] = {}
    for node in nodes:
        if node.index not in labels:
            labels[node.index] = _line(node, traced_index)
            if node.HasField("previous_index"):
                previous[node.index] = node.previous_index
    forest = _forest(labels, previous)
    ahead = [_Place(root, "", "", _AT_ROOT) for root in reversed(forest.roots)]
    while ahead:
        place = ahead.pop()
        below = _below(place, forest)
        yield f"{place.lead}{place.marks.last if not below else place.marks.more}{labels[place.node]}"
        ahead.extend(reversed(below))


def dot(nodes: Iterable[LineageNode], traced_index: int) -> Iterator[str]:
    """Describe the graph to Graphviz."""
    yield "digraph lineage {"
    yield "  node [shape=box];"
    for node, edges in _with_edges(nodes):
        label = r"\n".join(_quoted_for_dot(part) for part in _parts(node, traced_index))
        style = "bold" if node.is_head else "solid" if _is_visible(node) else "dashed"
        traced = ", peripheries=2" if node.index == traced_index else ""
        yield f'  n{node.index} [label="{label}", style={style}{traced}];'
        yield from (f"  n{start} -> n{end};" for start, end in edges)
    yield "}"


def mermaid(nodes: Iterable[LineageNode], traced_index: int) -> Iterator[str]:
    """Describe the graph to Mermaid."""
    yield "flowchart TD"
    yield "  classDef traced stroke-width:4px"
    for node, edges in _with_edges(nodes):
        label = "<br/>".join(_quoted_for_mermaid(part) for part in _parts(node, traced_index))
        yield f'  n{node.index}["{label}"]'
        if node.index == traced_index:
            yield f"  class n{node.index} traced"
        yield from (f"  n{start} --> n{end}" for start, end in edges)


def json_document(nodes: Iterable[LineageNode], traced_index: int) -> Iterator[str]:
    """Write all nodes as one JSON document."""
    yield "{"
    yield '  "data": ['
    text = ""
    for node in nodes:
        if text:
            yield f"{text},"
        text = textwrap.indent(json_text(node, indent=2), "    ")
    yield text
    yield "  ],"
    yield f'  "tracedIndex": {traced_index}'
    yield "}"


# What a node says


def _is_visible(node: LineageNode) -> bool:
    return node.HasField("model_version_rid")


def _parts(node: LineageNode, traced_index: int) -> list[str]:
    """Return what a box of a graph says, line by line."""
    parts = [INVISIBLE]
    if _is_visible(node):
        place = f"{node.branch} v{node.version_number}{' (head)' if node.is_head else ''}"
        parts = [node.model_name, place, node.model_version_rid]
    return [*parts, "traced"] if node.index == traced_index else parts


def _line(node: LineageNode, traced_index: int) -> str:
    """Return what a line of a tree says. Behind the RID, which has no spaces, nothing is anybody's choice."""
    text = INVISIBLE
    if _is_visible(node):
        text = f"{node.model_name}  {node.branch}  v{node.version_number}  {node.model_version_rid}"
    return escaped(text) + " (head)" * node.is_head + " ← traced" * (node.index == traced_index)


def _quoted_for_dot(text: str) -> str:
    # A label is read twice: as a string, and then for escapes and entities.
    return escaped(text).replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;")


def _quoted_for_mermaid(text: str) -> str:
    return "".join(_entity(sign) if sign.isascii() and sign not in _PLAIN else sign for sign in escaped(text))


def _entity(sign: str) -> str:
    return "#quot;" if sign == '"' else f"#{ord(sign)};"


# Everything else might mean something somewhere in Mermaid's grammar.
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_.")


# The edges of a graph


def _with_edges(nodes: Iterable[LineageNode]) -> Iterator[tuple[LineageNode, list[tuple[int, int]]]]:
    """Yield each node once, with the edges that can be drawn now: both of their ends are there."""
    seen: set[int] = set()
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    for node in nodes:
        if node.index in seen:
            continue
        seen.add(node.index)
        edges = [(node.index, end) for end in waiting.pop(node.index, ())]
        if node.HasField("previous_index"):
            if node.previous_index in seen:
                edges.append((node.previous_index, node.index))
            else:
                waiting[node.previous_index].append(node.index)
        yield node, edges


# The layout of a tree


class _Forest(NamedTuple):
    """Trees by index, with the number of nodes below and including each."""

    roots: list[int]
    children: Mapping[int, list[int]]
    sizes: Mapping[int, int]


class _Marks(NamedTuple):
    """What stands at the beginning of a line: where more hangs on its node, and where nothing does."""

    more: str
    last: str


class _Place(NamedTuple):
    """Where a node is drawn."""

    node: int
    lead: str  # of its own line
    column: str  # of the lines that hang on it
    marks: _Marks


_AT_ROOT = _Marks("┌ ", "─ ")
_AT_BRANCH = _Marks("┬ ", "─ ")
_IN_COLUMN = _Marks("├ ", "└ ")


def _forest(indexes: Collection[int], previous: Mapping[int, int]) -> _Forest:
    """Return the trees; a node whose previous one is not there is a root, and so is one node of a circle."""
    of: defaultdict[int, list[int]] = defaultdict(list)
    roots = []
    for index in sorted(indexes):
        if previous.get(index) in indexes:
            of[previous[index]].append(index)
        else:
            roots.append(index)
    children: dict[int, list[int]] = {}
    order: list[int] = []

    def walk(root: int) -> None:
        children[root], ahead = [], [root]
        while ahead:
            index = ahead.pop()
            order.append(index)
            children[index] = [child for child in of[index] if child not in children]
            children.update((child, []) for child in children[index])
            ahead.extend(children[index])

    for root in roots:
        walk(root)
    for index in sorted(indexes):
        if index not in children:
            roots.append(_on_circle(index, previous))
            walk(roots[-1])
    sizes: dict[int, int] = {}
    for index in reversed(order):
        sizes[index] = 1 + sum(sizes[child] for child in children[index])
    return _Forest(roots, children, sizes)


def _on_circle(index: int, previous: Mapping[int, int]) -> int:
    """Return the node at which the way back from this one, which never ends, is back for the first time."""
    seen: set[int] = set()
    while index not in seen:
        seen.add(index)
        index = previous[index]
    return index


def _below(place: _Place, forest: _Forest) -> list[_Place]:
    """Return where the nodes are drawn that were promoted from the one at this place."""
    children = forest.children[place.node]
    goes_on = max(children, key=forest.sizes.__getitem__, default=None)
    if goes_on is not None and len(children) > 1 and not forest.children[goes_on]:
        goes_on = None  # all are leaves, and look alike
    aside = [child for child in children if child != goes_on]
    column = place.column
    places = [_Place(child, f"{column}├─", f"{column}│ ", _AT_BRANCH) for child in aside]
    if goes_on is not None:
        places.append(_Place(goes_on, column, column, _IN_COLUMN))
    elif places:
        places[-1] = _Place(aside[-1], f"{column}└─", f"{column}  ", _AT_BRANCH)
    return places


DRAWINGS: Final[Mapping[str, Callable[[Iterable[LineageNode], int], Iterator[str]]]] = {
    "tree": tree,
    "table": tree,
    "dot": dot,
    "mermaid": mermaid,
    "json": json_document,
}
