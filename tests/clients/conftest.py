"""The Python client as its users get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import build

PACKAGE = Path(__file__).parents[2] / "clients/python"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    return build(PACKAGE, tmp_path_factory.mktemp("dist"))
