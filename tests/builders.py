"""Sample callers, models and versions, and short ways to store them."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant, Role
from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    DoubleType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    StringType,
    TabularType,
)
from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource, SdkSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
    PROMOTION_REQUEST_KIND_PROMOTION,
    PolicyChange,
    PromotionRequest,
)
from server.core import rids
from server.core.caller import Caller
from server.rules.promotion import promote_version
from server.rules.verdicts import write_with_verdicts
from server.storage.blobs import FileStore, open_file_store
from server.storage.contract import BranchEnd, Reader, Repository, Transaction, WantedPromotion
from server.storage.paging import PageRequest, Position

ADMIN = Caller(principals=("user:admin",), is_admin=True)

FOLDER = "ri.compass.main.folder.sample"

# The longest that the contract lets a RID be.
MAX_RID_BYTES = 255

ALL = 1000

_serial = itertools.count(1)


def caller(*principals: str) -> Caller:
    """A caller who is no administrator; `user:jane` if no principals are given."""
    return Caller(principals=principals or ("user:jane",))


def new_folder_rid() -> str:
    return f"ri.compass.main.folder.{uuid.uuid4()}"


def model(name: str | None = None, folder: str = FOLDER, created_by: str = ADMIN.user) -> Model:
    """A model that is not stored yet, with a name of its own unless one is given."""
    return Model(
        rid=rids.new_model_rid(),
        name=f"model {next(_serial)}" if name is None else name,
        parent_folder_rid=folder,
        created_by=created_by,
    )


def model_api(label: str = "churn") -> ModelApi:
    """A small Model API: a table with two columns in, a parameter out."""
    columns = [
        Column(name="age", data_type=DataType(double=DoubleType())),
        Column(name="country", required=False, data_type=DataType(string=StringType())),
    ]
    return ModelApi(
        inputs=[ModelApiInput(tabular=TabularType(name=label, columns=columns))],
        outputs=[ModelApiOutput(parameter=ParameterType(name="score", data_type=DataType(double=DoubleType())))],
    )


def version(
    model_rid: str, branch: str = "master", label: str = "churn", created_by: str = ADMIN.user, size: int = 0
) -> ModelVersion:
    """A version that is not stored yet; versions of one label and size have equal content, of about `size` bytes."""
    rid = rids.new_model_version_rid()
    return ModelVersion(
        rid=rid,
        model_api=model_api(label),
        conda_requirements=["numpy==1.24.0"] + (["x" * size] if size else []),
        backing_repositories=["ri.stemma.main.repository.churn"],
        linked_experiment="ri.models.main.experiment.churn",
        source=ModelVersionSource(sdk=SdkSource()),
        model_rid=model_rid,
        branch=branch,
        created_by=created_by,
        root_model_version_rid=rid,
    )


def policy(model_rid: str, compatibility: CompatibilityMode.ValueType, revision: int = 1, **rules: Any) -> BranchPolicy:
    """A policy of the branch `master`."""
    return BranchPolicy(model_rid=model_rid, branch="master", compatibility=compatibility, revision=revision, **rules)


def promotion_request(source: ModelVersion, model_rid: str, branch: str = "master", **fields: Any) -> PromotionRequest:
    """A request for the promotion of a version that is not stored yet, made by `user:asker` in 2023, for a day."""
    made_ms = 1_700_000_000_123
    return PromotionRequest(
        rid=rids.new_promotion_request_rid(),
        kind=PROMOTION_REQUEST_KIND_PROMOTION,
        model_rid=model_rid,
        branch=branch,
        source_model_rid=source.model_rid,
        source_model_version_rid=source.rid,
        content_digest="00" * 32,
        requested_by="user:asker",
        created_time=timestamp(made_ms),
        expire_time=timestamp(made_ms + 24 * 3_600_000),
        **fields,
    )


def policy_change_request(change: PolicyChange, **fields: Any) -> PromotionRequest:
    """A request for a change of a policy that is not stored yet, made by `user:asker` in 2023, for a day."""
    made_ms = 1_700_000_000_123
    return PromotionRequest(
        rid=rids.new_promotion_request_rid(),
        kind=PROMOTION_REQUEST_KIND_POLICY_CHANGE,
        branch="master",
        policy_change=change,
        requested_by="user:asker",
        created_time=timestamp(made_ms),
        expire_time=timestamp(made_ms + 24 * 3_600_000),
        **fields,
    )


def timestamp(milliseconds: int) -> Timestamp:
    """Milliseconds since the epoch as a message."""
    result = Timestamp()
    result.FromMilliseconds(milliseconds)
    return result


def add_model(
    repository: Repository, name: str | None = None, folder: str = FOLDER, created_by: str = ADMIN.user
) -> Model:
    """Store a model, and return it as it is stored."""
    return repository.write(lambda tx: tx.add_model(model(name, folder, created_by)))


def append(repository: Repository, new: ModelVersion, legacy_source: str | None = None) -> ModelVersion:
    """Store a version with its content as the head of its branch, and return it as it is stored."""
    return repository.write(lambda tx: tx.append_version(new, tx.put_content(new), legacy_source))


def append_imported(repository: Repository, new: ModelVersion, promotion: Promotion) -> ModelVersion:
    """Store a version as one that was promoted elsewhere, and return it as it is stored."""
    return repository.write(
        lambda tx: tx.append_promoted(new, tx.put_content(new), promotion, None, was_imported=True).version
    )


def add_versions(repository: Repository, model_rid: str, count: int, branch: str = "master") -> list[ModelVersion]:
    """Store that many versions on a branch, in one transaction."""
    new = [version(model_rid, branch) for _ in range(count)]
    return repository.write(lambda tx: [tx.append_version(each, tx.put_content(each)) for each in new])


def grant(
    repository: Repository, resource_rid: str, principal: str, role: Role.ValueType, changed_by: str = ADMIN.user
) -> None:
    """Give a principal a role."""
    given = Grant(resource_rid=resource_rid, principal=principal, role=role)
    repository.write(lambda tx: tx.set_grant(given, changed_by))


def revoke(repository: Repository, resource_rid: str, principal: str, changed_by: str = ADMIN.user) -> None:
    """Take a principal's role away."""
    repository.write(lambda tx: tx.remove_grant(resource_rid, principal, changed_by))


def find(repository: Repository, model_version_rid: str) -> ModelVersion:
    """The version with this RID, as an administrator finds it."""
    found = repository.read(lambda reader: reader.find_version(model_version_rid, ADMIN))
    assert found is not None
    return found.version


def all_versions(reader: Reader, model_rid: str, branch: str = "master", page_size: int = ALL) -> list[ModelVersion]:
    """Every version of a branch, newest first, page by page."""
    versions: list[ModelVersion] = []
    after: Position | None = None
    while True:
        page = reader.list_versions(model_rid, branch, ADMIN, PageRequest(page_size, after))
        versions += page.items
        if page.next_position is None:
            return versions
        after = page.next_position


def file_store(repository: Repository, folder: Path) -> FileStore:
    """The store of a registry's model files in a data folder."""
    return open_file_store(None, folder, repository.read(lambda reader: reader.registry_id()))


@contextmanager
def held(repository: Repository, branch: ModelVersion) -> Iterator[None]:
    """Another transaction appends to the branch of this version, and ends when the block does."""
    holding, done = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        new = version(branch.model_rid, branch.branch)
        tx.append_version(new, tx.put_content(new))
        holding.set()
        assert done.wait(60)

    with ThreadPoolExecutor(1) as thread:
        holder = thread.submit(repository.write, hold)
        try:
            assert holding.wait(60)
            yield
        finally:
            done.set()
        holder.result()


def lock(tx: Transaction, model_rid: str, branch: str = "master") -> None:
    """Keep other transactions from extending a branch until this one ends."""
    tx.lock_branches([(model_rid, branch)], ADMIN, ROLE_OWNER)


def branch_end(reader: Reader, model_rid: str, branch: str = "master") -> BranchEnd:
    """Where a branch goes on."""
    return reader.get_promotion_facts(WantedPromotion(model_rid, branch, None, 1), ADMIN).branch


def promote(
    repository: Repository, source: ModelVersion, model_rid: str, by: Caller = ADMIN, **fields: Any
) -> ModelVersion:
    """Promote a version into a model, as PromoteVersion does."""
    request = PromoteVersionRequest(model_rid=model_rid, source_model_version_rid=source.rid, preview=True, **fields)
    return write_with_verdicts(repository, lambda tx: promote_version(tx, by, request))
