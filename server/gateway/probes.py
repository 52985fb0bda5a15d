"""What load balancers and container engines ask over HTTP: the health that the gRPC server tells."""

from __future__ import annotations

import json
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import Response

from server.logs import get_logger
from server.rpc.health import LIVENESS

log = get_logger("modelregistry.http")

# The service of grpc.health.v1 that each path asks for.
PROBES = {"/healthz": LIVENESS, "/readyz": ""}
DEADLINE_SECONDS = 4.0

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Probe:
    """Answers 200 while a service is SERVING, and 503 otherwise, without credentials."""

    def __init__(self, channel: grpc.aio.Channel, service: str):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        self._check = stub.Check
        self._request = health_pb2.HealthCheckRequest(service=service)

    async def __call__(self, request: Request, request_id: str) -> Response:
        """Return the status, which no cache may keep."""
        try:
            metadata = (("x-request-id", request_id),)
            answer = await self._check(self._request, metadata=metadata, timeout=DEADLINE_SECONDS)
            status = answer.status
        except grpc.aio.AioRpcError as error:
            log.warning("the gRPC server does not tell its health: %s %s", error.code().name, error.details())
            status = _NOT_SERVING
        text = json.dumps({"status": health_pb2.HealthCheckResponse.ServingStatus.Name(status)})
        headers = {"Cache-Control": "no-store"}
        return Response(text, 200 if status == _SERVING else 503, headers, media_type="application/json")
