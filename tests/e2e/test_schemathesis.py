"""Whatever is sent to a route of /openapi.json, valid or not, the answer is one that the document announces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import PolicyChange
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from tests.builders import FOLDER
from tests.processes import Server, environment
from tests.rpc.harness import path_of

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = Path(__file__).with_name("schemathesis_checks.py")

# How many requests for promotion, and subscriptions, there are, of which calls end some.
ENDED = 20

# Every check is on, but for those excluded here, and every warning is a failure.
CONFIG = """\
hooks = "{checks}"

# Some requests are of what is there, so that more is reached than “not found”.
[dictionaries]
folders.values = ["{folder}"]
models.values = ["{model}"]
versions.values = ["{version}"]
promotions.values = ["{promotion}"]
yanked.values = ["{yanked}"]
yanks.values = ["{yank}"]
asked.values = ["{asked}"]
requests.values = {requests}
branches.values = ["master"]
numbers.values = [1]
urls.values = ["https://hooks.example.com/registry"]
subscriptions.values = {subscriptions}
events.values = ["{event}"]
cursors.values = ["{cursor}"]
names.values = ["there"]

[parameters]
"body.parentFolderRid" = {{ dictionary = "folders", probability = 0.5 }}
"path.modelRid" = {{ dictionary = "models", probability = 0.5 }}
"path.modelVersionRid" = {{ dictionary = "versions", probability = 0.5 }}
"path.promotionRid" = {{ dictionary = "promotions", probability = 0.5 }}
"path.promotionRequestRid" = {{ dictionary = "requests", probability = 0.9 }}
"path.yankRid" = {{ dictionary = "yanks", probability = 0.5 }}
"query.parentFolderRid" = {{ dictionary = "folders", probability = 0.5 }}
"query.name" = {{ dictionary = "names", probability = 0.5 }}
"path.subscriptionRid" = {{ dictionary = "subscriptions", probability = 0.9 }}
"body.url" = {{ dictionary = "urls", probability = 0.9 }}
"body.eventIds[*]" = {{ dictionary = "events", probability = 0.9 }}
"body.afterCursor" = {{ dictionary = "cursors", probability = 0.9 }}
"query.resourceRid" = {{ dictionary = "models", probability = 0.5 }}
"query.modelRid" = {{ dictionary = "models", probability = 0.5 }}
"body.promotions[*].modelRid" = {{ dictionary = "models", probability = 0.9 }}
"body.promotions[*].sourceModelVersionRid" = {{ dictionary = "versions", probability = 0.9 }}
"body.promotions[*].branch" = {{ dictionary = "branches", probability = 0.9 }}
"body.rollbacks[*].modelRid" = {{ dictionary = "models", probability = 0.9 }}
"body.rollbacks[*].branch" = {{ dictionary = "branches", probability = 0.9 }}
"body.rollbacks[*].toVersionNumber" = {{ dictionary = "numbers", probability = 0.9 }}
"body.modelVersionRid" = {{ dictionary = "yanked", probability = 0.5 }}
"body.sourceModelVersionRid" = {{ dictionary = "versions", probability = 0.5 }}
"body.policyChange.modelRid" = {{ dictionary = "asked", probability = 0.9 }}
"body.policyChange.branch" = {{ dictionary = "branches", probability = 0.9 }}
"body.branch" = {{ dictionary = "branches", probability = 0.5 }}
"body.toVersionNumber" = {{ dictionary = "numbers", probability = 0.5 }}

[generation]
deterministic = true
max-examples = 40
database = "none"

[auth.openapi.bearer]
bearer = "{token}"

# A check of ours is in its place: what is valid but for what no schema can say is refused.
[checks]
positive_data_acceptance.enabled = false

[warnings]
fail-on = true

# The contract has this parameter on every route and ignores it, even nonsense, on all but one.
[[operations]]
exclude-operation-id = ["PromoteVersion", "CheckPromotion"]
parameters = {{ "query.preview" = true }}

# A branch that wants approvals refuses most of what other calls ask for.
[[operations]]
include-operation-id = ["CreatePromotionRequest"]
parameters = {{ "path.modelRid" = {{ dictionary = "asked", probability = 0.9 }} }}
# How much of it is refused differs with all that is asked before; below, it has to be served at least once.
warnings = false

[[operations]]
include-operation-id = ["CreateSubscription"]
parameters = {{ "body.resourceRid" = {{ dictionary = "models", probability = 0.5 }} }}

# Most of what is asked for has a cursor and names events as well.
[[operations]]
include-operation-id = ["RedeliverEvents"]
warnings = false

# They end those that are there.
[[operations]]
include-operation-id = ["ReviewPromotionRequest", "WithdrawPromotionRequest"]
warnings = false

# Nor does most of what is asked for weaken a policy.
[[operations]]
include-operation-id = ["CreatePolicyChangeRequest"]
warnings = false

"""


@pytest.mark.timeout(240)
def test_every_answer_to_every_kind_of_request_is_as_described(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        model = admin.create_model("there")
        version = admin.create_version(model)
        promoted = admin.promote(version, model)
        (promotion,) = admin("ListPromotions", model_version_rid=promoted.rid).promotions
        yanked = admin.create_version(model, branch="yanked")
        of_yanked = {"model_rid": model.rid, "model_version_rid": yanked.rid}
        yank = admin("YankVersion", **of_yanked, scope=YANK_SCOPE_VERSION, reason="poisoned")
        asked = admin.create_model("asked")
        # Nobody approves its own.
        joe = server.user(channel, "joe")
        for rid in (asked.rid, model.rid):
            admin("GrantRole", resource_rid=rid, principal="user:joe", role=ROLE_PROMOTER)
        requests = []
        for branch in ("master", *(f"asked {number}" for number in range(ENDED))):
            rule = ApprovalRule(required=1, approvers=["group:risk"])
            admin("SetBranchPolicy", model_rid=asked.rid, branch=branch, approvals=rule)
            if branch != "master":
                place = {"model_rid": asked.rid, "branch": branch}
                requests.append(joe("CreatePromotionRequest", **place, source_model_version_rid=version.rid))
        (event, *_) = admin("ListEvents", model_rid=model.rid).events
        hook = {"resource_rid": asked.rid, "url": "https://hooks.example.com/registry"}
        created = [admin("CreateSubscription", **hook).subscription for _ in range(ENDED)]
        # Hardly a change that is made up weakens this policy.
        clear = SetBranchPolicyRequest(model_rid=asked.rid, clear_fields=["approvals"])
        admin("CreatePolicyChangeRequest", policy_change=PolicyChange(branch=clear))
        config = tmp_path / "schemathesis.toml"
        there = {"folder": FOLDER, "model": model.rid, "version": version.rid, "promotion": promotion.rid}
        there |= {"yanked": yanked.rid, "yank": yank.rid, "asked": asked.rid}
        there |= {"requests": json.dumps([request.rid for request in requests])}
        there |= {"subscriptions": json.dumps([subscription.rid for subscription in created])}
        there |= {"event": event.id, "cursor": event.cursor}
        config.write_text(CONFIG.format(checks=CHECKS, token=server.token("admin", "risk"), **there))

        done = subprocess.run(
            [
                *(SCHEMATHESIS, "--config-file", config, "--no-color", "run", f"{server.url}/openapi.json"),
                # What it has locked would refuse most of its other calls; tests/gateway has this one.
                *("--exclude-operation-id", "LockBranch"),
            ],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=220,
        )

        assert done.returncode == 0, done.stdout + done.stderr

        calls = [line for line in server.log() if line["logger"] == "modelregistry.calls"]
        answered = {line["method"] for line in calls if line["code"] == "OK"}
        expected = {route.rpc for route in routes_of(SERVICES)} - {path_of("LockBranch")}
        assert expected - answered == set(), "some were only ever refused"
