"""PromoteVersion over a real channel: what is copied, and which failure wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import CodeRepositorySource, ModelVersionSource
from server.core.rids import rid_type
from tests import builders
from tests.builders import model_api
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, Registry, User

pytestmark = pytest.mark.database("shared")


def test_a_promoted_version_equals_its_source_but_for_what_is_its_own(admin: User) -> None:
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source = admin.create_version(
        staging,
        model_api=model_api("fraud"),
        conda_requirements=["numpy==1.24.0", "pandas==2.0.0"],
        backing_repositories=["ri.stemma.main.repository.a"],
        linked_experiment="ri.models.main.experiment.abc123",
        source=ModelVersionSource(
            code_repository=CodeRepositorySource(repository_rid="ri.stemma.main.repository.a", branch="main")
        ),
    )

    promoted = admin.promote(source, production)

    assert promoted.model_api == source.model_api
    assert promoted.conda_requirements == source.conda_requirements
    assert promoted.backing_repositories == source.backing_repositories
    assert promoted.linked_experiment == source.linked_experiment
    assert promoted.rid != source.rid
    assert rid_type(promoted.rid) == "model-version"
    assert promoted.model_rid == production.rid
    assert (promoted.branch, promoted.version_number, promoted.created_by) == ("master", 1, "user:admin")
    assert promoted.source.promoted.previous_model_rid == staging.rid
    assert promoted.source.promoted.previous_model_version_rid == source.rid
    assert promoted.root_model_version_rid == source.rid == source.root_model_version_rid
    assert promoted.created_time.ToMilliseconds() >= source.created_time.ToMilliseconds()
    assert admin("GetModelVersion", model_rid=production.rid, model_version_rid=promoted.rid) == promoted
    assert admin("GetModelVersion", model_rid=staging.rid, model_version_rid=source.rid) == source


def test_a_promotion_becomes_the_head_of_the_branch_that_it_names(admin: User) -> None:
    model = admin.create_model("m")
    source = admin.create_version(model)

    first = admin.promote(source, model, branch="release")
    second = admin.promote(source, model, branch="release")

    assert (first.version_number, second.version_number) == (1, 2)
    assert admin("GetBranch", model_rid=model.rid, branch="release").head == second
    assert admin("GetBranch", model_rid=model.rid).head == source


def test_a_promoted_version_can_be_promoted_again_and_keeps_its_root(admin: User) -> None:
    dev, staging, production = (admin.create_model(name) for name in ("dev", "staging", "production"))
    source = admin.create_version(dev)

    last = admin.promote(admin.promote(source, staging), production)

    assert last.source.promoted.previous_model_rid == staging.rid
    assert last.root_model_version_rid == source.rid


def test_source_and_target_can_be_the_same_model(admin: User) -> None:
    model = admin.create_model("m")
    promoted = admin.promote(admin.create_version(model), model)
    assert (promoted.model_rid, promoted.version_number) == (model.rid, 2)


def test_presence_is_preserved_where_nothing_was_given(admin: User) -> None:
    staging, production = admin.create_model("staging"), admin.create_model("production")
    promoted = admin.promote(admin.create_version(staging, model_api=model_api()), production)
    unset, given = promoted.model_api.inputs[0].tabular.columns
    assert not unset.HasField("required")
    assert given.HasField("required")
    assert not promoted.HasField("linked_experiment")


def test_concurrent_promotions_over_the_wire_get_gapless_numbers(admin: User) -> None:
    model, target = admin.create_model("m"), admin.create_model("t")
    source = admin.create_version(model)
    with ThreadPoolExecutor(16) as threads:
        promoted = list(threads.map(lambda _: admin.promote(source, target), range(80)))
    assert sorted(version.version_number for version in promoted) == list(range(1, 81))
    assert len({version.rid for version in promoted}) == 80


@pytest.mark.parametrize(
    ("target_role", "source_role", "expected"),
    [
        (None, ROLE_VIEWER, "ModelNotFound"),
        (ROLE_VIEWER, ROLE_VIEWER, "PromoteVersionModelPermissionDenied"),
        (ROLE_VIEWER, None, "PromoteVersionModelPermissionDenied"),
        (ROLE_PROMOTER, None, "ModelVersionNotFound"),
        (ROLE_PROMOTER, ROLE_VIEWER, None),
        (ROLE_EDITOR, ROLE_VIEWER, None),
        (ROLE_OWNER, ROLE_VIEWER, None),
    ],
)
def test_promoting_takes_promoter_on_the_target_and_viewer_on_the_source(
    admin: User, jane: User, target_role: int | None, source_role: int | None, expected: str | None
) -> None:
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source = admin.create_version(staging)
    for model, role in ((production, target_role), (staging, source_role)):
        if role is not None:
            admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=role)

    if expected is None:
        assert jane.promote(source, production).created_by == "user:jane"
    else:
        request = {"model_rid": production.rid, "source_model_version_rid": source.rid, "preview": True}
        assert jane.failure("PromoteVersion", **request).name == expected


def test_a_role_on_the_folder_and_a_group_promote_too(admin: User, registry: Registry) -> None:
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source = admin.create_version(staging)
    admin("GrantRole", resource_rid=admin.folder, principal="group:release", role=ROLE_PROMOTER)
    assert registry.user("joe", "ml", "release").promote(source, production).version_number == 1


def test_every_earlier_failure_wins_over_the_later_ones(admin: User, jane: User, registry: Registry) -> None:
    """From a request that has everything wrong, mend one thing after the other."""
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source = admin.create_version(staging)
    legacy = builders.append(registry.repository, builders.version(staging.rid), '{"type":"foundryMl"}')
    read_only = registry.user("jane", scopes=("api:models-read",))
    request: dict[str, Any] = {"model_rid": "not a RID", "source_model_version_rid": legacy.rid, "branch": ""}

    def outcome(user: User) -> str:
        return user.failure("PromoteVersion", **request).name

    assert outcome(registry.nobody()) == "MissingCredentials"
    assert outcome(registry.bearing("x.y.z")) == "InvalidCredentials"
    assert outcome(read_only) == "ApiUsageDenied"
    assert outcome(jane) == "ApiFeaturePreviewUsageOnly"
    request["preview"] = True
    assert outcome(jane) == "InvalidArgument"
    request["model_rid"] = production.rid
    assert outcome(jane) == "InvalidBranchName"
    request["branch"] = "release"
    assert outcome(jane) == "ModelNotFound"
    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_VIEWER)
    assert outcome(jane) == "PromoteVersionModelPermissionDenied"
    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_PROMOTER)
    assert outcome(jane) == "ModelVersionNotFound"
    admin("GrantRole", resource_rid=staging.rid, principal="user:jane", role=ROLE_VIEWER)
    assert outcome(jane) == "UnsupportedModelSource"
    request["source_model_version_rid"] = source.rid
    assert jane("PromoteVersion", **request).version_number == 1


def test_the_seed_errors_carry_the_seed_parameters(admin: User, jane: User) -> None:
    staging, production = admin.create_model("staging"), admin.create_model("production")
    source = admin.create_version(staging)

    absent = jane.failure("PromoteVersion", model_rid=SOME_MODEL, source_model_version_rid=source.rid, preview=True)
    assert (absent.code, absent.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert absent.parameters == {"modelRid": SOME_MODEL}

    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_VIEWER)
    denied = jane.failure("PromoteVersion", model_rid=production.rid, source_model_version_rid=source.rid, preview=True)
    assert (denied.code, denied.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PROMOTE_VERSION_MODEL_PERMISSION_DENIED",
    )
    assert denied.parameters == {"modelRid": production.rid}

    missing = admin.failure(
        "PromoteVersion", model_rid=production.rid, source_model_version_rid=SOME_VERSION, preview=True
    )
    assert missing.code == grpc.StatusCode.NOT_FOUND
    assert missing.parameters == {"modelRid": production.rid, "modelVersionRid": SOME_VERSION}


def test_a_failed_promotion_leaves_nothing_behind(admin: User, registry: Registry) -> None:
    production = admin.create_model("production")
    legacy = builders.append(registry.repository, builders.version(production.rid), '{"type":"foundryMl"}')
    request = {"model_rid": production.rid, "branch": "new", "preview": True}
    assert admin.failure("PromoteVersion", source_model_version_rid=SOME_VERSION, **request).name
    assert admin.failure("PromoteVersion", source_model_version_rid=legacy.rid, **request).name
    assert [branch.name for branch in admin("ListBranches", model_rid=production.rid).branches] == ["master"]


def test_a_revoked_role_refuses_the_very_next_promotion(admin: User, jane: User) -> None:
    model = admin.create_model("m")
    source = admin.create_version(model)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    jane.promote(source, model)
    admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
    request = {"model_rid": model.rid, "source_model_version_rid": source.rid, "preview": True}
    assert jane.failure("PromoteVersion", **request).name == "ModelNotFound"
