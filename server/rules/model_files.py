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
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

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
from server.rules.models import find_model_version, require_editor
from server.storage.blobs import FileStore, Target, new_object_name
from server.storage.contract import Reader, Repository, StoredFile, Transaction, UploadKey

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
    first = next(parts, None)
    if first is None or not first.model_rid:
        raise _violation("model_rid", "is required in the first part")
    upload_id, name = secrets.token_urlsafe(UPLOAD_ID_BYTES), new_object_name()
    upload = UploadKey.of(upload_id, caller, first.model_rid)

    def begin(tx: Transaction) -> _Room:
        require_editor(tx, caller, upload.model_rid)
        tx.remove_expired_uploads(caller.user)
        room = _room(tx, upload, quota)
        room.require(1)
        tx.begin_upload(upload, name, UPLOADING_LIFETIME)
        return room

    room = repository.write(begin)
    try:
        with turn(), store.write(name) as target:
            digest, size = _receive(itertools.chain([first], parts), target, room)
    except BaseException:
        _give_up(repository, upload)
        raise
    expire_time = _finish(repository, store, upload, StoredFile(digest, size, name), quota)
    return UploadModelFilesResponse(upload_id=upload_id, expire_time=expire_time)


def uploaded_id(
    repository: Repository,
    store: FileStore,
    caller: Caller,
    request: CreateModelVersionRequest,
    quota: FileQuota = NO_QUOTA,
) -> str | None:
    """Return the id of the upload that has the files of a request; those that it brings itself become one first.

    None if it has no files. Raises what `upload_model_files` raises.
    """
    match request.model_files.WhichOneof("type"):
        case "uploaded":
            return request.model_files.uploaded.upload_id
        case "dill":
            text = request.model_files.dill.serialized_model_function.encode()
            sha256 = hashlib.sha256(text).hexdigest()
            part = UploadModelFilesRequest(model_rid=request.model_rid, chunk=text, sha256=sha256)
            return upload_model_files(repository, store, caller, iter([part]), quota=quota).upload_id
    return None


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


class _Room(NamedTuple):
    """How many more bytes may count for a holder, and of how many in all; None of no holder."""

    holder: str
    left: int | None = None
    most: int = 0

    def require(self, size: int) -> None:
        """Return if so many bytes have room. Raises QuotaExceeded."""
        if self.left is not None and size > self.left:
            raise QuotaExceeded(resource=self.holder, max_bytes=self.most)


def _room(reader: Reader, upload: UploadKey, quota: FileQuota) -> _Room:
    """Return the least room that an upload has: that of its principal, or of the folder of its model."""
    uses = zip(reader.get_file_uses(upload), quota, strict=True)
    rooms = [_Room(use.holder, most - use.size, most) for use, most in uses if most]
    return min(rooms, key=lambda room: room.left or 0, default=_Room(""))


def _finish(
    repository: Repository, store: FileStore, upload: UploadKey, file: StoredFile, quota: FileQuota
) -> Timestamp:
    """Record that an upload is complete, and see to it that the object which now holds its files is really there.

    That is looked at whichever object it is, so that the time it takes tells nothing. Returns until when the upload can
    be found. Raises StorageUnavailable, and QuotaExceeded if others used up what was left.
    """
    try:
        holder, expire_time = repository.write(
            lambda tx: (tx.finish_upload(upload, file, quota), tx.keep_upload(upload, UPLOAD_LIFETIME))
        )
    except QuotaExceeded:
        _give_up(repository, upload)
        store.remove_soon(file.object_name)
        raise
    if store.has(holder, file.size):
        if holder != file.object_name:
            store.remove_soon(file.object_name)
        return expire_time
    repository.write(lambda tx: tx.replace_object(file, lost_object=holder))
    if not store.has(file.object_name, file.size):
        raise StorageUnavailable
    return expire_time


def _give_up(repository: Repository, upload: UploadKey) -> None:
    with suppress(RegistryError):  # It expires.
        repository.write(lambda tx: tx.give_up_upload(upload))


def _receive(parts: Iterator[UploadModelFilesRequest], target: Target, room: _Room) -> tuple[bytes, int]:
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
        room.require(size)
        digest.update(part.chunk)
        target.write(part.chunk)
    if not last.sha256:
        raise _violation("sha256", "is required in the last part")
    if digest.hexdigest() != said:
        raise _violation("sha256", f"is not that of the {size} bytes that arrived, which is {digest.hexdigest()}")
    return digest.digest(), size


def _violation(field: str, sentence: str) -> InvalidArgument:
    return InvalidArgument(violations=(FieldViolation(field, sentence),))
