"""Commands that bring model files to a server and fetch them from one, and the one that collects garbage."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, BinaryIO

import grpc
import typer
from google.protobuf.message import Message

from modelregistry.v1.model_service_pb2 import (
    DownloadModelFilesRequest,
    DownloadModelFilesResponse,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from server.cli.connection import EXIT_CODE_BASE, Client, client_command
from server.cli.options import DATA_DIR, DatabaseUrl, DataDir, FilesUrl, ModelRid, VersionRid, option
from server.cli.output import fail, say
from server.cli.unix import require_unix
from server.core.config import ConfigError
from server.core.errors import RegistryError

# What servers take that are told to take far less than by default.
CHUNK_BYTES = 256 * 2**10

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.")]
Destination = Annotated[Path, option("--to", "The file to write, in place of one that is there.", metavar="FILE")]


def upload_files(client: Client, model_rid: ModelRid, file: File) -> Message:
    """Upload model files, and print the id that a version of the model can name them by.

    To create the version at once: create-version --model-files FILE.

    [bold]modelregistry upload-files ri.models.main.model.… model.bin[/bold]
    """
    return upload(client, model_rid, file)


def download_files(client: Client, model_rid: ModelRid, model_version_rid: VersionRid, to: Destination) -> None:
    """Write the model files of a version to a file, which changes only when all of them have arrived.

    [bold]modelregistry download-files ri.models.main.model.… ri.models.main.model-version.… --to model.bin[/bold]
    """
    target = to.resolve()
    if target.exists() and not target.is_file():
        fail(f"--to {to}: is there, and is no file")
    request = DownloadModelFilesRequest(model_rid=model_rid, model_version_rid=model_version_rid)
    parts = client.call_streaming(client.models.DownloadModelFiles, request)
    first = next(parts)  # Of a call that fails, no file is seen.
    try:
        with contextlib.ExitStack() as last:
            # Closed when all is there, since on Windows an open file can be neither renamed nor removed.
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}.", delete=False) as file:
                incomplete = Path(file.name)
                last.callback(incomplete.unlink, missing_ok=True)
                size, digest = _write(itertools.chain([first], parts), file)
            if digest != first.sha256:
                fail(f"--to {to}: the bytes that arrived have the SHA-256 {digest}, not {first.sha256}")
            incomplete.chmod(0o666 & ~_umask())
            incomplete.replace(target)
    except OSError as error:
        fail(f"--to {to}: {error.strerror}")
    say(f"wrote {size} bytes with the SHA-256 {digest}")


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


def upload(client: Client, model_rid: str, file: Path) -> UploadModelFilesResponse:
    """Upload a file. Raises grpc.RpcError."""
    unread: list[OSError] = []
    try:
        with file.open("rb") as source:
            return client.call_streaming(client.models.UploadModelFiles, _parts(model_rid, source, unread))
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except grpc.RpcError:
        if unread:
            fail(f"{file}: {unread[0].strerror}")
        raise


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("upload-files")(client_command(upload_files))
    app.command("download-files")(client_command(download_files))
    app.command("gc")(gc)


def _parts(model_rid: str, source: BinaryIO, unread: list[OSError]) -> Iterator[UploadModelFilesRequest]:
    """Yield an upload; why it could not be read goes to `unread`, since gRPC keeps it to itself."""
    yield UploadModelFilesRequest(model_rid=model_rid)
    digest = hashlib.sha256()
    try:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            yield UploadModelFilesRequest(chunk=chunk)
    except OSError as error:
        unread.append(error)
        raise
    yield UploadModelFilesRequest(sha256=digest.hexdigest())


def _umask() -> int:
    """Return what new files are not to allow; there is no way to ask but to set it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _write(parts: Iterator[DownloadModelFilesResponse], target: IO[bytes]) -> tuple[int, str]:
    """Write the bytes of all parts, and return how many they are and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    for part in parts:
        digest.update(part.chunk)
        size += target.write(part.chunk)
    return size, digest.hexdigest()
