"""What schemathesis shall know of this service; it loads this file into its own process."""

from __future__ import annotations

import json
from typing import Any

import schemathesis

# Parts of violations of what no schema can say: what other fields are, what time it is, what Unicode says of
# characters, what is a host, and where a server sends webhooks.
UNSAYABLE = (
    "must be unique in its list",
    "by the clock of the server",
    "can never be met",
    "must not contain what is not seen",
    "is not for this kind of request",
    "and not both",
    "must have a host",
    "must name a host",
    "must name one of the ports",
    "must be a URL: ",
    "must not lead to",
)


def is_good(case: schemathesis.Case) -> bool:
    """Whether a request is one that the schema allows."""
    return case.meta is not None and case.meta.generation.mode.is_positive


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Leave out the id in the body where another one is in the header: that they differ would hide all else."""
    if is_good(case) and "Idempotency-Key" in (case.headers or {}) and isinstance(case.body, dict):
        case.body.pop("requestId", None)
    return case


@schemathesis.check
def what_the_schema_allows_is_taken(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Like schemathesis' own `positive_data_acceptance`, but for what no schema can say.

    Which page tokens and cursors the server handed out is that, that names are unique in their list, how many there are
    beside what is asked of them, what time it is, which characters are not seen, what a request is for, where webhooks
    go, and what branches are like.
    """
    if not is_good(case) or response.status_code != 400:
        return
    error: dict[str, Any] = json.loads(response.content)
    violations = [violation["description"] for violation in error["parameters"].get("fieldViolations", [])]
    unsayable = violations != [] and all(any(part in violation for part in UNSAYABLE) for violation in violations)
    of_another = error["errorName"] in {"InvalidPageToken", "CursorUnknown"}
    assert unsayable or of_another or error["errorCode"] == "FAILED_PRECONDITION", error
