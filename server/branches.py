"""The branch that a request means."""

from __future__ import annotations

from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    GetBranchRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
)

DEFAULT_BRANCH = "master"


def branch_of(
    request: CreateModelVersionRequest | GetBranchRequest | ListModelVersionsRequest | PromoteVersionRequest,
) -> str:
    """Return the branch that the request names, `master` if it names none."""
    return request.branch if request.HasField("branch") else DEFAULT_BRANCH
