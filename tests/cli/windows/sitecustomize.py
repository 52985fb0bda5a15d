"""Makes an interpreter that lacks what Python lacks on Windows, and that forbids what Windows forbids with open files.

Python imports it by itself, where this folder is in PYTHONPATH.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - what the standard library itself needs of what is taken away below
import os
import pathlib  # noqa: F401
import shutil  # noqa: F401
import signal
import socket
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
from collections.abc import Callable
from typing import Any

MODULES = "fcntl grp posix pty pwd readline resource syslog termios tty uvloop"
ATTRIBUTES = {
    os: "fork forkpty register_at_fork getuid geteuid chown mkfifo setsid getpgid killpg uname"
    " sched_getaffinity sched_setaffinity WNOHANG O_CLOEXEC",
    signal: "SIGHUP SIGKILL SIGCHLD SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGQUIT pthread_sigmask",
    socket: "SO_REUSEPORT AF_UNIX",
}


def _refused_if_open(call: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*arguments: Any, **more: Any) -> Any:
        for path in arguments[:2]:
            if not isinstance(path, int) and os.path.realpath(path) in _open_files():
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        return call(*arguments, **more)

    return checked


def _open_files() -> set[str]:
    return {os.path.realpath(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd")}


for name in MODULES.split():
    sys.modules[name] = None  # type: ignore[assignment]
for module, names in ATTRIBUTES.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("link", "remove", "rename", "replace", "unlink"):
    setattr(os, name, _refused_if_open(getattr(os, name)))
