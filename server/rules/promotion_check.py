"""What PromoteVersion would do: the same checks in the same order, but all of them, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_service_pb2 import CheckPromotionResponse, PromotionObstacle
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.errors import (
    BranchHeadChanged,
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    RegistryError,
    RequestIdAlreadyUsed,
    UnsupportedModelSource,
)
from server.rules.idempotency import earlier_results
from server.rules.promotion import find_source, require_head, require_promoter
from server.rules.verdicts import findings_on, incompatible
from server.storage.contract import Reader

# What a check can come upon; anything else is a failure of the call itself.
_OBSTACLES = (
    RequestIdAlreadyUsed,
    PromoteVersionModelPermissionDenied,
    ModelVersionNotFound,
    UnsupportedModelSource,
    BranchHeadChanged,
)


def check_promotion(reader: Reader, caller: Caller, request: PromoteVersionRequest) -> CheckPromotionResponse:
    """Return everything that would decide the promotion, as far as the caller may know it."""
    answer, obstacles = CheckPromotionResponse(), _Obstacles()
    try:
        target = reader.get_model(request.model_rid, caller)
    except ModelNotFound as obstacle:
        # Whoever may not see the model learns nothing else of it.
        obstacles.found.append(obstacle)
        return obstacles.reported(answer)
    with obstacles.noted():
        made = earlier_results(reader, caller, request)
        if made is not None:
            return CheckPromotionResponse(would_succeed=True, repeated_version_rid=made[0])
    with obstacles.noted():
        require_promoter(target)
    source = None
    with obstacles.noted():
        source = find_source(reader, caller, request)
    end = reader.get_branch_end(request.model_rid, branch_of(request))
    answer.compatibility = end.compatibility
    answer.version_number = end.next_number
    if end.head is not None:
        answer.head_version_rid = end.head.rid
    with obstacles.noted():
        require_head(end, request)
    if source is not None:
        compared = findings_on(reader, end, source)
        answer.findings.extend(compared.findings)
        answer.error_count, answer.warning_count = compared.error_count, compared.warning_count
        if compared.error_count and end.compatibility == COMPATIBILITY_MODE_ENFORCE:
            obstacles.found.append(incompatible(compared, request.model_rid, branch_of(request)))
    return obstacles.reported(answer)


class _Obstacles:
    """What stands in the way, in the order in which it was found."""

    def __init__(self) -> None:
        self.found: list[RegistryError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the obstacle that is raised, if one is, and go on behind the block."""
        try:
            yield
        except _OBSTACLES as obstacle:
            self.found.append(obstacle)

    def reported(self, answer: CheckPromotionResponse) -> CheckPromotionResponse:
        """Return the answer with the obstacles, and what they come to."""
        answer.obstacles.extend(
            PromotionObstacle(error_name=error.name, description=error.description, parameters=error.parameters)
            for error in self.found
        )
        answer.would_succeed = not self.found
        return answer
