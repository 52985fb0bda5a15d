"""Commands that read what promotions have left: their records, and the lineage that they make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Literal

import typer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.promotion_service_pb2 import (
    GetLineageRequest,
    GetLineageResponse,
    GetPromotionRequest,
    ListPromotionsRequest,
)
from modelregistry_client import Registry
from server.cli.connection import client_command
from server.cli.lineage import DRAWINGS
from server.cli.options import PageSize, PageToken, VersionRid, option
from server.cli.output import fail
from server.codec.json_form import from_json
from server.core.errors import InvalidArgument

PromotionRid = Annotated[str, typer.Argument(help="The RID of the promotion.")]
OfModel = Annotated[str | None, option("--model", "Only promotions into this model.", metavar="RID")]
OfBranch = Annotated[str | None, option("--branch", "Only promotions into branches of this name.", metavar="NAME")]
OfSource = Annotated[str | None, option("--source-version", "Only promotions of this version.", metavar="RID")]
OfVersion = Annotated[str | None, option("--version", "Only the promotion that made this version.", metavar="RID")]
OfCreator = Annotated[
    str | None, option("--created-by", "Only promotions by this principal, like user:jane.", metavar="PRINCIPAL")
]
Since = Annotated[
    str | None,
    option("--since", "Only promotions at this time or later, RFC 3339 or a day in UTC: 2026-11-25.", metavar="TIME"),
]
Until = Annotated[
    str | None, option("--until", "Only promotions before this time, in the forms of --since.", metavar="TIME")
]
Drawing = Annotated[
    Literal["tree", "dot", "mermaid", "json", "table"],
    option("--output", "tree for people (table means it too), dot for Graphviz, mermaid, json for programs."),
]

# Each page walks the whole lineage, so they are as large as can be.
LINEAGE_PAGE = 1000
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def get_promotion(registry: Registry, promotion_rid: PromotionRid) -> Message:
    """Print the record of a promotion.

    [bold]modelregistry get-promotion ri.models.main.promotion.…[/bold]
    """
    return registry.promotions.GetPromotion(GetPromotionRequest(promotion_rid=promotion_rid))


def list_promotions(
    registry: Registry,
    model: OfModel = None,
    branch: OfBranch = None,
    source_version: OfSource = None,
    version: OfVersion = None,
    created_by: OfCreator = None,
    since: Since = None,
    until: Until = None,
    page_size: PageSize = 0,
    page_token: PageToken = None,
) -> Message:
    """List the promotions that you may see, newest first.

    [bold]modelregistry list-promotions --model ri.models.main.model.… --since 2026-11-25 --output table[/bold]
    """
    request = ListPromotionsRequest(
        model_rid=model,
        branch=branch,
        source_model_version_rid=source_version,
        model_version_rid=version,
        created_by=created_by,
        start_time=_time("--since", since),
        end_time=_time("--until", until),
        page_size=page_size,
        page_token=page_token,
    )
    return registry.promotions.ListPromotions(request)


def lineage(registry: Registry, model_version_rid: VersionRid, output: Drawing = "tree") -> None:
    """Draw what a version was made of, back to the root, and all that was made of it.

    A version stands below the one that it was promoted from: in the same column, or where that one branches.

    [bold]modelregistry lineage ri.models.main.model-version.…[/bold]

    [bold]modelregistry lineage ri.models.main.model-version.… --output dot | dot -Tsvg > lineage.svg[/bold]
    """
    pages = _lineage(registry, model_version_rid)
    first = next(pages)
    nodes = chain(first.nodes, (node for page in pages for node in page.nodes))
    for line in DRAWINGS[output](nodes, first.traced_node_id):
        print(line)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for run in (get_promotion, list_promotions, lineage):
        app.command(run.__name__.replace("_", "-"))(client_command(run))


def _lineage(registry: Registry, model_version_rid: str) -> Iterator[GetLineageResponse]:
    request = GetLineageRequest(model_version_rid=model_version_rid, page_size=LINEAGE_PAGE)
    while True:
        page = registry.promotions.GetLineage(request)
        yield page
        if not page.HasField("next_page_token"):
            return
        request.page_token = page.next_page_token


def _time(flag: str, text: str | None) -> Timestamp | None:
    """Return a time; a day is its beginning in UTC."""
    if text is None:
        return None
    value = f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text
    try:
        return from_json({"startTime": value}, ListPromotionsRequest).start_time
    except InvalidArgument:
        fail(f"{flag}: {text!r} is neither a time such as 2026-11-25T12:00:00Z nor a day such as 2026-11-25")
