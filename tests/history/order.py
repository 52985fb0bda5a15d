"""Whether there is an order of all that happened that fits what everybody saw and real time: linearizability.

For one branch `check_branch_order` is sound and complete. Sightings are intervals of positions (see
`tests.history.sightings`), and the condition is: whenever A ended before B began, A's lowest position is not above B's
highest. It is needed, since B comes after A in the order. It is enough: give each operation its own lowest position, or
the highest one of those that ended before it began if that is above; by the condition, this is within its interval.
Ordered by these positions, and by when they began where these are equal, the operations fit real time and what they
saw. The numbers say which position is each write's, so nothing has to be searched: the check is one pass over the
instants, sorted.

Linearizability is local, but for operations on several branches: batches, and promotions, which read their source.
`check_one_order` is for them: it asks whether the order of each branch and real time together have no cycle.
"""

from __future__ import annotations

import graphlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.history.ledger import Ledger
from tests.history.operations import Place
from tests.history.sightings import Sighting
from tests.history.violations import Promise, Violation

MOST_NAMED = 12


def check_branch_order(sightings: Sequence[Sighting], initial: Ledger) -> Iterator[Violation]:
    """Check each branch by itself."""
    branches: dict[Place, list[Sighting]] = defaultdict(list)
    for sighting in sightings:
        branches[sighting.place].append(sighting)
    for place, seen in branches.items():
        yield from _check_branch(seen, max(initial.branches.get(place, [0])))


def check_one_order(sightings: Sequence[Sighting]) -> Iterator[Violation]:
    """Check all branches together, where each by itself is in order."""
    graph: graphlib.TopologicalSorter[str | int] = graphlib.TopologicalSorter()
    writers = {(each.place, each.lowest): each.event for each in sightings if each.is_write}
    for each in sightings:
        # By these alone, each is between the writes next to it; those follow one another.
        before = writers.get((each.place, each.lowest - (2 if each.is_write else 1)))
        after = None if each.is_write else writers.get((each.place, each.highest + 1))
        if before not in {None, each.event}:
            graph.add(each.event, before)
        if after not in {None, each.event}:
            graph.add(after, each.event)
    _add_real_time(graph, sightings)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        cycle = [event for event in error.args[1] if isinstance(event, str)]
        ids = tuple(id for each in sightings if each.event in cycle for id in each.ids)
        yield Violation(Promise.ONE_ORDER, f"each before the next: {', '.join(cycle[:MOST_NAMED])}", ids[:MOST_NAMED])


def _check_branch(sightings: Sequence[Sighting], initial_number: int) -> Iterator[Violation]:
    """Check one branch, which had so many versions before all began."""
    ended = sorted(sightings, key=lambda sighting: sighting.completed)
    next_ended = 0
    furthest: Sighting | None = None
    furthest_read: dict[str, Sighting] = {}
    for current in sorted(sightings, key=lambda sighting: sighting.invoked):
        while ended[next_ended].completed < current.invoked:
            earlier = ended[next_ended]
            next_ended += 1
            furthest = _further(furthest, earlier)
            if earlier.client:
                furthest_read[earlier.client] = _further(furthest_read.get(earlier.client), earlier)
        if current.highest <= 2 * initial_number and not current.is_write:
            sentence = f"{current.event} {current.says} on {current.place}, which had {initial_number} before"
            yield Violation(Promise.NOT_STALE, sentence, current.ids)
            continue
        witnesses = (furthest_read.get(current.client), furthest)
        above = (each for each in witnesses if each is not None and each.lowest > current.highest)
        if witness := next(above, None):
            yield _breach(witness, current)


def _further(one: Sighting | None, other: Sighting) -> Sighting:
    return other if one is None or other.lowest > one.lowest else one


def _breach(earlier: Sighting, later: Sighting) -> Violation:
    """Say that `later` began when `earlier` had ended, and stands before it on the branch."""
    if earlier.is_write:
        promise = Promise.WRITE_ORDER if later.is_write else Promise.NOT_STALE
    elif later.is_write:
        promise = Promise.NOT_FROM_FUTURE
    else:
        promise = Promise.MONOTONIC if earlier.client == later.client != "" else Promise.NO_WAY_BACK
    sentence = (
        f"{earlier.event} {earlier.says} on {later.place}, and when it had ended {later.event} began and {later.says}"
    )
    return Violation(promise, sentence, (*earlier.ids, *later.ids))


def _add_real_time(graph: graphlib.TopologicalSorter[str | int], sightings: Sequence[Sighting]) -> None:
    """Add that what ended comes before what began later, over a chain of the instants at which something ended."""
    intervals = {each.event: (each.invoked, each.completed) for each in sightings}
    ends = sorted({completed for _, completed in intervals.values()})
    for index in range(1, len(ends)):
        graph.add(index, index - 1)
    for event, (invoked, completed) in intervals.items():
        graph.add(bisect_left(ends, completed), event)
        if earlier := bisect_left(ends, invoked):
            graph.add(event, earlier - 1)
