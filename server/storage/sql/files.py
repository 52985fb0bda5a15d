"""Model files of `server.storage.contract.Transaction` as SQL: which there are, and which are on their way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, insert, not_, or_, select, update

from server.core.errors import StorageUnavailable
from server.storage.contract import StoredFile, UploadKey
from server.storage.sql.cache import VersionCache
from server.storage.sql.engine import upsert
from server.storage.sql.keys import model_id
from server.storage.sql.reader import SqlReader
from server.storage.sql.rows import timestamp
from server.storage.sql.tables import contents, files, identity, uploads

_is_unnamed = not_(
    or_(
        exists().where(contents.c.file_digest == files.c.digest),
        exists().where(uploads.c.file_digest == files.c.digest),
    )
)


class SqlFileReader(SqlReader):
    """Questions about model files."""

    def find_file(self, content_digest: bytes) -> StoredFile | None:
        """See the contract."""
        query = select(files).join(contents, contents.c.file_digest == files.c.digest)
        row = self.connection.execute(query.where(contents.c.digest == content_digest)).one_or_none()
        return None if row is None else StoredFile(row.digest, row.size, row.object_name)

    def some_files(self, count: int) -> list[StoredFile]:
        """See the contract."""
        rows = self.connection.execute(select(files).limit(count))
        return [StoredFile(row.digest, row.size, row.object_name) for row in rows]

    def unnamed_files(self) -> list[bytes]:
        """See the contract."""
        return list(self.connection.scalars(select(files.c.digest).where(_is_unnamed)))

    def known_objects(self, object_names: Collection[str]) -> set[str]:
        """See the contract."""
        stored = select(files.c.object_name).where(files.c.object_name.in_(object_names))
        on_their_way = select(uploads.c.object_name).where(uploads.c.object_name.in_(object_names), _is_incomplete())
        return set(self.connection.scalars(stored.union(on_their_way)))

    def registry_id(self) -> str:
        """See the contract."""
        registry_id: str = self.connection.scalars(select(identity.c.registry_id)).one()
        return registry_id


class SqlFileTransaction(SqlFileReader):
    """Changes of model files."""

    def __init__(
        self, connection: Connection, max_message_bytes: int, versions: VersionCache, clock_ms: Callable[[], int]
    ):
        super().__init__(connection, max_message_bytes, versions)
        self._clock_ms = clock_ms

    def begin_upload(self, upload: UploadKey, object_name: str, lifetime: timedelta) -> Timestamp:
        """See the contract."""
        expire_ms = self._clock_ms() + lifetime // timedelta(milliseconds=1)
        self.connection.execute(
            insert(uploads).values(
                id_digest=upload.id_digest,
                caller=upload.caller,
                model_id=model_id(upload.model_rid),
                object_name=object_name,
                expire_time=expire_ms,
            )
        )
        return timestamp(expire_ms)

    def finish_upload(self, upload: UploadKey, file: StoredFile) -> str:
        """See the contract."""
        statement = upsert(self.connection, files).values(file._asdict())
        # Also where nothing changes, the row is written: it is locked against its removal, and it takes as long.
        holder: str = self.connection.scalars(
            statement.on_conflict_do_update(index_elements=[files.c.digest], set_={"size": file.size}).returning(
                files.c.object_name
            )
        ).one()
        finished = self.connection.execute(update(uploads).where(_is(upload)).values(file_digest=file.digest))
        if not finished.rowcount:
            raise StorageUnavailable
        return holder

    def replace_object(self, file: StoredFile, lost_object: str) -> None:
        """See the contract."""
        lost = (files.c.digest == file.digest, files.c.object_name == lost_object)
        self.connection.execute(update(files).where(*lost).values(object_name=file.object_name))

    def give_up_upload(self, upload: UploadKey) -> None:
        """See the contract."""
        self.connection.execute(delete(uploads).where(_is(upload)))

    def find_upload(self, upload: UploadKey) -> bytes | None:
        """See the contract."""
        query = (
            select(files.c.digest)
            .join(uploads, uploads.c.file_digest == files.c.digest)
            .where(_is(upload), uploads.c.expire_time > self._clock_ms())
            .with_for_update(read=True, key_share=True, of=files)
        )
        return self.connection.scalars(query).one_or_none()

    def remove_expired_uploads(self) -> int:
        """See the contract."""
        return self.connection.execute(delete(uploads).where(uploads.c.expire_time <= self._clock_ms())).rowcount

    def remove_unnamed_file(self, digest: bytes) -> StoredFile | None:
        """See the contract."""
        # First the lock and then the question, whose answer can then no longer change.
        self.connection.execute(select(files.c.digest).where(files.c.digest == digest).with_for_update())
        statement = delete(files).where(files.c.digest == digest, _is_unnamed).returning(*files.c)
        row = self.connection.execute(statement).one_or_none()
        return None if row is None else StoredFile(row.digest, row.size, row.object_name)


def _is(upload: UploadKey) -> ColumnElement[bool]:
    return and_(
        uploads.c.id_digest == upload.id_digest,
        uploads.c.caller == upload.caller,
        uploads.c.model_id == model_id(upload.model_rid),
    )


def _is_incomplete() -> ColumnElement[bool]:
    return uploads.c.file_digest.is_(None)
