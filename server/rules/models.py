"""Creating models and versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_FOLDER, ROLE_OWNER, Grant
from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource, SdkSource
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    GetModelVersionRequest,
)
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_UNSPECIFIED, Promotion
from server.core import rids
from server.core.branches import branch_of
from server.core.caller import Caller, invisible_character
from server.core.errors import (
    CreateModelPermissionDenied,
    CreateModelVersionPermissionDenied,
    ModelVersionNotFound,
    UnsupportedModelSource,
    UploadNotFound,
)
from server.core.permissions import TO_CREATE_MODELS, TO_CREATE_VERSIONS
from server.rules.api_history import ENFORCING, NOTHING_MADE, api_histories, newest_broken, record
from server.rules.compatibility import RULES_VERSION, compare
from server.rules.idempotency import claim, claim_of, is_repeatable, replayed_results, replayed_version
from server.rules.obstacles import OF_THE_REQUEST_ID, OF_THE_TARGET, Attempt, Facts, require
from server.rules.verdicts import ComparisonsNeeded, Runner, write_with_verdicts
from server.storage.contract import (
    Comparison,
    Reader,
    Repository,
    StoredVersion,
    Transaction,
    UploadKey,
    WantedPromotion,
)


def create_model(tx: Transaction, caller: Caller, request: CreateModelRequest) -> Model:
    """Store a model with no versions, and make the caller its owner, if its folder's policy is so.

    The same request, by its id, is carried out once: it returns the same model again, or ModelNotFound where the caller
    may see it no more. Raises RequestIdAlreadyUsed, CreateModelPermissionDenied and ResourceNameAlreadyExists.
    """
    made = claim(tx, caller, request, [rid := rids.new_model_rid()])
    if made is not None:
        return tx.get_model(made[0], caller).model
    if tx.get_role(request.parent_folder_rid, caller) < TO_CREATE_MODELS:
        raise CreateModelPermissionDenied
    model = Model(
        rid=rid,
        name=request.name,
        parent_folder_rid=request.parent_folder_rid,
        created_by=caller.user,
    )
    return add_owned_model(tx, model)


def add_owned_model(tx: Transaction, model: Model) -> Model:
    """Store a model and make its creator the owner, unless its folder wants no other owners than its own.

    A creator of long ago whose name has invisible characters, as an import may bring it, is given nothing. Raises
    ResourceNameAlreadyExists.
    """
    stored = tx.add_model(model)
    of_creator = tx.get_folder_policy(stored.parent_folder_rid).new_model_owner != NEW_MODEL_OWNER_FOLDER
    if of_creator and invisible_character(stored.created_by) is None:
        tx.set_grant(Grant(resource_rid=stored.rid, principal=stored.created_by, role=ROLE_OWNER), stored.created_by)
    return stored


def create_model_version(
    tx: Transaction,
    caller: Caller,
    request: CreateModelVersionRequest,
    own_files: Callable[[Transaction], bytes] | None = None,
    findings: Mapping[Comparison, Promotion] = NOTHING_MADE,
) -> ModelVersion:
    """Store a version as the new head of a branch, with the files of the upload that it names; it is its own root.

    Files that the request brings itself are recorded by `own_files`, which returns their digest. The same request, by
    its id, is carried out once: it returns the same version again, and records no files. Raises ModelNotFound,
    RequestIdAlreadyUsed, CreateModelVersionPermissionDenied, BranchLocked, BranchAcceptsPromotionsOnly, UploadNotFound,
    RequestTooLarge, TooManyModelApis and ModelApiIncompatible, what `own_files` raises, and ComparisonsNeeded if
    `findings` lack what the branch's policy asks of its content.
    """
    rid, branch = rids.new_model_version_rid(), branch_of(request)
    attempt = Attempt(PROMOTION_KIND_UNSPECIFIED, request.model_rid, branch, rid)
    # The head that it is compared with stays the head. A branch that is new is locked by `append_version`.
    tx.lock_branches({attempt.place}, caller, attempt.needed_role)
    this = claim_of(caller, request, [rid])
    earlier = None if this is None else tx.claim_request(this.key, this.request)
    wanted = WantedPromotion(request.model_rid, branch, None, RULES_VERSION)
    facts = Facts(tx.get_promotion_facts(wanted, caller), caller, this, earlier)
    require(attempt, facts, (*OF_THE_REQUEST_ID, *OF_THE_TARGET))
    if earlier is not None:
        return replayed_version(tx, caller, request.model_rid, earlier.results[0])
    version = ModelVersion(
        rid=rid,
        model_api=request.model_api,
        conda_requirements=request.conda_requirements,
        backing_repositories=request.backing_repositories,
        source=request.source if request.HasField("source") else ModelVersionSource(sdk=SdkSource()),
        linked_experiment=request.linked_experiment if request.HasField("linked_experiment") else None,
        model_rid=request.model_rid,
        branch=branch,
        created_by=caller.user,
        root_model_version_rid=rid,
    )
    file_digest = own_files(tx) if own_files is not None else _uploaded_digest(tx, caller, request)
    content_digest = tx.put_content(version, file_digest)
    facts = _with_findings(tx, attempt, facts.with_source(StoredVersion(version, content_digest, None)), findings)
    require(attempt, facts)
    created = tx.append_version(version, content_digest, branch=facts.stored.branch)
    record(tx, attempt.place, facts.histories)
    return created


def write_version(
    repository: Repository,
    caller: Caller,
    request: CreateModelVersionRequest,
    run: Runner,
    own_files: Callable[[Transaction], bytes] | None = None,
) -> ModelVersion:
    """Create a version as `create_model_version` does, and compare its content with the branch's head by `run`.

    Findings are kept in memory: the content that they are about is not stored before the version is accepted. Raises
    what `create_model_version` and `run` raise, and Overloaded if the head is another one again and again.
    """
    found: dict[Comparison, Promotion] = {}

    def compare_with(comparison: Comparison) -> None:
        head = repository.read(lambda reader: reader.get_model_api(comparison.head_digest))
        found[comparison] = compare(head, request.model_api)

    return write_with_verdicts(
        repository,
        lambda tx: create_model_version(tx, caller, request, own_files, found),
        run,
        repeatable=is_repeatable(request),
        make=compare_with,
    )


def _with_findings(tx: Transaction, attempt: Attempt, facts: Facts, findings: Mapping[Comparison, Promotion]) -> Facts:
    """Return facts with what was found, if the policy wants to know. Raises ComparisonsNeeded if it was not."""
    end, source, on_head = facts.stored.branch, facts.stored.source, facts.comparison
    if source is None or end.compatibility not in ENFORCING:
        return facts
    histories = api_histories(tx, attempt.place, end, source)
    wanted = [on_head] if on_head is not None else []
    wanted += [comparison for history in histories for comparison in history.lacking]
    lacking = [comparison for comparison in dict.fromkeys(wanted) if comparison not in findings]
    if lacking:
        raise ComparisonsNeeded(lacking)
    if on_head is not None:
        found = findings[on_head]
        facts = facts.with_findings(found.error_count, lambda: found)
    return facts._replace(histories=histories, broken=newest_broken(tx, histories, findings))


def find_replayed_version(reader: Reader, caller: Caller, request: CreateModelVersionRequest) -> ModelVersion | None:
    """Return the version that the same request, by its id, created before; None if there is none.

    Raises ModelNotFound and RequestIdAlreadyUsed.
    """
    if not is_repeatable(request):
        return None
    reader.get_model(request.model_rid, caller)
    made = replayed_results(reader, caller, request)
    return None if made is None else replayed_version(reader, caller, request.model_rid, made[0])


def require_editor(tx: Transaction, caller: Caller, model_rid: str) -> None:
    """Return if the caller may create versions. Raises ModelNotFound and CreateModelVersionPermissionDenied."""
    if tx.get_model(model_rid, caller).role < TO_CREATE_VERSIONS:
        raise CreateModelVersionPermissionDenied(model_rid=model_rid)


def _uploaded_digest(tx: Transaction, caller: Caller, request: CreateModelVersionRequest) -> bytes | None:
    if request.model_files.WhichOneof("type") != "uploaded":
        return None
    upload_id = request.model_files.uploaded.upload_id
    digest = tx.find_upload(UploadKey.of(upload_id, caller, request.model_rid))
    if digest is None:
        # Not all of it: the id may be good for something else, and errors are in the log.
        raise UploadNotFound(model_rid=request.model_rid, upload_id=f"{upload_id[:8]}…")
    return digest


def get_model_version(reader: Reader, caller: Caller, request: GetModelVersionRequest) -> ModelVersion:
    """Return a version of that very model. Raises ModelVersionNotFound and UnsupportedModelSource."""
    return find_model_version(reader, caller, request.model_rid, request.model_version_rid).as_seen()


def find_model_version(reader: Reader, caller: Caller, model_rid: str, model_version_rid: str) -> StoredVersion:
    """Return a version of that very model as it is stored. Raises ModelVersionNotFound and UnsupportedModelSource."""
    found = reader.find_version(model_version_rid, caller)
    if found is None or found.version.model_rid != model_rid:
        raise ModelVersionNotFound(model_rid=model_rid, model_version_rid=model_version_rid)
    if found.legacy_source is not None:
        raise UnsupportedModelSource
    return found
