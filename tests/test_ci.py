"""What is tried is what is shipped, and what is installed is what is pinned."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.environments import OUTSIDE_MAKE
from tests.packaging.versions import ROOT, SUPPORTED, image_version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def set_in_ci(name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    return value


def test_ci_runs_the_suite_on_the_python_of_the_image() -> None:
    assert set_in_ci("IMAGE_PYTHON") == image_version()


def test_ci_runs_a_part_of_the_suite_on_the_oldest_python() -> None:
    assert set_in_ci("OLDEST_PYTHON") == SUPPORTED[0]
    assert PROJECT["project"]["requires-python"] == f">={SUPPORTED[0]}"


def test_the_python_of_the_image_is_supported() -> None:
    assert image_version() in SUPPORTED


def locks_of(target: str, *arguments: str) -> set[str]:
    """What a target of the Makefile installs where nothing is installed yet."""
    command = ("make", "--no-print-directory", "--dry-run", target, *arguments)
    planned = subprocess.check_output(command, cwd=ROOT, text=True, env=OUTSIDE_MAKE)
    return set(re.findall(r"-r tools/locks/(\w+)\.txt", planned))


SERVICE = {"runtime", "build"}
CHECK = SERVICE | {"extras", "check"}
TEST = CHECK | {"test"}


@pytest.mark.parametrize(
    ("target", "installed"),
    [
        ("demo", SERVICE),
        ("check", CHECK | {"compilers"}),
        ("test", TEST),
        ("bench", TEST),
        ("test-interop", TEST | {"interop"}),
        ("test-ha", TEST | {"ha"}),
    ],
)
def test_a_target_installs_what_it_needs_and_no_more(target: str, installed: set[str], tmp_path: Path) -> None:
    assert locks_of(target, f"VENV={tmp_path / 'venv'}", f"OLDER={tmp_path / 'older'}") == installed
