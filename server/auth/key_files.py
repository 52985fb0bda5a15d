"""Files with keys, which a server makes for itself."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def create(path: Path, content: bytes) -> bool:
    """Write a new file that its owner alone may read; its folder must be there.

    Return whether it is the one that stays: of two at the same time, the first does. Raises OSError.
    """
    # A link appears whole or not at all, and never replaces a file. Temporary files have the mode 0600.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:  # Now that it is closed: on Windows an open file can be neither linked nor removed.
            os.link(file.name, path)
        except FileExistsError:
            return False
    return True


def warn_if_shared(path: Path) -> None:
    """Log that others can use a file, if they can. Raises OSError if it is not there."""
    # On Windows, which has no user ids, modes say nothing about others.
    if hasattr(os, "getuid") and stat.S_IMODE(path.stat().st_mode) & 0o077:
        # Not refused, because mounted secrets often are readable by a group.
        log.warning("%s can be used by other users of this machine: chmod 600 it.", path)
