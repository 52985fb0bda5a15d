"""deploy/ha keeps its promises while machines fail: what was acknowledged stays, and service is back soon.

Whoever follows what is promoted is told all of it once, all along.

What happens, happens to one cluster under load, one after the other, as it does in service.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from tests.ha.cluster import Cluster
from tests.ha.load import Attempt, Gap, Load
from tests.ha.nodes import await_that
from tests.ha.replicas import Replica, serving
from tests.ha.watchers import Readers
from tests.history import assert_kept, read_state
from tests.rpc.harness import User

REPORT = Path(__file__).parents[2] / "build/ha.json"
MOST_SECONDS = 30
TARGETS = 3


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_and_service_is_back_within_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster() as cluster, serving(cluster) as (replicas, metadata), replicas[0].channel() as channel:
        admin = User(channel, metadata)
        source = admin.create_version(admin.create_model("source"))
        targets = [admin.create_model(f"target-{number}") for number in range(TARGETS)]
        model_rids = [source.model_rid, *(target.rid for target in targets)]
        before = read_state(admin, *model_rids)
        load, readers = Load(replicas, metadata, source, *targets), Readers(replicas, metadata)
        with readers.running():
            with load.running():
                load.await_successes(time.monotonic())
                gaps = [
                    lose_the_primary(cluster, replicas, load),
                    lose_a_server(replicas[0], load),
                    cut_off_the_primary(cluster, load),
                    freeze_a_standby(cluster, load),
                    hand_over(cluster, load),
                ]
            report(gaps, load, capsys)
            after = read_state(admin, *model_rids)
            # Another branch than those of the load, whose versions are marked with what has made them.
            readers.assert_told_everything(admin, admin.promote(source, targets[0], branch="last"))
    assert_kept(load.recorder.operations(), after, before)
    assert all(gap.longest_seconds < MOST_SECONDS for gap in gaps), gaps
    assert not [attempt for attempt in load.attempts if attempt.failure and not is_expected(attempt)]


def lose_the_primary(cluster: Cluster, replicas: list[Replica], load: Load) -> Gap:
    """The primary's machine is gone at once, with etcd's leader on it; later it boots again."""
    primary = cluster.primary()
    cluster.let_etcd_be_led_by(primary)
    began = time.monotonic()
    primary.kill()
    # The servers may notice it before all of the machine is gone.
    event = time.monotonic()
    load.await_successes(event)
    lost = [replica.await_health(serving=False, since=began) for replica in replicas]
    back = [replica.await_health(serving=True, since=since) for replica, since in zip(replicas, lost, strict=True)]
    primary.start()
    cluster.await_whole()
    assert cluster.primary() is not primary
    not_serving = (min(lost) - event, max(back) - event)
    return load.gap("the primary's machine is lost", event)._replace(not_serving_seconds=not_serving)


def lose_a_server(replica: Replica, load: Load) -> Gap:
    """A server is killed, and later started again."""
    event = time.monotonic()
    replica.kill()
    load.await_successes(event)
    replica.start()
    replica.await_health(serving=True, since=event)
    load.await_successes(time.monotonic())
    return load.gap("a server is killed", event)


def cut_off_the_primary(cluster: Cluster, load: Load) -> Gap:
    """The primary reaches neither etcd nor the other nodes; the servers still reach it, and must not be misled."""
    primary = cluster.primary()
    event = time.monotonic()
    primary.isolate()
    load.await_successes(event)
    assert not primary.takes_writes()
    assert any(node.takes_writes() for node in cluster.nodes if node is not primary)
    primary.rejoin()
    cluster.await_whole()
    assert cluster.primary() is not primary
    return load.gap("the primary is cut off", event)


def freeze_a_standby(cluster: Cluster, load: Load) -> Gap:
    """A standby hangs, and delays nothing: the other one is enough to acknowledge."""
    primary = cluster.primary()
    standby = next(node for node in cluster.nodes if node is not primary)
    event = time.monotonic()
    standby.freeze()
    load.await_successes(event)
    await_that(lambda: not primary.streams_to(standby), "a standby that hangs is not given up")
    standby.thaw()
    cluster.await_whole()
    return load.gap("a standby hangs", event)


def hand_over(cluster: Cluster, load: Load) -> Gap:
    """The primary is told to hand over, as before its machine is maintained."""
    primary = cluster.primary()
    successor = next(node for node in cluster.nodes if node is not primary)
    event = time.monotonic()
    primary.hand_over_to(successor)
    load.await_successes(event)
    cluster.await_whole()
    assert cluster.primary() is successor
    return load.gap("the primary hands over", event)


def is_expected(attempt: Attempt) -> bool:
    """Whether a client may see this while machines fail: the registry says when to try again, or nobody answered."""
    failure = attempt.failure
    assert failure
    if not failure.name:
        return failure.code is grpc.StatusCode.UNAVAILABLE
    named = {(grpc.StatusCode.UNAVAILABLE, "StorageUnavailable"), (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")}
    return (failure.code, failure.name) in named and failure.retry_seconds is not None


def report(gaps: list[Gap], load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """Say what was measured, to whoever runs this and to build/ha.json."""
    failures = Counter(
        f"{attempt.failure.code.name} {attempt.failure.name or 'of the library'}"
        for attempt in load.attempts
        if attempt.failure
    )
    succeeded = sum(not attempt.failure for attempt in load.attempts)
    slowest = max(attempt.ended - attempt.began for attempt in load.attempts)
    found = {"gaps": [gap._asdict() for gap in gaps], "calls": succeeded, "failures": failures, "slowest": slowest}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2))
    said = [f"{succeeded} calls succeeded, the slowest attempt took {slowest:.1f} s; failed: {dict(failures)}"]
    said += [
        f"{gap.event}: a promotion succeeded after {gap.first_success_seconds:.1f} s, none did for"
        f" {gap.longest_seconds:.1f} s"
        + ("; NOT_SERVING from {:.1f} s to {:.1f} s".format(*seconds) if (seconds := gap.not_serving_seconds) else "")
        for gap in gaps
    ]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(said) + "\n")
