"""Files that CreateModelVersion brings itself, where the database or the objects fail."""

from __future__ import annotations

import itertools
import uuid
from contextlib import nullcontext
from pathlib import Path

import pytest

from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles
from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest, DownloadModelFilesRequest
from server.core.errors import StorageUnavailable
from server.rules.model_files import create_version, download_model_files
from server.storage.blobs import FileStore, open_file_store
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import Session
from tests.builders import ADMIN, add_model, model_api
from tests.conftest import NewDatabase
from tests.storage.inspection import at_commit, break_connection, opened

FILES = ModelFiles(dill=DillModelFiles(serialized_model_function="text"))


def head_files(repository: SqlRepository, store: FileStore, model_rid: str) -> tuple[int, bytes]:
    """The number and the files of the newest version of a model."""
    head = repository.read(lambda reader: reader.get_branch(model_rid, "master", ADMIN)).head
    asked = DownloadModelFilesRequest(model_rid=model_rid, model_version_rid=head.rid)
    return head.version_number, b"".join(part.chunk for part in download_model_files(repository, store, ADMIN, asked))


@pytest.mark.parametrize("request_id", [None, str(uuid.uuid4())], ids=["once", "repeatable"])
def test_files_stay_if_the_database_dies_before_it_says_that_it_committed(
    new_database: NewDatabase, tmp_path: Path, request_id: str | None
) -> None:
    postgres = new_database("postgresql", migrated=True)
    commits = itertools.count(1)

    def commit_and_break(session: Session) -> None:
        if next(commits) == 2:  # The first one begins the upload.
            session.run("COMMIT")
            break_connection(postgres, session)

    with opened(postgres) as (_, repository):
        store = open_file_store(None, tmp_path, "registry")
        request = CreateModelVersionRequest(
            model_rid=add_model(repository).rid, model_api=model_api(), model_files=FILES, request_id=request_id
        )
        with at_commit(commit_and_break), nullcontext() if request_id else pytest.raises(StorageUnavailable):
            create_version(repository, store, ADMIN, request)
        store.close()  # It finishes what it was to remove.

        assert head_files(repository, store, request.model_rid) == (1, b"text")


def test_files_whose_object_was_lost_are_held_by_the_one_that_comes_with_the_next_version(
    repository: SqlRepository, tmp_path: Path
) -> None:
    store = open_file_store(None, tmp_path, "registry")
    request = CreateModelVersionRequest(model_rid=add_model(repository).rid, model_api=model_api(), model_files=FILES)
    create_version(repository, store, ADMIN, request)
    for name in store.names():
        store.remove(name)

    create_version(repository, store, ADMIN, request)
    store.close()

    assert head_files(repository, store, request.model_rid) == (2, b"text")
    assert len(store.names()) == 1
