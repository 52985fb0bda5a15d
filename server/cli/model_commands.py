"""Commands that call ModelService: models, versions, branches and model files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.message import Message

from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    GetBranchRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBranchesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
    UploadModelFilesResponse,
)
from modelregistry_client import DigestMismatch, Registry
from server.cli.connection import read_request
from server.cli.options import Branch, ModelRid, PageSize, PageToken, RequestId, VersionRid, option
from server.cli.output import fail, say

Folder = Annotated[str, option("--folder", "The RID of the folder.", metavar="RID")]
AnyFolder = Annotated[str | None, option("--folder", "Only the models of this folder.", metavar="RID")]
Name = Annotated[str, typer.Argument(help="The display name, unique in the folder.")]
VersionFile = Annotated[
    str,
    option(
        "--file",
        "JSON with modelApi and, if you like, condaRequirements, source, …; - reads it from a pipe.",
        metavar="FILE",
    ),
]
ModelFile = Annotated[
    Path | None, option("--model-files", "The model files, of any size; they are uploaded first.", metavar="FILE")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.")]
Destination = Annotated[Path, option("--to", "The file to write, in place of one that is there.", metavar="FILE")]


def create_model(registry: Registry, name: Name, folder: Folder, request_id: RequestId = None) -> Message:
    """Create a model with no versions.

    [bold]modelregistry create-model fraud-detector --folder ri.compass.main.folder.staging[/bold]
    """
    request = CreateModelRequest(name=name, parent_folder_rid=folder, request_id=request_id)
    return registry.models.CreateModel(request)


def get_model(registry: Registry, model_rid: ModelRid) -> Message:
    """Print a model.

    [bold]modelregistry get-model ri.models.main.model.…[/bold]
    """
    return registry.models.GetModel(GetModelRequest(model_rid=model_rid))


def list_models(
    registry: Registry, folder: AnyFolder = None, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List the models that you may see.

    [bold]modelregistry list-models --folder ri.compass.main.folder.staging --output table[/bold]
    """
    request = ListModelsRequest(parent_folder_rid=folder, page_size=page_size, page_token=page_token)
    return registry.models.ListModels(request)


def create_version(
    registry: Registry,
    model_rid: ModelRid,
    file: VersionFile,
    model_files: ModelFile = None,
    branch: Branch = None,
    request_id: RequestId = None,
) -> Message:
    """Add a version to a model, as the new head of a branch.

    [bold]modelregistry create-version ri.models.main.model.… --file version.json --model-files model.bin[/bold]
    """
    request = read_request(file, CreateModelVersionRequest)
    request.model_rid = model_rid
    if branch is not None:
        request.branch = branch
    if request_id is not None:
        request.request_id = request_id
    if model_files is not None:
        if request.HasField("model_files"):
            fail(f"--model-files {model_files}: --file {file} has modelFiles already")
        if request.HasField("request_id"):
            # Another upload makes another request, which the id is not for.
            fail(f"--model-files {model_files}: what has an id names an upload in --file, made once by upload-files")
        request.model_files.uploaded.upload_id = _upload(registry, model_rid, model_files).upload_id
    return registry.models.CreateModelVersion(request)


def get_version(registry: Registry, model_rid: ModelRid, model_version_rid: VersionRid) -> Message:
    """Print a version of a model.

    [bold]modelregistry get-version ri.models.main.model.… ri.models.main.model-version.…[/bold]
    """
    request = GetModelVersionRequest(model_rid=model_rid, model_version_rid=model_version_rid)
    return registry.models.GetModelVersion(request)


def get_branch(registry: Registry, model_rid: ModelRid, branch: Branch = None) -> Message:
    """Print a branch with its newest version: what is live?

    [bold]modelregistry get-branch ri.models.main.model.… --output table[/bold]
    """
    return registry.models.GetBranch(GetBranchRequest(model_rid=model_rid, branch=branch))


def list_branches(
    registry: Registry, model_rid: ModelRid, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List the branches of a model.

    [bold]modelregistry list-branches ri.models.main.model.… --output table[/bold]
    """
    request = ListBranchesRequest(model_rid=model_rid, page_size=page_size, page_token=page_token)
    return registry.models.ListBranches(request)


def list_versions(
    registry: Registry,
    model_rid: ModelRid,
    branch: Branch = None,
    page_size: PageSize = 0,
    page_token: PageToken = None,
) -> Message:
    """List the versions of a branch, newest first.

    [bold]modelregistry list-versions ri.models.main.model.… --page-size 10 --output table[/bold]
    """
    request = ListModelVersionsRequest(model_rid=model_rid, branch=branch, page_size=page_size, page_token=page_token)
    return registry.models.ListModelVersions(request)


def upload_files(registry: Registry, model_rid: ModelRid, file: File) -> Message:
    """Upload model files, and print the id that a version of the model can name them by.

    To create the version at once: create-version --model-files FILE.

    [bold]modelregistry upload-files ri.models.main.model.… model.bin[/bold]
    """
    return _upload(registry, model_rid, file)


def download_files(registry: Registry, model_rid: ModelRid, model_version_rid: VersionRid, to: Destination) -> None:
    """Write the model files of a version to a file, which changes only when all of them have arrived.

    [bold]modelregistry download-files ri.models.main.model.… ri.models.main.model-version.… --to model.bin[/bold]
    """
    try:
        downloaded = registry.download_files(model_rid, model_version_rid, to)
    except DigestMismatch as error:
        fail(f"--to {to}: {error}")
    except OSError as error:
        fail(f"--to {to}: {error.strerror}")
    say(f"wrote {downloaded.size} bytes with the SHA-256 {downloaded.sha256}")


def _upload(registry: Registry, model_rid: str, file: Path) -> UploadModelFilesResponse:
    """Upload a file; fail if it cannot be read. Raises RegistryError."""
    try:
        return registry.upload_files(model_rid, file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
