"""The public SDK, pointed at this server, works as its users wrote for it: sync and async, results and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import pytest
from foundry_sdk import (
    AsyncFoundryClient,
    AsyncResourceIterator,
    Auth,
    BadRequestError,
    Config,
    FoundryClient,
    PermissionDeniedError,
    RequestEntityTooLargeError,
    ResourceIterator,
    UnauthorizedError,
    UserTokenAuth,
)
from foundry_sdk.v2.core.models import DoubleType
from foundry_sdk.v2.filesystem.errors import InvalidDisplayName, ResourceNameAlreadyExists
from foundry_sdk.v2.models.errors import (
    CreateModelPermissionDenied,
    CreateModelVersionPermissionDenied,
    InvalidModelApi,
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    UnsupportedModelSource,
)
from foundry_sdk.v2.models.models import (
    DillModelFiles,
    ModelApi,
    ModelApiColumn,
    ModelApiParameterType,
    ModelApiTabularType,
)

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from tests.builders import FOLDER
from tests.processes import Server, run
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, User

EXAMPLES = Path(__file__).parents[2] / "examples" / "models.jsonl"
# Of the examples: a version that a workflow of old made, and its model.
LEGACY_MODEL = "ri.models.main.model.3f71b586-5577-5757-a9e0-023eeee8a7f4"
LEGACY_VERSION = "ri.models.main.model-version.25b1b987-1442-5136-acee-249b32881ef1"


# What `Model.Version.create` takes beside the model.
VERSION: dict[str, Any] = {
    "backing_repositories": ["ri.stemma.main.repository.a1b2c3d4-e5f6-7890-abcd-ef1234567890"],
    "conda_requirements": ["numpy==1.24.0", "dill==0.3.8"],
    "model_api": ModelApi(
        inputs=[ModelApiTabularType(name="table", columns=[ModelApiColumn(name="age", dataType=DoubleType())])],
        outputs=[ModelApiParameterType(name="score", dataType=DoubleType())],
    ),
    "model_files": DillModelFiles(serializedModelFunction="gASVCgAAAAAAAACMBmFuc3dlcpQu\n", type="dill"),
}


@dataclass(frozen=True)
class Registry:
    """A server with the examples imported, and someone who may do everything there."""

    server: Server
    admin: User


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("sdk") / "cwd"
    folder.mkdir()
    assert run("import", EXAMPLES, cwd=folder).returncode == 0
    with Server(folder) as server, grpc.insecure_channel(server.address) as channel:
        yield Registry(server, server.user(channel))


Call = Callable[..., Any]


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """The event loop of all async clients, since they share their connections."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, registry: Registry, loop: asyncio.Runner) -> Call:
    """Calls a method of the SDK's Models namespace, such as `Model.Version.get`; lists come as lists."""
    address = registry.server.url.removeprefix("http://")

    def call(method: str, *arguments: Any, token: str | None = None, **options: Any) -> Any:
        auth, config = UserTokenAuth(registry.server.token() if token is None else token), Config(scheme="http")
        given = (auth, address, config, method, arguments, {"preview": True} | options)
        return send_sync(*given) if request.param == "sync" else loop.run(send_async(*given))

    return call


def send_sync(auth: Auth, address: str, config: Config, method: str, arguments: Any, options: Any) -> Any:
    client = FoundryClient(auth=auth, hostname=address, config=config)
    answer = attrgetter(method)(client.models)(*arguments, **options)
    return list(answer) if isinstance(answer, ResourceIterator) else answer


async def send_async(auth: Auth, address: str, config: Config, method: str, arguments: Any, options: Any) -> Any:
    client = AsyncFoundryClient(auth=auth, hostname=address, config=config, preview=True)
    answer = attrgetter(method)(client.models)(*arguments, **options)
    return [item async for item in answer] if isinstance(answer, AsyncResourceIterator) else await answer


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test gives to a model."""
    return str(request.node.name)


def test_a_model_is_created_and_found(sdk: Call, name: str) -> None:
    created = sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    assert sdk("Model.get", created.rid) == created


def test_a_version_is_created_with_its_files_and_found(registry: Registry, sdk: Call, name: str) -> None:
    model = sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    created = sdk("Model.Version.create", model.rid, **VERSION)

    assert created.source.type == "sdk"
    assert created.model_api.inputs[0].columns[0].data_type.type == "double"
    assert created.conda_requirements == VERSION["conda_requirements"]
    assert sdk("Model.Version.get", model.rid, created.rid) == created
    stored = registry.admin("GetModelVersion", model_rid=model.rid, model_version_rid=created.rid)
    assert registry.admin.download(stored) == VERSION["model_files"].serialized_model_function.encode()


def test_a_version_is_promoted_with_its_files(registry: Registry, sdk: Call, name: str) -> None:
    source = sdk("Model.create", name=f"{name} source", parent_folder_rid=FOLDER)
    created = sdk("Model.Version.create", source.rid, **VERSION)
    target = sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    promoted = sdk("Model.promote_version", target.rid, source_model_version_rid=created.rid)

    stored = registry.admin("GetModelVersion", model_rid=target.rid, model_version_rid=promoted.rid)
    assert registry.admin.download(stored) == VERSION["model_files"].serialized_model_function.encode()


def test_who_may_not_create_versions_gets_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    model = registry.admin.create_model(name).rid
    registry.admin("GrantRole", resource_rid=model, principal="user:reader", role=ROLE_VIEWER)

    with pytest.raises(CreateModelVersionPermissionDenied) as raised:
        sdk("Model.Version.create", model, **VERSION, token=registry.server.token("reader"))

    assert raised.value.parameters == {"modelRid": model}


def test_a_model_api_that_contradicts_itself_is_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    model = registry.admin.create_model(name).rid
    twice = ModelApi(inputs=[*VERSION["model_api"].inputs * 2], outputs=[])

    with pytest.raises(InvalidModelApi) as raised:
        sdk("Model.Version.create", model, **VERSION | {"model_api": twice})

    assert raised.value.parameters["errorType"] == "DUPLICATE_NAME"
    assert "modelApi.inputs[1].name" in raised.value.parameters["message"]


def test_files_that_no_request_can_carry_are_refused_with_the_name_of_what_can(
    registry: Registry, sdk: Call, name: str
) -> None:
    model = registry.admin.create_model(name).rid
    files = DillModelFiles(serializedModelFunction="x" * 5 * 2**20, type="dill")

    with pytest.raises(RequestEntityTooLargeError) as raised:
        sdk("Model.Version.create", model, **VERSION | {"model_files": files})

    assert raised.value.name == "RequestTooLarge"
    assert "UploadModelFiles" in str(raised.value)


def test_a_version_is_promoted_to_master_where_no_branch_is_named(registry: Registry, sdk: Call, name: str) -> None:
    source = registry.admin.create_version(registry.admin.create_model(f"{name} source"))
    target = sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    promoted = sdk("Model.promote_version", target.rid, source_model_version_rid=source.rid)

    assert promoted.source.type == "promoted"
    assert promoted.source.previous_model_version_rid == source.rid
    assert sdk("Model.Version.get", target.rid, promoted.rid) == promoted
    assert sdk("Model.Version.list", target.rid) == [promoted]


def test_a_version_is_promoted_to_the_branch_that_is_named(registry: Registry, sdk: Call, name: str) -> None:
    source = registry.admin.create_version(registry.admin.create_model(f"{name} source"))
    target = sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    promoted = sdk("Model.promote_version", target.rid, source_model_version_rid=source.rid, branch="stable")

    assert sdk("Model.Version.list", target.rid, branch="stable") == [promoted]
    assert sdk("Model.Version.list", target.rid) == []


def test_versions_are_listed_over_many_pages(registry: Registry, sdk: Call, name: str) -> None:
    model = registry.admin.create_model(name)
    versions = [registry.admin.create_version(model).rid for _ in range(7)]

    listed = sdk("Model.Version.list", model.rid, page_size=2)

    assert [version.rid for version in listed] == versions[::-1]


def test_a_model_that_is_not_there_is_the_sdks_own_error(sdk: Call) -> None:
    calls: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
        ("Model.get", (SOME_MODEL,), {}),
        ("Model.Version.list", (SOME_MODEL,), {}),
        ("Model.Version.create", (SOME_MODEL,), VERSION),
        ("Model.promote_version", (SOME_MODEL,), {"source_model_version_rid": SOME_VERSION}),
    ]
    for method, arguments, options in calls:
        with pytest.raises(ModelNotFound) as raised:
            sdk(method, *arguments, **options)
        assert raised.value.parameters == {"modelRid": SOME_MODEL}
        assert raised.value.error_instance_id


def test_a_version_that_is_not_there_is_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    model = registry.admin.create_model(name).rid
    for method, arguments, options in (
        ("Model.Version.get", (model, SOME_VERSION), {}),
        ("Model.promote_version", (model,), {"source_model_version_rid": SOME_VERSION}),
    ):
        with pytest.raises(ModelVersionNotFound) as raised:
            sdk(method, *arguments, **options)
        assert raised.value.parameters == {"modelRid": model, "modelVersionRid": SOME_VERSION}


def test_a_source_of_old_is_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    target = registry.admin.create_model(name).rid

    with pytest.raises(UnsupportedModelSource):
        sdk("Model.Version.get", LEGACY_MODEL, LEGACY_VERSION)
    with pytest.raises(UnsupportedModelSource):
        sdk("Model.promote_version", target, source_model_version_rid=LEGACY_VERSION)


def test_who_may_not_promote_gets_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    target = registry.admin.create_model(name).rid
    registry.admin("GrantRole", resource_rid=target, principal="user:reader", role=ROLE_VIEWER)

    with pytest.raises(PromoteVersionModelPermissionDenied) as raised:
        sdk(
            "Model.promote_version",
            target,
            source_model_version_rid=SOME_VERSION,
            token=registry.server.token("reader"),
        )

    assert raised.value.parameters == {"modelRid": target}


def test_who_may_not_create_models_gets_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    with pytest.raises(CreateModelPermissionDenied):
        sdk("Model.create", name=name, parent_folder_rid=FOLDER, token=registry.server.token("stranger"))


def test_a_name_that_is_taken_is_the_sdks_own_error(registry: Registry, sdk: Call, name: str) -> None:
    registry.admin.create_model(name)

    with pytest.raises(ResourceNameAlreadyExists) as raised:
        sdk("Model.create", name=name, parent_folder_rid=FOLDER)

    assert raised.value.parameters == {"parentFolderRid": FOLDER, "displayName": name}


def test_a_name_that_no_model_may_have_is_the_sdks_own_error(sdk: Call) -> None:
    with pytest.raises(InvalidDisplayName) as raised:
        sdk("Model.create", name="..", parent_folder_rid=FOLDER)

    assert raised.value.parameters["displayName"] == ".."


def test_any_other_error_is_the_class_of_its_status_with_its_name(registry: Registry, sdk: Call) -> None:
    reader = registry.server.token("admin", scopes=["api:models-read"])
    promotion = {"source_model_version_rid": SOME_VERSION}
    cases: list[tuple[str, type[Any], str, tuple[str, ...], dict[str, Any]]] = [
        ("Model.get", UnauthorizedError, "InvalidCredentials", (SOME_MODEL,), {"token": "nonsense"}),
        (
            "Model.promote_version",
            PermissionDeniedError,
            "ApiUsageDenied",
            (SOME_MODEL,),
            promotion | {"token": reader},
        ),
        (
            "Model.promote_version",
            BadRequestError,
            "ApiFeaturePreviewUsageOnly",
            (SOME_MODEL,),
            promotion | {"preview": None},
        ),
        ("Model.promote_version", BadRequestError, "InvalidBranchName", (SOME_MODEL,), promotion | {"branch": ""}),
        ("Model.Version.list", BadRequestError, "InvalidPageSize", (SOME_MODEL,), {"page_size": 1001}),
        (
            "Model.create",
            RequestEntityTooLargeError,
            "RequestTooLarge",
            (),
            {"name": "x" * 5 * 2**20, "parent_folder_rid": FOLDER},
        ),
    ]
    for method, kind, error, arguments, options in cases:
        with pytest.raises(kind) as raised:
            sdk(method, *arguments, **options)
        assert raised.value.name == error
        assert raised.value.error_instance_id
