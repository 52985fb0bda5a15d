"""Each client command in a process of its own: it succeeds, ends, and says nothing but its answer."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import grpc

from modelregistry.v1.promotion_pb2 import ApprovalRule
from server.cli import build_app
from tests.cli.stages import new_stages
from tests.processes import Server, failure, run

# The last one never ends by itself: tests/e2e/test_events_page.py has it.
OFFLINE = {"serve", "migrate", "token", "import", "gc", "fsck", "demo", "protos", "watch"}


def test_each_command_succeeds_and_warns_of_nothing(server: Server, tmp_path: Path) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stages = new_stages(server, channel)
        rule = ApprovalRule(required=1, approvers=["user:admin"])
        stages.admin("SetBranchPolicy", model_rid=stages.production, branch="asked", approvals=rule)
    model, target, version = stages.staging, stages.production, stages.first
    (tmp_path / "file").write_bytes(b"files")
    (tmp_path / "version.json").write_text('{"modelApi": {"inputs": [], "outputs": []}}')
    batch = {"promotions": [{"modelRid": target, "sourceModelVersionRid": version}]}
    (tmp_path / "batch.json").write_text(json.dumps(batch))
    rollbacks = {"rollbacks": [{"modelRid": target, "toVersionNumber": 1}]}
    (tmp_path / "rollbacks.json").write_text(json.dumps(rollbacks))
    create = ("create-version", model, "--file", tmp_path / "version.json")
    called: set[str] = set()

    def succeeds(command: str, *arguments: str | Path) -> str:
        called.add(command)
        done = server.run(command, *arguments, call=run)
        assert (done.returncode, done.stderr) == (0, ""), command
        return done.stdout

    folder = json.loads(succeeds("get-model", model))["parentFolderRid"]
    succeeds("create-model", "another", "--folder", folder)
    succeeds("list-models", "--folder", folder)
    with_files = json.loads(succeeds(*create, "--model-files", tmp_path / "file"))["rid"]
    called.add("download-files")
    fetched = server.run("download-files", model, with_files, "--to", tmp_path / "fetched", call=run)
    assert (fetched.returncode, (tmp_path / "fetched").read_bytes()) == (0, b"files")
    succeeds("upload-files", model, tmp_path / "file")
    succeeds("check", version, target)
    promoted = json.loads(succeeds("promote", version, target))
    succeeds("promote-batch", "--file", tmp_path / "batch.json")
    succeeds("rollback", target, "--to", str(promoted["versionNumber"]))
    succeeds("set-policy", target, "warn")
    succeeds("set-policy", target, "--promotion-only", "--clear", "compatibility", "--expected-revision", "1")
    succeeds("get-policy", target)
    succeeds("set-policy", folder, "--branch", "other", "--promoter", "user:jane", "--promotion-only")
    succeeds("get-policy", folder, "--branch", "other")
    succeeds("lock", target, "--reason", "incident 42", "--expire-time", "9999-12-31")
    succeeds("unlock", target)
    for ending in (("review", "reject"), ("withdraw",)):
        asked = json.loads(succeeds("request-promotion", version, target, "--branch", "asked"))["rid"]
        succeeds("get-request", asked)
        succeeds("requests", "--model", target, "--state", "open")
        succeeds(ending[0], asked, *ending[1:])
    asks = ("--required-approvals", "1", "--approver", "group:risk")
    succeeds("set-policy", target, "--branch", "weak", *asks)
    succeeds("set-policy", target, "--branch", "weak", "--clear", "approvals", "--request", "--reason", "why")
    [promotion] = json.loads(succeeds("list-promotions", "--version", promoted["rid"]))["data"]
    succeeds("get-promotion", promotion["rid"])
    succeeds("lineage", promoted["rid"])
    yank = json.loads(succeeds("yank", target, promoted["rid"], "--lineage", "--reason", "poisoned"))
    succeeds("yanks", promoted["rid"])
    succeeds("events", "--type", "version.promoted", "--output", "table")
    succeeds("live-copies", promoted["rid"])
    succeeds("unyank", yank["rid"], "--reason", "a false alarm")
    succeeds("rollback-batch", "--file", tmp_path / "rollbacks.json")
    succeeds("get-version", target, promoted["rid"])
    succeeds("get-branch", target)
    succeeds("list-branches", target)
    succeeds("list-versions", target)
    hook = json.loads(succeeds("create-subscription", target, "https://hooks.example.com/"))["subscription"]["rid"]
    succeeds("get-subscription", hook)
    succeeds("list-subscriptions", target)
    succeeds("update-subscription", hook, "--paused", "--type", "modelregistry.version.promoted.v1")
    succeeds("rotate-secret", hook, "--revoke-previous")
    succeeds("deliveries", hook, "--state", "dead")
    called.add("redeliver")
    absent = server.run("redeliver", hook, str(uuid.uuid4()), call=run)
    assert "DeliveryNotFound" in failure(absent, 69)
    succeeds("delete-subscription", hook)
    succeeds("grant", target, "user:jane", "viewer")
    succeeds("grants", target)
    succeeds("grant-changes", target)
    succeeds("revoke", target, "user:jane")
    succeeds("set-folder-policy", folder, "folder")
    succeeds("get-folder-policy", folder)
    succeeds("transfer-ownership", target, "user:admin")
    succeeds("disable-principal", "user:mallory", "--reason", "has left")
    succeeds("disabled-principals")
    succeeds("enable-principal", "user:mallory")
    assert called == {command.name for command in build_app().registered_commands} - OFFLINE
