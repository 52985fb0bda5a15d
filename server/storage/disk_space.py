"""How much room there is on a disk."""

from __future__ import annotations

import os
from pathlib import Path

# So many times the reserve of the database must be free before it is taken up again, and stay free when model files
# come in: these fill no disk that others need.
FREE_PER_RESERVE = 2


def free_bytes(folder: Path | str) -> int:
    """Return how many bytes the user of this process can write into the file system of a folder. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
