"""Collecting garbage: what no version needs goes, and what one needs or is about to need stays."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    UploadModelFilesRequest,
)
from server.core.errors import ModelApiIncompatible, StorageUnavailable, UploadNotFound
from server.rules import garbage, model_files
from server.rules.garbage import Collected, collect
from server.rules.model_files import download_model_files, upload_model_files
from server.rules.models import create_model_version
from server.storage.blobs import FileStore, open_file_store
from server.storage.contract import PromotionFilter
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, model_api, promote
from tests.storage.conftest import Clock, clock, timed
from tests.storage.inspection import at_commit

__all__ = ["clock", "timed"]  # fixtures

DATA = b"bytes of a model" * 1000
HOUR_MS = 3_600_000


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return open_file_store(None, tmp_path, "registry")


def upload(repository: SqlRepository, store: FileStore, model_rid: str, data: bytes = DATA) -> str:
    part = UploadModelFilesRequest(model_rid=model_rid, chunk=data, sha256=hashlib.sha256(data).hexdigest())
    return upload_model_files(repository, store, ADMIN, iter([part])).upload_id


def create(repository: SqlRepository, model_rid: str, upload_id: str, branch: str = "master") -> ModelVersion:
    files = ModelFiles(uploaded=UploadedModelFiles(upload_id=upload_id))
    request = CreateModelVersionRequest(model_rid=model_rid, model_api=model_api(), branch=branch, model_files=files)
    return repository.write(lambda tx: create_model_version(tx, ADMIN, request))


def download(repository: SqlRepository, store: FileStore, version: ModelVersion) -> bytes:
    request = DownloadModelFilesRequest(model_rid=version.model_rid, model_version_rid=version.rid)
    return b"".join(part.chunk for part in download_model_files(repository, store, ADMIN, request))


def test_what_versions_name_stays_for_good(timed: SqlRepository, store: FileStore, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    version = create(timed, model_rid, upload(timed, store, model_rid))
    clock.now_ms += 2 * 86_400_000

    assert collect(timed, store) == Collected(uploads=1)
    assert collect(timed, store) == Collected()

    assert download(timed, store, version) == DATA


def test_what_no_version_named_in_time_goes(timed: SqlRepository, store: FileStore, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    upload_id = upload(timed, store, model_rid)
    assert collect(timed, store) == Collected()
    assert len(store.names()) == 1
    clock.now_ms += 2 * 86_400_000

    assert collect(timed, store) == Collected(uploads=1, files=1, file_bytes=len(DATA))

    assert store.names() == []
    with pytest.raises(UploadNotFound):
        create(timed, model_rid, upload_id)


def test_what_was_found_where_no_promotion_came_of_it_goes_after_a_day(
    timed: SqlRepository, store: FileStore, clock: Clock
) -> None:
    staging, production = add_model(timed), add_model(timed)
    one, two, three = (append(timed, builders.version(staging.rid, label=label)) for label in ("1", "2", "3"))
    promote(timed, one, production.rid)
    promoted = promote(timed, two, production.rid)
    timed.write(lambda tx: tx.add_policy(builders.policy(production.rid, COMPATIBILITY_MODE_ENFORCE), ADMIN.user))
    with pytest.raises(ModelApiIncompatible):
        promote(timed, three, production.rid)
    wanted = PromotionFilter(version_rid=promoted.rid)
    before = timed.read(lambda reader: reader.list_promotions(ADMIN, wanted, PageRequest(1)))
    assert before.items[0].findings
    clock.now_ms += 86_400_000
    assert collect(timed, store) == Collected()
    clock.now_ms += 1

    assert collect(timed, store) == Collected(verdicts=1)
    assert collect(timed, store) == Collected()

    assert timed.read(lambda reader: reader.list_promotions(ADMIN, wanted, PageRequest(1))) == before
    with pytest.raises(ModelApiIncompatible):
        promote(timed, three, production.rid)


def test_events_that_are_past_their_retention_go_in_many_transactions(
    timed: SqlRepository, store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are as many as fill some of these."""
    monkeypatch.setattr(garbage, "BATCH", 3)
    collected, committed = [], []
    for count in (7, 9):
        for _ in range(count):
            add_model(timed)
        clock.now_ms += 3 * 86_400_000
        with at_commit(committed.append):
            collected.append(collect(timed, store, timedelta(days=2)))
        assert collect(timed, store, timedelta(days=2)) == Collected()

    # The newest one stays, and goes when it is not the newest any more.
    assert collected == [Collected(events=6), Collected(events=9)]
    assert len(committed) >= 3 + 4


def test_events_are_kept_for_ninety_days_if_nobody_says_otherwise(
    timed: SqlRepository, store: FileStore, clock: Clock
) -> None:
    for _ in range(2):
        add_model(timed)
    clock.now_ms += 90 * 86_400_000
    assert collect(timed, store) == Collected()
    clock.now_ms += 1
    assert collect(timed, store) == Collected(events=1)


def test_what_a_crash_left_behind_goes_and_an_upload_that_is_under_way_does_not(
    repository: SqlRepository, store: FileStore
) -> None:
    model_rid = add_model(repository).rid
    with store.write("leftover") as target:
        target.write(DATA)
    collected: list[Collected] = []

    def parts() -> itertools.chain[UploadModelFilesRequest]:
        digest = hashlib.sha256(DATA).hexdigest()
        yield UploadModelFilesRequest(model_rid=model_rid, chunk=DATA[:5])  # type: ignore[misc]
        collected.append(collect(repository, store))
        yield UploadModelFilesRequest(chunk=DATA[5:], sha256=digest)

    upload_id = upload_model_files(repository, store, ADMIN, iter(parts())).upload_id

    assert collected == [Collected(objects=1)]
    assert download(repository, store, create(repository, model_rid, upload_id)) == DATA


def test_an_upload_that_no_version_names_is_garbage_an_hour_after_its_end(
    timed: SqlRepository, store: FileStore, clock: Clock
) -> None:
    """However long it took."""
    model_rid = add_model(timed).rid

    def parts() -> Iterator[UploadModelFilesRequest]:
        yield UploadModelFilesRequest(model_rid=model_rid, chunk=DATA)
        clock.now_ms += 6 * HOUR_MS
        assert collect(timed, store) == Collected()
        yield UploadModelFilesRequest(sha256=hashlib.sha256(DATA).hexdigest())

    told = upload_model_files(timed, store, ADMIN, parts())
    assert told.expire_time.ToMilliseconds() == clock.now_ms + HOUR_MS
    clock.now_ms += HOUR_MS - 1
    assert collect(timed, store) == Collected()
    clock.now_ms += 1
    assert collect(timed, store) == Collected(uploads=1, files=1, file_bytes=len(DATA))
    with pytest.raises(UploadNotFound):
        create(timed, model_rid, told.upload_id)


def test_collecting_all_the_time_never_takes_what_others_are_about_to_name(
    repository: SqlRepository, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads of equal bytes that expire almost at once, so that each file is garbage again and again."""
    monkeypatch.setattr(model_files, "UPLOAD_LIFETIME", timedelta(milliseconds=30))
    model_rid = add_model(repository).rid
    done = threading.Event()
    contents = [bytes([number]) * 1000 for number in range(3)]

    def use(worker: int) -> list[tuple[ModelVersion, bytes]]:
        made = []
        for round_ in range(40):
            data = contents[(worker + round_) % len(contents)]
            try:
                upload_id = upload(repository, store, model_rid, data)
                if round_ % 8 == worker:  # mostly not, so that files lose their last name
                    made.append((create(repository, model_rid, upload_id, f"{worker} {round_}"), data))
            except (StorageUnavailable, UploadNotFound):
                continue  # so short is its life that it was over before the upload was complete, or named
        return made

    def collect_on() -> int:
        removed = 0
        while not done.is_set():
            collected = collect(repository, store)
            removed += collected.files + collected.objects
        return removed

    with ThreadPoolExecutor(5) as threads:
        collector = threads.submit(collect_on)
        try:
            made = [pair for worker in [threads.submit(use, number) for number in range(4)] for pair in worker.result()]
        finally:
            done.set()
        assert collector.result() > 0

    assert [download(repository, store, version) == data for version, data in made] == [True] * len(made)
    assert made
