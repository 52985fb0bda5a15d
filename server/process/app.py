"""The only wiring: settings → database → repository → servicers → server."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from sqlalchemy.exc import SQLAlchemyError

from server.auth import local_keys, secrets_key
from server.auth.credentials import Credentials
from server.auth.keys import JwksKeySet, jwks_file, jwks_url
from server.auth.tokens import TokenVerifier
from server.core.config import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_READ_MAX_LAG_SECONDS, ConfigError, Settings
from server.core.errors import RegistryError
from server.delivery.deliverer import STORAGE_THREADS as DELIVERY_CONNECTIONS
from server.delivery.deliverer import Deliverer
from server.delivery.sender import WebhookSender
from server.gateway.limits import HttpLimits
from server.gateway.proxies import TrustedProxies
from server.gateway.routes import routes_of
from server.gateway.server import HttpServer
from server.observability.observers import Observers
from server.process.ports import Ports, PrivateSocket, listen_for_grpc, listen_privately, tls_context
from server.process.resources import share_of_files
from server.rpc.chain import COMPARISON_THREADS, CREATION_THREADS, WRITE_THREADS, Chain
from server.rpc.event_watch import CONNECTIONS as WATCH_CONNECTIONS
from server.rpc.health import Health, Readiness
from server.rpc.server import SERVICES, build_server
from server.storage.blobs import FileStore, open_file_store, open_kept_files
from server.storage.contract import Inventory, Repository
from server.storage.disk_space import FREE_PER_RESERVE
from server.storage.file_identity import FileIdentity
from server.storage.sql.database import Database, database_of, embedded_database, kept_database
from server.storage.sql.inventory import open_inventory
from server.storage.sql.migrate import SchemaOutdated, chain_promotions, check, migrate, open_engine
from server.storage.sql.repository import SqlRepository
from server.storage.sql.sqlite import require_writable
from server.storage.unavailable import DatabaseUnsuitable

# A lost file is bad luck; if all of so many are lost, we look at the wrong place.
SAMPLE_FILES = 5

DATABASE_FILE = "modelregistry.db"


@dataclass(frozen=True)
class Application:
    """A server that listens, and what has to be started and closed with it."""

    server: grpc.Server
    chain: Chain
    gateway: HttpServer | None
    deliverer: Deliverer
    private: PrivateSocket
    readiness: Readiness
    repository: Repository
    files: FileStore
    observers: Observers
    keys: JwksKeySet


def build(
    settings: Settings, ports: Ports, metrics_folder: Path | None = None, file: FileIdentity | None = None
) -> Application:
    """Build a server on its ports from settings, ready to be started.

    Processes that serve the same ports count in the same folder. `file` is the database that it must be, if that is a
    file and another process of the same server has opened it before.

    Raises ConfigError for settings that cannot work here.
    """
    # Before anything else: what is not there any more, such as the data folder, is not to be made again.
    with _explained():
        database = _database(settings.database_url, settings.data_dir, file)
    observers = Observers(ports.metrics, metrics_folder, settings.otlp)
    keys = _keys(settings)
    credentials = Credentials(_verifier(settings, keys))
    secrets = _secrets(settings)
    limits = dataclasses.replace(
        settings.limits, max_connections=min(settings.limits.max_connections, share_of_files())
    )
    chain = Chain(
        credentials,
        observers.of_calls,
        settings.threads,
        limits.receive_timeout,
        settings.max_message_bytes,
        tells_positions=settings.read_database_url is not None,
    )
    with _explained():
        standby = _standby_of(database, settings.read_database_url)
    repository = _open_repository(
        database,
        settings.threads,
        settings.max_message_bytes,
        observers,
        settings.disk_reserve,
        standby=standby,
        max_lag_seconds=settings.read_max_lag_seconds,
    )
    try:
        files = open_files(repository, settings.files_url, settings.data_dir, FREE_PER_RESERVE * settings.disk_reserve)
    except ConfigError:
        repository.close()
        raise
    health = Health(SERVICES)
    try:
        with _explained():
            server, in_process = build_server(
                repository,
                files,
                chain,
                health,
                max_message_bytes=settings.max_message_bytes,
                limits=limits,
                secrets=secrets,
                webhooks=settings.webhooks,
                file_quota=settings.file_quota,
                reflection=settings.reflection,
            )
        listen_for_grpc(server, ports, settings)
        private = listen_privately(server)
    except ConfigError:
        repository.close()
        raise
    gateway = None
    if ports.http is not None:
        gateway = HttpServer(
            ports.http,
            routes_of(SERVICES),
            in_process,
            private.target,
            health,
            credentials,
            limits=HttpLimits(
                max_body_bytes=settings.max_message_bytes,
                max_connections=min(
                    HttpLimits.max_connections, max(1, share_of_files() - HttpLimits.spare_connections)
                ),
                idle_seconds=settings.http_idle_timeout_seconds,
            ),
            proxies=TrustedProxies(settings.proxy_networks),
            tls=tls_context(settings),
        )
    return Application(
        server=server,
        chain=chain,
        gateway=gateway,
        deliverer=Deliverer(
            repository,
            credentials.acting_for,
            secrets.unseal,
            lambda: WebhookSender(settings.webhooks),
            tried=observers.tried,
        ),
        private=private,
        readiness=Readiness(health, chain.self_check, private.target),
        repository=repository,
        files=files,
        observers=observers,
        keys=keys,
    )


def open_repository(database_url: str | None, data_dir: Path, threads: int, max_message_bytes: int) -> Repository:
    """Open the storage behind a URL, or in a file of the data folder; such a database is created and migrated.

    Raises ConfigError if there is no such database or its schema is older than this server.
    """
    with _explained():
        database = _database(database_url, data_dir)
    return _open_repository(database, threads, max_message_bytes, Observers())


def database_file(settings: Settings) -> FileIdentity | None:
    """Return which file the database of a server is; None if it is none. Raises ConfigError if it is not there."""
    with _explained():
        file = _database_of(settings.database_url, settings.data_dir).file
        return None if file is None else FileIdentity.of(file)


def _open_repository(
    database: Database,
    threads: int,
    max_message_bytes: int,
    observers: Observers,
    disk_reserve: int | None = None,
    *,
    standby: Database | None = None,
    max_lag_seconds: float = DEFAULT_READ_MAX_LAG_SECONDS,
) -> Repository:
    with _explained():
        # One connection for each thread that reads, writes, creates versions or compares, for those that tell watchers
        # and those that deliver, and one for the self-check; transfers need one for moments.
        if database.file is not None:
            migrate(open_engine(database))
        else:
            check(open_engine(database))
        repository = SqlRepository(
            database,
            pool_size=threads
            + WRITE_THREADS
            + CREATION_THREADS
            + COMPARISON_THREADS
            + WATCH_CONNECTIONS
            + DELIVERY_CONNECTIONS
            + 1,
            max_message_bytes=max_message_bytes,
            promoted=observers.promoted,
            observer=observers.statements_of(database.url.get_backend_name()),
            disk_reserve=disk_reserve,
            read_database=standby,
            max_lag_seconds=max_lag_seconds,
            standby_read=observers.standby_read,
        )
        repository.ping()
    return repository


def open_files(repository: Repository, files_url: str | None, data_dir: Path, keep_free: int = 0) -> FileStore:
    """Open the store of the model files of a registry, which leaves so many bytes of a disk of this machine free.

    Raises ConfigError if there is no such store, or if it is not the one that has this registry's files.
    """
    with _explained_store(files_url):
        registry_id = repository.read(lambda reader: reader.registry_id())
        store = open_file_store(files_url, data_dir, registry_id, keep_free)
        some = repository.read(lambda reader: reader.some_files(SAMPLE_FILES))
        lost = some and not any(store.has(file.object_name, file.size) for file in some)
    if lost:
        raise ConfigError("the store of model files has none of those that the database knows: see --files-url")
    return store


def open_existing_repository(database_url: str | None, data_dir: Path) -> Repository:
    """Open the storage as `open_repository` does, but create no database. Raises ConfigError."""
    if database_url is None and not (data_dir / DATABASE_FILE).exists():
        raise ConfigError(f"there is no database in {data_dir}: see --data-dir and --database-url")
    return open_repository(database_url, data_dir, 1, DEFAULT_MAX_MESSAGE_BYTES)


@contextlib.contextmanager
def open_kept(
    database_url: str | None, data_dir: Path, files_url: str | None, with_files: bool
) -> Iterator[tuple[Inventory, FileStore | None]]:
    """Open what a registry keeps at this moment, and its model files if they are wanted, without writing anything.

    Raises ConfigError if there is no such registry, or its schema is older than this server, and StorageUnavailable for
    what goes wrong inside of the block.
    """
    with contextlib.ExitStack() as stack:
        with _explained():
            database = kept_database(database_url or embedded_database(data_dir / DATABASE_FILE))
            if database.file is not None and not database.file.is_file():
                raise ConfigError(f"there is no database {database.file}: see --data-dir and --database-url")
            inventory = stack.enter_context(open_inventory(database))
            registry_id = inventory.registry_id()
        with _explained_store(files_url):
            store = open_kept_files(files_url, data_dir, registry_id) if with_files else None
        yield inventory, store


def migrate_database(database_url: str | None, data_dir: Path) -> None:
    """Bring the schema of a database to this release, and chain what earlier ones recorded. Raises ConfigError."""
    with _explained():
        engine = open_engine(_database(database_url, data_dir))
        migrate(engine)
        chain_promotions(engine)


def _database(database_url: str | None, data_dir: Path, identity: FileIdentity | None = None) -> Database:
    """Return the database of a URL, or of a file in the data folder.

    The folder of an embedded one is created, unless it must be a certain file.
    """
    database = _database_of(database_url, data_dir, identity)
    if database.file is not None:
        if identity is None:
            database.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_writable(database.file)
    return database


def _standby_of(database: Database, url: str | None) -> Database | None:
    """Return the standby that reads go to; whether it is one is seen later. Raises ConfigError and ValueError."""
    if url is None:
        return None
    standby = database_of(url)
    if database.file is not None or standby.file is not None:
        raise ConfigError("--read-database-url is for PostgreSQL: a standby of the database of --database-url")
    if "," in (standby.url.host or "") or "host" in standby.url.query:
        raise ConfigError("--read-database-url names one standby: how far another one is, would not be known")
    # The caller that waits for it is answered by the primary, the sooner the better.
    quick = {"connect_timeout": "2", "tcp_user_timeout": "2000"}
    return database_of(standby.url.update_query_dict({**quick, **standby.url.query}))


def _database_of(database_url: str | None, data_dir: Path, identity: FileIdentity | None = None) -> Database:
    return database_of(database_url or embedded_database(data_dir / DATABASE_FILE), identity)


@contextlib.contextmanager
def _explained_store(files_url: str | None) -> Iterator[None]:
    """Make a ConfigError of what is wrong with the store of model files; it has no credentials of the URL."""
    try:
        yield
    except Exception as error:
        # Each of the many file systems raises errors of its own, and the library's name what has to be installed.
        said = str(error.__cause__ if isinstance(error, RegistryError) and error.__cause__ else error)
        if credentials := (files_url or "").partition("//")[2].partition("/")[0].rpartition("@")[0]:
            said = said.replace(credentials, "…")
        raise ConfigError(f"the store of model files: {said}") from None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Make a ConfigError of what is wrong with a database URL, or with the database behind it."""
    try:
        yield
    except SchemaOutdated:
        raise ConfigError(
            "the database's schema is older than this server: run `modelregistry migrate --database-url …`"
        ) from None
    except (SQLAlchemyError, RegistryError, DatabaseUnsuitable, ValueError, OSError) as error:
        # Each migration has a transaction: one that fails leaves nothing behind, and those before it stay. Of what a
        # driver says, the first line tells what is wrong.
        said = error.__cause__ if isinstance(error, RegistryError) and error.__cause__ else error
        raise ConfigError(f"the database: {str(getattr(said, 'orig', said)).partition(chr(10))[0]}") from error


def _keys(settings: Settings) -> JwksKeySet:
    """Return the keys of those whose tokens are trusted. Raises ConfigError."""
    max_age = settings.jwks_max_age_seconds
    try:
        if settings.uses_local_keys:
            return local_keys.LocalKeys.open(settings.data_dir).key_set(max_age)
        load = jwks_file(settings.jwks_file) if settings.jwks_file else jwks_url(settings.jwks_url or "")
        return JwksKeySet(load, max_age=max_age)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def _secrets(settings: Settings) -> secrets_key.SecretsKey:
    """Return what secrets are stored under. Raises ConfigError."""
    file = settings.secrets_key_file
    secrets = secrets_key.SecretsKey(file or settings.data_dir / secrets_key.KEY_FILE, may_create=file is None)
    if file is not None:
        try:
            secrets.check()
        except (ValueError, OSError) as error:
            raise ConfigError(f"--secrets-key-file: {error}") from error
    return secrets


def _verifier(settings: Settings, keys: JwksKeySet) -> TokenVerifier:
    if settings.uses_local_keys:
        admins = settings.admins | {local_keys.ADMIN}
        return TokenVerifier(keys, local_keys.ISSUER, local_keys.AUDIENCE, admins, settings.claims)
    return TokenVerifier(keys, settings.issuer or "", settings.audiences, settings.admins, settings.claims)
