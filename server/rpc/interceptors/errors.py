"""Whatever a handler raises becomes a status; what nobody foresaw becomes Internal, and is told to the log alone."""

from __future__ import annotations

import grpc

from server.deadline import CallOver
from server.errors import Internal, RegistryError
from server.logs import get_logger
from server.rpc.interceptors.telemetry import CallRecord
from server.rpc.status import abort

log = get_logger(__name__)


def answer(raised: Exception, context: grpc.ServicerContext, record: CallRecord) -> None:
    """Answer an exception with its status. Raises what ends the call."""
    if isinstance(raised, grpc.RpcError):
        # From the requests of a stream that was cancelled: there is nobody to answer, and grpcio knows it.
        record.cancelled = True
        raise raised
    if isinstance(raised, CallOver):
        # Whoever called knows already, unless we noticed first that the time is up.
        record.cancelled = True
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
    if isinstance(raised, RegistryError):
        error = raised
        if error.__cause__ is not None:
            _explain(error, error.__cause__, record)
    else:
        error = Internal()
        _explain(error, raised, record)
    record.error = error
    record.cancelled = not context.is_active()
    abort(context, error, record.request_id)


def _explain(error: RegistryError, cause: BaseException, record: CallRecord) -> None:
    fields = {"error_instance_id": error.instance_id, "trace_id": record.trace_id}
    log.error("%s was caused by", error.name, exc_info=cause, extra={"fields": fields})
