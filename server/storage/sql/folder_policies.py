"""What holds for the models that are created in a folder: the questions and changes of the contract about it."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_CREATOR, FolderPolicy, NewModelOwner
from modelregistry.v1.event_pb2 import Event, EventSubject
from server.core.event_types import EventType
from server.storage.sql.event_log import add_event
from server.storage.sql.rows import timestamp
from server.storage.sql.statements import Statement
from server.storage.sql.tables import folder_policies
from server.storage.sql.unit_of_work import UnitOfWork


def get_folder_policy(work: UnitOfWork, folder_rid: str) -> FolderPolicy:
    """See the contract."""
    row = work.session.one_or_none(_newest, {"folder": folder_rid})
    if row is None:
        return FolderPolicy(folder_rid=folder_rid, new_model_owner=NEW_MODEL_OWNER_CREATOR)
    return FolderPolicy(
        folder_rid=folder_rid,
        new_model_owner=row.new_model_owner,
        changed_by=row.changed_by,
        changed_time=timestamp(row.changed_time),
    )


def add_folder_policy(
    work: UnitOfWork, folder_rid: str, new_model_owner: NewModelOwner.ValueType, changed_by: str
) -> FolderPolicy:
    """See the contract."""
    now_ms = work.clock_ms()
    values = {"folder": folder_rid, "owner": new_model_owner, "changer": changed_by, "now_ms": now_ms}
    work.session.send(_add, values)
    # And not what is read now, which another transaction may have set meanwhile.
    policy = FolderPolicy(
        folder_rid=folder_rid, new_model_owner=new_model_owner, changed_by=changed_by, changed_time=timestamp(now_ms)
    )
    add_event(
        work,
        EventType.FOLDER_POLICY_CHANGED,
        Event(subject=EventSubject(folder_policy=policy)),
        about=folder_rid,
        actor=changed_by,
        time=now_ms,
    )
    return policy


_newest = Statement(
    select(folder_policies)
    .where(folder_policies.c.folder_rid == bindparam("folder"))
    .order_by(folder_policies.c.id.desc())
    .limit(1)
)
_add = Statement(
    insert(folder_policies).values(
        folder_rid=bindparam("folder"),
        new_model_owner=bindparam("owner"),
        changed_by=bindparam("changer"),
        changed_time=bindparam("now_ms"),
    )
)
