"""ListEvents: which events are told to whom, by which filters, in which order, and where a list goes on."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.list_order_pb2 import LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule
from modelregistry.v1.promotion_request_pb2 import PolicyChange
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from server.core.event_types import FOR_OWNERS, NAMES, EventType
from tests.builders import new_folder_rid
from tests.rpc.harness import Registry, User

pytestmark = pytest.mark.database("shared")

OWNERS_NAMES = {NAMES[type_] for type_ in FOR_OWNERS}


def listed(user: User, page_size: int = 1000, **wanted: Any) -> list[Event]:
    """All events that a request wants, page by page."""
    found: list[Event] = []
    token = None
    while True:
        page = user("ListEvents", page_size=page_size, page_token=token, **wanted)
        assert page.events or token is None, "there is no empty page behind others"
        found += page.events
        if not page.HasField("next_page_token"):
            return found
        assert len(page.events) == page_size
        token = page.next_page_token


def without_cursors(events: list[Event]) -> list[Event]:
    copies = []
    for event in events:
        copy = Event()
        copy.CopyFrom(event)
        copy.ClearField("cursor")
        copies.append(copy)
    return copies


@dataclass
class Place:
    """A folder with models and all kinds of events, of which an outsider sees one model alone."""

    admin: User
    folder: str
    shown: Model
    hidden: Model
    outsider: User
    member: User
    start: str

    def everything(self) -> list[Event]:
        """All events of this place, oldest first."""
        return listed(self.admin, order=LIST_ORDER_OLDEST_FIRST, after_cursor=self.start, parent_folder_rid=self.folder)


@pytest.fixture
def place(admin: User, registry: Registry) -> Place:
    start = admin("ListEvents", page_size=1).cursor
    folder = new_folder_rid()
    admin = User(admin.channel, admin.metadata, folder)
    names = [f"{name}-{uuid.uuid4()}" for name in ("outsider", "member")]
    outsider, member = (registry.user(name) for name in names)
    shown, hidden = admin.create_model("shown"), admin.create_model("hidden")
    admin("GrantRole", resource_rid=shown.rid, principal=f"user:{names[0]}", role=ROLE_VIEWER)
    admin("GrantRole", resource_rid=folder, principal=f"user:{names[1]}", role=ROLE_VIEWER)
    source = admin.create_version(hidden)
    for branch in ("master", "other", "master"):
        admin.promote(source, shown, branch=branch)
        admin.promote(source, hidden, branch=branch)
    admin("RollbackBranch", model_rid=shown.rid, to_version_number=1)
    allowed = AllowedSources(sources=[AllowedSource(model_rid=hidden.rid), AllowedSource(model_rid=shown.rid)])
    rule = ApprovalRule(required=1, approvers=["group:risk"])
    admin("SetBranchPolicy", model_rid=shown.rid, branch="kept", allowed_sources=allowed, approvals=rule)
    admin("CreatePromotionRequest", model_rid=shown.rid, branch="kept", source_model_version_rid=source.rid)
    change = SetBranchPolicyRequest(model_rid=shown.rid, branch="kept", allowed_sources=allowed)
    change.clear_fields.append("approvals")
    admin("CreatePolicyChangeRequest", policy_change=PolicyChange(branch=change))
    admin("SetFolderPolicy", folder_rid=folder, new_model_owner=NEW_MODEL_OWNER_FOLDER)
    admin("SetFolderBranchPolicy", folder_rid=folder, branch="b", promotion_only=True)
    return Place(admin, folder, shown, hidden, outsider, member, start)


def test_every_filter_lets_through_what_it_names_in_both_orders(place: Place) -> None:
    everything = place.everything()
    assert len({event.type for event in everything}) == 9
    middle = everything[len(everything) // 2].time
    promoted, granted = NAMES[EventType.VERSION_PROMOTED], NAMES[EventType.GRANT_CHANGED]
    policies = {NAMES[EventType.BRANCH_POLICY_CHANGED], NAMES[EventType.FOLDER_BRANCH_POLICY_CHANGED]}
    ways: list[tuple[dict[str, Any], Callable[[Event], bool]]] = [
        ({}, lambda _: True),
        ({"model_rid": place.shown.rid}, lambda event: event.model_rid == place.shown.rid),
        ({"branch": "master"}, lambda event: event.branch == "master"),
        ({"types": [promoted]}, lambda event: event.type == promoted),
        ({"types": [granted]}, lambda event: event.type == granted),
        ({"types": sorted(policies)}, lambda event: event.type in policies),
        ({"types": [promoted, granted]}, lambda event: event.type in {promoted, granted}),
        ({"actor": "user:admin"}, lambda event: event.actor == "user:admin"),
        ({"actor": "user:nobody"}, lambda _: False),
        ({"start_time": middle}, lambda event: event.time.ToNanoseconds() >= middle.ToNanoseconds()),
        ({"end_time": middle}, lambda event: event.time.ToNanoseconds() < middle.ToNanoseconds()),
    ]
    readers: list[tuple[User, Callable[[Event], bool]]] = [
        (place.admin, lambda _: True),
        (place.member, lambda event: event.type not in OWNERS_NAMES),
        (place.outsider, lambda event: event.model_rid == place.shown.rid and event.type not in OWNERS_NAMES),
    ]
    for (one, lets_one), (other, lets_other) in itertools.combinations_with_replacement(ways, 2):
        if one is not other and one.keys() & other.keys():
            continue
        # Two filters together go other ways through the log, whoever asks; the administrator shows them.
        for reader, sees in readers if one is other else readers[:1]:
            ids = [event.id for event in everything if lets_one(event) and lets_other(event) and sees(event)]
            wanted = {"parent_folder_rid": place.folder, "after_cursor": place.start} | one | other
            for order, expected in ((LIST_ORDER_OLDEST_FIRST, ids), (LIST_ORDER_NEWEST_FIRST, ids[::-1])):
                assert [event.id for event in listed(reader, 3, order=order, **wanted)] == expected, (one, other)


def test_without_a_filter_a_caller_is_told_of_all_that_the_caller_sees(place: Place) -> None:
    seen = [
        event.id
        for event in place.everything()
        if event.model_rid == place.shown.rid and event.type not in OWNERS_NAMES
    ]
    for page_size in (1, 2, 1000):
        for order in (LIST_ORDER_OLDEST_FIRST, LIST_ORDER_NEWEST_FIRST):
            found = [event.id for event in listed(place.outsider, page_size, order=order)]
            assert (found if order == LIST_ORDER_OLDEST_FIRST else found[::-1]) == seen


def told_to(place: Place, user: User) -> Iterator[tuple[Event, Event]]:
    """What a caller is told, each beside what the administrator is."""
    by_id = {event.id: event for event in place.everything()}
    for event in listed(user, after_cursor=place.start):
        yield event, by_id[event.id]


def test_who_does_not_own_is_not_told_where_a_call_came_from(place: Place) -> None:
    for event, full in told_to(place, place.outsider):
        assert (full.HasField("request_id"), full.peer) == (True, "127.0.0.1")
        assert not event.HasField("request_id")
        assert not event.HasField("peer")


def test_an_owner_is_told_of_grants_and_where_calls_came_from(place: Place, registry: Registry) -> None:
    name = str(uuid.uuid4())
    place.admin("GrantRole", resource_rid=place.shown.rid, principal=f"user:{name}", role=ROLE_OWNER)
    told = list(told_to(place, registry.user(name)))
    assert {event.model_rid for event, _ in told} == {place.shown.rid}
    assert NAMES[EventType.GRANT_CHANGED] in {event.type for event, _ in told}
    assert all((event.request_id, event.peer) == (full.request_id, full.peer) for event, full in told)


def test_sources_in_models_that_the_caller_does_not_see_are_not_told(place: Place) -> None:
    told = list(told_to(place, place.outsider))
    promotions = [event.subject.promotion for event, _ in told if event.subject.HasField("promotion")]
    # Three from the hidden model, and a rollback to a version of the shown one itself.
    assert [each.source_model_rid for each in promotions] == [place.shown.rid, "", "", ""]
    assert [each.HasField("source_model_version_rid") for each in promotions] == [True, False, False, False]
    changed, asked, wanted = (
        next(event for event, _ in told if event.subject.HasField(kind) and is_it(event))
        for kind, is_it in (
            ("branch_policy", lambda _: True),
            ("promotion_request", lambda event: not event.subject.promotion_request.HasField("policy_change")),
            ("promotion_request", lambda event: event.subject.promotion_request.HasField("policy_change")),
        )
    )
    for allowed in (
        changed.subject.branch_policy.allowed_sources,
        wanted.subject.promotion_request.policy_change.branch.allowed_sources,
    ):
        assert [source.model_rid for source in allowed.sources] == [place.shown.rid]
        assert allowed.hidden_count == 1
    request = asked.subject.promotion_request
    assert not any(
        request.HasField(name) for name in ("source_model_rid", "source_model_version_rid", "content_digest")
    )
    assert place.hidden.rid.encode() not in b"".join(event.SerializeToString() for event, _ in told)


def test_a_member_of_the_folder_sees_all_sources_in_it(place: Place) -> None:
    told = list(told_to(place, place.member))
    for event, full in told:
        assert event.subject == full.subject


def test_principals_are_told_to_administrators_alone(place: Place) -> None:
    principal = f"user:{uuid.uuid4()}"
    place.admin("DisablePrincipal", principal=principal, reason="left")
    types = [NAMES[EventType.PRINCIPAL_DISABLED]]
    [told] = [event for event in listed(place.admin, types=types) if event.subject.principal.principal == principal]
    assert (told.subject.principal.reason, told.HasField("model_rid"), told.HasField("folder_rid")) == (
        "left",
        False,
        False,
    )
    for user in (place.member, place.outsider):
        assert listed(user, types=types) == []


def test_a_role_that_is_taken_away_silences_also_what_was_told_before(place: Place) -> None:
    assert listed(place.outsider)
    name = listed(place.admin, model_rid=place.shown.rid, types=[NAMES[EventType.GRANT_CHANGED]])
    principal = next(
        event.subject.grant_change.principal for event in name if "outsider" in event.subject.grant_change.principal
    )
    page = place.outsider("ListEvents", page_size=1)
    place.admin("RevokeRole", resource_rid=place.shown.rid, principal=principal)
    assert listed(place.outsider) == []
    rest = place.outsider("ListEvents", page_size=1, page_token=page.next_page_token)
    assert (len(rest.events), rest.HasField("next_page_token")) == (0, False)


def test_a_list_goes_on_from_its_cursor_and_misses_nothing(place: Place) -> None:
    wanted = {"model_rid": place.shown.rid, "order": LIST_ORDER_OLDEST_FIRST, "page_size": 4}
    version = place.admin.create_version(place.shown, branch="new")
    ids, cursor = [], place.start
    while answer := place.outsider("ListEvents", after_cursor=cursor, **wanted):
        cursor = answer.cursor
        ids += [event.id for event in answer.events]
        if not answer.events:
            break
    assert ids == [event.id for event in listed(place.outsider, order=LIST_ORDER_OLDEST_FIRST)]
    # Also from where there was nothing.
    made = place.admin.promote(version, place.shown, branch="later")
    [later] = place.outsider("ListEvents", after_cursor=cursor, **wanted).events
    assert later.model_version_rid == made.rid


def test_a_cursor_is_of_its_event_whatever_it_is_used_for(place: Place) -> None:
    everything = place.everything()
    for number in (0, len(everything) // 2, len(everything) - 1):
        behind = listed(
            place.admin,
            after_cursor=everything[number].cursor,
            parent_folder_rid=place.folder,
            order=LIST_ORDER_OLDEST_FIRST,
        )
        assert without_cursors(behind) == without_cursors(everything[number + 1 :])


def test_no_two_cursors_are_alike_so_that_they_do_not_tell_whether_anything_happened(place: Place) -> None:
    def cursor() -> str:
        return str(place.outsider("ListEvents", order=LIST_ORDER_OLDEST_FIRST, branch="quiet").cursor)

    before, again = cursor(), cursor()
    place.admin.create_model("unseen")
    after = cursor()
    assert len({before, again, after}) == 3
    assert len({len(each) for each in (before, again, after)}) == 1
    for each in (before, again, after):
        assert listed(place.outsider, after_cursor=each) == []


@pytest.mark.parametrize("cursor", ["", "x", "é", "A" * 59, "A" * 60, "AAAA" * 1000], ids=repr)
def test_what_is_no_cursor_of_this_registry_is_unknown(admin: User, cursor: str) -> None:
    failure = admin.failure("ListEvents", after_cursor=cursor)
    assert (failure.code.name, failure.name) == ("OUT_OF_RANGE", "CursorUnknown")
    assert failure.parameters["cursor"] == cursor[:300] or len(cursor) > 300


def test_a_cursor_that_was_changed_anywhere_is_unknown(place: Place) -> None:
    cursor = place.everything()[0].cursor
    for number in range(0, len(cursor), 7):
        other = "A" if cursor[number] != "A" else "B"
        failure = place.admin.failure("ListEvents", after_cursor=cursor[:number] + other + cursor[number + 1 :])
        assert failure.name == "CursorUnknown"


def test_a_page_token_is_of_its_query_alone(place: Place) -> None:
    token = place.admin("ListEvents", page_size=1, model_rid=place.shown.rid).next_page_token
    for other in (
        {"model_rid": place.hidden.rid},
        {},
        {"model_rid": place.shown.rid, "order": LIST_ORDER_OLDEST_FIRST},
        {"model_rid": place.shown.rid, "types": [NAMES[EventType.VERSION_PROMOTED]]},
        {"model_rid": place.shown.rid, "actor": "user:admin"},
        {"model_rid": place.shown.rid, "after_cursor": place.start},
    ):
        assert place.admin.failure("ListEvents", page_size=1, page_token=token, **other).name == "InvalidPageToken"


def test_a_type_that_does_not_exist_is_refused_with_those_that_do(any_admin: User) -> None:
    failure = any_admin.failure("ListEvents", types=["modelregistry.version.promoted.v1", "promoted"])
    assert (failure.code.name, failure.name) == ("INVALID_ARGUMENT", "InvalidArgument")
    [(field, said)] = failure.violations
    assert field == "types[1]"
    assert "modelregistry.version.promoted.v1" in said


def test_a_folder_that_the_caller_does_not_see_has_no_events(place: Place, jane: User) -> None:
    assert listed(jane, parent_folder_rid=place.folder) == []
    assert listed(jane, parent_folder_rid=new_folder_rid()) == []
