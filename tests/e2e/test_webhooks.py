"""A server that is killed between a change and its delivery, and one without a key for secrets."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from server.auth.secrets_key import KEY_FILE
from tests.delivery.receiver import Answer, Received, Receiver
from tests.e2e.pages import DOCS
from tests.postgres import unused_port
from tests.processes import Server, environment, failure, run

CREATED = "modelregistry.version.created.v1"


def options(receiver: Receiver) -> tuple[str, ...]:
    return ("--webhook-allow", "127.0.0.0/8", "--webhook-allow-http", "--webhook-ports", f"443,{receiver.port}")


def test_what_was_committed_before_a_kill_is_delivered_with_the_same_id(tmp_path: Path) -> None:
    may_answer, folder = threading.Event(), tmp_path / "server"

    def wait(_: Received) -> Answer:
        may_answer.wait()
        return Answer()

    with Receiver(wait) as receiver:
        with Server(folder, *options(receiver)) as server, grpc.insecure_channel(server.address) as channel:
            admin = server.user(channel)
            model = admin.create_model("m")
            created = admin("CreateSubscription", resource_rid=model.rid, url=receiver.url, types=[CREATED])
            assert (server.data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600
            versions = [admin.create_version(model).rid for _ in range(3)]
            # It is sent, and nobody has heard of an answer.
            first = receiver.next()
            for worker in server.workers():
                worker.kill()
            server.kill()
        may_answer.set()
        with Server(folder, *options(receiver)):
            again = [receiver.next() for _ in versions]
        assert again[0].id == first.id
        assert [each.event(created.secret)["modelVersionRid"] for each in again] == versions
        assert receiver.is_idle


def test_the_receiver_of_the_documentation_verifies_what_it_is_sent(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (DOCS / "webhooks.md").read_text(), re.DOTALL)
    port = unused_port()
    allowed = ("--webhook-allow", "127.0.0.0/8", "--webhook-allow-http", "--webhook-ports", f"443,{port}")
    with Server(tmp_path / "server", *allowed) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        model = admin.create_model("m")
        url = f"http://127.0.0.1:{port}/hook"
        created = admin("CreateSubscription", resource_rid=model.rid, url=url, types=[CREATED])
        receiver = subprocess.Popen(
            [sys.executable, "-c", program.replace("8090", str(port))],
            env=environment(WEBHOOK_SECRET=created.secret),
            stdout=subprocess.PIPE,
            text=True,
        )
        with receiver:
            assert receiver.stdout is not None
            version = admin.create_version(model)
            event_id, *told = receiver.stdout.readline().split()
            assert told == [CREATED, version.rid]
            # What somebody else sends there is refused.
            forged = urllib.request.Request(url, b"{}", {"webhook-id": event_id, "webhook-timestamp": "1"})
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(forged)
            receiver.terminate()


def test_a_server_starts_with_a_good_key_file_only(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert "--secrets-key-file" in failure(run("serve", "--secrets-key-file", file, cwd=tmp_path))
    file.write_text("no key")
    assert "32 bytes in Base64" in failure(run("serve", "--secrets-key-file", file, cwd=tmp_path))
    assert "--webhook-allow" in failure(run("serve", "--webhook-allow", "everything", cwd=tmp_path))
    assert "--webhook-ports" in failure(run("serve", "--webhook-ports", "https", cwd=tmp_path))
