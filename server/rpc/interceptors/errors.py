"""Whatever a handler raises becomes a status; what nobody foresaw becomes Internal, and is told to the log alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import grpc

from server.errors import Internal, RegistryError
from server.rpc.interceptors.telemetry import CallRecord
from server.rpc.status import abort

log = logging.getLogger(__name__)


@contextlib.contextmanager
def answered(context: grpc.ServicerContext, record: CallRecord) -> Iterator[None]:
    """Answer an exception with its status."""
    try:
        yield
        return
    except grpc.RpcError:
        record.cancelled = True
        raise  # From the requests of a stream that was cancelled: there is nobody to answer, and grpcio knows it.
    except RegistryError as raised:
        error = raised
        if error.__cause__ is not None:
            _explain(error, error.__cause__)
    except Exception as defect:
        error = Internal()
        _explain(error, defect)
    record.error = error
    record.cancelled = not context.is_active()
    abort(context, error, record.request_id)


def _explain(error: RegistryError, cause: BaseException) -> None:
    fields = {"error_instance_id": error.instance_id}
    log.error("%s was caused by", error.name, exc_info=cause, extra={"fields": fields})
