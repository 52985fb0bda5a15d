"""Lets somebody see the statements that an engine runs: their text, in which parameters are placeholders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event

from server.core.logs import get_logger
from server.storage.contract import StatementWatch

_END = "modelregistry_statement_end"

log = get_logger(__name__)


def unfailing(watch: StatementWatch) -> StatementWatch:
    """Return a watch that raises nothing: a statement that has worked must not fail for what looks on."""

    def begin(statement: str) -> Callable[[BaseException | None], None] | None:
        try:
            end = watch(statement)
        except Exception:
            _warn()
            return None

        def told(error: BaseException | None) -> None:
            try:
                if end is not None:
                    end(error)
            except Exception:
                _warn()

        return told

    return begin


def watch_statements(engine: Engine, watch: StatementWatch) -> None:
    """Have the statements of an engine, and of those made from it, watched in the threads that run them."""

    # A connection runs one statement at a time.
    @event.listens_for(engine, "before_cursor_execute")
    def begin(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        connection.info[_END] = watch(statement)

    @event.listens_for(engine, "after_cursor_execute")
    def end(connection: Connection, *_: Any) -> None:
        if (told := connection.info.pop(_END, None)) is not None:
            told(None)

    @event.listens_for(engine, "handle_error")
    def fail(context: ExceptionContext) -> None:
        # The record of a connection that is lost already is gone, too.
        if context.connection is None or context.connection.invalidated:
            return
        if (told := context.connection.info.pop(_END, None)) is not None:
            told(context.original_exception)


@contextlib.contextmanager
def watched(statement: str, watch: StatementWatch | None) -> Iterator[None]:
    """Have the block watched as a statement that SQLAlchemy does not run as one."""
    end = None if watch is None else watch(statement)
    try:
        yield
    except BaseException as error:
        if end is not None:
            end(error)
        raise
    if end is not None:
        end(None)


def _warn() -> None:
    log.warning("what watches statements failed, and the statement goes on", exc_info=True)
