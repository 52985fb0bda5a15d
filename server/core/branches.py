"""The branch that a request means."""

from __future__ import annotations

from typing import Literal, Protocol

from modelregistry.v1.promotion_pb2 import BranchPolicy
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest

DEFAULT_BRANCH = "master"

# The rules of a policy, which can be set: what the request and the policy both have, but for the names of the branch.
POLICY_FIELDS = tuple(
    field.name
    for field in SetBranchPolicyRequest.DESCRIPTOR.fields
    if field.name in BranchPolicy.DESCRIPTOR.fields_by_name and field.name not in ("model_rid", "branch")
)


def level_of(policy: BranchPolicy, model_rid: str) -> str:
    """Return the RID of the model or folder that one of the policies of a branch of the model was set on."""
    return policy.folder_rid or model_rid


class NamesBranch(Protocol):
    """A request with an optional branch."""

    @property
    def branch(self) -> str:
        """The name; empty if it is not given."""

    def HasField(self, field_name: Literal["branch"]) -> bool:  # noqa: N802 - as messages have it
        """Whether the branch is given."""


def branch_of(request: NamesBranch) -> str:
    """Return the branch that the request names, `master` if it names none."""
    return request.branch if request.HasField("branch") else DEFAULT_BRANCH
