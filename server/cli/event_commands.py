"""Commands that tell what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from modelregistry.v1.event_service_pb2 import ListEventsRequest
from modelregistry.v1.list_order_pb2 import LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST
from modelregistry_client import Registry
from server.cli.options import OldestFirst, Output, PageSize, PageToken, option
from server.cli.output import escaped, json_text, say, show, show_rows
from server.cli.times import time_of
from server.codec.json_form import to_json

OfModel = Annotated[str | None, option("--model", "Only events about this model.", metavar="RID")]
OfFolder = Annotated[
    str | None, option("--folder", "Only events about this folder and the models in it.", metavar="RID")
]
OfBranch = Annotated[str | None, option("--branch", "Only events about branches of this name.", metavar="NAME")]
Types = Annotated[
    list[str] | None,
    option(
        "--type",
        "Only events of this type, such as version.promoted; may be repeated, then of one of these.",
        metavar="TYPE",
    ),
]
Actor = Annotated[str | None, option("--actor", "Only events by this principal.", metavar="PRINCIPAL")]
Since = Annotated[
    str | None, option("--since", "Only events at this time or later, or from this day on.", metavar="TIME")
]
Until = Annotated[str | None, option("--until", "Only events before this time or day.", metavar="TIME")]
After = Annotated[
    str | None,
    option("--after", "Only events behind this cursor, which an event or an answer has.", metavar="CURSOR"),
]

_PREFIX, _SUFFIX = "modelregistry.", ".v1"


def events(
    registry: Registry,
    model: OfModel = None,
    folder: OfFolder = None,
    branch: OfBranch = None,
    types: Types = None,
    actor: Actor = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    oldest_first: OldestFirst = False,
    page_size: PageSize = 0,
    page_token: PageToken = None,
    output: Output = "json",
) -> None:
    """List what happened, newest first: who changed what, when and from where.

    [bold]modelregistry events --actor user:jane --since 2026-11-25 --output table[/bold]
    """
    request = ListEventsRequest(
        after_cursor=after,
        model_rid=model,
        parent_folder_rid=folder,
        branch=branch,
        types=map(full_type, types or ()),
        actor=actor,
        start_time=time_of("--since", since),
        end_time=time_of("--until", until),
        order=LIST_ORDER_OLDEST_FIRST if oldest_first else LIST_ORDER_NEWEST_FIRST,
        page_size=page_size,
        page_token=page_token,
    )
    found = registry.events.ListEvents(request)
    if output == "json":
        show(found)
        return
    show_rows(map(row_of, map(to_json, found.events)))
    if found.HasField("next_page_token"):
        say(f"there is more: --page-token {found.next_page_token}")


def watch(
    registry: Registry,
    model: OfModel = None,
    folder: OfFolder = None,
    branch: OfBranch = None,
    types: Types = None,
    after: After = None,
    output: Output = "json",
) -> None:
    """Print what happens, a line each, from now on or behind a cursor, also across restarts of servers.

    Each line has a cursor, to go on behind it. With a table for people, a line is what `events` has in its table.

    [bold]modelregistry watch --model ri.models.main.model.… --type version.promoted[/bold]
    """
    with registry.watch_events(
        after_cursor=after,
        model_rid=model,
        parent_folder_rid=folder,
        branch=branch,
        types=map(full_type, types or ()),
    ) as events_to_come:
        for event in events_to_come:
            if output == "json":
                print(json_text(event), flush=True)
            else:
                print(escaped("  ".join(filter(None, row_of(to_json(event)).values()))), flush=True)


def full_type(name: str) -> str:
    """Return the type of events that a user names, perhaps without what all types begin and end with."""
    return name if name.startswith(_PREFIX) else f"{_PREFIX}{name}{_SUFFIX}"


def row_of(event: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table shows of an event in JSON."""
    subject = event["subject"]
    shown = _SHOWN.get(subject.get("type", ""), ())
    return {
        "time": event["time"],
        "type": event["type"].removeprefix(_PREFIX).removesuffix(_SUFFIX),
        "actor": event["actor"],
        "about": event.get("modelRid") or event.get("folderRid") or "",
        "branch": event.get("branch", ""),
        "version": event.get("modelVersionRid", ""),
        "details": " ".join(f"{name}={subject[name]}" for name in shown if subject.get(name)),
        "requestId": event.get("requestId", ""),
        "peer": event.get("peer", ""),
    }


# What a table shows of each kind of subject.
_SHOWN = {
    "model": ("name",),
    "version": ("versionNumber",),
    "promotion": ("versionNumber", "sourceModelVersionRid", "reason"),
    "yank": ("scope", "reason"),
    "branchPolicy": ("revision",),
    "folderPolicy": ("newModelOwner",),
    "promotionRequest": ("rid", "state"),
    "grantChange": ("principal", "role"),
    "principal": ("principal", "reason"),
    "subscription": ("rid", "url", "state"),
}
