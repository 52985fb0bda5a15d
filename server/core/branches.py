"""The branch that a request means."""

from __future__ import annotations

from typing import Literal, Protocol

DEFAULT_BRANCH = "master"


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
