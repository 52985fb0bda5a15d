"""Importing models and versions, one JSON object a line.

A line is the contract's JSON of a Model or of a ModelVersion; the type of its `rid` says which. What another system
knows of them is kept: RIDs, times, creators, and sources of kinds that this API lacks. All lines are checked in a dry
run before the first is stored, so a file with a bad line changes nothing. Lines that are stored already change
nothing, so an import that was interrupted is run again.
"""

from __future__ import annotations

import codecs
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar, cast

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, FolderPolicy, Grant
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion, ModelVersionSource
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from server.codec.json_form import from_json, json_path, loads, to_json
from server.core import rids
from server.core.branches import DEFAULT_BRANCH
from server.core.caller import Caller
from server.core.errors import (
    BranchNotFound,
    FieldViolation,
    InvalidArgument,
    ModelNotFound,
    RegistryError,
    RequestTooLarge,
    ResourceNameAlreadyExists,
)
from server.rules.models import add_owned_model
from server.storage.contract import Promoted, Repository, StoredVersion, Transaction, VisibleModel
from server.storage.paging import Page, PageRequest
from server.validation import validate

# The JSON of the largest version that fits into a message of 4 MiB is smaller: nothing grows more than twelvefold.
MAX_LINE_BYTES = 64 * 2**20
# How much the clocks of two systems may differ.
CLOCK_SKEW_SECONDS = 300
# How much is stored in one transaction: enough to make up for its commit, and no burden to memory.
BATCH_LINES = 200
BATCH_BYTES = 8 * 2**20
# How many models of a folder are read at a time.
PAGE = 1000

IMPORTER = Caller(principals=("user:import",), is_admin=True)

_SHOWN_VIOLATIONS = 5
_SOURCE_KINDS = {field.json_name for field in ModelVersionSource.DESCRIPTOR.fields}
# What can be wrong with a line that reads well. Anything else that storage raises is not the line's fault.
_REFUSALS = (InvalidArgument, ModelNotFound, RequestTooLarge, ResourceNameAlreadyExists)

# Called after each step with its name, "checking" or "importing", the bytes that are done, and their total if known.
Progress: TypeAlias = Callable[[str, int, int | None], object]

M = TypeVar("M", Model, ModelVersion)


@dataclass(frozen=True)
class ImportSummary:
    """How many models and versions were stored, how many of these with legacy sources; how many lines were there."""

    models: int = 0
    versions: int = 0
    legacy: int = 0
    unchanged: int = 0

    def __add__(self, other: ImportSummary) -> ImportSummary:
        return ImportSummary(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class ImportLineError(Exception):
    """A line that cannot be stored, and what was stored before it: nothing, unless others changed the registry."""

    def __init__(self, line_number: int, problem: RegistryError, stored: ImportSummary):
        super().__init__(line_number, problem, stored)
        self.line_number = line_number
        self.problem = problem
        self.stored = stored

    def __str__(self) -> str:
        found = self.problem.violations
        sentences = [f"{path}: {sentence}" if path else sentence for path, sentence in found[:_SHOWN_VIOLATIONS]]
        if len(found) > _SHOWN_VIOLATIONS:
            sentences.append(f"and {len(found) - _SHOWN_VIOLATIONS} more")
        return f"{self.problem.name}: {'; '.join(sentences) or self.problem}"


class VersionRow(NamedTuple):
    """A version, with what its line leaves to storage unset, and the text of its legacy source, if it has one."""

    version: ModelVersion
    legacy_source: str | None


class Row(NamedTuple):
    """What a line says."""

    line_number: int
    content: Model | VersionRow


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Return the lines of a file, no more of each than shows that it is too long."""
    return iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")


def import_lines(
    repository: Repository,
    lines: Iterable[bytes],
    progress: Progress = lambda step, done, total: None,
) -> ImportSummary:
    """Check all lines in a dry run, then store them, in their order.

    Raises ImportLineError for the first bad line. Nothing is stored then, unless it became bad by what others stored
    while lines were stored: then those before it are. Memory grows as `DryRun` says, and a temporary file takes
    about as many bytes as the lines, or fewer.
    """
    with tempfile.TemporaryFile() as file:
        dry_run = DryRun(repository, file, IMPORTER)
        unchanged = _check_lines(dry_run, lines, progress)
        summary = ImportSummary()
        total = dry_run.size
        for rows, done in _batches(dry_run.rows()):
            stored, problem = _store(repository, rows)
            summary += stored
            if problem is not None:
                raise ImportLineError(problem.line_number, problem.error, summary)
            progress("importing", done, total)
    return unchanged + summary


def _check_lines(dry_run: DryRun, lines: Iterable[bytes], progress: Progress) -> ImportSummary:
    """Check each line, and return how many change nothing. Raises ImportLineError for the first bad one."""
    unchanged = 0
    done = 0
    for line_number, line in enumerate(lines, start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if line_number == 1 else line
        try:
            content = read_row(text)
        except RegistryError as error:
            raise ImportLineError(line_number, error, ImportSummary()) from None
        if content is not None:
            dry_run.begin(row := Row(line_number, content))
            try:
                # It has those methods of a transaction that storing a row calls.
                unchanged += _store_row(cast("Transaction", dry_run), row).unchanged
            except _REFUSALS as error:
                raise ImportLineError(line_number, error, ImportSummary()) from None
        done += len(line)
        progress("checking", done, None)
    return ImportSummary(unchanged=unchanged)


def _batches(rows: Iterable[tuple[Row, int]]) -> Iterator[tuple[list[Row], int]]:
    """Return rows that are stored together, with the place in the file behind the last of them."""
    batch: list[Row] = []
    begun = end = 0
    for row, end in rows:
        batch.append(row)
        if len(batch) == BATCH_LINES or end - begun >= BATCH_BYTES:
            yield batch, end
            batch, begun = [], end
    if batch:
        yield batch, end


class _Problem(NamedTuple):
    line_number: int
    error: RegistryError


class _BranchMoved(Exception):
    """Another caller added a version to the branch after its head was read."""


def _store(repository: Repository, rows: list[Row]) -> tuple[ImportSummary, _Problem | None]:
    """Store the rows before the first bad one, in one transaction."""

    def change(tx: Transaction) -> tuple[ImportSummary, _Problem | None]:
        summary = ImportSummary()
        for row in rows:
            try:
                summary += _store_row(tx, row)
            except _REFUSALS as error:
                return summary, _Problem(row.line_number, error)
        return summary, None

    while True:
        try:
            return repository.write(change)
        except _BranchMoved:
            continue


def _store_row(tx: Transaction, row: Row) -> ImportSummary:
    if isinstance(row.content, Model):
        return _store_model(tx, row.content)
    return _store_version(tx, *row.content)


def _store_model(tx: Transaction, model: Model) -> ImportSummary:
    try:
        stored, _ = tx.get_model(model.rid, IMPORTER)
    except ModelNotFound:
        add_owned_model(tx, model)
        return ImportSummary(models=1)
    _require_equal(model, stored)
    return ImportSummary(unchanged=1)


def _store_version(tx: Transaction, row: ModelVersion, legacy_source: str | None) -> ImportSummary:
    """Store a version as the head of its branch; every refusal comes before the first write."""
    found = tx.find_version(row.rid, IMPORTER)
    if found is not None:
        # What the line leaves to storage is compared as storage has filled it in.
        row = _completed(row, found.version.version_number, found.version.root_model_version_rid)
        _require_equal(row, found.version, also_differs=["source"] if found.legacy_source != legacy_source else [])
        return ImportSummary(unchanged=1)
    number = _next_version_number(tx, row)
    version = _completed(row, number, row.root_model_version_rid or _root_of(tx, row))
    if version.version_number != number:
        raise _invalid("versionNumber", f"must be {number}, the next number on the branch, or absent")
    digest = tx.put_content(version)
    if version.source.HasField("promoted"):
        stored = tx.append_promoted(version, digest, _promotion(version), None, was_imported=True).version
    else:
        stored = tx.append_version(version, digest, legacy_source)
    if stored.version_number != number:
        raise _BranchMoved
    return ImportSummary(versions=1, legacy=int(legacy_source is not None))


def _next_version_number(tx: Transaction, version: ModelVersion) -> int:
    """Return the number that the version will have on its branch, if it is no older than the head."""
    try:
        branch = tx.get_branch(version.model_rid, version.branch, IMPORTER)
    except BranchNotFound:
        return 1
    if version.created_time.ToMilliseconds() < branch.head.created_time.ToMilliseconds():
        head = to_json(branch.head)["createdTime"]
        raise _invalid("createdTime", f"must not be before {head}, the time of the version below it")
    return branch.version_count + 1


def _root_of(tx: Transaction, version: ModelVersion) -> str:
    """Return the root of a promoted version, as far as it is known."""
    previous = version.source.promoted.previous_model_version_rid
    found = tx.find_version(previous, IMPORTER)
    return found.version.root_model_version_rid if found else previous


def _promotion(version: ModelVersion) -> Promotion:
    """Return the record of the promotion that made a version elsewhere, as far as its line tells."""
    return Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=version.source.promoted.previous_model_rid,
        source_model_version_rid=version.source.promoted.previous_model_version_rid,
    )


def _require_equal(row: M, stored: M, also_differs: Iterable[str] = ()) -> None:
    differing = set(also_differs)
    if row != stored:
        mine, theirs = to_json(row), to_json(stored)
        differing |= {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    if differing:
        raise _invalid(
            "rid", f"{row.rid} is stored already, or on a line above, with another {', '.join(sorted(differing))}"
        )


def _completed(row: ModelVersion, version_number: int, root_rid: str) -> ModelVersion:
    """Return a copy that has these where the row has none of its own."""
    version = ModelVersion()
    version.CopyFrom(row)
    version.version_number = row.version_number or version_number
    version.root_model_version_rid = row.root_model_version_rid or root_rid
    return version


def _invalid(path: str, sentence: str) -> InvalidArgument:
    """Return the error for one violation, at its path in the JSON."""
    return InvalidArgument(violations=(FieldViolation(path, sentence),))


def read_row(line: bytes) -> Model | VersionRow | None:
    """Return what a line says; None if it is blank.

    Raises InvalidArgument, InvalidModelApi or another error about its shape, with the paths of the JSON.
    """
    if len(line) > MAX_LINE_BYTES:
        raise _invalid("", f"the line is longer than {MAX_LINE_BYTES} bytes")
    if not line.strip():
        return None
    value = loads(line)
    if not isinstance(value, dict):
        raise _invalid("", "must be an object: the JSON of a model or of a model version")
    rid = value.get("rid")
    match rids.rid_type(rid) if isinstance(rid, str) else None:
        case rids.MODEL:
            model = from_json(value, Model)
            _check_shape(model, "rid", "name", "parent_folder_rid", "created_time", "created_by")
            return model
        case rids.MODEL_VERSION:
            return _version_row(value, line)
        case _:
            raise _invalid("rid", "must be the RID of a model or of a model version")


def _version_row(value: dict[str, object], line: bytes) -> VersionRow:
    legacy_source = _legacy_source(value.get("source"), line)
    if legacy_source is not None:
        del value["source"]
    version = from_json(value, ModelVersion)
    if value.get("branch") is None:
        version.branch = DEFAULT_BRANCH
    if value.get("versionNumber") == 0:
        raise _invalid("versionNumber", "must be at least 1")
    if version.yanked:
        raise _invalid("yanked", "must be false or absent: yank the version with YankVersion when it is imported")
    if legacy_source is None and not version.HasField("source"):
        version.source.sdk.SetInParent()
    _check_shape(version, "rid", "model_api", "created_time", "model_rid", "created_by")
    if not version.source.HasField("promoted"):
        version.root_model_version_rid = version.root_model_version_rid or version.rid
        if version.HasField("source") and version.root_model_version_rid != version.rid:
            raise _invalid("rootModelVersionRid", "must be the version's own RID, since it was not promoted")
    return VersionRow(version, legacy_source)


def _legacy_source(source: object, line: bytes) -> str | None:
    """Return the source of a line as JSON text if its kind is none that the API can express."""
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(kind, str) or not kind or kind in _SOURCE_KINDS:
        return None
    try:
        # With its numbers as they are, where what the API expresses takes 1.0 for an integer.
        return json.dumps(
            json.loads(line)["source"], ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        )
    except (ValueError, RecursionError) as error:
        raise _invalid("source", f"cannot be kept: {error}") from None


def _check_shape(message: Model | ModelVersion, *required: str) -> None:
    """Return if the fields are set and every field has its shape."""
    fields = {field.name for field, _ in message.ListFields()}
    missing = [FieldViolation(json_path(message.DESCRIPTOR, n), "is required") for n in required if n not in fields]
    if missing:
        raise InvalidArgument(violations=tuple(missing))
    if message.created_time.ToSeconds() > time.time() + CLOCK_SKEW_SECONDS:
        # No later version of the branch could be older.
        raise _invalid("createdTime", "must not lie in the future")
    try:
        validate(message)
    except RegistryError as error:
        error.violations = tuple(
            violation._replace(field=json_path(message.DESCRIPTOR, violation.field)) for violation in error.violations
        )
        raise


class _Kept(NamedTuple):
    """The place in the file of a version's row, and what a transaction would have filled in."""

    place: int
    version_number: int
    root_rid: str


class DryRun:
    """A transaction that stores nothing: what an import calls of a `Transaction`, over a repository that it only reads.

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

    def get_folder_policy(self, folder_rid: str) -> FolderPolicy:
        """Return one that says nothing: grants are not looked at."""
        return FolderPolicy(folder_rid=folder_rid)

    def set_grant(self, grant: Grant, changed_by: str) -> None:
        """Do nothing: an import asks for no grant."""

    def find_version(self, model_version_rid: str, caller: Caller) -> StoredVersion | None:
        """Return the version, complete; None if there is none."""
        kept = self._versions.get(model_version_rid)
        if kept is None:
            return self._repository.read(lambda reader: reader.find_version(model_version_rid, caller))
        row, legacy_source = self._kept(kept.place)
        return StoredVersion(_completed(row, kept.version_number, kept.root_rid), b"", legacy_source)

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

    def append_promoted(
        self, version: ModelVersion, digest: bytes, promotion: Promotion, verdict: None, *, was_imported: bool
    ) -> Promoted:
        """Keep the row: its record follows from the version."""
        return Promoted(self.append_version(version, digest), b"")

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
