"""A registry that keeps its promises, in memory, and clients whose calls it takes in whatever order chance has it."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Any

from tests.history import Operation, Outcome, State
from tests.history.operations import Failure, Place, Version, Wanted
from tests.history.stories import INITIAL, MASTER, NO_RETRY, OTHER, REFUSED, RELEASE, SOURCE, record, rid_of

PLACES = [MASTER, RELEASE]
READS = ["GetBranch", "ListModelVersions", "GetModelVersion"]


class Refused(Exception):
    """How the registry refuses a request."""


@dataclass
class Call:
    """A call on its way: what is recorded of it so far, and what the registry has answered."""

    operation: Operation
    answer: dict[str, Any] | None = None
    given_up: bool = False


class Simulation:
    """Clients that call one registry. Each step begins a call, carries one out, or ends one, at the next instant."""

    def __init__(self, chance: random.Random, clients: int) -> None:
        self._chance = chance
        self._now = 0
        self._ids = itertools.count(1)
        self._idle = [f"client-{number}" for number in range(1, clients + 1)]
        self._calls: list[Call] = []
        self._versions = list(INITIAL.versions)
        self._made: dict[str, tuple[Version, ...]] = {}
        self._sent: list[Operation] = []
        self.history: dict[str, Operation] = {}

    def run(self, steps: int) -> None:
        """Go on for so many steps; what is on its way then is carried out, or not."""
        for _ in range(steps):
            # Some things happen at one instant.
            self._now += self._chance.choice([0, 1, 1])
            waiting = [call for call in self._calls if call.answer is None]
            choices = [(self._end, call) for call in self._calls if call.answer is not None and not call.given_up]
            choices += [(self._carry_out, call) for call in waiting]
            choices += [(self._give_up, call) for call in self._calls if not call.given_up][:1]
            choices += [(self._begin, client) for client in self._idle]
            step, what = self._chance.choice(choices)
            step(what)  # type: ignore[operator]
        for call in self._calls:
            if call.answer is None and self._chance.random() < 0.5:
                self._carry_out(call)

    def final(self) -> State:
        """What the registry holds."""
        records = tuple(record(version) for version in self._versions if version.source_rid)
        return State(tuple(sorted(self._versions, key=lambda version: -version.number)), records)

    # What clients do

    def _begin(self, client: str) -> None:
        self._idle.remove(client)
        repeated = self._chance.choice(self._sent) if self._sent and self._chance.random() < 0.2 else None
        rpc = repeated.rpc if repeated else self._chance.choice([*READS, "PromoteVersion", "Batch", "RollbackBranch"])
        asked = {"tag": repeated.tag, "wanted": repeated.wanted} if repeated else self._ask(rpc)
        number = next(self._ids)
        operation = Operation(id=f"{client}#{number}", client=client, rpc=rpc, invoked=self._now, **asked)
        if operation.wanted:
            self._sent.append(operation)
        self.history[operation.id] = operation
        self._calls.append(Call(operation))

    def _ask(self, rpc: str) -> dict[str, Any]:
        chance, place = self._chance, self._chance.choice(PLACES)
        known = chance.choice(self._versions)
        if rpc == "GetModelVersion":
            # Perhaps of the next version, whose RID nobody can know yet; here they are no secret.
            rid = chance.choice([known.rid, rid_of(place, self._count(place) + 1)])
            return {"model_rid": place.model_rid, "version_rid": rid}
        if rpc in READS:
            return {"model_rid": place.model_rid, "branch": place.branch}
        tag = f"tag-{len(self._sent)}"
        if rpc == "RollbackBranch":
            number = chance.choice([1, max(1, self._count(place)), self._count(place) + 1])
            return {"tag": tag, "wanted": (Wanted(*place, source_number=number),)}
        if rpc == "Batch":
            return {"tag": tag, "wanted": tuple(Wanted(*chance.choice(PLACES), SOURCE.rid) for _ in range(3))}
        expected = chance.choice([None, known.rid, rid_of(place, self._count(place))])
        return {"tag": tag, "wanted": (Wanted(*place, chance.choice([known.rid, OTHER.rid]), expected_head=expected),)}

    def _end(self, call: Call) -> None:
        assert call.answer is not None
        self._calls.remove(call)
        self._record(call, **call.answer)

    def _give_up(self, call: Call) -> None:
        """The client learns nothing; the request may be on its way, be lost, or have been carried out."""
        call.given_up = True
        if call.answer is not None or self._chance.random() < 0.5:
            self._calls.remove(call)
        self._record(call, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,))

    def _record(self, call: Call, **answer: Any) -> None:
        operation = call.operation
        self.history[operation.id] = replace(operation, completed=self._now, **answer)
        self._idle.append(operation.client)

    # What the registry does

    def _carry_out(self, call: Call) -> None:
        operation = call.operation
        try:
            versions = self._write(operation) if operation.wanted else self._read(operation)
            call.answer = {"outcome": Outcome.OK, "versions": tuple(each._replace(tag=None) for each in versions)}
            if operation.rpc == "GetBranch":
                call.answer["count"] = versions[0].number
        except Refused as refused:
            call.answer = {"outcome": Outcome.FAIL, "failures": refused.args}
        if call.given_up:
            self._calls.remove(call)

    def _read(self, operation: Operation) -> tuple[Version, ...]:
        if operation.rpc == "GetModelVersion":
            return (self._find(operation.version_rid),)
        listed = self._branch(operation.place)[::-1]
        if operation.rpc == "GetBranch":
            if not listed:
                raise Refused(Failure("NOT_FOUND", "BranchNotFound"))
            return (listed[0],)
        return tuple(listed)

    def _write(self, operation: Operation) -> tuple[Version, ...]:
        if operation.tag in self._made:
            return self._made[operation.tag]
        if self._chance.random() < 0.1:
            raise Refused(REFUSED)
        before = len(self._versions)
        try:
            for wanted in operation.wanted:
                self._append(wanted, operation.tag)
        except Refused:
            del self._versions[before:]
            raise
        self._made[operation.tag] = tuple(self._versions[before:])
        return self._made[operation.tag]

    def _append(self, wanted: Wanted, tag: str) -> None:
        place, branch = wanted.place, self._branch(wanted.place)
        number, head = len(branch) + 1, branch[-1].rid if branch else ""
        if wanted.source_number is None:
            source = self._find(wanted.source_rid or "")
        elif not branch:
            raise Refused(Failure("NOT_FOUND", "BranchNotFound"))
        elif wanted.source_number > len(branch):
            raise Refused(Failure("NOT_FOUND", "VersionNumberNotFound"))
        elif wanted.source_number == len(branch):
            raise Refused(Failure("FAILED_PRECONDITION", "VersionAlreadyHead"))
        else:
            source = branch[wanted.source_number - 1]
        if wanted.expected_head not in {None, head}:
            raise Refused(Failure("ABORTED", "BranchHeadChanged", None, head))
        copied = source.content, source.rid, source.root_rid
        self._versions.append(Version(rid_of(place, number), *place, number, self._now // 3, *copied, tag))

    def _find(self, rid: str) -> Version:
        found = next((version for version in self._versions if version.rid == rid), None)
        if found is None:
            raise Refused(Failure("NOT_FOUND", "ModelVersionNotFound"))
        return found

    def _branch(self, place: Place) -> list[Version]:
        return [version for version in self._versions if version.place == place]

    def _count(self, place: Place) -> int:
        return len(self._branch(place))
