"""Calls over a real channel are recorded as what they were, and read back as they were recorded."""

from __future__ import annotations

from tests.history import Client, Outcome, Recorder, read_state
from tests.rpc.harness import User


def test_a_promotion_is_recorded_and_marks_its_version(admin: User) -> None:
    recorder = Recorder()
    client = Client(recorder, "client", admin)
    source = admin.create_version(admin.create_model("source"))
    target = admin.create_model("target")

    made = client.promote(source.rid, target.rid)

    (operation,) = recorder.operations()
    assert operation.outcome is Outcome.OK
    assert [version.rid for version in operation.versions] == [made.rid]
    state = read_state(admin, target.rid)
    assert [version.tag for version in state.versions] == [operation.tag]
    assert operation.versions[0].agrees_with(state.versions[0])
