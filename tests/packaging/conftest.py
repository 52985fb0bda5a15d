"""The client's wheel; and which versions of Python are not tried, since this machine lacks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import build
from tests.packaging.versions import SUPPORTED, interpreter

PACKAGE = Path(__file__).parents[2] / "clients/python"


@pytest.fixture(scope="session")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the Python client."""
    return build(PACKAGE, tmp_path_factory.mktemp("dist"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for version in SUPPORTED:
        if interpreter(version) is None:
            terminalreporter.write_line(
                f"Python {version} is not on this machine, so nothing was tried on it", yellow=True
            )
