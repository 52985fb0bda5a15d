"""Model files, from a file to the registry and from there into a file."""

from __future__ import annotations

import errno
import hashlib
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from modelregistry.v1.model_service_pb2 import DownloadModelFilesResponse, UploadModelFilesRequest

# The server ends streams that are older.
TRANSFER_SECONDS = 6 * 3600.0
# A server takes them, whatever its --max-message-bytes.
_CHUNK_BYTES = 256 * 2**10


class DownloadedFiles(NamedTuple):
    """What a download has written: the number of bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


class DigestMismatch(Exception):
    """The bytes that arrived are not those that the registry has: `actual` and `expected` are their SHA-256."""

    def __init__(self, actual: str, expected: str) -> None:
        super().__init__(actual, expected)
        self.actual = actual
        self.expected = expected

    def __str__(self) -> str:
        return f"the bytes that arrived have the SHA-256 {self.actual}, not {self.expected}"


class Upload:
    """The requests that upload a file."""

    def __init__(self, model_rid: str, file: BinaryIO) -> None:
        self._model_rid = model_rid
        self._file = file
        self.read_error: OSError | None = None
        """Why the file could not be read; the call's own failure says only that the client cancelled it."""

    def __iter__(self) -> Iterator[UploadModelFilesRequest]:
        yield UploadModelFilesRequest(model_rid=self._model_rid)
        digest = hashlib.sha256()
        try:
            while chunk := self._file.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield UploadModelFilesRequest(chunk=chunk)
        except OSError as error:
            self.read_error = error
            raise
        yield UploadModelFilesRequest(sha256=digest.hexdigest())


class Download:
    """A file in the making, which replaces the target when it is complete. To be closed, also then.

    Its lock is for asyncio: a task that is cancelled closes it while a thread may still write.
    """

    def __init__(self, target: Path) -> None:
        self._target = target.resolve()
        if self._target.exists() and not self._target.is_file():
            raise FileExistsError(errno.EEXIST, "is there, and is no file", str(target))
        self._incomplete = self._target.with_name(f".modelregistry-{secrets.token_hex(8)}")
        self._file: BinaryIO | None = None
        self._size = 0
        self._digest = hashlib.sha256()
        self._expected = ""
        self._lock = threading.Lock()
        self._is_closed = False

    def add(self, part: DownloadModelFilesResponse) -> None:
        """Write a part. Raises OSError."""
        with self._lock:
            if self._is_closed:
                return
            if self._file is None:
                self._file = self._incomplete.open("xb")
            # The first part has it.
            self._expected = self._expected or part.sha256
            self._digest.update(part.chunk)
            self._size += self._file.write(part.chunk)

    def complete(self) -> DownloadedFiles:
        """Replace the target. Raises DigestMismatch or OSError."""
        actual = self._digest.hexdigest()
        if self._file is None or actual != self._expected:
            raise DigestMismatch(actual, self._expected)
        self._file.close()  # Windows does not rename an open file.
        self._incomplete.replace(self._target)
        return DownloadedFiles(self._size, actual)

    def close(self) -> None:
        """Remove what is incomplete."""
        with self._lock:
            self._is_closed = True
            if self._file is not None:
                try:
                    self._file.close()  # It writes what is buffered, for which the disk can be too full.
                finally:
                    self._incomplete.unlink(missing_ok=True)
