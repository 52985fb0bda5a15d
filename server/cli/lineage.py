"""A lineage as text: for terminals, for Graphviz, for Mermaid, for programs.

Each function takes the nodes as they arrive, page by page, and the id of the one that was traced; it yields lines.
Those that the traced version came from come before what they were promoted from themselves. A lineage that was imported
may be a circle.
"""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from modelregistry.v1.promotion_pb2 import LineageNode
from server.cli.output import escaped, json_text

INVISIBLE = "(not visible to you)"


def tree(nodes: Iterable[LineageNode], traced_id: str) -> Iterator[str]:
    """Draw a version a line, below the one that it was promoted from.

    What was promoted once goes on in the same column, and so does the largest part of what was promoted more often. So
    a chain of any length stays in its column, and the columns are never more than the logarithm of the versions.
    """
    labels: dict[str, str] = {}
    previous: dict[str, str] = {}
    for node in nodes:
        labels[node.node_id] = _line(node, traced_id)
        if node.HasField("previous_node_id"):
            previous[node.node_id] = node.previous_node_id
    forest = _forest(labels, previous)
    ahead = [_Place(root, "", "", _AT_ROOT) for root in reversed(forest.roots)]
    while ahead:
        place = ahead.pop()
        below = _below(place, forest)
        yield f"{place.lead}{place.marks.last if not below else place.marks.more}{labels[place.node]}"
        ahead.extend(reversed(below))


def dot(nodes: Iterable[LineageNode], traced_id: str) -> Iterator[str]:
    """Describe the graph to Graphviz."""
    yield "digraph lineage {"
    yield "  node [shape=box];"
    for number, node, edges in _with_edges(nodes):
        label = r"\n".join(_quoted_for_dot(part) for part in _parts(node, traced_id))
        style = "bold" if node.is_head else "solid" if _is_visible(node) else "dashed"
        traced = ", peripheries=2" if node.node_id == traced_id else ""
        yield f'  n{number} [label="{label}", style={style}{traced}];'
        yield from (f"  n{start} -> n{end};" for start, end in edges)
    yield "}"


def mermaid(nodes: Iterable[LineageNode], traced_id: str) -> Iterator[str]:
    """Describe the graph to Mermaid."""
    yield "flowchart TD"
    yield "  classDef traced stroke-width:4px"
    for number, node, edges in _with_edges(nodes):
        label = "<br/>".join(_quoted_for_mermaid(part) for part in _parts(node, traced_id))
        yield f'  n{number}["{label}"]'
        if node.node_id == traced_id:
            yield f"  class n{number} traced"
        yield from (f"  n{start} --> n{end}" for start, end in edges)


def json_document(nodes: Iterable[LineageNode], traced_id: str) -> Iterator[str]:
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
    yield f'  "tracedNodeId": {json.dumps(traced_id)}'
    yield "}"


# What a node says


def _is_visible(node: LineageNode) -> bool:
    return node.HasField("model_version_rid")


def _parts(node: LineageNode, traced_id: str) -> list[str]:
    """Return what a box of a graph says, line by line."""
    parts = [INVISIBLE]
    if _is_visible(node):
        place = f"{node.branch} v{node.version_number}{' (head)' if node.is_head else ''}"
        parts = [node.model_name, place, node.model_version_rid]
    return [*parts, "traced"] if node.node_id == traced_id else parts


def _line(node: LineageNode, traced_id: str) -> str:
    """Return what a line of a tree says. Names, which users choose, stand only before the RID."""
    text = INVISIBLE
    if _is_visible(node):
        text = f"{node.model_name}  {node.branch}  v{node.version_number}  {node.model_version_rid}"
    return escaped(text) + " (head)" * node.is_head + " ← traced" * (node.node_id == traced_id)


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


def _with_edges(nodes: Iterable[LineageNode]) -> Iterator[tuple[int, LineageNode, list[tuple[int, int]]]]:
    """Yield each node with its number, and with the edges that can be drawn now: both of their ends are there."""
    numbers: dict[str, int] = {}
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        numbers[node.node_id] = number
        edges = [(number, end) for end in waiting.pop(node.node_id, ())]
        if node.HasField("previous_node_id"):
            if node.previous_node_id in numbers:
                edges.append((numbers[node.previous_node_id], number))
            else:
                waiting[node.previous_node_id].append(number)
        yield number, node, edges


# The layout of a tree


class _Forest(NamedTuple):
    """Trees of ids, with the number of nodes below and including each."""

    roots: list[str]
    children: Mapping[str, list[str]]
    sizes: Mapping[str, int]


class _Marks(NamedTuple):
    """What stands at the beginning of a line: where more hangs on its node, and where nothing does."""

    more: str
    last: str


class _Place(NamedTuple):
    """Where a node is drawn."""

    node: str
    lead: str  # of its own line
    column: str  # of the lines that hang on it
    marks: _Marks


_AT_ROOT = _Marks("┌ ", "─ ")
_AT_BRANCH = _Marks("┬ ", "─ ")
_IN_COLUMN = _Marks("├ ", "└ ")


def _forest(ids: Collection[str], previous: Mapping[str, str]) -> _Forest:
    """Return the trees; a node whose previous one is not there is a root, and so is one node of a circle."""
    of: defaultdict[str, list[str]] = defaultdict(list)
    roots = []
    for node in ids:
        if previous.get(node) in ids:
            of[previous[node]].append(node)
        else:
            roots.append(node)
    children: dict[str, list[str]] = {}
    order: list[str] = []

    def walk(root: str) -> None:
        children[root], ahead = [], [root]
        while ahead:
            node = ahead.pop()
            order.append(node)
            children[node] = [child for child in of[node] if child not in children]
            children.update((child, []) for child in children[node])
            ahead.extend(children[node])

    for root in roots:
        walk(root)
    for node in ids:
        if node not in children:
            roots.append(_on_circle(node, previous))
            walk(roots[-1])
    sizes: dict[str, int] = {}
    for node in reversed(order):
        sizes[node] = 1 + sum(sizes[child] for child in children[node])
    return _Forest(roots, children, sizes)


def _on_circle(node: str, previous: Mapping[str, str]) -> str:
    """Return the node at which the way back from this one, which never ends, is back for the first time."""
    seen: set[str] = set()
    while node not in seen:
        seen.add(node)
        node = previous[node]
    return node


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


DRAWINGS: Final[Mapping[str, Callable[[Iterable[LineageNode], str], Iterator[str]]]] = {
    "tree": tree,
    "table": tree,
    "dot": dot,
    "mermaid": mermaid,
    "json": json_document,
}
