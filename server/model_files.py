"""Model files: how they come in, how a version comes to have them, how they go out. Nobody looks into them.

What an upload answers is an id that nobody can guess, for one caller and one model, and not the digest that the bytes
are stored under: whoever knew a digest could otherwise take the files of others. That equal files are stored once is
not to be seen from outside: each upload is written in full, and what was there already is removed after the answer.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    DownloadModelFilesResponse,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from server.caller import Caller
from server.errors import FieldViolation, InvalidArgument, ModelFilesNotFound
from server.models import find_model_version, require_editor
from server.storage.files import FileStore, Target, new_object_name
from server.storage.repository import Reader, Repository, StoredFile, Transaction, UploadKey

# Long enough to create the version the day after.
UPLOAD_LIFETIME = timedelta(days=1)
UPLOAD_ID_BYTES = 32


def upload_model_files(
    repository: Repository, store: FileStore, caller: Caller, parts: Iterator[UploadModelFilesRequest]
) -> UploadModelFilesResponse:
    """Store the files that come in parts, and return what a version names them by.

    Raises InvalidArgument, ModelNotFound, CreateModelVersionPermissionDenied and StorageUnavailable, and then
    nothing stays.
    """
    first = next(parts, None)
    if first is None or not first.model_rid:
        raise _violation("model_rid", "is required in the first part")
    upload_id, name = secrets.token_urlsafe(UPLOAD_ID_BYTES), new_object_name()
    upload = UploadKey.of(upload_id, caller, first.model_rid)

    def begin(tx: Transaction) -> Timestamp:
        require_editor(tx, caller, upload.model_rid)
        return tx.begin_upload(upload, name, UPLOAD_LIFETIME)

    expire_time = repository.write(begin)
    with store.write(name) as target:
        digest, size = _receive(itertools.chain([first], parts), target)
    holder = repository.write(lambda tx: tx.finish_upload(upload, StoredFile(digest, size, name)))
    if holder != name:
        store.remove_soon(name)
    return UploadModelFilesResponse(upload_id=upload_id, expire_time=expire_time)


def with_uploaded_files(
    repository: Repository, store: FileStore, caller: Caller, request: CreateModelVersionRequest
) -> CreateModelVersionRequest:
    """Return the request; model files that it brings itself have become an upload, as all others are.

    Raises what `upload_model_files` raises.
    """
    if request.model_files.WhichOneof("type") != "dill":
        return request
    text = request.model_files.dill.serialized_model_function.encode()
    part = UploadModelFilesRequest(model_rid=request.model_rid, chunk=text, sha256=hashlib.sha256(text).hexdigest())
    upload = upload_model_files(repository, store, caller, iter([part]))
    changed = CreateModelVersionRequest()
    changed.CopyFrom(request)
    changed.model_files.uploaded.upload_id = upload.upload_id
    return changed


def download_model_files(
    repository: Repository, store: FileStore, caller: Caller, request: DownloadModelFilesRequest
) -> Iterator[DownloadModelFilesResponse]:
    """Yield the files of a version in parts.

    Raises ModelVersionNotFound, UnsupportedModelSource, ModelFilesNotFound and StorageUnavailable.
    """
    file = repository.read(lambda reader: _file_of(reader, caller, request))
    head = DownloadModelFilesResponse(size_bytes=file.size, sha256=file.digest.hex())
    with store.read(file.object_name) as chunks:
        for chunk in chunks:
            head.chunk = chunk
            yield head
            head = DownloadModelFilesResponse()
    if head.HasField("sha256"):
        yield head  # of a file without bytes


def _file_of(reader: Reader, caller: Caller, request: DownloadModelFilesRequest) -> StoredFile:
    version = find_model_version(reader, caller, request.model_rid, request.model_version_rid)
    file = reader.find_file(version.content_digest)
    if file is None:
        raise ModelFilesNotFound(model_rid=request.model_rid, model_version_rid=request.model_version_rid)
    return file


def _receive(parts: Iterator[UploadModelFilesRequest], target: Target) -> tuple[bytes, int]:
    """Write the bytes of all parts, and return their SHA-256 and how many they are. Raises InvalidArgument."""
    digest, size, model_rid, said = hashlib.sha256(), 0, "", ""
    for part in parts:
        if part.model_rid not in {"", model_rid or part.model_rid}:
            raise _violation("model_rid", "must be the same in every part")
        if part.sha256.lower() not in {"", said or part.sha256.lower()}:
            raise _violation("sha256", "must be the same in every part")
        model_rid, said, last = model_rid or part.model_rid, said or part.sha256.lower(), part
        digest.update(part.chunk)
        target.write(part.chunk)
        size += len(part.chunk)
    if not last.sha256:
        raise _violation("sha256", "is required in the last part")
    if digest.hexdigest() != said:
        raise _violation("sha256", f"is not that of the {size} bytes that arrived, which is {digest.hexdigest()}")
    return digest.digest(), size


def _violation(field: str, sentence: str) -> InvalidArgument:
    return InvalidArgument(violations=(FieldViolation(field, sentence),))
