"""Commands that bring model files to a server and fetch them from one, and the one that collects garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.message import Message

from modelregistry.v1.model_service_pb2 import UploadModelFilesResponse
from modelregistry_client import DigestMismatch, Registry
from server.cli.connection import EXIT_CODE_BASE, client_command
from server.cli.options import DATA_DIR, DatabaseUrl, DataDir, FilesUrl, ModelRid, VersionRid, option
from server.cli.output import fail, say
from server.cli.unix import require_unix
from server.core.config import ConfigError
from server.core.errors import RegistryError

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.")]
Destination = Annotated[Path, option("--to", "The file to write, in place of one that is there.", metavar="FILE")]


def upload_files(registry: Registry, model_rid: ModelRid, file: File) -> Message:
    """Upload model files, and print the id that a version of the model can name them by.

    To create the version at once: create-version --model-files FILE.

    [bold]modelregistry upload-files ri.models.main.model.… model.bin[/bold]
    """
    return upload(registry, model_rid, file)


def download_files(registry: Registry, model_rid: ModelRid, model_version_rid: VersionRid, to: Destination) -> None:
    """Write the model files of a version to a file, which changes only when all of them have arrived.

    [bold]modelregistry download-files ri.models.main.model.… ri.models.main.model-version.… --to model.bin[/bold]
    """
    try:
        downloaded = registry.download_files(model_rid, model_version_rid, to)
    except DigestMismatch as error:
        fail(f"--to {to}: {error}")
    except OSError as error:
        fail(f"--to {to}: {error.strerror}")
    say(f"wrote {downloaded.size} bytes with the SHA-256 {downloaded.sha256}")


def gc(database_url: DatabaseUrl = None, data_dir: DataDir = DATA_DIR, files_url: FilesUrl = None) -> None:
    """Remove model files that no version names and no upload is about to; servers may go on meanwhile.

    Uploads that no version named within a day are forgotten. Run it as often as you like, such as every night.

    [bold]modelregistry gc[/bold]

    [bold]modelregistry gc --database-url postgresql://registry@db/registry --files-url s3://models/registry[/bold]
    """
    require_unix("gc")
    from server.process import app
    from server.rules.garbage import collect

    try:
        repository = app.open_existing_repository(database_url, data_dir)
        try:
            collected = collect(repository, app.open_files(repository, files_url, data_dir))
        finally:
            repository.close()
    except ConfigError as error:
        fail(str(error))
    except RegistryError as error:
        cause = f" {error.__cause__}" if error.__cause__ else ""
        fail(f"{error.name}: {error}{cause} Run it again.", EXIT_CODE_BASE + error.code)
    say(
        f"removed {collected.files} files of {collected.file_bytes} bytes, {collected.objects} leftovers"
        f" and {collected.uploads} expired uploads"
    )


def upload(registry: Registry, model_rid: str, file: Path) -> UploadModelFilesResponse:
    """Upload a file; fail if it cannot be read. Raises RegistryError."""
    try:
        return registry.upload_files(model_rid, file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("upload-files")(client_command(upload_files))
    app.command("download-files")(client_command(download_files))
    app.command("gc")(gc)
