"""On the systems where it is to be installed, there is a wheel of everything that it wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import resolved

ROOT = Path(__file__).parents[2]
SERVER, CLIENT = ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml"
WINDOWS = "x86_64-pc-windows-msvc"
PLATFORMS = [WINDOWS, "aarch64-apple-darwin", "x86_64-apple-darwin", "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("project", "pythons"), [(SERVER, ("3.11", "3.14")), (CLIENT, ("3.10", "3.14"))])
def test_nothing_has_to_be_compiled(project: Path, pythons: tuple[str, ...], platform: str) -> None:
    for python in pythons:
        found = resolved(project, platform, python)
        assert {"grpcio", "protobuf"} <= set(found)
        assert ("uvloop" in found) == (project == SERVER and platform != WINDOWS)
