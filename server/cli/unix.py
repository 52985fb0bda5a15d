"""What is not for Windows, where the command line is a client."""

from __future__ import annotations

import os

from server.cli.output import fail


def require_unix(command: str) -> None:
    """Fail on Windows. For commands that serve or open a database: workers are forked, and take turns at Unix locks."""
    if not hasattr(os, "fork"):
        fail(
            f"modelregistry {command} does not run on Windows, since servers and their databases need Linux or macOS:"
            " run it there, in WSL or in a container, and call that server from here with --target"
        )
