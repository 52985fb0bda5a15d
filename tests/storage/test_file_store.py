"""The file store, in a folder and in a file system that is none."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from server.core.errors import StorageUnavailable
from server.storage import blobs
from server.storage.blobs import WRITE_BYTES, FileStore, new_object_name, open_file_store
from tests.object_store import BUCKET, object_store

DATA = bytes(range(256)) * 10_000


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket in an object store."""
    with object_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["folder", "file url", "memory url", "object store"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., FileStore]:
    """Opens the same store again and again, for the registry that is named."""
    url: str | None = None
    if request.param == "file url":
        url = f"file://{tmp_path / 'store'}"
    elif request.param == "memory url":
        url = f"memory://{uuid.uuid4()}"
    elif request.param == "object store":
        url = f"{request.getfixturevalue('bucket')}/{uuid.uuid4()}"
    return lambda registry_id="one": open_file_store(url, tmp_path, registry_id)


@pytest.fixture
def store(open_store: Callable[..., FileStore]) -> FileStore:
    return open_store()


def put(store: FileStore, data: bytes = DATA) -> str:
    name = new_object_name()
    with store.write(name) as target:
        for begin in range(0, len(data), 70_000):
            target.write(data[begin : begin + 70_000])
    return name


def get(store: FileStore, name: str) -> bytes:
    with store.read(name) as parts:
        return b"".join(parts)


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=len)
def test_an_object_is_read_as_it_was_written(store: FileStore, data: bytes) -> None:
    assert get(store, put(store, data)) == data


def test_objects_are_there_for_whoever_opens_the_store_later(open_store: Callable[..., FileStore]) -> None:
    name = put(open_store())

    assert open_store().names() == [name]
    assert get(open_store(), name) == DATA


def test_registries_that_share_a_store_do_not_see_each_others_objects(open_store: Callable[..., FileStore]) -> None:
    put(open_store("one"))

    assert open_store("two").names() == []


def test_nothing_stays_of_an_object_whose_writing_was_given_up(store: FileStore) -> None:
    def give_up() -> None:
        with store.write("given-up") as target:
            target.write(DATA)
            raise KeyError

    with pytest.raises(KeyError):
        give_up()

    assert store.names() == []


def test_a_removed_object_is_gone_and_can_be_removed_again(store: FileStore) -> None:
    name, other = put(store), put(store)

    store.remove(name)
    store.remove(name)

    assert store.names() == [other]
    with pytest.raises(StorageUnavailable):
        get(store, name)


def test_an_object_is_there_with_its_size_alone(store: FileStore) -> None:
    name = put(store)

    assert store.has(name, len(DATA))
    assert not store.has(name, len(DATA) - 1)
    assert not store.has("other", len(DATA))


def test_no_upload_stays_open_in_an_object_store_that_was_given_up(bucket: str, tmp_path: Path) -> None:
    store = open_file_store(f"{bucket}/given-up", tmp_path, "one")

    def give_up() -> None:
        with store.write("given-up") as target:
            for _ in range(5):
                target.write(b"x" * WRITE_BYTES)
            raise KeyError

    with pytest.raises(KeyError):
        give_up()

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    assert store.names() == []


def test_a_large_object_is_sent_in_larger_parts_so_that_there_are_not_too_many(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = blobs.WRITE_BYTES, blobs.WRITE_BYTES_OF_LARGE_OBJECTS
    assert blobs.LARGE_OBJECT_BYTES + (10_000 - blobs.LARGE_OBJECT_BYTES // small) * large >= 160 * 10**9
    monkeypatch.setattr(blobs, "LARGE_OBJECT_BYTES", 2 * small)
    store, data = open_file_store(f"{bucket}/large", tmp_path, "one"), os.urandom(2 * small + large + 2**20)

    name = put(store, data)

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    parts = [
        client.head_object(Bucket=BUCKET, Key=f"large/one/{name}", PartNumber=number)["ContentLength"]
        for number in (1, 2, 3)
    ]
    assert all(small <= length < small + 70_000 for length in parts[:2])
    assert large <= parts[2] < large + 70_000
    assert get(store, name) == data


def test_a_store_that_is_slow_gets_from_so_many_at_a_time_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others would write is not read from their clients meanwhile."""
    writing, goes_on = threading.Semaphore(0), threading.Event()

    class Slow(MemoryFile):
        def write(self, data: bytes) -> int:
            writing.release()
            assert goes_on.wait(60)
            return super().write(data)

    class SlowSystem(MemoryFileSystem):
        def _open(self, path: str, *_: object, **__: object) -> Slow:
            return Slow(self, path)

    store = FileStore(SlowSystem(), f"/{uuid.uuid4()}", "one")
    with ThreadPoolExecutor(blobs.WRITERS + 3) as threads:
        written = [threads.submit(put, store, b"x") for _ in range(blobs.WRITERS + 3)]
        for _ in range(blobs.WRITERS):
            assert writing.acquire(timeout=180)
        assert not writing.acquire(timeout=0.5)
        goes_on.set()
        assert len({each.result() for each in written}) == blobs.WRITERS + 3


def test_a_bucket_that_is_not_there_is_not_made(bucket: str, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            open_file_store("s3://mistyped/folder", tmp_path, "one")


def test_what_is_removed_soon_is_gone_when_the_store_is_closed(store: FileStore) -> None:
    name = put(store)

    store.remove_soon(name)
    store.close()

    assert store.names() == []


def test_a_folder_that_cannot_be_written_is_storage_that_is_unavailable(tmp_path: Path) -> None:
    store = open_file_store(None, tmp_path, "one")
    (tmp_path / "files" / "one").rmdir()

    with pytest.raises(StorageUnavailable) as raised, store.write("x"):
        pass

    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_a_folder_keeps_so_much_of_its_disk_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000]
    monkeypatch.setattr(blobs, "free_bytes", lambda _: free[0])
    store = open_file_store(None, tmp_path, "one", keep_free=900)

    def put_all(*parts: bytes) -> None:
        with store.write("large") as target:
            for part in parts:
                target.write(part)
                free[0] -= len(part)

    put(store, b"x" * 100)
    for parts in ([b"x" * 60, b"x" * 41], []):
        with pytest.raises(StorageUnavailable, match="no room for model files"):
            put_all(*parts)
        free[0] = 899

    assert len(store.names()) == 1


def test_model_files_of_the_data_folder_are_for_its_owner_alone(tmp_path: Path) -> None:
    open_file_store(None, tmp_path, "one")

    open_file_store(f"file://{tmp_path / 'other' / 'place'}", tmp_path, "one")
    for folder in ("files", "files/one", "other/place/one"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_an_object_is_known_to_no_listing_cache(open_store: Callable[..., FileStore]) -> None:
    reader, writer = open_store(), open_store()
    assert reader.names() == []

    name = put(writer)

    assert reader.names() == [name]


def test_a_file_system_that_fails_is_storage_that_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryFileSystem):
        def _open(self, *_: object, **__: object) -> object:
            raise RuntimeError("out of order")

    store = FileStore(Broken(), f"/{uuid.uuid4()}", "one")

    with pytest.raises(StorageUnavailable), store.write("x"):
        pass
    with pytest.raises(StorageUnavailable), store.read("x"):
        pass
