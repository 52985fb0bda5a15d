"""Names the versions that are not tried, since this machine lacks them."""

from __future__ import annotations

import pytest

from tests.pythons.versions import SUPPORTED, interpreter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for version in SUPPORTED:
        if interpreter(version) is None:
            terminalreporter.write_line(
                f"Python {version} is not on this machine, so nothing was tried on it", yellow=True
            )
