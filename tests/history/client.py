"""A client whose calls are recorded, and what its errors say of whether a call was carried out."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import grpc

from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import Branch, ModelVersion
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsResponse
from tests.builders import model_api
from tests.history.operations import Failure, Outcome, Version, Wanted
from tests.history.recorder import Recorder
from tests.history.state import MOST, TAG, version_of
from tests.rpc.harness import User, failure_of, request_of

# A call that is repeated waits this long after the first attempt, then twice as long each time, up to the most.
FIRST_PAUSE_SECONDS = 0.02
MOST_PAUSE_SECONDS = 1.0


class Client:
    """One thread of calls, at the first of some replicas until a call fails there, then at the next.

    A call that was not carried out and says when to try again is repeated, and so is one whose end is unknown, if that
    does no harm: it reads, or it has a request id. Each attempt may take `attempt_seconds`; after `patience_seconds`
    the last error is raised, with no patience the first one.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        *replicas: User,
        attempt_seconds: float = 30,
        patience_seconds: float = 0,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._replicas = list(replicas)
        self._attempt_seconds = attempt_seconds
        self._patience_seconds = patience_seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Lose patience, whatever is being repeated."""
        self._stopped.set()

    def promote(
        self, source_rid: str, model_rid: str, *, expected_head: str | None = None, **fields: Any
    ) -> ModelVersion:
        """Promote, with a fresh request id unless one is given; `request_id=None` sends none. Raises grpc.RpcError."""
        request = {"request_id": str(uuid.uuid4()), "expected_head_version_rid": expected_head, "preview": True}
        request |= {"model_rid": model_rid, "source_model_version_rid": source_rid, **fields}
        return self.send("PromoteVersion", request_of("PromoteVersion", **request))

    def promote_all(self, promotions: Sequence[dict[str, Any]], **fields: Any) -> BatchPromoteVersionsResponse:
        """Promote a batch, likewise. Raises grpc.RpcError."""
        request = {"request_id": str(uuid.uuid4()), "promotions": promotions, **fields}
        return self.send("BatchPromoteVersions", request_of("BatchPromoteVersions", **request))

    def roll_back(self, model_rid: str, to_number: int, **fields: Any) -> ModelVersion:
        """Roll a branch back, likewise. Raises grpc.RpcError."""
        request = {"request_id": str(uuid.uuid4()), "model_rid": model_rid, "to_version_number": to_number, **fields}
        return self.send("RollbackBranch", request_of("RollbackBranch", **request))

    def create_version(self, model_rid: str, api: ModelApi | None = None, **fields: Any) -> ModelVersion:
        """Create a version, likewise. Raises grpc.RpcError."""
        request = {"request_id": str(uuid.uuid4()), "model_rid": model_rid, "model_api": api or model_api(), **fields}
        return self.send("CreateModelVersion", request_of("CreateModelVersion", **request))

    def get_branch(self, model_rid: str, branch: str = "master") -> Branch:
        """Ask for the head of a branch. Raises grpc.RpcError."""
        return self.send("GetBranch", request_of("GetBranch", model_rid=model_rid, branch=branch))

    def get_version(self, model_rid: str, version_rid: str) -> ModelVersion:
        """Ask for a version. Raises grpc.RpcError."""
        request = request_of("GetModelVersion", model_rid=model_rid, model_version_rid=version_rid)
        return self.send("GetModelVersion", request)

    def list_versions(self, model_rid: str, branch: str = "master", page_size: int = MOST) -> list[ModelVersion]:
        """Ask for all versions of a branch, page by page, as one operation. Raises grpc.RpcError."""
        request = request_of("ListModelVersions", model_rid=model_rid, branch=branch, page_size=page_size)
        return list(self.send("ListModelVersions", request).model_versions)

    def send(self, rpc: str, request: Any) -> Any:
        """Send a request of any of these RPCs, and record it. Raises grpc.RpcError.

        A write is marked with a tag, that is the reason of a promotion: the one that is given, which no other write may
        have, or else the request id.
        """
        request, asked = _marked(rpc, request)
        operation = self._recorder.begin(self._name, rpc, **asked)
        failures: list[Failure] = []
        ended: dict[str, Any] = {"outcome": Outcome.UNKNOWN}
        try:
            answer = self._until_known(rpc, request, failures, ended)
            ended = {"outcome": Outcome.OK, **_answered(rpc, answer)}
            return answer
        finally:
            self._recorder.end(operation, failures=tuple(failures), **ended)

    def _until_known(self, rpc: str, request: Any, failures: list[Failure], ended: dict[str, Any]) -> Any:
        """Repeat a call while it makes sense; note each failure, and in the end what they come to."""
        until = time.monotonic() + self._patience_seconds
        pause = FIRST_PAUSE_SECONDS
        may_be_repeated, outcomes = _may_be_repeated(request), set()
        while True:
            try:
                return self._attempt(rpc, request)
            except grpc.RpcError as error:
                failures.append(failure := failure_from(error))
                outcomes.add(outcome := outcome_of(failure, may_be_repeated=may_be_repeated))
                again = may_be_repeated if outcome is Outcome.UNKNOWN else failure.retry_seconds is not None
                if not again or time.monotonic() + pause > until or self._stopped.wait(pause):
                    # What one attempt left open, no later refusal settles: it may still be on its way.
                    ended["outcome"] = Outcome.UNKNOWN if Outcome.UNKNOWN in outcomes else Outcome.FAIL
                    raise
                pause = min(2 * pause, MOST_PAUSE_SECONDS)
                self._replicas.append(self._replicas.pop(0))

    def _attempt(self, rpc: str, request: Any) -> Any:
        user = self._replicas[0]
        answer = page = user.send(rpc, request.SerializeToString(), self._attempt_seconds)
        while getattr(page, "next_page_token", ""):
            following = type(request)()
            following.CopyFrom(request)
            following.page_token = page.next_page_token
            page = user.send(rpc, following.SerializeToString(), self._attempt_seconds)
            answer.MergeFrom(page)
        return answer


def failure_from(error: grpc.RpcError) -> Failure:
    """What an error says."""
    failure = failure_of(error)
    return Failure(
        failure.code.name,
        failure.name,
        failure.retry_seconds,
        failure.parameters.get("actualHeadVersionRid") if failure.name == "BranchHeadChanged" else None,
    )


def outcome_of(failure: Failure, *, may_be_repeated: bool) -> Outcome:
    """Whether a call that failed so was certainly not carried out.

    What grpcio says by itself settles nothing, whether the call expired, was cancelled or lost its connection; but for
    an unknown method. The registry's own errors do, apart from a defect of its own, and apart from a storage that went
    away. That leaves it open if it does not say when to try again. It always does for what may be repeated, because
    there the server itself tries again after a COMMIT of unknown end.
    """
    if not failure.name:
        return Outcome.FAIL if failure.code == grpc.StatusCode.UNIMPLEMENTED.name else Outcome.UNKNOWN
    if failure.name == "Internal":
        return Outcome.UNKNOWN
    if failure.name == "StorageUnavailable" and (may_be_repeated or failure.retry_seconds is None):
        return Outcome.UNKNOWN
    return Outcome.FAIL


def _may_be_repeated(request: Any) -> bool:
    """Whether sending the request again does no harm: it reads, or it has an id."""
    return "request_id" not in request.DESCRIPTOR.fields_by_name or bool(request.request_id)


def _marked(rpc: str, request: Any) -> tuple[Any, dict[str, Any]]:
    """A copy of a request, marked with its tag if it writes, and what it asks for, as an operation has it."""
    if rpc in {"GetBranch", "ListModelVersions"}:
        return request, {"model_rid": request.model_rid, "branch": request.branch or "master"}
    if rpc == "GetModelVersion":
        return request, {"model_rid": request.model_rid, "version_rid": request.model_version_rid}
    marked = type(request)()
    marked.CopyFrom(request)
    tag = request.request_id or str(uuid.uuid4())
    if rpc == "CreateModelVersion":
        marked.linked_experiment = request.linked_experiment or f"{TAG}{tag}"
        wanted = (Wanted(request.model_rid, request.branch or "master"),)
        return marked, {"tag": marked.linked_experiment.removeprefix(TAG), "wanted": wanted}
    entries = marked.promotions if rpc == "BatchPromoteVersions" else [marked]
    for entry in entries:
        entry.reason = entry.reason or tag
    return marked, {"tag": entries[0].reason, "wanted": tuple(map(_wanted, entries))}


def _wanted(entry: Any) -> Wanted:
    is_rollback = hasattr(entry, "to_version_number")
    return Wanted(
        entry.model_rid,
        entry.branch or "master",
        source_rid=None if is_rollback else entry.source_model_version_rid,
        source_number=entry.to_version_number if is_rollback else None,
        expected_head=entry.expected_head_version_rid if entry.HasField("expected_head_version_rid") else None,
    )


def _answered(rpc: str, answer: Any) -> dict[str, Any]:
    """What an answer tells, as an operation has it."""
    if isinstance(answer, ModelVersion):
        return {"versions": (version_of(answer),)}
    if isinstance(answer, Branch):
        return {"versions": (version_of(answer.head),), "count": answer.version_count}
    if isinstance(answer, BatchPromoteVersionsResponse):
        made = ((each.model_version_rid, each.model_rid, each.branch, each.version_number) for each in answer.promoted)
        return {"versions": tuple(Version(*each) for each in made)}
    assert rpc == "ListModelVersions", rpc
    return {"versions": tuple(map(version_of, answer.model_versions))}
