"""Commands that recall versions: yank them, find where they are live, and roll these branches back."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.message import Message

from modelregistry.v1.recall_service_pb2 import (
    YANK_SCOPE_LINEAGE,
    YANK_SCOPE_VERSION,
    BatchRollbackRequest,
    ListLiveCopiesRequest,
    ListYanksRequest,
    UnyankVersionRequest,
    YankVersionRequest,
)
from modelregistry_client import Registry
from server.cli.connection import read_request
from server.cli.options import (
    ModelRid,
    Output,
    PageSize,
    PageToken,
    Reason,
    RequestId,
    RequiredReason,
    VersionRid,
    option,
)
from server.cli.output import say, show

YankRid = Annotated[str, typer.Argument(help="The RID of the yank.")]
IsLineage = Annotated[
    bool, option("--lineage", "Stop all that came from the version's root, and not only from the version.")
]
RollbackFile = Annotated[
    str,
    option(
        "--file",
        'JSON like {"rollbacks": [{"modelRid": …, "toVersionNumber": …}]}; - reads it from a pipe.',
        metavar="FILE",
    ),
]


def yank(
    registry: Registry,
    model_rid: ModelRid,
    model_version_rid: VersionRid,
    reason: RequiredReason,
    lineage: IsLineage = False,
    request_id: RequestId = None,
) -> Message:
    """Let a version, and all that was promoted from it, be promoted and rolled back to no more.

    [bold]modelregistry yank ri.models.main.model.… ri.models.main.model-version.… --reason "trained on data that must
    go"[/bold]
    """
    request = YankVersionRequest(
        model_rid=model_rid,
        model_version_rid=model_version_rid,
        scope=YANK_SCOPE_LINEAGE if lineage else YANK_SCOPE_VERSION,
        reason=reason,
        request_id=request_id,
    )
    return registry.recalls.YankVersion(request)


def unyank(registry: Registry, yank_rid: YankRid, reason: Reason = None) -> Message:
    """Take one yank back.

    [bold]modelregistry unyank ri.models.main.yank.… --reason "a false alarm"[/bold]
    """
    return registry.recalls.UnyankVersion(UnyankVersionRequest(yank_rid=yank_rid, reason=reason))


def yanks(
    registry: Registry, model_version_rid: VersionRid, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List the yanks in the lineage of a version, newest first, with those that were taken back.

    [bold]modelregistry yanks ri.models.main.model-version.… --output table[/bold]
    """
    request = ListYanksRequest(model_version_rid=model_version_rid, page_size=page_size, page_token=page_token)
    return registry.recalls.ListYanks(request)


def live_copies(
    registry: Registry,
    model_version_rid: VersionRid,
    page_size: PageSize = 0,
    page_token: PageToken = None,
    output: Output = "json",
) -> None:
    """List the branches whose head is a version or was promoted from it: where it is live.

    [bold]modelregistry live-copies ri.models.main.model-version.… --output table[/bold]
    """
    request = ListLiveCopiesRequest(model_version_rid=model_version_rid, page_size=page_size, page_token=page_token)
    found = registry.recalls.ListLiveCopies(request)
    show(found, output)
    if output == "table" and found.HasField("total_count"):
        say(f"live on {found.total_count} branches in all")


def rollback_batch(registry: Registry, file: RollbackFile, request_id: RequestId = None) -> Message:
    """Roll up to 100 branches back, all of them or none, without asking.

    [bold]modelregistry rollback-batch --file rollbacks.json[/bold]
    """
    request = read_request(file, BatchRollbackRequest)
    if request_id is not None:
        request.request_id = request_id
    return registry.recalls.BatchRollback(request)
