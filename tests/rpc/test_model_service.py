"""ModelService's other RPCs over a real channel."""

from __future__ import annotations

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import ExternalSource, ModelVersion, ModelVersionSource, PromotedSource
from server.storage.paging import Paging
from tests import builders
from tests.builders import FOLDER, model_api
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, Registry, User

pytestmark = pytest.mark.database("shared")

LEGACY = '{"type":"foundryMl"}'


def test_a_created_model_is_returned_as_it_is_stored(admin: User) -> None:
    created = admin.create_model("fraud")
    assert (created.name, created.parent_folder_rid, created.created_by) == ("fraud", admin.folder, "user:admin")
    assert created.created_time.nanos % 1_000_000 == 0
    assert admin("GetModel", model_rid=created.rid) == created


def test_who_creates_a_model_becomes_its_owner(admin: User, jane: User) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_EDITOR)
    created = jane.create_model("fraud")
    grants = admin("ListGrants", resource_rid=created.rid).grants
    assert [(grant.principal, grant.role) for grant in grants] == [("user:jane", ROLE_OWNER)]


@pytest.mark.parametrize("role", [None, ROLE_VIEWER, ROLE_PROMOTER])
def test_creating_a_model_takes_editor_on_the_folder(admin: User, jane: User, role: int | None) -> None:
    if role is not None:
        admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=role)
    failure = jane.failure("CreateModel", name="m", parent_folder_rid=admin.folder)
    assert (failure.name, failure.code, failure.parameters) == (
        "CreateModelPermissionDenied",
        grpc.StatusCode.PERMISSION_DENIED,
        {},
    )


def test_a_name_is_taken_once_in_a_folder_and_free_in_another(admin: User) -> None:
    admin.create_model("fraud")
    failure = admin.failure("CreateModel", name="fraud", parent_folder_rid=admin.folder)
    assert (failure.name, failure.code) == ("ResourceNameAlreadyExists", grpc.StatusCode.ALREADY_EXISTS)
    assert failure.parameters == {"parentFolderRid": admin.folder, "displayName": "fraud"}
    assert admin.create_model("fraud", builders.new_folder_rid()).name == "fraud"


def test_an_invalid_display_name_is_named_with_its_field(admin: User) -> None:
    failure = admin.failure("CreateModel", name="a/b", parent_folder_rid=FOLDER)
    assert (failure.name, failure.parameters) == ("InvalidDisplayName", {"displayName": "a/b"})
    assert [field for field, _ in failure.violations] == ["name"]


@pytest.mark.database("own")
def test_models_are_listed_by_rid_and_only_those_that_the_caller_sees(admin: User, jane: User) -> None:
    mine, other = [], builders.new_folder_rid()
    for number in range(12):
        model = admin.create_model(f"m{number}", other if number % 2 else FOLDER)
        if number % 3 == 0:
            admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
            mine.append(model)
    mine.sort(key=lambda model: model.rid)

    first = jane("ListModels", page_size=3)
    second = jane("ListModels", page_size=3, page_token=first.next_page_token)

    assert [*first.models, *second.models] == mine
    assert not second.HasField("next_page_token")
    assert list(jane("ListModels", parent_folder_rid=other).models) == [m for m in mine if m.parent_folder_rid == other]
    assert len(admin("ListModels").models) == 12


def test_an_invisible_model_is_not_found(jane: User, admin: User) -> None:
    model = admin.create_model("secret")
    for rpc in ("GetModel", "GetBranch", "ListBranches", "ListModelVersions"):
        failure = jane.failure(rpc, model_rid=model.rid)
        assert (failure.name, failure.parameters) == ("ModelNotFound", {"modelRid": model.rid})


def test_a_version_defaults_to_master_and_to_an_sdk_source(admin: User) -> None:
    created = admin.create_version(admin.create_model("m"))
    assert (created.branch, created.version_number) == ("master", 1)
    assert created.source.WhichOneof("type") == "sdk"


def test_an_empty_model_api_is_a_model_api(admin: User) -> None:
    model = admin.create_model("m")
    created = admin.create_version(model, model_api=ModelApi())
    assert created.HasField("model_api")
    read = admin("GetModelVersion", model_rid=model.rid, model_version_rid=created.rid)
    assert read == created
    assert read.HasField("model_api")


def test_unknown_fields_are_neither_stored_nor_echoed(admin: User) -> None:
    model = admin.create_model("m")
    plain = admin.create_version(model)
    unknown = model_api().SerializeToString() + b"\xfa\x07\x03abc"  # field 127
    created = admin.create_version(model, model_api=ModelApi.FromString(unknown))
    assert created.model_api.SerializeToString(deterministic=True) == plain.model_api.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("role", [ROLE_VIEWER, ROLE_PROMOTER])
def test_creating_a_version_takes_editor(admin: User, jane: User, role: int) -> None:
    model = admin.create_model("m")
    request = {"model_rid": model.rid, "model_api": model_api()}
    assert jane.failure("CreateModelVersion", **request).name == "ModelNotFound"
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=role)
    failure = jane.failure("CreateModelVersion", **request)
    assert (failure.name, failure.parameters) == ("CreateModelVersionPermissionDenied", {"modelRid": model.rid})
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)
    assert jane("CreateModelVersion", **request).created_by == "user:jane"


def test_nobody_can_claim_that_a_version_was_promoted(admin: User) -> None:
    promoted = PromotedSource(previous_model_rid=SOME_MODEL, previous_model_version_rid=SOME_VERSION)
    failure = admin.failure(
        "CreateModelVersion",
        model_rid=SOME_MODEL,
        model_api=model_api(),
        source=ModelVersionSource(promoted=promoted),
    )
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["source.promoted"])


def test_an_invalid_model_api_names_what_is_wrong_and_where(admin: User) -> None:
    twice = model_api()
    twice.inputs[0].tabular.columns[1].name = "age"
    failure = admin.failure("CreateModelVersion", model_rid=SOME_MODEL, model_api=twice)
    assert (failure.name, failure.parameters["errorType"]) == ("InvalidModelApi", "DUPLICATE_NAME")
    assert failure.violations[0][0] == "model_api.inputs[0].tabular.columns[1].name"


SPREADSHEET = ["Amount\n(EUR)", "\tamount\r\n", "\xa0amount ", "\u202eamount", "a\u200bb"]


def test_names_of_columns_are_kept_as_they_come_from_spreadsheets(admin: User) -> None:
    model, api = admin.create_model("m"), model_api()
    for name in SPREADSHEET:
        api.inputs[0].tabular.columns.add(name=name).data_type.double.SetInParent()
    created = admin("CreateModelVersion", model_rid=model.rid, model_api=api)
    found = admin("GetModelVersion", model_rid=model.rid, model_version_rid=created.rid)
    assert found.model_api == created.model_api == api


def test_a_column_that_a_terminal_would_obey_is_refused_with_its_path(admin: User) -> None:
    api = model_api()
    api.inputs[0].tabular.columns[1].name = "country\x1b[2J"
    failure = admin.failure("CreateModelVersion", model_rid=SOME_MODEL, model_api=api)
    assert (failure.name, failure.parameters["errorType"]) == ("InvalidModelApi", "INVALID_NAME")
    ((field, sentence),) = failure.violations
    assert field == "model_api.inputs[0].tabular.columns[1].name"
    assert sentence.endswith("but has U+001B in 'country\\x1b[2J'; rename it in the data, too")


def test_a_version_is_found_only_under_its_own_model(admin: User, jane: User) -> None:
    model, other = admin.create_model("m"), admin.create_model("other")
    version = admin.create_version(model)
    for user, model_rid, version_rid in (
        (admin, other.rid, version.rid),
        (admin, SOME_MODEL, version.rid),
        (admin, model.rid, SOME_VERSION),
        (jane, model.rid, version.rid),
    ):
        failure = user.failure("GetModelVersion", model_rid=model_rid, model_version_rid=version_rid)
        assert failure.name == "ModelVersionNotFound"
        assert failure.parameters == {"modelRid": model_rid, "modelVersionRid": version_rid}


def test_a_legacy_source_is_unsupported_by_itself_and_hides_nothing_in_lists(admin: User, registry: Registry) -> None:
    model = admin.create_model("m")
    legacy = builders.append(registry.repository, builders.version(model.rid), LEGACY)
    failure = admin.failure("GetModelVersion", model_rid=model.rid, model_version_rid=legacy.rid)
    assert (failure.name, failure.code, failure.parameters) == (
        "UnsupportedModelSource",
        grpc.StatusCode.INVALID_ARGUMENT,
        {},
    )
    for listed in (
        admin("ListModelVersions", model_rid=model.rid).model_versions[0],
        admin("GetBranch", model_rid=model.rid).head,
        admin("ListBranches", model_rid=model.rid).branches[0].head,
    ):
        assert listed.rid == legacy.rid
        assert not listed.HasField("source")


def test_a_branch_tells_what_is_live(admin: User) -> None:
    model = admin.create_model("m")
    admin.create_version(model, branch="release", source=ModelVersionSource(external=ExternalSource()))
    head = admin.create_version(model, branch="release")
    branch = admin("GetBranch", model_rid=model.rid, branch="release")
    assert (branch.name, branch.version_count, branch.head) == ("release", 2, head)


def test_an_unknown_branch_is_not_found_but_lists_empty(admin: User) -> None:
    model = admin.create_model("m")
    failure = admin.failure("GetBranch", model_rid=model.rid)
    assert (failure.name, failure.parameters) == ("BranchNotFound", {"modelRid": model.rid, "branchName": "master"})
    listed = admin("ListModelVersions", model_rid=model.rid, branch="nope")
    assert not listed.model_versions
    assert not listed.HasField("next_page_token")


def test_branches_are_listed_by_name_page_by_page(admin: User) -> None:
    model = admin.create_model("m")
    for name in ("ü", "b", "master", "B", "🚀"):
        admin.create_version(model, branch=name)
    names, token = [], ""
    while token is not None:
        page = admin("ListBranches", model_rid=model.rid, page_size=2, page_token=token)
        names += [branch.name for branch in page.branches]
        token = page.next_page_token if page.HasField("next_page_token") else None
    assert names == ["B", "b", "master", "ü", "🚀"]


def test_versions_are_listed_newest_first_page_by_page(admin: User) -> None:
    model = admin.create_model("m")
    created = [admin.create_version(model) for _ in range(5)]
    listed: list[ModelVersion] = []
    token = None
    for expected_size in (2, 2, 1):
        page = admin("ListModelVersions", model_rid=model.rid, page_size=2, page_token=token)
        assert len(page.model_versions) == expected_size
        listed += page.model_versions
        token = page.next_page_token if page.HasField("next_page_token") else None
    assert token is None
    assert listed == created[::-1]


@pytest.mark.parametrize("page_size", [-1, 1001])
def test_a_page_size_out_of_range_is_refused(admin: User, page_size: int) -> None:
    for rpc, fields in (("ListModels", {}), ("ListModelVersions", {"model_rid": SOME_MODEL})):
        failure = admin.failure(rpc, page_size=page_size, **fields)
        assert (failure.name, failure.parameters) == ("InvalidPageSize", {"pageSize": str(page_size)})


def test_a_page_token_is_good_for_its_own_query_alone(admin: User) -> None:
    model, other = admin.create_model("m"), admin.create_model("other")
    for _ in range(2):
        admin.create_version(model)
        admin.create_version(model, branch="b")
    token = admin("ListModelVersions", model_rid=model.rid, page_size=1).next_page_token
    for rpc, fields in (
        ("ListModelVersions", {"model_rid": other.rid}),
        ("ListModelVersions", {"model_rid": model.rid, "branch": "b"}),
        ("ListBranches", {"model_rid": model.rid}),
        ("ListGrants", {"resource_rid": model.rid}),
        ("ListModels", {}),
    ):
        failure = admin.failure(rpc, page_token=token, **fields)
        assert (failure.name, failure.parameters) == ("InvalidPageToken", {"pageToken": token})


@pytest.mark.parametrize("token", ["x", "AAAA", "é", "\x00", "=" * 8, "A" * 5000, "W10", "e30"])
def test_a_made_up_page_token_is_refused(admin: User, token: str) -> None:
    model = admin.create_model("m")
    assert admin.failure("ListModelVersions", model_rid=model.rid, page_token=token).name == "InvalidPageToken"


@pytest.mark.parametrize("position", [-1, 0.5, 2**31, 2**40, 2**70, True, None, [1], "1", "\x00"], ids=repr)
def test_a_forged_position_is_refused_where_no_list_has_it(admin: User, position: object) -> None:
    """A token holds no secret, so anyone can make one up that passes for the server's own."""
    model = admin.create_model("m")
    token = Paging(int, "ListModelVersions", model.rid, "master").token(position)  # type: ignore[arg-type]
    assert admin.failure("ListModelVersions", model_rid=model.rid, page_token=token).name == "InvalidPageToken"


@pytest.mark.database("own")
def test_a_role_on_many_models_and_on_their_folder_lists_each_once(admin: User, jane: User) -> None:
    models = [admin.create_model(f"m{number}") for number in range(5)]
    for resource in (FOLDER, *(model.rid for model in models[:3])):
        admin("GrantRole", resource_rid=resource, principal="user:jane", role=ROLE_VIEWER)
    assert list(jane("ListModels").models) == sorted(models, key=lambda model: model.rid)


def test_access_is_decided_anew_for_each_page(admin: User, jane: User) -> None:
    model = admin.create_model("m")
    for _ in range(2):
        admin.create_version(model)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    token = jane("ListModelVersions", model_rid=model.rid, page_size=1).next_page_token
    admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
    failure = jane.failure("ListModelVersions", model_rid=model.rid, page_size=1, page_token=token)
    assert failure.name == "ModelNotFound"
