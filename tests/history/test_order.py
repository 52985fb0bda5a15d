"""The check of the order is what it claims to be: it agrees with a search through all orders, and takes no search."""

from __future__ import annotations

import math
import random
import time

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.history import check
from tests.history.ledger import Ledger
from tests.history.operations import Place
from tests.history.order import check_branch_order, check_one_order
from tests.history.sightings import Sighting
from tests.history.simulated import Simulation
from tests.history.state import State
from tests.history.stories import INITIAL, MASTER, RELEASE, Story

EMPTY = Ledger(State())
MANY = 100_000
CLIENTS = 200
# It takes about five; this is for a slow machine that does other things too.
MOST_SECONDS = 60


@st.composite
def events(draw: st.DrawFn) -> list[list[Sighting]]:
    """Up to six events on two branches: writes with all the numbers from 1 on, of one branch or both, and reads.

    What is read, or copied, is one of these numbers; of others, other checks tell.
    """
    chance = draw(st.randoms(use_true_random=True))
    found: list[list[Sighting]] = []
    count = {MASTER: 0, RELEASE: 0}
    for number in range(draw(st.integers(1, 3))):
        begin, end = interval(chance)
        places = chance.sample([MASTER, RELEASE], chance.choice([1, 1, 2]))
        write = []
        for place in places:
            count[place] += 1
            write.append(sighting(f"write {number}", place, begin, end, 2 * count[place], 2 * count[place]))
        found.append(write)
    for write in found:
        name, _, _, place, begin, end, *_ = write[0]
        other = RELEASE if place == MASTER else MASTER
        if len(write) == 1 and count[other] and chance.random() < 0.3:
            source = 2 * chance.randint(1, count[other]) + 1
            write.append(sighting(name, other, begin, end, source, math.inf))
    for number in range(draw(st.integers(0, 3))):
        place = chance.choice([MASTER, RELEASE])
        position = 2 * chance.randint(0, count[place]) + 1
        lowest, highest = chance.choice([(position, position), (position, math.inf), (0, position)])
        found.append([sighting(f"read {number}", place, *interval(chance), lowest, highest)])
    return found


def interval(chance: random.Random) -> tuple[float, float]:
    begin = chance.randint(0, 12)
    return begin, chance.choice([begin + chance.randint(0, 9)] * 5 + [math.inf])


def sighting(name: str, place: Place, begin: float, end: float, lowest: float, highest: float) -> Sighting:
    return Sighting(name, (name,), "", place, begin, end, lowest, highest, "")


def has_an_order(waiting: list[list[Sighting]], count: dict[Place, int]) -> bool:
    """Whether one of all orders fits: the specification of a branch, carried out."""
    if not waiting:
        return True
    soonest_end = min(each[0].completed for each in waiting)
    for index, each in enumerate(waiting):
        after = dict(count)
        possible = each[0].invoked <= soonest_end and all(fits(seen, count, after) for seen in each)
        if possible and has_an_order(waiting[:index] + waiting[index + 1 :], after):
            return True
    return False


def fits(seen: Sighting, before: dict[Place, int], after: dict[Place, int]) -> bool:
    """Whether something can happen to branches of so many versions; a write adds one."""
    if seen.is_write:
        after[seen.place] += 1
        return seen.lowest == 2 * after[seen.place]
    return seen.lowest <= 2 * before[seen.place] + 1 <= seen.highest


@given(events())
@settings(max_examples=1500)
def test_the_checks_object_if_and_only_if_no_order_fits(happened: list[list[Sighting]]) -> None:
    sightings = [seen for each in happened for seen in each]
    expected = has_an_order(happened, {MASTER: 0, RELEASE: 0})
    violations = list(check_branch_order(sightings, EMPTY)) or list(check_one_order(sightings))
    event(f"{expected}")
    assert (not violations) == expected, violations


@given(events())
@settings(max_examples=500)
def test_for_one_branch_the_first_check_is_enough(happened: list[list[Sighting]]) -> None:
    sightings = [seen for each in happened for seen in each if seen.place == MASTER]
    expected = has_an_order([[seen] for seen in sightings], {MASTER: 0})
    assert (not list(check_branch_order(sightings, EMPTY))) == expected


def test_a_long_history_is_checked_in_seconds(story: Story) -> None:
    """Each client in turn writes, or reads what was just written, while all the others are at it as well."""
    for number in range(1, MANY // 2 + 1):
        story.promote(number, number + CLIENTS // 2, number, client=f"writer {number % CLIENTS}")
        story.read(number, number + CLIENTS // 2, number, client=f"reader {number % CLIENTS}")
    final = story.final()

    begun = time.process_time()
    violations = check(story.history, final, INITIAL)

    assert violations == []
    assert time.process_time() - begun < MOST_SECONDS


def test_the_simulated_clients_do_everything_there_is() -> None:
    """What the checker accepts from them is worth something: each kind of call, answer and refusal occurs."""
    simulation = Simulation(random.Random(1), clients=4)
    simulation.run(3000)
    history = simulation.history.values()
    assert {operation.rpc for operation in history} >= {"GetBranch", "ListModelVersions", "GetModelVersion", "Batch"}
    assert {operation.outcome for operation in history if operation.wanted} == {"ok", "fail", "unknown"}
    names = {failure.name for operation in history for failure in operation.failures}
    assert names >= {"BranchHeadChanged", "VersionAlreadyHead", "VersionNumberNotFound", "ModelVersionNotFound"}
