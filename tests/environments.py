"""Environments of their own, for what is to be installed into them, and what could be installed on other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UV = Path(sys.executable).with_name("uv")
DEADLINE_SECONDS = 120
# As if no make were calling.
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def build(project: Path, folder: Path) -> Path:
    """Make the wheel of a project, from its sdist, as for an index of packages; return the file."""
    _uv("build", "--python", sys.executable, "--out-dir", folder, project)
    [file] = folder.glob("*.whl")
    return file


def new_environment(folder: Path, *install: str | Path) -> Path:
    """Make an environment in which something is installed; return its interpreter."""
    python = folder / "bin/python"
    _uv("venv", "--python", sys.executable, folder)
    install_into(python, *install)
    return python


def install_into(python: Path, *install: str | Path) -> None:
    """Install something, from wheels alone, into the environment of an interpreter."""
    _uv("pip", "install", "--only-binary", ":all:", "--python", python, *install)


def resolved(project: Path, platform: str, python: str, *beside: str) -> dict[str, str]:
    """Return the versions of what a project wants, on such a machine, beside other requirements; from wheels alone."""
    machine = ("--python-platform", platform, "--python-version", python)
    where = ("--python", sys.executable, "--no-header", "--no-annotate", "--color", "never")
    told = _uv("pip", "compile", "--only-binary", ":all:", *machine, *where, project, "-", stdin="\n".join(beside))
    return dict(line.split("==", 1) for line in told.splitlines() if "==" in line)


def _uv(*arguments: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [UV, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
