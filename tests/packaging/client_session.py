"""What a program does with the Python client. It is run by interpreters that have the client, and none of the rest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator

import google.protobuf
import grpc

from modelregistry.v1.model_api_pb2 import TABULAR_FORMAT_PANDAS, ModelApi, ModelApiInput, TabularType
from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    GetBranchRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
    UploadModelFilesRequest,
)
from modelregistry_client import Registry, aio, connect, errors

TARGET, TOKEN = os.environ["MODELREGISTRY_TARGET"], os.environ["MODELREGISTRY_TOKEN"]
FOLDER = "ri.compass.main.folder.session"
DATA = b"the model" * 100_000


def main() -> None:
    """Print, in JSON, what came of it."""
    told = {"protobuf": google.protobuf.__version__, "grpc": grpc.__version__}
    with connect(TARGET, TOKEN, plaintext=True) as registry:
        told |= promote(registry)
        told["promoted by a coroutine"] = asyncio.run(promote_again(told["source"], told["model"]))
        told["page"] = page(registry, told["model"])
        told["error"] = refused(registry, told["source"])
    print(json.dumps(told))  # noqa: T201 - this is a program


def promote(registry: Registry) -> dict[str, str]:
    """Register a version with files, promote it, and fetch the files of what came of that."""
    staging, production = (
        registry.models.CreateModel(CreateModelRequest(name=f"{os.getpid()}-{stage}", parent_folder_rid=FOLDER))
        for stage in ("staging", "production")
    )
    taken = registry.models.UploadModelFiles(upload(staging.rid))
    table = TabularType(name="transactions", required=True, format=TABULAR_FORMAT_PANDAS)
    source = registry.models.CreateModelVersion(
        CreateModelVersionRequest(
            model_rid=staging.rid,
            model_api=ModelApi(inputs=[ModelApiInput(tabular=table)]),
            model_files=ModelFiles(uploaded=UploadedModelFiles(upload_id=taken.upload_id)),
        )
    )
    wanted = PromoteVersionRequest(source_model_version_rid=source.rid, model_rid=production.rid, preview=True)
    promoted = registry.models.PromoteVersion(wanted)
    assert promoted.model_api == source.model_api
    assert promoted.source.promoted.previous_model_version_rid == source.rid
    files = DownloadModelFilesRequest(model_rid=production.rid, model_version_rid=promoted.rid)
    assert b"".join(part.chunk for part in registry.models.DownloadModelFiles(files)) == DATA
    return {"source": source.rid, "model": production.rid, "promoted": promoted.rid}


def upload(model: str) -> Iterator[UploadModelFilesRequest]:
    """Yield the parts of an upload."""
    for start in range(0, len(DATA), 2**18):
        yield UploadModelFilesRequest(model_rid=model, chunk=DATA[start : start + 2**18])
    yield UploadModelFilesRequest(sha256=hashlib.sha256(DATA).hexdigest())


async def promote_again(source: str, model: str) -> str:
    """Promote the version once more, and return the head that came of it."""
    async with aio.connect(TARGET, TOKEN, plaintext=True) as registry:
        await registry.models.PromoteVersion(
            PromoteVersionRequest(source_model_version_rid=source, model_rid=model, preview=True)
        )
        return (await registry.models.GetBranch(GetBranchRequest(model_rid=model))).head.rid


def page(registry: Registry, model: str) -> list[str]:
    """Return the versions of a model, page by page."""
    found = []
    request = ListModelVersionsRequest(model_rid=model, page_size=1)
    while True:
        answer = registry.models.ListModelVersions(request)
        found += [version.rid for version in answer.model_versions]
        if not answer.HasField("next_page_token"):
            return found
        request.page_token = answer.next_page_token


def refused(registry: Registry, source: str) -> list[str]:
    """Return what an error says of itself."""
    wanted = PromoteVersionRequest(source_model_version_rid=source, model_rid="ri.models.main.model.none", preview=True)
    try:
        registry.models.PromoteVersion(wanted)
    except errors.ModelNotFound as error:
        return [error.code().name, error.name or "", error.model_rid]
    return []


if __name__ == "__main__":
    main()
