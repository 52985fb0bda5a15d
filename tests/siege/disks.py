"""A small disk of a test's own, in a mount namespace that it needs no rights for, on Linux."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import COMMAND, DEADLINE_SECONDS

_FILLER = "filler"
_CHUNK = bytes(2**16)
_UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-ec")


class Disk:
    """A disk: its `folder` is there for processes that `command` starts, and `here` is how the test looks into it."""

    def __init__(self, folder: Path, holder: int, scripts: Path):
        self.folder = folder
        self.here = Path(f"/proc/{holder}/root{folder}")
        self._holder = holder
        self._scripts = scripts

    @property
    def command(self) -> Path:
        """The command `modelregistry`, for which the disk is there."""
        script = self._scripts / "modelregistry"
        enter = f"nsenter --target {self._holder} --user --mount --preserve-credentials"
        # It enters at the root.
        begin = f"""sh -c 'cd "$0" && exec "$@"' "$PWD" {shlex.quote(str(COMMAND))} "$@"\n"""
        script.write_text(f"#!/bin/sh\nexec {enter} {begin}")
        script.chmod(0o700)
        return script

    def free(self) -> int:
        """How many bytes are free."""
        status = os.statvfs(self.here)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take up all but so many bytes."""
        with (self.here / _FILLER).open("ab", buffering=0) as filler:
            while (more := self.free() - leave) > 0:
                filler.write(_CHUNK[:more])

    def empty(self) -> None:
        """Give back what was taken up."""
        (self.here / _FILLER).unlink()


@contextmanager
def small_disk(tmp_path: Path, size: int) -> Iterator[Disk]:
    """A disk of so many bytes, as long as the block lasts."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(folder))}; echo mounted; exec cat"
    with subprocess.Popen(
        [*_UNSHARE, mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stderr
        said = holder.stdout.readline()
        assert said == "mounted\n", f"this test needs user and mount namespaces: {holder.stderr.read()}"
        try:
            yield Disk(folder, holder.pid, tmp_path)
        finally:
            holder.kill()
            holder.wait(DEADLINE_SECONDS)
