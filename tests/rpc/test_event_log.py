"""What each call that changes something writes into the log of events: exactly one for each thing that it changed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.event_pb2 import Event, EventSubject
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PolicyChange,
    PromotionRequest,
)
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION, Yank
from server.core.event_types import NAMES, EventType
from server.core.permissions import MODELS_WRITE, RPC_SCOPES
from tests.builders import model_api
from tests.rpc.harness import METHODS, SOME_MODEL, Registry, User, path_of

pytestmark = pytest.mark.database("shared")

# Nothing is sent there: the servers of these tests deliver nothing.
HOOK = "https://receiver.example/hook"

PREFIX, SUFFIX = "modelregistry.", ".v1"


def end_of(admin: User) -> str:
    """Where the log of events ends now."""
    cursor: str = admin("ListEvents", page_size=1).cursor
    return cursor


def behind(admin: User, cursor: str, **wanted: Any) -> list[Event]:
    """The events behind a cursor, oldest first."""
    return [*admin("ListEvents", order=2, after_cursor=cursor, page_size=1000, **wanted).events]


def short(event: Event) -> str:
    assert event.type.startswith(PREFIX)
    assert event.type.endswith(SUFFIX)
    return event.type[len(PREFIX) : -len(SUFFIX)]


class Scene:
    """Two models with a version each, and what calls need beside them; all of it belongs to one test."""

    def __init__(self, admin: User, registry: Registry):
        self.admin, self.registry = admin, registry
        self.source_model, self.target = admin.create_model("source"), admin.create_model("target")
        self.source = admin.create_version(self.source_model)
        self.folder = admin.folder
        self.principal = f"user:{uuid.uuid4()}"

    def promotion(self, **fields: Any) -> dict[str, Any]:
        return {"model_rid": self.target.rid, "source_model_version_rid": self.source.rid} | fields

    def promoted(self, times: int = 1) -> list[ModelVersion]:
        return [self.admin.promote(self.source, self.target) for _ in range(times)]

    def wanting_approvals(self) -> None:
        rule = ApprovalRule(required=1, approvers=["group:risk"])
        self.admin("SetBranchPolicy", model_rid=self.target.rid, approvals=rule)

    def requested(self) -> PromotionRequest:
        self.wanting_approvals()
        asked: PromotionRequest = self.admin("CreatePromotionRequest", **self.promotion())
        return asked

    def reviewer(self) -> User:
        self.admin("GrantRole", resource_rid=self.target.rid, principal="group:risk", role=ROLE_VIEWER)
        self.admin("GrantRole", resource_rid=self.source_model.rid, principal="group:risk", role=ROLE_VIEWER)
        return self.registry.user("risky", "risk")

    def yanked(self) -> Yank:
        made: Yank = self.admin("YankVersion", **self.yank())
        return made

    def yank(self) -> dict[str, Any]:
        version = {"model_rid": self.source.model_rid, "model_version_rid": self.source.rid}
        return version | {"scope": YANK_SCOPE_VERSION, "reason": "poisoned"}

    def subscribed(self) -> str:
        made = self.admin("CreateSubscription", resource_rid=self.target.rid, url=HOOK)
        return str(made.subscription.rid)

    def change(self) -> PolicyChange:
        return PolicyChange(branch=SetBranchPolicyRequest(model_rid=self.target.rid, clear_fields=["approvals"]))


Call = Callable[[Scene], dict[str, Any]]


def _after(prepare: Callable[[Scene], object], call: Call) -> Call:
    def run(scene: Scene) -> dict[str, Any]:
        prepare(scene)
        return call(scene)

    return run


# What each RPC is called with, once the scene is prepared, and the events that this writes, in their order.
WRITTEN: dict[str, tuple[Call, list[str]]] = {
    "CreateModel": (
        lambda scene: {"name": "new", "parent_folder_rid": scene.folder},
        ["model.created", "grant.changed"],
    ),
    "CreateModelVersion": (
        lambda scene: {"model_rid": scene.target.rid, "model_api": model_api()},
        ["version.created"],
    ),
    "PromoteVersion": (lambda scene: scene.promotion(preview=True), ["version.promoted"]),
    "BatchPromoteVersions": (
        lambda scene: {"promotions": [scene.promotion(), scene.promotion(branch="other")]},
        ["version.promoted", "version.promoted"],
    ),
    "RollbackBranch": (
        _after(lambda scene: scene.promoted(2), lambda scene: {"model_rid": scene.target.rid, "to_version_number": 1}),
        ["branch.rolled_back"],
    ),
    "BatchRollback": (
        _after(
            lambda scene: scene.promoted(2),
            lambda scene: {"rollbacks": [{"model_rid": scene.target.rid, "to_version_number": 1}]},
        ),
        ["branch.rolled_back"],
    ),
    "SetBranchPolicy": (
        lambda scene: {"model_rid": scene.target.rid, "compatibility": COMPATIBILITY_MODE_OFF},
        ["branch_policy.changed"],
    ),
    "LockBranch": (lambda scene: {"model_rid": scene.target.rid, "reason": "incident 42"}, ["branch.locked"]),
    "UnlockBranch": (lambda scene: {"model_rid": scene.target.rid}, ["branch.unlocked"]),
    "SetFolderBranchPolicy": (
        lambda scene: {"folder_rid": scene.folder, "branch": "b", "promotion_only": True},
        ["folder_branch_policy.changed"],
    ),
    "YankVersion": (lambda scene: scene.yank(), ["version.yanked"]),
    "UnyankVersion": (lambda scene: {"yank_rid": scene.yanked().rid}, ["version.unyanked"]),
    "CreatePromotionRequest": (
        _after(Scene.wanting_approvals, lambda scene: scene.promotion()),
        ["promotion_request.created"],
    ),
    "CreatePolicyChangeRequest": (
        _after(Scene.wanting_approvals, lambda scene: {"policy_change": scene.change()}),
        ["promotion_request.created"],
    ),
    "ReviewPromotionRequest": (
        _after(
            Scene.reviewer,
            lambda scene: {"promotion_request_rid": scene.requested().rid, "verdict": REVIEW_VERDICT_REJECT},
        ),
        ["promotion_request.reviewed"],
    ),
    "WithdrawPromotionRequest": (
        lambda scene: {"promotion_request_rid": scene.requested().rid},
        ["promotion_request.withdrawn"],
    ),
    "GrantRole": (
        lambda scene: {"resource_rid": scene.target.rid, "principal": scene.principal, "role": ROLE_VIEWER},
        ["grant.changed"],
    ),
    "RevokeRole": (
        _after(
            lambda scene: scene.admin(
                "GrantRole", resource_rid=scene.target.rid, principal=scene.principal, role=ROLE_VIEWER
            ),
            lambda scene: {"resource_rid": scene.target.rid, "principal": scene.principal},
        ),
        ["grant.changed"],
    ),
    "SetFolderPolicy": (
        lambda scene: {"folder_rid": scene.folder, "new_model_owner": NEW_MODEL_OWNER_FOLDER},
        ["folder_policy.changed"],
    ),
    # The new owner, and the one who loses that role.
    "TransferOwnership": (
        lambda scene: {"resource_rid": scene.target.rid, "principal": scene.principal},
        ["grant.changed", "grant.changed"],
    ),
    "DisablePrincipal": (lambda scene: {"principal": scene.principal, "reason": "left"}, ["principal.disabled"]),
    "EnablePrincipal": (lambda scene: {"principal": scene.principal}, ["principal.enabled"]),
    "CreateSubscription": (
        lambda scene: {"resource_rid": scene.target.rid, "url": HOOK},
        ["subscription.created"],
    ),
    "UpdateSubscription": (
        lambda scene: {"subscription_rid": scene.subscribed(), "description": "another"},
        ["subscription.changed"],
    ),
    "DeleteSubscription": (lambda scene: {"subscription_rid": scene.subscribed()}, ["subscription.deleted"]),
    "RotateSubscriptionSecret": (
        lambda scene: {"subscription_rid": scene.subscribed()},
        ["subscription.changed"],
    ),
    # What is sent again was told before.
    "RedeliverEvents": (
        lambda scene: {"subscription_rid": scene.subscribed(), "after_cursor": end_of(scene.admin)},
        [],
    ),
    # Nobody sees an upload until a version is created with it.
    "UploadModelFiles": (lambda scene: {}, []),
}
# Who calls, where it is not the administrator.
BY_OTHERS = {"ReviewPromotionRequest": Scene.reviewer}


def test_the_table_has_every_call_that_changes_something_and_every_type() -> None:
    assert set(WRITTEN) == {name for name in METHODS if RPC_SCOPES[path_of(name)] == MODELS_WRITE}
    elsewhere = {"promotion_request.promoted", "promotion_request.expired"}  # below
    told = {name for _, written in WRITTEN.values() for name in written} | elsewhere
    assert told == {name[len(PREFIX) : -len(SUFFIX)] for name in NAMES.values()}
    assert set(NAMES) == set(EventType)


@pytest.mark.parametrize("rpc", WRITTEN)
def test_a_call_writes_exactly_the_events_of_what_it_changed(admin: User, registry: Registry, rpc: str) -> None:
    scene = Scene(admin, registry)
    call, written = WRITTEN[rpc]
    user = BY_OTHERS[rpc](scene) if rpc in BY_OTHERS else admin
    fields = call(scene)
    before = end_of(admin)
    request_id = str(uuid.uuid4())
    known = User(user.channel, (*user.metadata, ("x-request-id", request_id)), user.folder)
    if rpc == "UploadModelFiles":
        known.upload(scene.target, b"files")
    else:
        known(rpc, **fields)

    events = behind(admin, before)
    assert [short(event) for event in events] == written
    assert len({event.id for event in events}) == len({event.cursor for event in events}) == len(events)
    caller = "user:risky" if rpc in BY_OTHERS else "user:admin"
    for event in events:
        assert (event.actor, event.request_id, event.peer) == (caller, request_id, "127.0.0.1")
        assert event.subject.WhichOneof("type") is not None
        assert event.HasField("model_rid") + event.HasField("folder_rid") == ("principal." not in event.type)
    # The same once more, where the call has ids for that, changes nothing.
    if events and "request_id" in METHODS[rpc].input_type.fields_by_name and rpc != "ReviewPromotionRequest":
        _repeated(scene, rpc, call)


def _repeated(scene: Scene, rpc: str, call: Call) -> None:
    again = Scene(User(scene.admin.channel, scene.admin.metadata, f"{scene.folder}-again"), scene.registry)
    fields = call(again) | {"request_id": str(uuid.uuid4())}
    answered = scene.admin(rpc, **fields)
    if "secret" in answered.DESCRIPTOR.fields_by_name:  # It is told once.
        answered.ClearField("secret")
    before = end_of(scene.admin)
    assert scene.admin(rpc, **fields) == answered
    assert behind(scene.admin, before) == []


def test_what_is_refused_or_changes_nothing_writes_nothing(admin: User, jane: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    yank = scene.yanked()
    admin("UnyankVersion", yank_rid=yank.rid)
    admin("GrantRole", resource_rid=scene.target.rid, principal="user:jane", role=ROLE_VIEWER)
    before = end_of(admin)
    jane.failure("PromoteVersion", **scene.promotion(preview=True))
    admin.failure("CreateModel", name="target", parent_folder_rid=scene.folder)
    admin.failure("BatchPromoteVersions", promotions=[scene.promotion(), scene.promotion(model_rid=SOME_MODEL)])
    admin("RevokeRole", resource_rid=scene.target.rid, principal=scene.principal)
    admin("UnyankVersion", yank_rid=yank.rid)
    admin("CheckPromotion", **scene.promotion(preview=True))
    assert behind(admin, before) == []


def only(admin: User, before: str) -> Event:
    [event] = behind(admin, before)
    return event


def test_a_promotion_is_told_as_it_is_recorded(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    [replaced] = scene.promoted()
    before = end_of(admin)
    made = admin.promote(scene.source, scene.target, reason="because")
    event = only(admin, before)
    assert (event.model_rid, event.branch, event.model_version_rid) == (scene.target.rid, "master", made.rid)
    assert event.time == made.created_time
    told = event.subject.promotion
    recorded = admin("GetPromotion", promotion_rid=told.rid)
    # Findings and their counts are in the record alone.
    for name in ("findings", "error_count", "warning_count"):
        recorded.ClearField(name)
    assert told == recorded
    assert (told.replaced_version_rid, told.reason) == (replaced.rid, "because")


def test_a_model_a_version_and_a_grant_are_told_as_they_are(admin: User) -> None:
    before = end_of(admin)
    model: Model = admin.create_model("told")
    version = admin.create_version(model)
    created, granted, made = behind(admin, before)
    assert created.subject.model == model
    assert created.time == model.created_time
    change = admin("ListGrantChanges", resource_rid=model.rid).changes[0]
    assert granted.subject.grant_change == change
    assert (made.subject.version.version_number, made.subject.version.imported) == (version.version_number, False)
    assert (made.model_version_rid, made.branch, made.time) == (version.rid, version.branch, version.created_time)


def test_a_policy_and_a_lock_are_told_as_they_hold(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    before = end_of(admin)
    policy = admin("SetBranchPolicy", model_rid=scene.target.rid, promotion_only=True)
    locked = admin("LockBranch", model_rid=scene.target.rid, reason="incident 42")
    of_folder = admin("SetFolderBranchPolicy", folder_rid=scene.folder, branch="b", promotion_only=True)
    told = behind(admin, before)
    policy.ClearField("warnings")
    of_folder.ClearField("warnings")
    assert [event.subject.branch_policy for event in told] == [policy, locked, of_folder]
    assert [event.branch for event in told] == ["master", "master", "b"]
    assert (told[0].model_rid, told[2].folder_rid) == (scene.target.rid, scene.folder)


def test_a_yank_and_its_end_are_told_as_they_are(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    before = end_of(admin)
    yank = scene.yanked()
    ended = admin("UnyankVersion", yank_rid=yank.rid, reason="a false alarm")
    told = behind(admin, before)
    assert [event.subject.yank for event in told] == [yank, ended]
    assert {event.model_version_rid for event in told} == {scene.source.rid}


def test_the_life_of_a_request_is_told_step_by_step(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    reviewer = scene.reviewer()
    scene.wanting_approvals()
    before = end_of(admin)
    asked = admin("CreatePromotionRequest", **scene.promotion(reason="release 7"))
    review = {"promotion_request_rid": asked.rid, "verdict": REVIEW_VERDICT_APPROVE, "comment": "fine"}
    reviewer("ReviewPromotionRequest", **review)
    made = admin.promote(scene.source, scene.target)
    created, reviewed, promoted, carried_out = behind(admin, before)
    assert [short(event) for event in (created, reviewed, promoted, carried_out)] == [
        "promotion_request.created",
        "promotion_request.reviewed",
        "version.promoted",
        "promotion_request.promoted",
    ]
    subjects: list[EventSubject] = [event.subject for event in (created, reviewed, carried_out)]
    requests = [subject.promotion_request for subject in subjects]
    assert {request.rid for request in requests} == {asked.rid}
    assert {request.reason for request in requests} == {"release 7"}
    assert {request.source_model_version_rid for request in requests} == {scene.source.rid}
    assert [request.state for request in requests][::2] == [
        PROMOTION_REQUEST_STATE_OPEN,
        PROMOTION_REQUEST_STATE_PROMOTED,
    ]
    [said] = requests[1].reviews
    assert (said.reviewed_by, said.comment, said.verdict) == ("user:risky", "fine", REVIEW_VERDICT_APPROVE)
    assert said.HasField("created_time")
    assert requests[2].model_version_rid == carried_out.model_version_rid == made.rid
    assert requests[2].closed_by == "user:admin"


def test_a_request_whose_place_another_takes_is_told_as_expired_before(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    asked = scene.requested()
    # By the policy that holds now, its time is over.
    rule = ApprovalRule(required=1, approvers=["group:risk"])
    rule.expire_after.FromMilliseconds(1000)
    admin("SetBranchPolicy", model_rid=scene.target.rid, approvals=rule)
    while admin("GetPromotionRequest", promotion_request_rid=asked.rid).state != PROMOTION_REQUEST_STATE_EXPIRED:
        pass
    before = end_of(admin)
    again = admin("CreatePromotionRequest", **scene.promotion())
    expired, created = behind(admin, before)
    assert (short(expired), short(created)) == ("promotion_request.expired", "promotion_request.created")
    assert (expired.subject.promotion_request.rid, expired.actor) == (asked.rid, "")
    assert created.subject.promotion_request.rid == again.rid


def test_a_withdrawn_request_is_told_with_who_withdrew_it(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    asked = scene.requested()
    before = end_of(admin)
    admin("WithdrawPromotionRequest", promotion_request_rid=asked.rid)
    told = only(admin, before).subject.promotion_request
    assert (told.state, told.closed_by) == (PROMOTION_REQUEST_STATE_WITHDRAWN, "user:admin")


def test_a_new_owner_is_told_of_both_changes(admin: User, registry: Registry) -> None:
    scene = Scene(admin, registry)
    before = end_of(admin)
    admin("TransferOwnership", resource_rid=scene.target.rid, principal=scene.principal)
    changes = [event.subject.grant_change for event in behind(admin, before)]
    assert [(change.principal, change.role) for change in changes] == [(scene.principal, ROLE_OWNER), ("user:admin", 0)]
