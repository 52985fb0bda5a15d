"""Model files: which there are, and which are being uploaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import BigInteger, and_, bindparam, delete, exists, func, insert, not_, or_, select, true, update

from server.core.config import NO_QUOTA, FileQuota
from server.core.errors import QuotaExceeded, StorageUnavailable
from server.core.rids import rid_type
from server.storage.contract import FileUse, StoredFile, UploadKey
from server.storage.sql.rows import AnyRow, timestamp
from server.storage.sql.statements import Statement, forms, numbered, padded, several, upsert
from server.storage.sql.tables import contents, file_usage, files, identity, model_id, models, uploads
from server.storage.sql.unit_of_work import UnitOfWork

# How many expired uploads one that begins, or has no room, forgets at once: more than it brings, and no burden.
EXPIRED_AT_ONCE = 10
# More bytes than there are.
_ANY_NUMBER = 2**63 - 1


def find_file(work: UnitOfWork, content_digest: bytes) -> StoredFile | None:
    """See the contract."""
    return _to_file(work.session.one_or_none(_file, {"content_digest": content_digest}))


def get_file_uses(work: UnitOfWork, upload: UploadKey) -> tuple[FileUse, FileUse]:
    """See the contract."""
    row = work.session.one(_uses, {"uploader": upload.caller, "model_rid": upload.model_rid})
    return FileUse(upload.caller, row.of_principal), FileUse(row.folder, row.of_folder)


def some_files(work: UnitOfWork, count: int) -> list[StoredFile]:
    """See the contract."""
    return [StoredFile(row.digest, row.size, row.object_name) for row in work.session.all(_some, {"count": count})]


def unnamed_files(work: UnitOfWork) -> list[bytes]:
    """See the contract."""
    return [row.digest for row in work.session.all(_unnamed)]


def known_objects(work: UnitOfWork, object_names: Collection[str]) -> set[str]:
    """See the contract."""
    if not object_names:
        return set()
    names = padded([*object_names])
    return {row.object_name for row in work.session.all(_known(len(names)), numbered("name", names))}


def registry_id(work: UnitOfWork) -> str:
    """See the contract."""
    found: str = work.session.one(_identity).registry_id
    return found


def begin_upload(work: UnitOfWork, upload: UploadKey, object_name: str, lifetime: timedelta) -> None:
    """See the contract."""
    expire_ms = work.clock_ms() + lifetime // timedelta(milliseconds=1)
    work.session.send(_begin, _of(upload) | {"object": object_name, "expire_ms": expire_ms})


def finish_upload(work: UnitOfWork, upload: UploadKey, file: StoredFile, quota: FileQuota = NO_QUOTA) -> str:
    """See the contract."""
    holder: str = work.session.one(_store, _as_parameters(file)).object_name
    if not work.session.change(_finish, _of(upload) | {"file": file.digest, "size": file.size}):
        raise StorageUnavailable
    # The principal first and then the folder, as wherever several are written: who waits for the one has not the other.
    for use, most in zip(get_file_uses(work, upload), quota, strict=True):
        bound = {"holder": use.holder, "size": file.size, "most": most or _ANY_NUMBER}
        if (most and file.size > most) or work.session.one_or_none(_count, bound) is None:
            raise QuotaExceeded(resource=use.holder, max_bytes=most)
    return holder


def keep_upload(work: UnitOfWork, upload: UploadKey, lifetime: timedelta) -> Timestamp:
    """See the contract."""
    expire_ms = work.clock_ms() + lifetime // timedelta(milliseconds=1)
    work.session.send(_prolong, _of(upload) | {"expire_ms": expire_ms})
    return timestamp(expire_ms)


def replace_object(work: UnitOfWork, file: StoredFile, lost_object: str) -> None:
    """See the contract."""
    work.session.send(_replace, {"file": file.digest, "lost": lost_object, "object": file.object_name})


def give_up_upload(work: UnitOfWork, upload: UploadKey) -> None:
    """See the contract."""
    work.session.send(_give_up, _of(upload))


def find_upload(work: UnitOfWork, upload: UploadKey) -> bytes | None:
    """See the contract."""
    row = work.session.one_or_none(_name, _of(upload) | {"now_ms": work.clock_ms()})
    if row is None:
        return None
    digest: bytes = row.file_digest
    work.session.send(_keep, {"file": digest})
    return digest


def remove_expired_uploads(work: UnitOfWork, holder: str | None = None) -> int:
    """See the contract."""
    now = {"now_ms": work.clock_ms()}
    if holder is None:
        removed = work.session.all(_remove_expired, now)
    else:
        remove = _remove_expired_of_principal if rid_type(holder) is None else _remove_expired_of_folder
        removed = work.session.all(remove, now | {"holder": holder, "count": EXPIRED_AT_ONCE})
    principals, folders = Counter[str](), Counter[str]()
    for upload in removed:
        if not upload.is_named:
            principals[upload.caller] += upload.size or 0
            folders[upload.folder] += upload.size or 0
    for holder, size in (*sorted(principals.items()), *sorted(folders.items())):
        work.session.send(_give_back, {"holder": holder, "size": size})
    return len(removed)


def remove_unnamed_file(work: UnitOfWork, digest: bytes) -> StoredFile | None:
    """See the contract."""
    # First the lock and then the question, whose answer can then no longer change.
    work.session.send(_lock, {"file": digest})
    return _to_file(work.session.one_or_none(_remove_unnamed, {"file": digest}))


def _of(upload: UploadKey) -> dict[str, Any]:
    return {"id": upload.id_digest, "uploader": upload.caller, "model_rid": upload.model_rid}


def _as_parameters(file: StoredFile) -> dict[str, Any]:
    return {"file": file.digest, "bytes": file.size, "object": file.object_name}


def _to_file(row: AnyRow | None) -> StoredFile | None:
    return None if row is None else StoredFile(row.digest, row.size, row.object_name)


def _size_of(holder: Any) -> Any:
    return select(file_usage.c.size).where(file_usage.c.holder == holder).scalar_subquery()


@forms
def _known(count: int) -> Any:
    names = several("name", count)
    stored = select(files.c.object_name).where(files.c.object_name.in_(names))
    incomplete = select(uploads.c.object_name).where(uploads.c.object_name.in_(names), uploads.c.file_digest.is_(None))
    return stored.union(incomplete)


_is_unnamed = not_(
    or_(
        exists().where(contents.c.file_digest == files.c.digest),
        exists().where(uploads.c.file_digest == files.c.digest),
    )
)
_is_upload = and_(
    uploads.c.id_digest == bindparam("id"),
    uploads.c.caller == bindparam("uploader"),
    uploads.c.model_id == model_id(bindparam("model_rid")),
)
_is_file = files.c.digest == bindparam("file")

_file = Statement(
    select(files)
    .join(contents, contents.c.file_digest == files.c.digest)
    .where(contents.c.digest == bindparam("content_digest"))
)
_uses = Statement(
    select(
        models.c.parent_folder_rid.label("folder"),
        func.coalesce(_size_of(bindparam("uploader")), 0).label("of_principal"),
        func.coalesce(_size_of(models.c.parent_folder_rid), 0).label("of_folder"),
    ).where(models.c.rid == bindparam("model_rid"))
)
_some = Statement(select(files).limit(bindparam("count")))
_unnamed = Statement(select(files.c.digest).where(_is_unnamed))
_identity = Statement(select(identity.c.registry_id))
_begin = Statement(
    insert(uploads).values(
        id_digest=bindparam("id"),
        caller=bindparam("uploader"),
        model_id=model_id(bindparam("model_rid")),
        object_name=bindparam("object"),
        expire_time=bindparam("expire_ms"),
    )
)
# Also where nothing changes, the row is written: that locks it against removal, and takes as long as an insert, so that
# nothing can be told from the time.
_store = Statement(
    lambda dialect: (
        upsert(dialect, files)
        .values(digest=bindparam("file"), size=bindparam("bytes"), object_name=bindparam("object"))
        .on_conflict_do_update(index_elements=[files.c.digest], set_={"size": bindparam("bytes")})
        .returning(files.c.object_name)
    )
)
_finish = Statement(update(uploads).where(_is_upload).values(file_digest=bindparam("file"), size=bindparam("size")))
_prolong = Statement(update(uploads).where(_is_upload).values(expire_time=bindparam("expire_ms")))
_replace = Statement(
    update(files).where(_is_file, files.c.object_name == bindparam("lost")).values(object_name=bindparam("object"))
)
_give_up = Statement(delete(uploads).where(_is_upload))
_name = Statement(
    update(uploads)
    .where(_is_upload, uploads.c.file_digest.is_not(None), uploads.c.expire_time > bindparam("now_ms"))
    .values(is_named=true())
    .returning(uploads.c.file_digest)
)
_keep = Statement(select(files.c.digest).where(_is_file).with_for_update(read=True, key_share=True))
_is_expired = uploads.c.expire_time <= bindparam("now_ms")
_removed = (
    uploads.c.caller,
    select(models.c.parent_folder_rid).where(models.c.id == uploads.c.model_id).scalar_subquery().label("folder"),
    uploads.c.size,
    uploads.c.is_named,
)
_remove_expired = Statement(delete(uploads).where(_is_expired).returning(*_removed))
_in_folder = select(models.c.id).where(models.c.parent_folder_rid == bindparam("holder"))


def _remove_expired_where(is_of_holder: Any) -> Statement:
    # Locked in an order, so that several that remove the same ones wait for each other, and do not deadlock.
    expired = (
        select(uploads.c.id_digest)
        .where(_is_expired, is_of_holder)
        .order_by(uploads.c.is_named, func.coalesce(uploads.c.size, 0).desc(), uploads.c.id_digest)
        .limit(bindparam("count"))
        .with_for_update()
        .cte("expired")
    )
    return Statement(delete(uploads).where(uploads.c.id_digest.in_(select(expired.c.id_digest))).returning(*_removed))


_remove_expired_of_principal = _remove_expired_where(uploads.c.caller == bindparam("holder"))
_remove_expired_of_folder = _remove_expired_where(uploads.c.model_id.in_(_in_folder))
_give_back = Statement(
    update(file_usage)
    .where(file_usage.c.holder == bindparam("holder"))
    .values(size=file_usage.c.size - bindparam("size", type_=BigInteger))
)
_count = Statement(
    lambda dialect: (
        upsert(dialect, file_usage)
        .values(holder=bindparam("holder"), size=bindparam("size"))
        .on_conflict_do_update(
            index_elements=[file_usage.c.holder],
            set_={"size": file_usage.c.size + bindparam("size")},
            where=file_usage.c.size + bindparam("size") <= bindparam("most"),
        )
        .returning(file_usage.c.size)
    )
)
_lock = Statement(select(files.c.digest).where(_is_file).with_for_update())
_remove_unnamed = Statement(delete(files).where(_is_file, _is_unnamed).returning(*files.c))
