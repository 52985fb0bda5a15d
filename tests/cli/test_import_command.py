from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import build_app
from server.importing import BATCH_LINES, ImportSummary, import_lines
from server.storage.repository import Repository
from tests.conftest import NewDatabase
from tests.imports import EXAMPLE, FRAUD, line, model_row, numbers, version_row


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["import", *map(str, arguments)])


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_the_command_tells_what_it_imported(data_dir: Path) -> None:
    first = run(EXAMPLE, "--data-dir", data_dir)
    assert (first.exit_code, first.stdout) == (0, "")
    assert first.stderr == "imported 4 models and 10 versions; 1 version has a source that this API cannot express\n"
    again = run(EXAMPLE, "--data-dir", data_dir)
    assert (again.exit_code, again.stderr) == (0, "imported 0 models and 0 versions; 14 lines were there already\n")


def test_the_command_names_the_file_and_line_of_a_bad_line(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.jsonl"
    file.write_bytes(b"".join(map(line, [model_row(), version_row(1), version_row(2, modelRid=FRAUD)])))
    result = run(file, "--data-dir", data_dir)

    assert (result.exit_code, result.stdout) == (65, "")
    error, rest = result.stderr.splitlines()
    assert error.startswith(f"error: {file}:3: ModelNotFound: ")
    assert FRAUD in error
    assert rest == "stopped there; before it, imported 1 model and 1 version"


def test_the_command_does_not_touch_a_database_of_an_older_release(new_database: NewDatabase) -> None:
    result = run(EXAMPLE, "--database-url", new_database("postgresql"))
    assert result.exit_code == 1
    assert "modelregistry migrate" in result.stderr


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "server", "import", *map(str, arguments)]


def test_the_command_shows_its_progress_at_a_terminal(data_dir: Path) -> None:
    terminal, stderr = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command(EXAMPLE, "--data-dir", data_dir), stderr=stderr, env=environment) as process:
        os.close(stderr)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
    os.close(terminal)

    assert process.returncode == 0
    assert b"importing" in shown
    assert shown.endswith(b"a source that this API cannot express\r\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how a terminal ends on Linux
        return b""


def test_an_import_that_was_killed_is_completed_by_running_it_again(repository: Repository, migrated_url: str) -> None:
    # Much larger than what waits in a pipe and in a buffer: when a write returns, most of it has been read.
    padding = {"condaRequirements": ["x" * 5000]}
    lines = [line(model_row()), *(line(version_row(key, key, **padding)) for key in range(1, 2 * BATCH_LINES))]
    arguments = command("-", "--database-url", migrated_url)
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(lines[: 3 * BATCH_LINES // 2]))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    survived = list(numbers(repository).values())
    assert BATCH_LINES - 1 <= len(survived) < 3 * BATCH_LINES // 2
    assert survived == list(range(1, len(survived) + 1))

    again = subprocess.run(arguments, input=b"".join(lines), stderr=subprocess.PIPE, check=True)
    assert b"lines were there already" in again.stderr
    assert list(numbers(repository).values()) == list(range(1, len(lines)))
    assert import_lines(repository, lines) == ImportSummary(unchanged=len(lines))
