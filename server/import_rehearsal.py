"""Trying an import out before anything is stored: what the lines before would have stored counts as stored.

The rules of an import are those of `server.importing`, and see no difference to a transaction.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from server.caller import Caller
from server.errors import BranchNotFound, ResourceNameAlreadyExists
from server.import_rows import VersionRow, completed
from server.storage.repository import Page, PageRequest, Repository, StoredVersion, VisibleModel

# How many models of a folder are read at a time.
PAGE = 1000


class Row(NamedTuple):
    """What a line says."""

    line_number: int
    content: Model | VersionRow


class _Kept(NamedTuple):
    """Where the row of a version is, and what a transaction would have settled."""

    place: int
    version_number: int
    root_rid: str


class Rehearsal:
    """What an import asks of a `Transaction`, over a repository that stays as it is.

    The rows that would be stored are kept in a file. Memory has some 400 bytes for each of them, one entry for each of
    their branches, and the names of the models in the folders that get new ones.
    """

    def __init__(self, repository: Repository, file: BinaryIO, caller: Caller):
        self._repository = repository
        self._file = file
        self._row: Row
        self._models: dict[str, int] = {}
        self._versions: dict[str, _Kept] = {}
        self._branches: dict[tuple[str, str], Branch] = {}
        self._names: dict[str, set[str]] = {}
        self._caller = caller

    def begin(self, row: Row) -> None:
        """Take a row, which the following calls are about."""
        self._row = row

    @property
    def size(self) -> int:
        """How many bytes the rows take that would be stored."""
        return self._file.seek(0, os.SEEK_END)

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Return the rows that would be stored, in their order, each with the place in the file behind it."""
        end = self.size
        self._file.seek(0)
        while self._file.tell() < end:
            row = pickle.load(self._file)  # noqa: S301 - a file of our own
            yield row, self._file.tell()

    # What a transaction answers and does

    def get_model(self, model_rid: str, caller: Caller) -> VisibleModel:
        """Return the model. Raises ModelNotFound."""
        if model_rid in self._models:
            return VisibleModel(self._kept(self._models[model_rid]), ROLE_OWNER)
        return self._repository.read(lambda reader: reader.get_model(model_rid, caller))

    def add_model(self, model: Model) -> Model:
        """Keep the row. Raises ResourceNameAlreadyExists."""
        names = self._names_in(model.parent_folder_rid)
        if model.name in names:
            raise ResourceNameAlreadyExists(parent_folder_rid=model.parent_folder_rid, display_name=model.name)
        names.add(model.name)
        self._models[model.rid] = self._keep()
        return model

    def set_grant(self, grant: Grant, changed_by: str) -> None:
        """Do nothing: an import asks for no grant."""

    def find_version(self, model_version_rid: str, caller: Caller) -> StoredVersion | None:
        """Return the version, complete; None if there is none."""
        kept = self._versions.get(model_version_rid)
        if kept is None:
            return self._repository.read(lambda reader: reader.find_version(model_version_rid, caller))
        row, legacy_source = self._kept(kept.place)
        return StoredVersion(completed(row, kept.version_number, kept.root_rid), b"", legacy_source)

    def get_branch(self, model_rid: str, branch: str, caller: Caller) -> Branch:
        """Return the branch; a head that would be stored has its time alone. Raises ModelNotFound, BranchNotFound."""
        if (model_rid, branch) in self._branches:
            return self._branches[model_rid, branch]
        if model_rid in self._models:
            raise BranchNotFound(model_rid=model_rid, branch_name=branch)
        return self._repository.read(lambda reader: reader.get_branch(model_rid, branch, caller))

    def put_content(self, version: ModelVersion) -> bytes:
        """Return nothing of use. Raises RequestTooLarge."""
        self._repository.read(lambda reader: reader.require_fitting(version))
        return b""

    def append_version(
        self, version: ModelVersion, content_digest: bytes, legacy_source: str | None = None
    ) -> ModelVersion:
        """Keep the row."""
        head = ModelVersion(created_time=version.created_time)
        self._branches[version.model_rid, version.branch] = Branch(head=head, version_count=version.version_number)
        kept = _Kept(self._keep(), version.version_number, version.root_model_version_rid)
        self._versions[version.rid] = kept
        return version

    def add_promotion(self, promotion: Promotion, verdict: None) -> None:
        """Do nothing: it follows from its version."""

    def _names_in(self, folder_rid: str) -> set[str]:
        """Return the names in a folder, which grow with those that would be stored."""
        if folder_rid not in self._names:
            self._names[folder_rid] = set(self._stored_names(folder_rid))
        return self._names[folder_rid]

    def _stored_names(self, folder_rid: str) -> Iterator[str]:
        page: PageRequest | None = PageRequest(PAGE)
        while page is not None:
            found = self._models_of(folder_rid, page)
            yield from (model.name for model in found.items)
            page = None if found.next_position is None else PageRequest(PAGE, found.next_position)

    def _models_of(self, folder_rid: str, page: PageRequest) -> Page[Model]:
        return self._repository.read(lambda reader: reader.list_models(self._caller, folder_rid, page))

    def _keep(self) -> int:
        place = self.size
        pickle.dump(self._row, self._file)
        return place

    def _kept(self, place: int) -> Any:
        self._file.seek(place)
        return pickle.load(self._file).content  # noqa: S301 - a file of our own
