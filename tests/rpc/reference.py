"""What the registry promises, over dictionaries: written to be read, for one call at a time and a handful of rows.

`carry_out` says what each call must answer, or how it must fail. It takes RIDs from the answer, as the registry makes
them up, and leaves out times. Of the server it uses the rules of compatibility and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from google.protobuf.message import Message

from modelregistry.v1.access_service_pb2 import (
    ROLE_EDITOR,
    ROLE_OWNER,
    ROLE_PROMOTER,
    ROLE_UNSPECIFIED,
    Grant,
    GrantRoleRequest,
    ListGrantsRequest,
    ListGrantsResponse,
    RevokeRoleRequest,
    RevokeRoleResponse,
)
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_WARN,
    SEVERITY_ERROR,
    CompatibilityFinding,
)
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion, ModelVersionSource, PromotedSource, SdkSource
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    GetBranchRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBranchesRequest,
    ListBranchesResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListModelVersionsRequest,
    ListModelVersionsResponse,
    PromoteVersionRequest,
)
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    BranchPolicy,
    LineageNode,
    Promotion,
)
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoted,
    BatchPromoteVersionsRequest,
    BatchPromoteVersionsResponse,
    CheckPromotionResponse,
    GetBranchPolicyRequest,
    GetLineageRequest,
    GetLineageResponse,
    GetPromotionRequest,
    ListPromotionsRequest,
    ListPromotionsResponse,
    PromotionObstacle,
    RollbackBranchRequest,
    SetBranchPolicyRequest,
)
from server.rules.compatibility import compare


class Person(NamedTuple):
    """Who calls: `user:<sub>` first, then the groups."""

    principals: tuple[str, ...]
    is_admin: bool = False


class Made(NamedTuple):
    """The RIDs that the registry made up for a model or a version, and for the promotion if it was one."""

    rid: str
    promotion_rid: str = ""


class Found(NamedTuple):
    """What was found beside the head, by its number, and beside each of the earlier heads that count, the newest first.

    None if nothing is compared with the head.
    """

    head_number: int
    on_head: list[CompatibilityFinding] | None
    on_others: dict[int, list[CompatibilityFinding]]


class Earlier(NamedTuple):
    """A request that was carried out: what it asked for, and the RIDs of what it made."""

    asked: bytes
    results: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """How a call fails: the error's name and parameters, and the fields that are at fault."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()


class Refused(Exception):
    def __init__(self, name: str, *fields: str, **parameters: object) -> None:
        super().__init__(name)
        self.refusal = Refusal(name, {key: str(value) for key, value in parameters.items()}, fields)


def branch_of(request: Any) -> str:
    return request.branch or "master"


def content_of(version: ModelVersion) -> bytes:
    """What makes two versions the same but for where they are."""
    return ModelVersion(
        model_api=version.model_api,
        conda_requirements=version.conda_requirements,
        backing_repositories=version.backing_repositories,
        linked_experiment=version.linked_experiment if version.HasField("linked_experiment") else None,
    ).SerializeToString(deterministic=True)


@dataclass
class Reference:
    """A registry. Each collection is in the order in which its items came to be."""

    models: dict[str, Model] = field(default_factory=dict)
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    # By the RID of the version that the promotion made.
    promotions: dict[str, Promotion] = field(default_factory=dict)
    policies: list[BranchPolicy] = field(default_factory=list)
    # By resource and principal.
    grants: dict[tuple[str, str], int] = field(default_factory=dict)
    grant_changes: list[tuple[str, str, int | None, str]] = field(default_factory=list)
    # By caller, RPC and id.
    requests: dict[tuple[str, str, str], Earlier] = field(default_factory=dict)
    # The contents that were compared for a promotion: of the head, and of what replaced it.
    verdicts: set[tuple[bytes, bytes]] = field(default_factory=set)
    # How many versions a branch had when its compatibility was set, by its model, its name and the revision; and which
    # of its versions is known to have brought a Model API since then, by the same and its number.
    counts_when_set: dict[tuple[str, str, int], int] = field(default_factory=dict)
    model_apis: set[tuple[str, str, int, int]] = field(default_factory=set)

    def carry_out(
        self, person: Person, request: Any, made: Iterable[Made] = (), check: bool = False
    ) -> Message | Refusal:
        """Return the answer to a request, or how it fails; what fails changes nothing."""
        trial = replace(self, **{name: type(value)(value) for name, value in vars(self).items()})
        carry_out = Reference._check_promotion if check else _ACTS[type(request)]
        try:
            answer = carry_out(trial, person, request, iter(made))
        except Refused as refused:
            if refused.refusal.name == "ModelApiIncompatible":
                # What was compared stays, and nothing else.
                self.verdicts = trial.verdicts
            return refused.refusal
        vars(self).update(vars(trial))
        return answer

    def _new(self, made: Iterator[Made]) -> Made:
        """The next RIDs that were made up; if the registry made too few, some that it never would."""
        return next(made, Made(f"missing {len(self.versions)}"))

    # Who may do what

    def _role(self, person: Person, *resource_rids: str) -> int:
        """The highest role on any of the resources."""
        if person.is_admin:
            return ROLE_OWNER
        pairs = ((resource, principal) for resource in resource_rids for principal in person.principals)
        return max((self.grants.get(pair, ROLE_UNSPECIFIED) for pair in pairs), default=ROLE_UNSPECIFIED)

    def _role_on_model(self, person: Person, model_rid: str) -> int:
        if model_rid not in self.models:
            return ROLE_UNSPECIFIED
        return self._role(person, model_rid, self.models[model_rid].parent_folder_rid)

    def _sees(self, person: Person, model_rid: str) -> bool:
        return self._role_on_model(person, model_rid) > ROLE_UNSPECIFIED

    def _seen_model(self, person: Person, model_rid: str) -> Model:
        if not self._sees(person, model_rid):
            raise Refused("ModelNotFound", modelRid=model_rid)
        return self.models[model_rid]

    def _seen_version(self, person: Person, version_rid: str) -> ModelVersion | None:
        version = self.versions.get(version_rid)
        return version if version is not None and self._sees(person, version.model_rid) else None

    def _as_seen(self, person: Person, version: ModelVersion, names_source: bool = False) -> ModelVersion:
        """The version without RIDs of a source and of a root that the person may not see, but for one just named."""
        seen = ModelVersion()
        seen.CopyFrom(version)
        source = seen.source.promoted.previous_model_version_rid
        if source and not names_source and self._seen_version(person, source) is None:
            seen.source.CopyFrom(ModelVersionSource(promoted=PromotedSource()))
        if self._seen_version(person, seen.root_model_version_rid) is None:
            seen.root_model_version_rid = ""
        return seen

    def _require_promoter(self, person: Person, model_rid: str) -> None:
        if self._role_on_model(person, model_rid) < ROLE_PROMOTER:
            raise Refused("PromoteVersionModelPermissionDenied", modelRid=model_rid)

    def _require_owner(self, person: Person, resource_rid: str) -> None:
        is_model = ".model." in resource_rid
        if is_model:
            self._seen_model(person, resource_rid)
        role = self._role_on_model(person, resource_rid) if is_model else self._role(person, resource_rid)
        if role < ROLE_OWNER:
            raise Refused("AccessPermissionDenied", resourceRid=resource_rid)

    def _require_another_owner(self, person: Person, resource_rid: str, principal: str) -> None:
        """Only an administrator may take the last owner's role: on the resource, or on the folder of a model."""
        self._require_owner(person, resource_rid)
        folder = self.models[resource_rid].parent_folder_rid if resource_rid in self.models else None
        owners = {
            pair for pair, role in self.grants.items() if role == ROLE_OWNER and pair[0] in {resource_rid, folder}
        }
        if not person.is_admin and not owners - {(resource_rid, principal)}:
            raise Refused("ResourceNeedsOwner", resourceRid=resource_rid, principal=principal)

    # Requests with an id

    def _earlier(self, person: Person, request: Any) -> tuple[str, ...] | None:
        """The RIDs of what the same request made before."""
        earlier = self.requests.get(_key(person, request)) if request.request_id else None
        if earlier is None:
            return None
        if earlier.asked != _asked(request):
            raise Refused("RequestIdAlreadyUsed", requestId=request.request_id)
        return earlier.results

    def _remember(self, person: Person, request: Any, *results: str) -> None:
        if request.request_id:
            self.requests[_key(person, request)] = Earlier(_asked(request), results)

    # Models and versions

    def _create_model(self, person: Person, request: CreateModelRequest, made: Iterator[Made]) -> Model:
        earlier = self._earlier(person, request)
        if earlier is not None:
            return self._seen_model(person, earlier[0])
        if self._role(person, request.parent_folder_rid) < ROLE_EDITOR:
            raise Refused("CreateModelPermissionDenied")
        place = request.parent_folder_rid, request.name
        if place in {(model.parent_folder_rid, model.name) for model in self.models.values()}:
            raise Refused("ResourceNameAlreadyExists", parentFolderRid=place[0], displayName=place[1])
        model = Model(rid=self._new(made).rid, name=place[1], parent_folder_rid=place[0])
        model.created_by = person.principals[0]
        assert model.rid not in self.models
        self.models[model.rid] = model
        self._grant(person, model.rid, model.created_by, ROLE_OWNER)
        self._remember(person, request, model.rid)
        return model

    def _create_version(self, person: Person, request: CreateModelVersionRequest, made: Iterator[Made]) -> ModelVersion:
        self._seen_model(person, request.model_rid)
        earlier = self._earlier(person, request)
        if earlier is not None:
            return self.versions[earlier[0]]
        if self._role_on_model(person, request.model_rid) < ROLE_EDITOR:
            raise Refused("CreateModelVersionPermissionDenied", modelRid=request.model_rid)
        branch = branch_of(request)
        if self._policy(request.model_rid, branch).promotion_only:
            raise Refused(
                "BranchAcceptsPromotionsOnly",
                modelRid=request.model_rid,
                branchName=branch,
                resourceRid=request.model_rid,
            )
        rid = self._new(made).rid
        version = ModelVersion.FromString(content_of(request))  # type: ignore[arg-type]
        version.source.CopyFrom(request.source if request.HasField("source") else ModelVersionSource(sdk=SdkSource()))
        version.root_model_version_rid = rid
        self._require_compatible(request, self._found(request, version))
        self._append(person, request, version, rid)
        self._remember(person, request, rid)
        return version

    def branch(self, model_rid: str, branch: str) -> list[ModelVersion]:
        """The versions of a branch, oldest first."""
        return [v for v in self.versions.values() if (v.model_rid, v.branch) == (model_rid, branch)]

    def head(self, model_rid: str, branch: str) -> ModelVersion | None:
        return next(reversed(self.branch(model_rid, branch)), None)

    def _append(self, person: Person, request: Any, version: ModelVersion, rid: str) -> None:
        version.rid, version.model_rid, version.branch = rid, request.model_rid, branch_of(request)
        version.version_number = len(self.branch(version.model_rid, version.branch)) + 1
        version.created_by = person.principals[0]
        assert rid not in self.versions
        self.versions[rid] = version
        policy = self._policy(version.model_rid, version.branch)
        if policy.compatibility == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE:
            era = (version.model_rid, version.branch, policy.compatibility_since_revision)
            self.model_apis |= {(*era, first.version_number) for first in self._firsts(policy)}

    # Promotions

    def _promote_version(self, person: Person, request: PromoteVersionRequest, made: Iterator[Made]) -> ModelVersion:
        self._seen_model(person, request.model_rid)
        earlier = self._earlier(person, request)
        if earlier is not None:
            return self._as_seen(person, self.versions[earlier[0]])
        self._require_promoter(person, request.model_rid)
        version, findings = self._promote(person, request, self._source(person, request), made)
        self._require_compatible(request, findings)
        self._remember(person, request, version.rid)
        return self._as_seen(person, version, names_source=True)

    def _batch_promote(
        self, person: Person, request: BatchPromoteVersionsRequest, made: Iterator[Made]
    ) -> BatchPromoteVersionsResponse:
        for index, entry in enumerate(request.promotions):
            with _naming(index):
                self._seen_model(person, entry.model_rid)
        rids = self._earlier(person, request)
        if rids is None:
            for index, entry in enumerate(request.promotions):
                with _naming(index):
                    self._require_promoter(person, entry.model_rid)
                    self._source(person, entry)
            rids, found = (), []
            for index, entry in enumerate(request.promotions):
                with _naming(index):
                    version, findings = self._promote(person, entry, self._source(person, entry), made)
                    rids += (version.rid,)
                    found.append(findings)
            for index, (entry, findings) in enumerate(zip(request.promotions, found, strict=True)):
                with _naming(index):
                    self._require_compatible(entry, findings)
            self._remember(person, request, *rids)
        return BatchPromoteVersionsResponse(
            promoted=[
                BatchPromoted(
                    model_version_rid=rid,
                    model_rid=self.versions[rid].model_rid,
                    branch=self.versions[rid].branch,
                    version_number=self.versions[rid].version_number,
                    promotion_rid=self.promotions[rid].rid,
                )
                for rid in rids
            ]
        )

    def _roll_back(self, person: Person, request: RollbackBranchRequest, made: Iterator[Made]) -> ModelVersion:
        self._seen_model(person, request.model_rid)
        earlier = self._earlier(person, request)
        if earlier is not None:
            return self._as_seen(person, self.versions[earlier[0]])
        is_protected = self._policy(request.model_rid, branch_of(request)).promotion_only
        if self._role_on_model(person, request.model_rid) < ROLE_OWNER and (is_protected or request.override):
            raise Refused("PromoteVersionModelPermissionDenied", modelRid=request.model_rid)
        self._require_promoter(person, request.model_rid)
        place, number = {"modelRid": request.model_rid, "branchName": branch_of(request)}, request.to_version_number
        versions = self.branch(request.model_rid, branch_of(request))
        if not versions:
            raise Refused("BranchNotFound", **place)
        if number > len(versions):
            raise Refused("VersionNumberNotFound", **place, versionNumber=number)
        was_left = is_protected and content_of(versions[number - 1]) in self._left(versions)
        if was_left and not (request.override and request.reason):
            raise Refused("VersionRolledBack", **place, versionNumber=number)
        self._require_head(request)
        if number == len(versions):
            raise Refused("VersionAlreadyHead", **place, versionNumber=number)
        source = versions[number - 1]
        version = self._copy(person, request, PROMOTION_KIND_ROLLBACK, source, made, self._findings(request, source))
        if was_left:
            self.promotions[version.rid].override = True
        self._remember(person, request, version.rid)
        return self._as_seen(person, version)

    def _left(self, versions: list[ModelVersion]) -> set[bytes]:
        """The contents that a branch was rolled back from, and that it has not taken in since."""
        left: set[bytes] = set()
        taken_in: list[tuple[int, bytes]] = []
        for version in versions:
            promotion, content = self.promotions.get(version.rid), content_of(version)
            if promotion is not None and promotion.kind == PROMOTION_KIND_ROLLBACK:
                to = self.versions[promotion.source_model_version_rid].version_number
                left |= {older for number, older in taken_in if number > to} - {content}
            if promotion is None or promotion.kind != PROMOTION_KIND_ROLLBACK or promotion.override:
                taken_in.append((version.version_number, content))
                left.discard(content)
        return left

    def _source(self, person: Person, request: Any) -> ModelVersion:
        source = self._seen_version(person, request.source_model_version_rid)
        if source is None:
            raise Refused(
                "ModelVersionNotFound",
                modelRid=request.model_rid,
                modelVersionRid=request.source_model_version_rid,
            )
        return source

    def _require_head(self, request: Any) -> None:
        head = self.head(request.model_rid, branch_of(request))
        actual, expected = "" if head is None else head.rid, request.expected_head_version_rid
        if expected and expected != actual:
            raise Refused(
                "BranchHeadChanged",
                modelRid=request.model_rid,
                branchName=branch_of(request),
                expectedHeadVersionRid=expected,
                actualHeadVersionRid=actual,
            )

    def _findings(self, request: Any, source: ModelVersion) -> list[CompatibilityFinding] | None:
        """What is found if a version replaces the head of a branch; None if nothing is compared."""
        head = self.head(request.model_rid, branch_of(request))
        policy = self._policy(request.model_rid, branch_of(request)).compatibility
        if head is None or policy == COMPATIBILITY_MODE_OFF or content_of(head) == content_of(source):
            return None
        return list(compare(head.model_api, source.model_api).findings)

    def _firsts(self, policy: BranchPolicy) -> list[ModelVersion]:
        """The first version of each Model API that heads have had since the compatibility was set, oldest first."""
        versions = self.branch(policy.model_rid, policy.branch)
        count = self.counts_when_set[policy.model_rid, policy.branch, policy.compatibility_since_revision]
        firsts: list[ModelVersion] = []
        for version in versions[max(count - 1, 0) :]:
            if all(version.model_api != first.model_api for first in firsts):
                firsts.append(version)
        return firsts

    def _found(self, request: Any, source: ModelVersion, keeps: bool = False) -> Found:
        """What is found if a version replaces the head of a branch; it may be kept."""
        policy = self._policy(request.model_rid, branch_of(request))
        found = Found(len(self.branch(request.model_rid, branch_of(request))), self._findings(request, source), {})
        if policy.compatibility == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE:
            firsts = self._firsts(policy)
            same = next((first for first in firsts if first.model_api == source.model_api), source)
            for first in reversed(firsts):
                if first.model_api != source.model_api and first.version_number != found.head_number:
                    found.on_others[first.version_number] = list(compare(first.model_api, source.model_api).findings)
                    if keeps:
                        self.verdicts.add((content_of(first), content_of(same)))
        return found

    def _require_compatible(self, request: Any, found: Found) -> None:
        policy = self._policy(request.model_rid, branch_of(request))
        if policy.compatibility not in (COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE):
            return
        for number, findings in {found.head_number: found.on_head or [], **found.on_others}.items():
            errors = [each.path for each in findings if each.severity == SEVERITY_ERROR]
            if errors:
                place = {"modelRid": request.model_rid, "branchName": branch_of(request)}
                counts = {"errorCount": len(errors), "comparedVersionNumber": number}
                raise Refused("ModelApiIncompatible", *errors, **place, **counts)

    def _promote(
        self, person: Person, request: Any, source: ModelVersion, made: Iterator[Made]
    ) -> tuple[ModelVersion, Found]:
        """Promote a version, whatever is found, and return what was found, too."""
        self._require_head(request)
        found = self._found(request, source, keeps=True)
        return self._copy(person, request, PROMOTION_KIND_PROMOTION, source, made, found.on_head), found

    def _copy(
        self,
        person: Person,
        request: Any,
        kind: Any,
        source: ModelVersion,
        made: Iterator[Made],
        findings: list[CompatibilityFinding] | None,
    ) -> ModelVersion:
        rid, promotion_rid = self._new(made)
        replaced = self.head(request.model_rid, branch_of(request))
        if replaced is not None and findings is not None:
            self.verdicts.add((content_of(replaced), content_of(source)))
        version = ModelVersion.FromString(content_of(source))
        version.root_model_version_rid = source.root_model_version_rid
        origin = PromotedSource(previous_model_rid=source.model_rid, previous_model_version_rid=source.rid)
        version.source.CopyFrom(ModelVersionSource(promoted=origin))
        self._append(person, request, version, rid)
        self.promotions[rid] = Promotion(
            rid=promotion_rid,
            kind=kind,
            source_model_rid=source.model_rid,
            source_model_version_rid=source.rid,
            model_rid=version.model_rid,
            branch=version.branch,
            model_version_rid=rid,
            version_number=version.version_number,
            replaced_version_rid=None if replaced is None else replaced.rid,
            created_by=version.created_by,
            reason=request.reason if request.HasField("reason") else None,
            policy_revision=self._policy(version.model_rid, version.branch).revision or None,
            **_counted(findings),
        )
        return version

    def _check_promotion(
        self, person: Person, request: PromoteVersionRequest, _made: Iterator[Made]
    ) -> CheckPromotionResponse:
        """What stands in the way of a promotion, without the sentences for people."""
        refusals: list[Refusal] = []

        def passes(check: Any, *arguments: Any) -> Any:
            try:
                return check(*arguments)
            except Refused as refused:
                refusals.append(refused.refusal)
                return None

        answer = CheckPromotionResponse()
        if passes(self._seen_model, person, request.model_rid) is not None:
            earlier = passes(self._earlier, person, request)
            if earlier is not None:
                return CheckPromotionResponse(would_succeed=True, repeated_version_rid=earlier[0])
            passes(self._require_promoter, person, request.model_rid)
            source = passes(self._source, person, request)
            passes(self._require_head, request)
            found = Found(0, None, {}) if source is None else self._found(request, source)
            passes(self._require_compatible, request, found)
            versions = self.branch(request.model_rid, branch_of(request))
            answer = CheckPromotionResponse(
                compatibility=self._policy(request.model_rid, branch_of(request)).compatibility,
                head_version_rid=versions[-1].rid if versions else None,
                version_number=len(versions) + 1,
                **_counted(None if source is None else _all_told(found)),
            )
        answer.would_succeed = not refusals
        answer.obstacles.extend(
            PromotionObstacle(error_name=each.name, parameters=each.parameters) for each in refusals
        )
        return answer

    # Policies and grants

    def _policy(self, model_rid: str, branch: str) -> BranchPolicy:
        unset = BranchPolicy(model_rid=model_rid, branch=branch, compatibility=COMPATIBILITY_MODE_WARN)
        of_branch = (policy for policy in self.policies if (policy.model_rid, policy.branch) == (model_rid, branch))
        return next(reversed([*of_branch]), unset)

    def _set_policy(self, person: Person, request: SetBranchPolicyRequest, _made: Iterator[Made]) -> BranchPolicy:
        self._seen_model(person, request.model_rid)
        if self._role_on_model(person, request.model_rid) < ROLE_OWNER:
            raise Refused("AccessPermissionDenied", resourceRid=request.model_rid)
        before = self._policy(request.model_rid, branch_of(request))
        if request.HasField("expected_revision") and request.expected_revision != before.revision:
            raise Refused(
                "BranchPolicyChanged",
                resourceRid=request.model_rid,
                branchName=before.branch,
                expectedRevision=request.expected_revision,
                actualRevision=before.revision,
            )
        policy = BranchPolicy(
            model_rid=request.model_rid,
            branch=before.branch,
            compatibility=request.compatibility or before.compatibility,
            changed_by=person.principals[0],
            revision=before.revision + 1,
            compatibility_since_revision=before.compatibility_since_revision,
            promotion_only=request.promotion_only if request.HasField("promotion_only") else before.promotion_only,
        )
        if policy.compatibility != before.compatibility:
            policy.compatibility_since_revision = policy.revision
            count = len(self.branch(policy.model_rid, policy.branch))
            self.counts_when_set[policy.model_rid, policy.branch, policy.revision] = count
        self.policies.append(policy)
        return policy

    def _grant_role(self, person: Person, request: GrantRoleRequest, _made: Iterator[Made]) -> Grant:
        if request.role < ROLE_OWNER:
            self._require_another_owner(person, request.resource_rid, request.principal)
        else:
            self._require_owner(person, request.resource_rid)
        self._grant(person, request.resource_rid, request.principal, request.role)
        return Grant(resource_rid=request.resource_rid, principal=request.principal, role=request.role)

    def _grant(self, person: Person, resource_rid: str, principal: str, role: int) -> None:
        self.grants[resource_rid, principal] = role
        self.grant_changes.append((resource_rid, principal, role, person.principals[0]))

    def _revoke_role(self, person: Person, request: RevokeRoleRequest, _made: Iterator[Made]) -> RevokeRoleResponse:
        self._require_another_owner(person, request.resource_rid, request.principal)
        pair = request.resource_rid, request.principal
        if self.grants.pop(pair, None) is not None:
            self.grant_changes.append((*pair, None, person.principals[0]))
        return RevokeRoleResponse()

    # Reads; lists are told whole, however they are paged

    def _get_model(self, person: Person, request: GetModelRequest, _made: Iterator[Made]) -> Model:
        return self._seen_model(person, request.model_rid)

    def _list_models(self, person: Person, request: ListModelsRequest, _made: Iterator[Made]) -> ListModelsResponse:
        rids = sorted(rid for rid in self.models if self._sees(person, rid))
        models = (self.models[rid] for rid in rids)
        return ListModelsResponse(models=[m for m in models if m.parent_folder_rid == request.parent_folder_rid])

    def _get_version(self, person: Person, request: GetModelVersionRequest, _made: Iterator[Made]) -> ModelVersion:
        version = self._seen_version(person, request.model_version_rid)
        if version is None or version.model_rid != request.model_rid:
            rids = {"modelRid": request.model_rid, "modelVersionRid": request.model_version_rid}
            raise Refused("ModelVersionNotFound", **rids)
        return self._as_seen(person, version)

    def _get_branch(self, person: Person, request: GetBranchRequest, _made: Iterator[Made]) -> Branch:
        self._seen_model(person, request.model_rid)
        versions = self.branch(request.model_rid, branch_of(request))
        if not versions:
            raise Refused("BranchNotFound", modelRid=request.model_rid, branchName=branch_of(request))
        head = self._as_seen(person, versions[-1])
        return Branch(name=branch_of(request), head=head, version_count=len(versions))

    def _list_branches(
        self, person: Person, request: ListBranchesRequest, _made: Iterator[Made]
    ) -> ListBranchesResponse:
        self._seen_model(person, request.model_rid)
        heads = {
            version.branch: version for version in self.versions.values() if version.model_rid == request.model_rid
        }
        return ListBranchesResponse(
            branches=[
                Branch(name=name, head=self._as_seen(person, head), version_count=head.version_number)
                for name, head in sorted(heads.items())
            ]
        )

    def _list_versions(
        self, person: Person, request: ListModelVersionsRequest, _made: Iterator[Made]
    ) -> ListModelVersionsResponse:
        self._seen_model(person, request.model_rid)
        versions = self.branch(request.model_rid, branch_of(request))
        return ListModelVersionsResponse(model_versions=[self._as_seen(person, each) for each in reversed(versions)])

    def _told(self, person: Person, promotion: Promotion) -> Promotion:
        """What a person who sees the target is told of a promotion."""
        told = Promotion()
        told.CopyFrom(promotion)
        if not self._sees(person, promotion.source_model_rid):
            told.ClearField("source_model_rid")
            told.ClearField("source_model_version_rid")
        return told

    def _get_promotion(self, person: Person, request: GetPromotionRequest, _made: Iterator[Made]) -> Promotion:
        for promotion in self.promotions.values():
            if promotion.rid == request.promotion_rid and self._sees(person, promotion.model_rid):
                return self._told(person, promotion)
        raise Refused("PromotionNotFound", promotionRid=request.promotion_rid)

    def _list_promotions(
        self, person: Person, request: ListPromotionsRequest, _made: Iterator[Made]
    ) -> ListPromotionsResponse:
        if request.model_rid:
            self._seen_model(person, request.model_rid)
        told = [self._told(person, each) for each in self.promotions.values() if self._sees(person, each.model_rid)]
        for name in ("model_rid", "branch", "source_model_version_rid", "model_version_rid", "created_by"):
            if request.HasField(name):
                told = [each for each in told if getattr(each, name) == getattr(request, name)]
        return ListPromotionsResponse(promotions=reversed(told))

    def _lineage(self, person: Person, request: GetLineageRequest, _made: Iterator[Made]) -> GetLineageResponse:
        traced = request.model_version_rid
        if self._seen_version(person, traced) is None:
            raise Refused("ModelVersionNotFound", modelRid="", modelVersionRid=traced)
        depths = {traced: 0}
        predecessor = traced
        while predecessor in self.promotions:
            predecessor = self.promotions[predecessor].source_model_version_rid
            depths[predecessor] = -len(depths)

        def add_below(rid: str) -> None:
            for made, promotion in self.promotions.items():
                if promotion.source_model_version_rid == rid:
                    depths[made] = depths[rid] + 1
                    add_below(made)

        add_below(traced)
        rids = [*depths]
        return GetLineageResponse(
            nodes=[self._node(person, rid, depth, rids) for rid, depth in depths.items()], traced_node_id="0"
        )

    def _node(self, person: Person, rid: str, depth: int, rids: list[str]) -> LineageNode:
        version, promotion = self.versions[rid], self.promotions.get(rid)
        node = LineageNode(node_id=str(rids.index(rid)), depth=depth)
        if promotion is not None:
            node.previous_node_id = str(rids.index(promotion.source_model_version_rid))
        if self._sees(person, version.model_rid):
            node.model_version_rid = rid
            node.model_rid = version.model_rid
            node.model_name = self.models[version.model_rid].name
            node.branch = version.branch
            node.version_number = version.version_number
            node.is_head = version == self.head(version.model_rid, version.branch)
            node.created_by = version.created_by
            if promotion is not None:
                node.promotion_rid = promotion.rid
        return node

    def _get_policy(self, person: Person, request: GetBranchPolicyRequest, _made: Iterator[Made]) -> BranchPolicy:
        self._seen_model(person, request.model_rid)
        return self._policy(request.model_rid, branch_of(request))

    def _list_grants(self, person: Person, request: ListGrantsRequest, _made: Iterator[Made]) -> ListGrantsResponse:
        self._require_owner(person, request.resource_rid)
        return ListGrantsResponse(
            grants=[
                Grant(resource_rid=resource, principal=principal, role=role)  # type: ignore[arg-type]
                for (resource, principal), role in sorted(self.grants.items())
                if resource == request.resource_rid
            ]
        )


_ACTS: dict[type[Message], Any] = {
    CreateModelRequest: Reference._create_model,
    CreateModelVersionRequest: Reference._create_version,
    PromoteVersionRequest: Reference._promote_version,
    BatchPromoteVersionsRequest: Reference._batch_promote,
    RollbackBranchRequest: Reference._roll_back,
    SetBranchPolicyRequest: Reference._set_policy,
    GrantRoleRequest: Reference._grant_role,
    RevokeRoleRequest: Reference._revoke_role,
    GetModelRequest: Reference._get_model,
    ListModelsRequest: Reference._list_models,
    GetModelVersionRequest: Reference._get_version,
    GetBranchRequest: Reference._get_branch,
    ListBranchesRequest: Reference._list_branches,
    ListModelVersionsRequest: Reference._list_versions,
    GetPromotionRequest: Reference._get_promotion,
    ListPromotionsRequest: Reference._list_promotions,
    GetLineageRequest: Reference._lineage,
    GetBranchPolicyRequest: Reference._get_policy,
    ListGrantsRequest: Reference._list_grants,
}


def _key(person: Person, request: Any) -> tuple[str, str, str]:
    return person.principals[0], request.DESCRIPTOR.name.removesuffix("Request"), request.request_id.lower()


def _asked(request: Any) -> bytes:
    """What a request asks for: with what it leaves out, and without its id."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    for each in asked.promotions if isinstance(asked, BatchPromoteVersionsRequest) else [asked]:
        if not isinstance(each, CreateModelRequest):
            each.branch = branch_of(each)
    if isinstance(asked, CreateModelVersionRequest) and not asked.HasField("source"):
        asked.source.CopyFrom(ModelVersionSource(sdk=SdkSource()))
    return asked.SerializeToString(deterministic=True)


def _all_told(found: Found) -> list[CompatibilityFinding] | None:
    """What a check tells: all that is found beside the head, and each error once, beside the newest that has it."""
    told, known = list(found.on_head or ()), list(found.on_head or ())
    for number, findings in found.on_others.items():
        new = [each for each in findings if each.severity == SEVERITY_ERROR and each not in known]
        known += new
        for each in new:
            told.append(CompatibilityFinding(earlier_version_number=number))
            told[-1].MergeFrom(each)
    return told if found.on_head is not None or told else None


def _counted(findings: list[CompatibilityFinding] | None) -> dict[str, Any]:
    """Findings and their counts, as the fields of a message."""
    errors = sum(finding.severity == SEVERITY_ERROR for finding in findings or ())
    return {"findings": findings, "error_count": errors, "warning_count": len(findings or ()) - errors}


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Say that this entry of a batch is at fault."""
    try:
        yield
    except Refused as refused:
        refusal = refused.refusal
        refused.refusal = replace(refusal, fields=(f"promotions[{index}]", *refusal.fields))
        raise
