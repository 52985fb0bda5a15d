"""What clients were answered, held against what the registry promises: a recorder of calls, a checker of histories.

    recorder = Recorder()                                # for all threads; `Recorder(path)` for a process of its own
    before = read_state(admin, source.model_rid, target.rid)
    with grpc.insecure_channel(one) as first, grpc.insecure_channel(other) as second:
        client = Client(recorder, "client-1", User(first, metadata), User(second, metadata), patience_seconds=60)
        client.promote(source.rid, target.rid)           # repeated with one request id until its end is known
        client.promote(source.rid, target.rid, expected_head=client.get_branch(target.rid).head.rid)
        client.list_versions(target.rid)
    history = recorder.operations()                      # or read_history(path, …) of several processes
    after = read_state(admin, source.model_rid, target.rid)
    assert_kept(history, after, before)                  # or check(…), which returns the violations

A client is one thread of calls, at one server until a call fails; its name is its own in the whole history. State is
read while nothing is written, of every model that is written or promoted from. All that is written in between goes
through a `Client`: it marks each version with the operation that made it, so nothing can come from nowhere.
"""

from __future__ import annotations

from tests.history.checker import assert_kept as assert_kept
from tests.history.checker import check as check
from tests.history.client import Client as Client
from tests.history.operations import Operation as Operation
from tests.history.operations import Outcome as Outcome
from tests.history.recorder import Recorder as Recorder
from tests.history.recorder import read_history as read_history
from tests.history.state import State as State
from tests.history.state import read_state as read_state
from tests.history.violations import Promise as Promise
from tests.history.violations import Violation as Violation
