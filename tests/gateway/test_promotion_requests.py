"""Requests for promotion over HTTP: made, reviewed, listed and withdrawn, and what the promotion itself answers."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import urlencode

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from tests.gateway.registry import Registry, good
from tests.gateway.test_refusals import MODELS, Answer, ask

REQUESTS = "/api/v2/promotionRequests"
CHANGES = "/api/v2/policyChangeRequests"


def review(registry: Registry, rid: str, by: str, verdict: str = "APPROVE", key: str = "", **body: Any) -> Answer:
    """Review a request as a user."""
    sent = json.dumps({"verdict": verdict} | body)
    path = f"{REQUESTS}/{rid}/review"
    return ask(registry.server, "POST", path, sent, token=registry.server.token(by), Idempotency_Key=key)


def protect(registry: Registry) -> None:
    """Let the branch want the approvals of ann and bob, who see both models."""
    for model_rid in (registry.source.model_rid, registry.target.rid):
        for name in ("ann", "bob"):
            registry.admin("GrantRole", resource_rid=model_rid, principal=f"user:{name}", role=ROLE_VIEWER)
    good(registry.set_policy(approvals={"required": 2, "approvers": ["user:ann", "user:bob"]}))


def request(registry: Registry, key: str = "", **body: Any) -> Answer:
    path = f"{MODELS}/{registry.target.rid}/promotionRequests"
    sent = {"sourceModelVersionRid": registry.source.rid} | body
    return ask(registry.server, "POST", path, json.dumps(sent), Idempotency_Key=key)


def test_a_promotion_is_refused_requested_approved_and_made(registry: Registry) -> None:
    protect(registry)
    refused = registry.promote()
    assert (refused.status, refused.error["errorName"]) == (400, "ApprovalRequired")
    assert refused.error["parameters"]["required"] == "2"
    assert "request them with CreatePromotionRequest" in refused.error["errorDescription"]
    check = good(registry.post("checkPromotion", sourceModelVersionRid=registry.source.rid))
    assert "0 of 2 approvals; user:ann, user:bob may still approve." in check["obstacles"][0]["description"]

    asked = good(request(registry, reason="for the audit"))
    assert asked == {
        "rid": asked["rid"],
        "kind": "PROMOTION",
        "modelRid": registry.target.rid,
        "branch": "master",
        "sourceModelRid": registry.source.model_rid,
        "sourceModelVersionRid": registry.source.rid,
        "contentDigest": asked["contentDigest"],
        "errorCount": 0,
        "warningCount": 0,
        "reason": "for the audit",
        "requestedBy": "user:admin",
        "createdTime": asked["createdTime"],
        "state": "OPEN",
        "expireTime": asked["expireTime"],
        "approvals": [{"resourceRid": registry.target.rid, "required": 2, "given": 0}],
        "reviews": [],
    }
    query = urlencode({"waitingForMe": "true", "modelRid": registry.target.rid})
    waiting = ask(registry.server, "GET", f"{REQUESTS}?{query}", token=registry.server.token("ann"))
    assert [each["rid"] for each in good(waiting)["data"]] == [asked["rid"]]
    assert good(review(registry, asked["rid"], "ann", comment="fine"))["state"] == "OPEN"
    approved = good(review(registry, asked["rid"], "bob"))
    assert [(each["reviewedBy"], each["verdict"], each["counts"]) for each in approved["reviews"]] == [
        ("user:ann", "APPROVE", True),
        ("user:bob", "APPROVE", True),
    ]
    assert (
        good(registry.get(REQUESTS, modelRid=registry.target.rid, state="APPROVED"))["data"][0]["rid"] == asked["rid"]
    )

    made = good(registry.promote())
    done = good(registry.get(f"{REQUESTS}/{asked['rid']}"))
    assert (done["state"], done["modelVersionRid"], done["closedBy"]) == ("PROMOTED", made["rid"], "user:admin")
    again = review(registry, asked["rid"], "ann")
    assert (again.status, again.error["errorName"]) == (400, "PromotionRequestClosed")


def test_what_has_a_key_is_carried_out_once(registry: Registry) -> None:
    protect(registry)
    key = str(uuid.uuid4())
    asked = good(request(registry, key))
    assert good(request(registry, key)) == asked
    other = request(registry)
    assert (other.status, other.error["errorName"]) == (409, "PromotionRequestAlreadyOpen")
    assert other.error["parameters"] == {"promotionRequestRid": asked["rid"]}
    first = good(review(registry, asked["rid"], "ann", key=key))
    assert good(review(registry, asked["rid"], "ann", key=key)) == first
    path = f"{REQUESTS}/{asked['rid']}/withdraw"
    withdrawn = [good(ask(registry.server, "POST", path, "{}", Idempotency_Key=key)) for _ in range(2)]
    assert [each["state"] for each in withdrawn] == ["WITHDRAWN"] * 2


def test_what_is_no_request_or_says_nonsense_is_told(registry: Registry) -> None:
    absent = registry.get(f"{REQUESTS}/ri.models.main.promotion-request.none")
    assert (absent.status, absent.error["errorName"]) == (404, "PromotionRequestNotFound")
    nonsense = review(registry, "ri.models.main.promotion-request.none", "ann", verdict="MAYBE")
    assert (nonsense.status, nonsense.fields) == (400, {"verdict"})
    assert registry.get(REQUESTS, state="MAYBE").fields == {"state"}
    needless = request(registry)
    assert (needless.status, needless.error["errorName"]) == (400, "ApprovalsNotRequired")


def test_a_change_that_weakens_the_policy_is_refused_requested_approved_and_made(registry: Registry) -> None:
    protect(registry)
    loose = {"approvals": {"required": 1, "approvers": ["user:ann", "user:bob"]}, "promotionOnly": False}
    refused = registry.set_policy(**loose)
    assert (refused.status, refused.error["errorName"]) == (400, "ApprovalRequired")
    assert "CreatePolicyChangeRequest" in refused.error["errorDescription"]

    key = str(uuid.uuid4())
    body = {"policyChange": {"type": "branch", "modelRid": registry.target.rid} | loose, "reason": "too slow"}
    sent = json.dumps(body)
    asked = good(ask(registry.server, "POST", CHANGES, sent, Idempotency_Key=key))
    assert good(ask(registry.server, "POST", CHANGES, sent, Idempotency_Key=key)) == asked
    assert asked == {
        "rid": asked["rid"],
        "kind": "POLICY_CHANGE",
        "modelRid": registry.target.rid,
        "branch": "master",
        "errorCount": 0,
        "warningCount": 0,
        "reason": "too slow",
        "requestedBy": "user:admin",
        "createdTime": asked["createdTime"],
        "state": "OPEN",
        "expireTime": asked["expireTime"],
        "approvals": [{"resourceRid": registry.target.rid, "required": 2, "given": 0}],
        "reviews": [],
        "policyChange": {
            "type": "branch",
            "modelRid": registry.target.rid,
            "branch": "master",
            "approvals": {**loose["approvals"], "promoteWhenApproved": False},
            "promotionOnly": False,
            "clearFields": [],
        },
        "policyRevision": 1,
    }
    assert good(review(registry, asked["rid"], "ann", expectedPolicyRevision=1))["state"] == "OPEN"
    assert good(review(registry, asked["rid"], "bob"))["state"] == "APPROVED"
    changed = good(registry.set_policy(**loose))
    assert (changed["revision"], changed["promotionRequestRid"]) == (2, asked["rid"])
    done = good(registry.get(f"{REQUESTS}/{asked['rid']}"))
    assert (done["state"], done["madePolicyRevision"]) == ("PROMOTED", 2)


def test_what_is_no_change_of_a_policy_is_told(registry: Registry) -> None:
    for body, field in (
        ({}, "policyChange"),
        ({"policyChange": {}}, "policyChange.type"),
        ({"policyChange": {"type": "branch"}}, "policyChange.modelRid"),
        (
            {"policyChange": {"type": "branch", "modelRid": registry.target.rid, "clearFields": ["x"]}},
            "policyChange.clearFields[0]",
        ),
        ({"policyChange": {"type": "folder", "folderRid": registry.target.rid}}, "policyChange.folderRid"),
    ):
        refused = ask(registry.server, "POST", CHANGES, json.dumps(body))
        assert (refused.status, refused.fields) == (400, {field}), body
    needless = {"policyChange": {"type": "branch", "modelRid": registry.target.rid, "promotionOnly": True}}
    refused = ask(registry.server, "POST", CHANGES, json.dumps(needless))
    assert (refused.status, refused.error["errorName"]) == (400, "ApprovalsNotRequired")
