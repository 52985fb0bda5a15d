"""The types of events: what each is called, and who is told of one."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER, Role


class EventType(IntEnum):
    """What happened. The numbers are stored."""

    MODEL_CREATED = 1
    VERSION_CREATED = 2
    VERSION_PROMOTED = 3
    BRANCH_ROLLED_BACK = 4
    VERSION_YANKED = 5
    VERSION_UNYANKED = 6
    BRANCH_POLICY_CHANGED = 7
    BRANCH_LOCKED = 8
    BRANCH_UNLOCKED = 9
    FOLDER_BRANCH_POLICY_CHANGED = 10
    FOLDER_POLICY_CHANGED = 11
    REQUEST_CREATED = 12
    REQUEST_REVIEWED = 13
    REQUEST_WITHDRAWN = 14
    REQUEST_PROMOTED = 15
    REQUEST_EXPIRED = 16
    GRANT_CHANGED = 17
    PRINCIPAL_DISABLED = 18
    PRINCIPAL_ENABLED = 19
    SUBSCRIPTION_CREATED = 20
    SUBSCRIPTION_CHANGED = 21
    SUBSCRIPTION_DELETED = 22


class _Told(NamedTuple):
    name: str
    # On the model or folder that the event is about; administrators have every role, also on what is neither.
    role: Role.ValueType


_TOLD = {
    EventType.MODEL_CREATED: _Told("model.created", ROLE_VIEWER),
    EventType.VERSION_CREATED: _Told("version.created", ROLE_VIEWER),
    EventType.VERSION_PROMOTED: _Told("version.promoted", ROLE_VIEWER),
    EventType.BRANCH_ROLLED_BACK: _Told("branch.rolled_back", ROLE_VIEWER),
    EventType.VERSION_YANKED: _Told("version.yanked", ROLE_VIEWER),
    EventType.VERSION_UNYANKED: _Told("version.unyanked", ROLE_VIEWER),
    EventType.BRANCH_POLICY_CHANGED: _Told("branch_policy.changed", ROLE_VIEWER),
    EventType.BRANCH_LOCKED: _Told("branch.locked", ROLE_VIEWER),
    EventType.BRANCH_UNLOCKED: _Told("branch.unlocked", ROLE_VIEWER),
    EventType.FOLDER_BRANCH_POLICY_CHANGED: _Told("folder_branch_policy.changed", ROLE_OWNER),
    EventType.FOLDER_POLICY_CHANGED: _Told("folder_policy.changed", ROLE_OWNER),
    EventType.REQUEST_CREATED: _Told("promotion_request.created", ROLE_VIEWER),
    EventType.REQUEST_REVIEWED: _Told("promotion_request.reviewed", ROLE_VIEWER),
    EventType.REQUEST_WITHDRAWN: _Told("promotion_request.withdrawn", ROLE_VIEWER),
    EventType.REQUEST_PROMOTED: _Told("promotion_request.promoted", ROLE_VIEWER),
    EventType.REQUEST_EXPIRED: _Told("promotion_request.expired", ROLE_VIEWER),
    EventType.GRANT_CHANGED: _Told("grant.changed", ROLE_OWNER),
    EventType.PRINCIPAL_DISABLED: _Told("principal.disabled", ROLE_OWNER),
    EventType.PRINCIPAL_ENABLED: _Told("principal.enabled", ROLE_OWNER),
    EventType.SUBSCRIPTION_CREATED: _Told("subscription.created", ROLE_OWNER),
    EventType.SUBSCRIPTION_CHANGED: _Told("subscription.changed", ROLE_OWNER),
    EventType.SUBSCRIPTION_DELETED: _Told("subscription.deleted", ROLE_OWNER),
}

# What each is called, as CloudEvents has it: with the service in front and its version behind.
NAMES = {type_: f"modelregistry.{told.name}.v1" for type_, told in _TOLD.items()}
BY_NAME = {name: type_ for type_, name in NAMES.items()}
# Which ones are told to owners alone. All others are told to everyone with a role.
FOR_OWNERS = frozenset(type_ for type_, told in _TOLD.items() if told.role == ROLE_OWNER)
# Of these there are many; of all others, few.
FREQUENT = frozenset({EventType.VERSION_CREATED, EventType.VERSION_PROMOTED, EventType.BRANCH_ROLLED_BACK})
