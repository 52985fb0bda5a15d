from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import build_app
from server.core.branches import DEFAULT_BRANCH
from server.core.errors import BranchNotFound
from server.rules.importing import BATCH_LINES, import_lines
from server.storage.contract import Reader, Repository, Transaction
from server.storage.sql.tables import metadata
from tests.builders import ADMIN, branch_end, lock, version
from tests.conftest import NewDatabase, OpenRepository
from tests.imports import CHURN, EXAMPLE, FRAUD, everything, export, line, model_row, promoted, version_rid, version_row
from tests.processes import DEADLINE_SECONDS
from tests.storage.inspection import row_counts, rows


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


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("place", [1, BATCH_LINES + 2, BATCH_LINES + 22], ids=["first", "middle", "last"])
def test_a_file_with_a_bad_line_leaves_nothing_and_is_imported_once_it_is_mended(
    data_dir: Path, tmp_path: Path, place: int, piped: bool
) -> None:
    lines = [line(model_row()), *(line(version_row(key)) for key in range(BATCH_LINES + 20))]
    bad = [*lines[: place - 1], line(version_row("bad", modelRid=FRAUD)), *lines[place - 1 :]]
    file = tmp_path / "models.jsonl"

    def imported(rows: list[bytes]) -> tuple[int, str]:
        file.write_bytes(b"".join(rows))
        if not piped:
            result = run(file, "--data-dir", data_dir)
            return result.exit_code, result.stderr
        process = subprocess.run(
            command("-", "--data-dir", data_dir), input=file.read_bytes(), stderr=subprocess.PIPE, check=False
        )
        return process.returncode, process.stderr.decode()

    code, told = imported(bad)
    assert code == 65
    error, rest = told.splitlines()
    assert error.startswith(f"error: {'standard input' if piped else file}:{place}: ModelNotFound: ")
    assert FRAUD in error
    assert rest == "nothing was imported: mend the line, and run the import again"

    assert imported(lines) == (0, f"imported 1 model and {BATCH_LINES + 20} versions\n")


def test_the_help_says_what_becomes_of_a_file_with_a_bad_line() -> None:
    shown = " ".join(run("--help").stdout.replace("│", " ").split())
    assert "a file with a bad line changes nothing" in shown


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
    assert b"checking" in shown
    assert b"importing" in shown
    assert shown.endswith(b"a source that this API cannot express\r\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how a terminal ends on Linux
        return b""


def test_an_import_that_is_killed_while_it_reads_leaves_nothing(repository: Repository, migrated_url: str) -> None:
    # Much larger than what waits in a pipe and in a buffer: when a write returns, most of it has been read.
    padding = {"condaRequirements": ["x" * 5000]}
    lines = [line(model_row()), *(line(version_row(key, key, **padding)) for key in range(1, 2 * BATCH_LINES))]
    before = everything(migrated_url)
    arguments = command("-", "--database-url", migrated_url)
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(lines[: 3 * BATCH_LINES // 2]))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert everything(migrated_url) == before


def test_an_import_that_is_killed_while_it_stores_is_completed_by_running_it_again(
    repository: Repository,
    migrated_url: str,
    backend: str,
    new_database: NewDatabase,
    open_repository: OpenRepository,
    tmp_path: Path,
) -> None:
    begun = [line(model_row()), line(model_row(FRAUD)), line(version_row("old", modelRid=FRAUD))]
    pairs = [
        (
            version_row(f"origin{key}", key, modelRid=FRAUD),
            version_row(key, key, source=promoted(version_rid(f"origin{key}"))),
        )
        for key in range(4 * BATCH_LINES)
    ]
    lines = [*begun, *(line(row) for pair in pairs for row in pair)]
    file = tmp_path / "models.jsonl"
    file.write_bytes(b"".join(lines))
    import_lines(repository, begun)

    # Nothing more is stored while another writer holds a branch that every part extends; of SQLite it holds all.
    held, killed = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        lock(tx, FRAUD, DEFAULT_BRANCH)
        branch_end(tx, FRAUD, DEFAULT_BRANCH)
        held.set()
        assert killed.wait(DEADLINE_SECONDS)
        raise InterruptedError

    other_writer = open_repository(migrated_url)
    arguments = command(file, "--database-url", migrated_url)
    with ThreadPoolExecutor(1) as threads, subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        while not repository.read(length):
            assert process.poll() is None, process.communicate()
        holding = threads.submit(other_writer.write, hold)
        try:
            assert held.wait(DEADLINE_SECONDS)
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_SECONDS)
        finally:
            killed.set()
        assert isinstance(holding.exception(DEADLINE_SECONDS), InterruptedError)
    assert process.returncode == -signal.SIGKILL
    survived = repository.read(length)
    assert 0 < survived < 4 * BATCH_LINES

    again = subprocess.run(arguments, stderr=subprocess.PIPE, check=True)
    assert b"lines were there already" in again.stderr
    other = open_repository(uninterrupted := new_database(backend, migrated=True))
    import_lines(other, lines)
    assert outcome(repository, migrated_url) == outcome(other, uninterrupted)


@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_line_that_another_writer_makes_bad_meanwhile_is_mended_and_the_rest_is_imported(
    repository: Repository, migrated_url: str, open_repository: OpenRepository, tmp_path: Path
) -> None:
    """SQLite has no room for another writer between what is read and what is written of one part."""
    import_lines(repository, [line(model_row()), line(model_row(FRAUD)), line(version_row("old", modelRid=FRAUD))])
    first_part = [version_row(key, key) for key in range(BATCH_LINES)]
    late = version_row("late", 60, modelRid=FRAUD)
    file = tmp_path / "models.jsonl"
    file.write_bytes(b"".join(map(line, [*first_part, late, version_row("last", 200)])))
    arguments = command(file, "--database-url", migrated_url)

    def while_another_appends(tx: Transaction) -> subprocess.Popen[bytes]:
        lock(tx, FRAUD, DEFAULT_BRANCH)
        end = branch_end(tx, FRAUD, DEFAULT_BRANCH)
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        # By the same connection, which the database would close if it were idle.
        while not length(tx):
            assert process.poll() is None, process.communicate()
        new = version(FRAUD)
        new.created_time.FromJsonString("2020-01-02T00:01:01Z")
        tx.append_version(new, tx.put_content(new), branch=end)
        return process

    with open_repository(migrated_url).write(while_another_appends) as process:
        told = process.communicate(timeout=DEADLINE_SECONDS)[1].decode().splitlines()
    assert process.returncode == 65, told
    assert told[0].startswith(f"error: {file}:{BATCH_LINES + 1}: InvalidArgument: createdTime: must not be before ")
    kept = f"imported 0 models and {BATCH_LINES} versions"
    assert told[1:] == [
        f"others changed the registry meanwhile; before that line, {kept}, which stays",
        "mend the line, and run the import again",
    ]

    mended = late | {"createdTime": "2020-01-02T00:01:01.000Z"}
    summary = import_lines(repository, map(line, [*first_part, mended, version_row("last", 200)]))
    assert (summary.versions, summary.unchanged) == (2, BATCH_LINES)


def length(reader: Reader) -> int:
    """How many versions are on the branch of CHURN."""
    try:
        return reader.get_branch(CHURN, DEFAULT_BRANCH, ADMIN).version_count
    except BranchNotFound:
        return 0


def outcome(repository: Repository, url: str) -> object:
    """All that an import stores, but for keys and for the RIDs that promotions get."""
    promotions = rows(url, metadata.tables["promotions"])
    made = sorted((row.source_model_rid, row.source_rid, row.created_time, row.created_by) for row in promotions)
    return export(repository), made, row_counts(url)
