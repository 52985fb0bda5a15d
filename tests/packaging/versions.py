"""The versions of Python that the project is for, and where they are on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def image_version() -> str:
    """The version in the Dockerfile, such as `3.13`."""
    [version] = {*re.findall(r"^FROM python:(3\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)}
    return version


def interpreter(version: str) -> Path | None:
    """An interpreter of this version, on the PATH or of pyenv; None if there is none."""
    return next((found for found in _candidates(version) if _is(found, version)), None)


def _candidates(version: str) -> Iterator[Path]:
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    if pyenv := shutil.which("pyenv"):
        root = Path(subprocess.check_output([pyenv, "root"], text=True).strip())
        yield from sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)


def _is(python: Path, version: str) -> bool:
    # What pyenv puts on the PATH is there for versions, too, that are not switched on, and then fails.
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return result.returncode == 0 and result.stdout.strip() == version
