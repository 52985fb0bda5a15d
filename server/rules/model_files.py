"""Model files: how they come in, how a version comes to have them, how they go out. Their content is not looked into.

What an upload answers is an id that nobody can guess, for one caller and one model, and not the digest that the bytes
are stored under: whoever knew a digest could otherwise take the files of others. That equal files are stored once is
not to be seen from outside: each upload is written in full, and a copy of what is stored already is removed in the
background.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import NamedTuple, Self, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    DownloadModelFilesResponse,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from server.core.caller import Caller
from server.core.config import NO_QUOTA, FileQuota
from server.core.errors import (
    FieldViolation,
    InvalidArgument,
    ModelFilesNotFound,
    QuotaExceeded,
    RegistryError,
    StorageUnavailable,
)
from server.rules.models import find_model_version, find_replayed_version, require_editor, write_version
from server.rules.verdicts import Runner, run_inline
from server.storage.blobs import FileStore, Target, new_object_name
from server.storage.contract import Reader, Repository, StoredFile, Transaction, UploadKey

T = TypeVar("T")

# No stream of files lasts longer.
LONGEST_TRANSFER = timedelta(hours=6)
# From its end on, long enough to create the version. What no version names takes up the disk of others.
UPLOAD_LIFETIME = timedelta(hours=1)
# From its beginning on: one that is still incomplete then was cut off.
UPLOADING_LIFETIME = LONGEST_TRANSFER + UPLOAD_LIFETIME
UPLOAD_ID_BYTES = 32


def upload_model_files(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    parts: Iterator[UploadModelFilesRequest],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    quota: FileQuota = NO_QUOTA,
) -> UploadModelFilesResponse:
    """Store the files that come in parts, and return what a version names them by.

    Who may upload takes a `turn` to do so. Raises InvalidArgument, ModelNotFound, CreateModelVersionPermissionDenied,
    QuotaExceeded, StorageUnavailable, and what taking a turn raises.
    """
    upload_id = secrets.token_urlsafe(UPLOAD_ID_BYTES)
    upload, file = _take_in(repository, store, caller, upload_id, parts, turn, quota)
    expire_time = _finish(repository, store, upload, file, quota)
    return UploadModelFilesResponse(upload_id=upload_id, expire_time=expire_time)


def create_version(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    request: CreateModelVersionRequest,
    quota: FileQuota = NO_QUOTA,
    run: Runner = run_inline,
) -> ModelVersion:
    """Create a version, with the files that its request names or brings; what it has to compare is compared by `run`.

    Raises what `write_version` raises, and QuotaExceeded and StorageUnavailable.
    """

    def made_before() -> ModelVersion | None:
        return repository.read(lambda reader: find_replayed_version(reader, caller, request))

    # Before its files are stored again.
    made = made_before()
    if made is not None:
        return made
    if request.model_files.WhichOneof("type") != "dill":
        return write_version(repository, caller, request, run)
    try:
        return _create_with_own_files(repository, store, caller, request, quota, run)
    except QuotaExceeded:
        # The room may be taken by the same request, which was carried out meanwhile.
        made = made_before()
        if made is None:
            raise
        return made


def download_model_files(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    request: DownloadModelFilesRequest,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[DownloadModelFilesResponse]:
    """Yield the files of a version in parts. Who may have them takes a `turn` to get them.

    Raises ModelVersionNotFound, UnsupportedModelSource, ModelFilesNotFound, StorageUnavailable, also at the end if the
    bytes were not those that were stored, and what taking a turn raises.
    """
    file = repository.read(lambda reader: _file_of(reader, caller, request))
    digest = hashlib.sha256()
    with turn(), store.read(file.object_name) as chunks:
        part = DownloadModelFilesResponse(size_bytes=file.size, sha256=file.digest.hex())
        for chunk in itertools.chain([next(chunks, b"")], chunks):
            digest.update(chunk)
            part.chunk = chunk
            yield part
            part = DownloadModelFilesResponse()
    if digest.digest() != file.digest:
        raise StorageUnavailable(retry_after=None) from ValueError(f"the object {file.object_name} was changed")


def _file_of(reader: Reader, caller: Caller, request: DownloadModelFilesRequest) -> StoredFile:
    version = find_model_version(reader, caller, request.model_rid, request.model_version_rid)
    file = reader.find_file(version.content_digest)
    if file is None:
        raise ModelFilesNotFound(model_rid=request.model_rid, model_version_rid=request.model_version_rid)
    return file


def _take_in(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    upload_id: str,
    parts: Iterator[UploadModelFilesRequest],
    turn: Callable[[], AbstractContextManager[object]],
    quota: FileQuota,
) -> tuple[UploadKey, StoredFile]:
    """Begin an upload and write its object, which does not count yet. Nothing stays of what fails."""
    first = next(parts, None)
    if first is None or not first.model_rid:
        raise _violation("model_rid", "is required in the first part")
    upload, name = UploadKey.of(upload_id, caller, first.model_rid), new_object_name()

    def begin(tx: Transaction) -> _Room:
        require_editor(tx, caller, upload.model_rid)
        tx.remove_expired_uploads(caller.user)
        room = _room(tx, upload, quota).require(1)
        tx.begin_upload(upload, name, UPLOADING_LIFETIME)
        return room

    room = _with_room(repository, lambda: repository.write(begin))

    def require(size: int) -> None:
        nonlocal room
        if room.lacks(size):
            room = _with_room(
                repository, lambda: repository.read(lambda reader: _room(reader, upload, quota).require(size))
            )

    try:
        with turn(), store.write(name) as target:
            digest, size = _receive(itertools.chain([first], parts), target, require)
    except BaseException:
        _give_up(repository, store, upload, name)
        raise
    return upload, StoredFile(digest, size, name)


def _create_with_own_files(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    request: CreateModelVersionRequest,
    quota: FileQuota,
    run: Runner,
) -> ModelVersion:
    """Create a version with the files that its request brings.

    They count in the transaction that creates it: what fails, or was carried out before, counts nothing; and where the
    same request has taken the room, it has made its version. Raises what `create_version` raises.
    """
    text = request.model_files.dill.serialized_model_function.encode()
    part = UploadModelFilesRequest(model_rid=request.model_rid, chunk=text, sha256=hashlib.sha256(text).hexdigest())
    upload_id = secrets.token_urlsafe(UPLOAD_ID_BYTES)
    upload, file = _take_in(repository, store, caller, upload_id, iter([part]), nullcontext, quota)
    holders: list[str] = []

    def record(tx: Transaction) -> bytes:
        holders[:] = [tx.finish_upload(upload, file, quota)]
        tx.find_upload(upload)  # Now its bytes count for good.
        return file.digest

    def create() -> ModelVersion:
        return write_version(repository, caller, request, run, record)

    try:
        version = _with_room(repository, create)
        try:
            for holder in holders:
                _require_object(repository, store, holder, file)
        except StorageUnavailable as error:
            raise StorageUnavailable(retry_after=None) from error  # The version is there.
        return version
    finally:
        # Whatever came of it, nothing else can name this upload.
        _give_up(repository, store, upload, file.object_name)


def _with_room(repository: Repository, attempt: Callable[[], T]) -> T:
    """Return what an attempt returns. If it has no room, it is made again as long as expired uploads give some back.

    They are removed in transactions of their own, since an attempt that fails undoes what it removed. Where none are
    left, others may just have removed them, so it is made once more. Raises QuotaExceeded.
    """
    without_expired: set[str] = set()
    while True:
        try:
            return attempt()
        except QuotaExceeded as error:
            holder = error.resource
            if holder in without_expired:
                raise
        if not repository.write(lambda tx: tx.remove_expired_uploads(holder)):  # noqa: B023
            without_expired.add(holder)


class _Room(NamedTuple):
    """How many more bytes may count for a holder, and of how many in all; None of no holder."""

    holder: str
    left: int | None = None
    most: int = 0

    def lacks(self, size: int) -> bool:
        """Whether so many bytes have no room."""
        return self.left is not None and size > self.left

    def require(self, size: int) -> Self:
        """Return this room if so many bytes have room. Raises QuotaExceeded."""
        if self.lacks(size):
            raise QuotaExceeded(resource=self.holder, max_bytes=self.most)
        return self


def _room(reader: Reader, upload: UploadKey, quota: FileQuota) -> _Room:
    """Return the least room that an upload has: that of its principal, or of the folder of its model."""
    uses = zip(reader.get_file_uses(upload), quota, strict=True)
    rooms = [_Room(use.holder, most - use.size, most) for use, most in uses if most]
    return min(rooms, key=lambda room: room.left or 0, default=_Room(""))


def _finish(
    repository: Repository, store: FileStore, upload: UploadKey, file: StoredFile, quota: FileQuota
) -> Timestamp:
    """Record that an upload is complete. Returns until when it can be found.

    Raises StorageUnavailable, and QuotaExceeded if others used up what was left.
    """

    def finish(tx: Transaction) -> tuple[str, Timestamp]:
        return tx.finish_upload(upload, file, quota), tx.keep_upload(upload, UPLOAD_LIFETIME)

    try:
        holder, expire_time = _with_room(repository, lambda: repository.write(finish))
    except QuotaExceeded:
        _give_up(repository, store, upload, file.object_name)
        raise
    if _require_object(repository, store, holder, file) != file.object_name:
        store.remove_soon(file.object_name)
    return expire_time


def _require_object(repository: Repository, store: FileStore, holder: str, file: StoredFile) -> str:
    """See to it that the object which holds files is really there, and return which one it is.

    That is looked at whichever object it is, so that the time it takes tells nothing. Raises StorageUnavailable.
    """
    if store.has(holder, file.size):
        return holder
    repository.write(lambda tx: tx.replace_object(file, lost_object=holder))
    if not store.has(file.object_name, file.size):
        raise StorageUnavailable
    return file.object_name


def _give_up(repository: Repository, store: FileStore, upload: UploadKey, object_name: str) -> None:
    """Forget an upload, and remove its object unless it holds files.

    That is asked last: where the outcome of a transaction that names it is unknown, forgetting waits for it.
    """
    with suppress(RegistryError):  # It expires.
        repository.write(lambda tx: tx.give_up_upload(upload))
        if not repository.read(lambda reader: reader.known_objects([object_name])):
            store.remove_soon(object_name)


def _receive(
    parts: Iterator[UploadModelFilesRequest], target: Target, require_room: Callable[[int], None]
) -> tuple[bytes, int]:
    """Write the bytes of all parts, and return their SHA-256 and how many they are.

    Raises InvalidArgument, and QuotaExceeded as soon as they have no room.
    """
    digest, size, model_rid, said = hashlib.sha256(), 0, "", ""
    for part in parts:
        if part.model_rid not in {"", model_rid or part.model_rid}:
            raise _violation("model_rid", "must be the same in every part")
        if part.sha256.lower() not in {"", said or part.sha256.lower()}:
            raise _violation("sha256", "must be the same in every part")
        model_rid, said, last = model_rid or part.model_rid, said or part.sha256.lower(), part
        size += len(part.chunk)
        require_room(size)
        digest.update(part.chunk)
        target.write(part.chunk)
    if not last.sha256:
        raise _violation("sha256", "is required in the last part")
    if digest.hexdigest() != said:
        raise _violation("sha256", f"is not that of the {size} bytes that arrived, which is {digest.hexdigest()}")
    return digest.digest(), size


def _violation(field: str, sentence: str) -> InvalidArgument:
    return InvalidArgument(violations=(FieldViolation(field, sentence),))
