"""Which file a path names: the same name can be given to another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FileIdentity(NamedTuple):
    """What tells a file of this machine from all others, whatever its name."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path | str) -> FileIdentity:
        """Return the identity of the file that a path names now. Raises OSError."""
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino)
