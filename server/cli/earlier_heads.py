"""The earlier heads of a branch, from which somebody at a terminal chooses."""

from __future__ import annotations

import sys

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import GetBranchRequest, ListModelVersionsRequest
from modelregistry_client import Registry
from server.cli import terminal
from server.cli.output import fail, say, show_rows
from server.codec.json_form import to_json

MAX_SHOWN = 20


def choose(registry: Registry, model_rid: str, branch: str | None) -> tuple[int, str]:
    """Ask to which version a branch is to go back; return its number, and the RID of the head that was shown."""
    if not terminal.is_there():
        fail("--to: without a terminal, the number of the version to go back to must be given")
    versions, has_more = _newest(registry, model_rid, branch)
    if not versions:
        # It fails, and says whether there is no such branch.
        registry.models.GetBranch(GetBranchRequest(model_rid=model_rid, branch=branch))
        fail("the branch was made just now: try again")
    head = versions[0]
    if head.version_number == 1:
        fail(f"branch {head.branch} has no earlier version")
    show_rows((_row(version, version is head) for version in versions), sys.stderr)
    if has_more:
        say(f"these are the newest {len(versions)}; an older one can be given by its number, here or with --to")
    answer = terminal.ask("go back to which number?")
    if not answer:
        fail("nothing was changed")
    if not (answer.isascii() and answer.isdigit()):
        fail(f"{answer} is not the number of a version; nothing was changed")
    return int(answer), head.rid


def _newest(registry: Registry, model_rid: str, branch: str | None) -> tuple[list[ModelVersion], bool]:
    """Return the newest versions of a branch, and whether there are older ones."""
    request = ListModelVersionsRequest(model_rid=model_rid, branch=branch)
    versions: list[ModelVersion] = []
    while True:
        # A page of large versions can be shorter than asked for.
        request.page_size = MAX_SHOWN - len(versions)
        page = registry.models.ListModelVersions(request)
        versions.extend(page.model_versions)
        has_more = page.HasField("next_page_token")
        if not has_more or len(versions) >= MAX_SHOWN:
            return versions, has_more
        request.page_token = page.next_page_token


def _row(version: ModelVersion, is_head: bool) -> dict[str, str]:
    shown = to_json(version)
    source = shown.get("source", {})
    assert isinstance(source, dict)
    # The last RID is the nearest: that of the version, where there is that of its model too.
    rids = [value for key, value in source.items() if key.endswith("Rid")]
    return {
        "number": str(version.version_number),
        "createdTime": str(shown["createdTime"]),
        "createdBy": version.created_by,
        "source": " ".join([source.get("type", ""), *rids[-1:]]),
        "head": "head" if is_head else "",
    }
