"""Observers: they see something begin and end, and must not make it fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

Begin = ParamSpec("Begin")
End = ParamSpec("End")

log = logging.getLogger(__name__)


def unfailing(observer: Callable[Begin, Callable[End, object] | None]) -> Callable[Begin, Callable[End, None] | None]:
    """Return an observer that raises nothing.

    An observer is called when something begins, and returns what is called at its end, or None if the end is of no
    interest.
    """

    def begin(*what: Begin.args, **more: Begin.kwargs) -> Callable[End, None] | None:
        try:
            end = observer(*what, **more)
        except Exception:
            warn()
            return None
        if end is None:
            return None
        wanted = end

        def told(*how: End.args, **more: End.kwargs) -> None:
            try:
                wanted(*how, **more)
            except Exception:
                warn()

        return told

    return begin


def warn() -> None:
    """Log the failure of an observer, which is being handled."""
    log.warning("an observer failed, and what it observed goes on", exc_info=True)
