"""The file store: objects of bytes in a folder of this machine, or wherever fsspec reaches.

Nothing here says what an object is for. The database does, in the transactions of `server.storage.contract`: an
object has a random name, and is complete before any transaction says so.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from server.core.errors import RegistryError
from server.storage.disk_space import free_bytes
from server.storage.unavailable import no_room_for_files, unavailable

READ_BYTES = 2**20
# What an object store gets at a time: no less than S3 takes, and more once an object is large, as S3 takes 10,000 parts
# of one. So an object that is being written keeps one part in memory, and two copies more while the part is sent.
WRITE_BYTES = 5 * 2**20
LARGE_OBJECT_BYTES = 500 * WRITE_BYTES
WRITE_BYTES_OF_LARGE_OBJECTS = 16 * 2**20
# How many objects take in bytes at a time. While the store is slow, the bytes of others stay with their clients.
WRITERS = 2
# How long the end of a server waits for the removal of objects; what stays then is garbage.
CLOSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class FileStore:
    """The objects of one registry, in a folder of its own; safe to share between threads."""

    def __init__(
        self,
        system: AbstractFileSystem,
        folder: str,
        registry_id: str,
        *,
        keep_free: int = 0,
        makes_folder: bool = True,
    ):
        """`folder` is a path of the file system. Raises what the file system raises if it cannot be used.

        Of a disk of this machine, `keep_free` bytes stay free. The registry's own folder is made, unless nothing shall
        be written: one that is missing is empty then.
        """
        self._system = system
        self._folder = f"{folder.rstrip('/')}/{registry_id}"
        self._removing = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._is_local = isinstance(system, LocalFileSystem)
        self._keep_free = keep_free if self._is_local else 0
        # What a folder takes is not in our memory.
        self._writers: AbstractContextManager[object] = nullcontext() if self._is_local else BoundedSemaphore(WRITERS)
        if not makes_folder:
            return
        if self._is_local:
            Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(os.path.dirname(self._folder))
            if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "cannot be written by the user of this process", self._folder)
            return
        # Its parents are not ours to make: in an object store, that would be a bucket of whatever name was mistyped.
        with contextlib.suppress(FileExistsError):
            self._system.mkdir(self._folder, create_parents=False)

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Target]:
        """Write a new object: it is complete, and will outlast a crash, when the block ends.

        If the block raises, nothing of the object stays. Raises StorageUnavailable.
        """
        with _explained():
            self._require_room(0)
            file = self._system.open(self._path(name), "wb", block_size=WRITE_BYTES)
        try:
            yield Target(file, self._writers, self._require_room)
            with _explained(), self._writers:
                self._close(file)
        except BaseException:
            with contextlib.suppress(Exception):
                self._discard(file)
            self._remove(name)
            raise

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        """Read an object, in parts. Raises StorageUnavailable; if the object is not there, without hope for a retry."""
        with _explained():
            file = self._system.open(self._path(name), "rb", block_size=READ_BYTES)
        try:
            yield iter(lambda: _read(file), b"")
        finally:
            file.close()

    def has(self, name: str, size: int) -> bool:
        """Whether the object is there, with that many bytes. Raises StorageUnavailable."""
        with _explained():
            try:
                self._system.invalidate_cache()
                return int(self._system.size(self._path(name))) == size
            except FileNotFoundError:
                return False

    def names(self) -> list[str]:
        """Return the names of all objects, incomplete ones too. Raises StorageUnavailable."""
        with _explained():
            self._system.invalidate_cache()
            try:
                entries = self._system.ls(self._folder, detail=True)
            except FileNotFoundError:
                return []  # in an object store, a folder without objects
            return [str(entry["name"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"]

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises StorageUnavailable."""
        with _explained(), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def remove_soon(self, name: str) -> None:
        """Remove an object, but let nobody wait for it; one that stays is garbage that `names` lists."""
        self._removing.submit(self._remove, name)

    def close(self) -> None:
        """Finish what `remove_soon` began, if that takes no longer than CLOSE_SECONDS."""
        with contextlib.suppress(TimeoutError):
            self._removing.submit(lambda: None).result(CLOSE_SECONDS)
        self._removing.shutdown(wait=False, cancel_futures=True)

    def _require_room(self, size: int) -> None:
        if self._keep_free and free_bytes(self._folder) < self._keep_free + size:
            raise no_room_for_files()

    def _remove(self, name: str) -> None:
        try:
            self.remove(name)
        except RegistryError as error:
            log.warning("the object %s is left to the garbage collection: %s", name, error.__cause__)

    def _close(self, file: Any) -> None:
        if not self._is_local:
            file.close()
            return
        # What the database commits is on disk, so what it names has to be.
        file.flush()
        os.fsync(file.fileno())
        file.close()
        _sync_folder(self._folder)

    def _discard(self, file: Any) -> None:
        """Close a file, of which an object store then makes no object."""
        if isinstance(file, AbstractBufferedFile):
            file.discard()
            file.closed = True
        else:
            file.close()

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


class Target:
    """An object that is being written."""

    def __init__(
        self, file: IO[bytes], writers: AbstractContextManager[object], require_room: Callable[[int], None]
    ) -> None:
        """`writers` has room for as many objects as may take in bytes at a time.

        `require_room` is asked for so many bytes more, and raises StorageUnavailable if there is no room for them.
        """
        self._file = file
        self._writers = writers
        self._require_room = require_room

    def write(self, data: bytes) -> None:
        """Add bytes to the object, and return when the store has room for more. Raises StorageUnavailable."""
        with _explained(), self._writers:
            self._require_room(len(data))
            self._file.write(data)
            if isinstance(self._file, AbstractBufferedFile) and self._file.tell() >= LARGE_OBJECT_BYTES:
                self._file.blocksize = WRITE_BYTES_OF_LARGE_OBJECTS


def open_file_store(url: str | None, data_dir: Path, registry_id: str, keep_free: int = 0) -> FileStore:
    """Open the store at a URL that fsspec knows, such as `s3://bucket/folder`; by default a folder in the data folder.

    Of a disk of this machine, `keep_free` bytes stay free. Raises ValueError, ImportError, OSError, or what else the
    file system raises, if there is no such store.
    """
    if url is None:
        folder = data_dir.absolute() / "files"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileStore(LocalFileSystem(), str(folder), registry_id, keep_free=keep_free)
    if not url:
        raise ValueError("the URL is empty")
    system, path = url_to_fs(url)
    return FileStore(system, path, registry_id, keep_free=keep_free)


def open_kept_files(url: str | None, data_dir: Path, registry_id: str) -> FileStore:
    """Open the same store only to read it: not even a folder is made. Raises what open_file_store raises."""
    if url is None:
        return FileStore(LocalFileSystem(), str(data_dir.absolute() / "files"), registry_id, makes_folder=False)
    system, path = url_to_fs(url)
    return FileStore(system, path, registry_id, makes_folder=False)


def new_object_name() -> str:
    """Return a name that no object has."""
    return uuid.uuid4().hex


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(file: IO[bytes]) -> bytes:
    with _explained():
        return file.read(READ_BYTES)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    # Each file system has errors of its own beside OSError.
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        raise unavailable(error) from error
