"""A check of our own for schemathesis, which loads this file into its own process."""

from __future__ import annotations

import json

import schemathesis


@schemathesis.check
def what_the_schema_allows_is_taken(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Like schemathesis' own `positive_data_acceptance`, but for what no schema can say.

    Which page tokens the server handed out is that, and that names are unique in their list.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = json.loads(response.content)
    violations = [violation["description"] for violation in error["parameters"].get("fieldViolations", [])]
    repeats_a_name = violations != [] and all("must be unique in its list" in violation for violation in violations)
    assert repeats_a_name or error["errorName"] == "InvalidPageToken", error
