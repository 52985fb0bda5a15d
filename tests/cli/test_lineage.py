"""Lineages as text, without a server: how they look, and that nothing in them breaks the drawing."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from modelregistry.v1.promotion_pb2 import LineageNode
from server.cli.lineage import DRAWINGS, dot, json_document, mermaid, tree
from server.codec.json_form import from_json

MANY = 10_000

# What a display name or a branch can hold: control characters and `/` it cannot.
HOSTILE = [
    'say "hi"',
    '"];n0->n0;["',
    "back\\slash\\",
    "\\N \\G \\n",
    "<b>&lt;&#34;</b>",
    "a --> b",
    "]-->[",
    "%%{init: {}}%%",
    "#quot;",
    "end",
    "`code`",
    "{{x}}",
    "größer 中",
    "\u202ereversed",
    "(head)  ← traced",
]


def name_of(index: int) -> str:
    return f"id-{index}"


def node(index: int, previous: int | None = None, name: str = "m", head: bool = False) -> LineageNode:
    return LineageNode(
        node_id=name_of(index),
        previous_node_id=None if previous is None else name_of(previous),
        model_version_rid=f"ri.v{index}",
        model_rid="ri.m",
        model_name=name,
        branch="master",
        version_number=index + 1,
        is_head=head,
    )


def drawn(*nodes: LineageNode, traced: int | None = None) -> str:
    return "".join(f"{line}\n" for line in tree(nodes, "" if traced is None else name_of(traced)))


def numbers(lines: Iterable[str]) -> list[int]:
    """The numbers of the nodes in the order of the lines of a tree."""
    return [int(line.rpartition("ri.v")[2].split()[0]) for line in lines]


def columns(line: str) -> int:
    return len(line) - len(line.lstrip("│├└┌┬─ "))


# Trees


def test_a_line_says_which_version_it_is_whether_it_is_live_and_which_one_was_traced() -> None:
    assert drawn(node(0, name="fraud detector", head=True), traced=0) == (
        "─ fraud detector  master  v1  ri.v0 (head) ← traced\n"
    )


def test_what_was_promoted_once_goes_on_in_its_column() -> None:
    assert drawn(node(0), node(1, 0), node(2, 1, head=True), traced=1) == (
        "┌ m  master  v1  ri.v0\n"
        "├ m  master  v2  ri.v1 ← traced\n"
        "└ m  master  v3  ri.v2 (head)\n"
    )  # fmt: skip


def test_what_was_promoted_several_times_branches() -> None:
    assert drawn(node(0), node(1, 0), node(2, 0), node(3, 0)) == (
        "┌ m  master  v1  ri.v0\n"
        "├── m  master  v2  ri.v1\n"
        "├── m  master  v3  ri.v2\n"
        "└── m  master  v4  ri.v3\n"
    )  # fmt: skip


def test_the_largest_part_goes_on_below_the_others() -> None:
    children = [node(1, 0), node(2, 1), node(3, 0), node(4, 3), node(5, 3), node(6, 4), node(7, 0)]
    assert drawn(node(0), *children) == (
        "┌ m  master  v1  ri.v0\n"
        "├─┬ m  master  v2  ri.v1\n"
        "│ └ m  master  v3  ri.v2\n"
        "├── m  master  v8  ri.v7\n"
        "├ m  master  v4  ri.v3\n"
        "├── m  master  v6  ri.v5\n"
        "├ m  master  v5  ri.v4\n"
        "└ m  master  v7  ri.v6\n"
    )


def test_the_last_of_several_leaves_nothing_in_the_column() -> None:
    # Below the second version hang two leaves, and it hangs itself beside a chain.
    others = [node(1, 0), node(2, 1), node(3, 1), node(4, 0), node(5, 4), node(6, 5), node(7, 6)]
    assert drawn(node(0), *others).splitlines()[1:5] == [
        "├─┬ m  master  v2  ri.v1",
        "│ ├── m  master  v3  ri.v2",
        "│ └── m  master  v4  ri.v3",
        "├ m  master  v5  ri.v4",
    ]


def test_what_nobody_may_see_has_its_place() -> None:
    hidden = LineageNode(node_id=name_of(1), previous_node_id=name_of(0))
    assert drawn(node(0), hidden, node(2, 1)).splitlines()[1] == "├ (not visible to you)"


def test_a_version_whose_previous_one_is_missing_is_a_root() -> None:
    assert drawn(node(3), node(5, 4), node(6, 5)) == (
        "─ m  master  v4  ri.v3\n"
        "┌ m  master  v6  ri.v5\n"
        "└ m  master  v7  ri.v6\n"
    )  # fmt: skip


def test_what_arrives_before_its_source_hangs_on_it_all_the_same() -> None:
    nodes = [node(0), node(1, 0), node(2, 1), node(3, 0)]
    assert drawn(*reversed(nodes), nodes[1], nodes[3]) == drawn(*nodes)


def test_a_circle_is_drawn_once_and_what_hangs_on_it_below() -> None:
    lines = drawn(node(0, 2), node(1, 3), node(2, 1), node(3, 2)).splitlines()
    assert sorted(numbers(lines)) == [0, 1, 2, 3]
    assert [line[0] for line in lines].count("┌") == 1


def test_a_version_that_was_promoted_from_itself_is_drawn_once() -> None:
    assert drawn(node(0, 0)) == "─ m  master  v1  ri.v0\n"


def test_a_line_is_a_line_whatever_the_name() -> None:
    for name in [*HOSTILE, "line\nbreak \x1b[2J"]:
        (line,) = drawn(node(0, name=name)).splitlines()
        assert line.isprintable()
        assert line.endswith("ri.v0")  # so what a name says of itself stands before the RID


# Large ones


def chain() -> Iterator[LineageNode]:
    yield node(0)
    yield from (node(index, index - 1) for index in range(1, MANY))


def fan() -> Iterator[LineageNode]:
    yield node(0)
    yield from (node(index, 0) for index in range(1, MANY))


def comb() -> Iterator[LineageNode]:
    """A chain whose versions each have a leaf."""
    yield from (node(0), node(1, 0))
    yield from (node(index, index - 2 if index % 2 == 0 else index - 1) for index in range(2, MANY))


def random_tree() -> Iterator[LineageNode]:
    chance = random.Random(1)
    yield node(0)
    yield from (node(index, chance.randrange(index)) for index in range(1, MANY))


def binary_tree() -> Iterator[LineageNode]:
    yield node(0)
    yield from (node(index, (index - 1) // 2) for index in range(1, MANY))


LARGE = [chain, fan, comb, random_tree, binary_tree]


@pytest.mark.parametrize("shape", LARGE)
def test_a_large_tree_is_drawn_soon_and_stays_narrow(shape: Callable[[], Iterator[LineageNode]]) -> None:
    started = time.process_time()
    lines = list(tree(shape(), name_of(0)))
    assert time.process_time() - started < 5
    assert sorted(numbers(lines)) == list(range(MANY))
    assert max(map(columns, lines)) <= 2 * math.log2(MANY) + 4


def test_a_chain_keeps_to_one_column() -> None:
    assert {columns(line) for line in tree(chain(), name_of(0))} == {2}


@pytest.mark.parametrize("shape", LARGE)
def test_every_version_stands_right_below_what_its_column_says(shape: Callable[[], Iterator[LineageNode]]) -> None:
    previous = {each.node_id: each.previous_node_id for each in shape() if each.HasField("previous_node_id")}
    edges = read_back(tree(shape(), name_of(0)))
    assert {name_of(child): name_of(parent) for child, parent in edges if parent is not None} == previous


def read_back(lines: Iterable[str]) -> Iterator[tuple[int, int | None]]:
    """The edges of a tree as its lines tell them: from the last version above in the column that a line hangs on."""
    last: dict[int, int] = {}
    for line in lines:
        (index,), width = numbers([line]), columns(line)
        own = width - 2
        # A line of a column begins with its corner; one that branches off it, with a dash behind that.
        branches_off = own >= 2 and line[own - 1] == "─"
        yield index, None if line[0] in "┌─" else last[own - 2] if branches_off else last[own]
        last[own] = index


# Graphs


@pytest.mark.parametrize("name", HOSTILE)
def test_a_graph_for_graphviz_says_what_the_nodes_say(name: str) -> None:
    lines = list(dot([node(0, name=name), node(1, 0, head=True)], name_of(1)))
    assert (lines[0], lines[-1]) == ("digraph lineage {", "}")
    label = re.fullmatch(r'  n0 \[label="((?:[^"\\]|\\.)*)", style=solid\];', lines[2])
    assert label
    signs = re.findall(r"\\.|[^\\]", label[1])
    shown = "".join("\n" if sign == r"\n" else sign[-1] for sign in signs).replace("&amp;", "&")
    assert shown.split("\n") == [name.replace("\u202e", r"\u202e"), "master v1", "ri.v0"]
    assert lines[3:5] == [
        r'  n1 [label="m\nmaster v2 (head)\nri.v1\ntraced", style=bold, peripheries=2];',
        "  n0 -> n1;",
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_graph_for_mermaid_says_what_the_nodes_say(name: str) -> None:
    lines = list(mermaid([node(0, name=name), node(1, 0, head=True)], name_of(1)))
    assert lines[0] == "flowchart TD"
    label = re.fullmatch(r'  n0\["([^"<>\[\]{}%`&]*)<br/>master v1<br/>ri.v0"\]', lines[2])
    assert label
    decoded = re.sub("#([0-9]+);", lambda match: chr(int(match[1])), label[1].replace("#quot;", '"'))
    assert decoded == name.replace("\u202e", r"\u202e")
    assert lines[3:] == [
        '  n1["m<br/>master v2 #40;head#41;<br/>ri.v1<br/>traced"]',
        "  class n1 traced",
        "  n0 --> n1",
    ]


@pytest.mark.parametrize("draw", [dot, mermaid])
def test_edges_are_drawn_when_both_ends_are_there(
    draw: Callable[[Iterable[LineageNode], str], Iterator[str]],
) -> None:
    # In the drawing they are numbered as they come.
    lines = draw([node(2, 1), node(1, 0), node(3, 1), node(5, 4)], name_of(1))
    edges = [re.findall(r"n(\d)", line) for line in lines if re.search(r"n\d --?> n\d|n\d -> n\d", line)]
    assert edges == [["1", "0"], ["1", "2"]]


@pytest.mark.parametrize("draw", [dot, mermaid])
def test_a_graph_shows_what_nobody_may_see(draw: Callable[[Iterable[LineageNode], str], Iterator[str]]) -> None:
    text = "\n".join(draw([LineageNode(node_id=name_of(0)), node(1, 0)], name_of(1)))
    assert "not visible to you" in text


# For programs


def test_json_has_all_nodes_and_the_id_of_the_one_traced() -> None:
    nodes = [node(0, name="\u202e\n"), LineageNode(node_id=name_of(1), previous_node_id=name_of(0)), node(2, 1)]
    document = json.loads("\n".join(json_document(nodes, name_of(2))))
    assert document.keys() == {"data", "tracedNodeId"}
    assert document["tracedNodeId"] == name_of(2)
    assert [from_json(value, LineageNode) for value in document["data"]] == nodes


@pytest.mark.parametrize("draw", [dot, mermaid, json_document])
def test_what_is_streamed_is_written_as_it_comes(
    draw: Callable[[Iterable[LineageNode], str], Iterator[str]],
) -> None:
    taken = []

    def nodes() -> Iterator[LineageNode]:
        for each in chain():
            taken.append(each.node_id)
            yield each

    lines = draw(nodes(), 0)
    while "ri.v3" not in next(lines):
        assert len(taken) < 7


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_is_printable(draw: Callable[[Iterable[LineageNode], str], Iterator[str]]) -> None:
    nodes = [node(index, name=f"{name}\x1b\x9b\u2028") for index, name in enumerate(HOSTILE)]
    assert "".join(draw(nodes, name_of(0))).replace("\n", "").isprintable()
