"""Commands that open the database of a registry, without a server."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, BinaryIO, NoReturn

import typer

from server.cli.connection import EXIT_CODE_BASE
from server.cli.options import (
    DATA_DIR,
    DatabaseUrl,
    DatabaseUrlFile,
    DataDir,
    EventRetention,
    FilesUrl,
    MaxMessageBytes,
    Output,
    database_url_of,
    option,
)
from server.cli.output import escaped, fail, require_unix, say
from server.core.config import DEFAULT_MAX_MESSAGE_BYTES, EVENT_RETENTION_DAYS, ConfigError
from server.core.errors import RegistryError
from server.rules.importing import ImportLineError, ImportSummary, Progress, import_lines, read_lines

# EX_DATAERR of sysexits.h
BAD_LINE = 65
# As for an option that cannot be: a fault is something else.
NO_REGISTRY = 2
# A line of `fsck`, for people.
FAULT = "{check} {subject}: {problem}. What to do: {remedy}"

Lines = Annotated[
    typer.FileBinaryRead,
    typer.Argument(metavar="FILE.jsonl", help="One JSON object a line, a model or a version; - reads a pipe."),
]


def migrate(
    database_url: DatabaseUrl = None, database_url_file: DatabaseUrlFile = None, data_dir: DataDir = DATA_DIR
) -> None:
    """Bring a database to the schema of this release. It can be run again.

    [bold]modelregistry migrate --database-url postgresql://registry@db/registry[/bold]
    """
    require_unix("migrate")
    from server.process import app
    from server.process.resources import keep_files_private

    keep_files_private()
    try:
        app.migrate_database(database_url_of(database_url, database_url_file), data_dir)
    except ConfigError as error:
        fail(str(error))
    say("the schema is up to date")


def import_(
    file: Lines,
    database_url: DatabaseUrl = None,
    database_url_file: DatabaseUrlFile = None,
    data_dir: DataDir = DATA_DIR,
    max_message_bytes: MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
) -> None:
    """Import models and versions into a database, without a server.

    Versions of a branch come oldest first. All lines are checked before the first is stored: a file with a bad line
    changes nothing, and that line is named. After any interruption run it again: what is stored already stays as it is.
    If others store meanwhile what makes a line bad, the lines before it are kept, and it is mended and run again.

    Checking takes some 400 bytes of memory for each line that is new, and a copy of them in the temporary folder.

    [bold]modelregistry import examples/models.jsonl[/bold]

    [bold]zcat export.jsonl.gz | modelregistry import - --database-url postgresql://registry@db/registry[/bold]
    """
    require_unix("import")
    from server.process import app
    from server.process.resources import keep_files_private

    keep_files_private()
    name = "standard input" if file.name == "<stdin>" else file.name
    try:
        url = database_url_of(database_url, database_url_file)
        repository = app.open_repository(url, data_dir, 1, max_message_bytes)
        try:
            with _progress(file) as progress:
                summary = import_lines(repository, read_lines(file), progress)
        finally:
            repository.close()
    except ImportLineError as error:
        say(f"error: {name}:{error.line_number}: {error}")
        if error.stored == ImportSummary():
            say("nothing was imported: mend the line, and run the import again")
        else:
            say(f"others changed the registry meanwhile; before that line, {_told(error.stored)}, which stays")
            say("mend the line, and run the import again")
        raise typer.Exit(BAD_LINE) from None
    except ConfigError as error:
        fail(str(error))
    except RegistryError as error:
        fail(
            f"{error.name}: {error} What was stored is kept: run the import again. [instance {error.instance_id}]",
            EXIT_CODE_BASE + error.code,
        )
    except OSError as error:
        fail(f"cannot read {name}, or not write to the temporary folder: {error.strerror}")
    say(_told(summary))


def gc(
    database_url: DatabaseUrl = None,
    database_url_file: DatabaseUrlFile = None,
    data_dir: DataDir = DATA_DIR,
    files_url: FilesUrl = None,
    event_retention: EventRetention = EVENT_RETENTION_DAYS,
) -> None:
    """Remove model files that no version names and no upload is about to; servers may go on meanwhile.

    Uploads that no version named within an hour are forgotten, and so is what was found about two Model APIs where no
    promotion came of it. Events are removed when they are past their retention, but for the newest one, and
    what became of deliveries after 30 days. Run it as often as you like, such as every hour.

    [bold]modelregistry gc[/bold]

    [bold]modelregistry gc --database-url postgresql://registry@db/registry --files-url s3://models/registry[/bold]
    """
    require_unix("gc")
    from server.process import app
    from server.process.resources import keep_files_private
    from server.rules.garbage import collect

    keep_files_private()
    try:
        repository = app.open_existing_repository(database_url_of(database_url, database_url_file), data_dir)
        try:
            files = app.open_files(repository, files_url, data_dir)
            collected = collect(repository, files, timedelta(days=event_retention))
        finally:
            repository.close()
    except ConfigError as error:
        fail(str(error))
    except RegistryError as error:
        _fail_for_now(error)
    say(
        f"removed {collected.files} files of {collected.file_bytes} bytes, {collected.objects} leftovers,"
        f" {collected.uploads} expired uploads, {collected.verdicts} comparisons, {collected.events} events"
        f" and {collected.deliveries} deliveries"
    )


WithoutFiles = Annotated[bool, option("--without-files", "Do not read model files, which can take long.")]


def fsck(
    database_url: DatabaseUrl = None,
    database_url_file: DatabaseUrlFile = None,
    data_dir: DataDir = DATA_DIR,
    files_url: FilesUrl = None,
    without_files: WithoutFiles = False,
    output: Output = "table",
) -> None:
    """Check that a registry, or a copy of one, is whole. Nothing is changed; servers may go on meanwhile.

    Contents and model files have to fit their digests, heads and numbers the versions, records the versions that they
    tell of, the chains of promotions their hashes, grants the newest record of a change, and events what happened. Each
    fault is a line on standard output. The exit code is 0 if there is none, and 1 if there are some; 2 if there is no
    such registry, and more than 64 if the database or the files do not answer.

    [bold]modelregistry fsck --data-dir /backup/2026-05-01[/bold]

    [bold]modelregistry fsck --database-url postgresql://registry@db/restored --without-files --output json[/bold]
    """
    require_unix("fsck")
    from server.process import app
    from server.rules.fsck import Examination

    found = 0
    try:
        url = database_url_of(database_url, database_url_file)
        with app.open_kept(url, data_dir, files_url, not without_files) as (inventory, files):
            examination = Examination(inventory, files)
            for fault in examination.faults():
                found += 1
                told = {**fault._asdict(), "remedy": fault.remedy}
                print(json.dumps(told) if output == "json" else escaped(FAULT.format(**told)))
    except ConfigError as error:
        fail(str(error), NO_REGISTRY)
    except RegistryError as error:
        _fail_for_now(error)
    counted = ", ".join(f"{count} {name}" for name, count in examination.counted.items()) or "nothing"
    say(f"checked {counted}; the chains of promotions end in {examination.chains_digest}")
    say(f"found {_count(found, 'fault', 'faults')}" if found else "everything is whole")
    if found:
        raise typer.Exit(1)


def _fail_for_now(error: RegistryError) -> NoReturn:
    cause = f" {error.__cause__}" if error.__cause__ else ""
    fail(f"{error.name}: {error}{cause} Run it again.", EXIT_CODE_BASE + error.code)


def _told(summary: ImportSummary) -> str:
    text = f"imported {_count(summary.models, 'model', 'models')} and {_count(summary.versions, 'version', 'versions')}"
    if summary.unchanged:
        text += f"; {_count(summary.unchanged, 'line was', 'lines were')} there already"
    if summary.legacy:
        text += f"; {_count(summary.legacy, 'version has', 'versions have')} a source that this API cannot express"
    return text


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Progress]:
    """Show how far the import is, to a person at a terminal, and yield what to tell it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    size = _size(file)
    with Bars(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        tasks = {}

        def show(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total or size)
            bars.update(tasks[step], completed=done)

        yield show


def _size(file: BinaryIO) -> int | None:
    """Return how large a file is; None if it is a pipe or the like."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
