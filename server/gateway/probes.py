"""What load balancers and container engines ask over HTTP: the health that the gRPC server tells."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from server.rpc.health import LIVENESS, NAMES, SERVING, Health

# The service of grpc.health.v1 that each path asks for.
PROBES = {"/healthz": LIVENESS, "/readyz": ""}


class Probe:
    """Answers 200 while a service is SERVING, and 503 otherwise, without credentials.

    It asks the health itself and not the gRPC server, whose threads for health callers can hold.
    """

    def __init__(self, health: Health, service: str):
        self._health = health
        self._service = service

    async def __call__(self, request: Request, request_id: str) -> Response:
        """Return the status, which no cache may keep."""
        status = self._health.status_of(self._service)
        headers = {"Cache-Control": "no-store"}
        text = json.dumps({"status": NAMES[status]})
        return Response(text, 200 if status == SERVING else 503, headers, media_type="application/json")
