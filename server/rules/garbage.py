"""Garbage collection: expired uploads, files that no version names, objects that are not recorded, unused verdicts,
events that are past their retention, and old deliveries.

Servers go on meanwhile. Each object is recorded before it is written, so an object that was listed before the database
was asked, and is not recorded, is a leftover. A file is removed only where the database rules out a version that is
about to name it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta

from server.core.config import EVENT_RETENTION_DAYS
from server.storage.blobs import FileStore
from server.storage.contract import Repository

# How many objects are looked up in one query, and how many events are removed in one transaction.
BATCH = 1000
# For how long a verdict stays that no promotion cites: a promotion that was refused for it may be tried again.
VERDICT_LIFETIME = timedelta(days=1)
# For how long it is told what became of an event that was sent to a subscription.
DELIVERY_LIFETIME = timedelta(days=30)


@dataclass
class Collected:
    """What was removed: how many uploads, files with how many bytes, other objects, verdicts, events and deliveries."""

    uploads: int = 0
    files: int = 0
    file_bytes: int = 0
    objects: int = 0
    verdicts: int = 0
    events: int = 0
    deliveries: int = 0


def collect(
    repository: Repository, store: FileStore, event_retention: timedelta = timedelta(days=EVENT_RETENTION_DAYS)
) -> Collected:
    """Remove the garbage, and return what it was. Raises StorageUnavailable; again does no harm."""
    collected = Collected()
    listed = dict.fromkeys(store.names())
    collected.uploads = repository.write(lambda tx: tx.remove_expired_uploads(), may_use_reserve=True)
    for digest in repository.read(lambda reader: reader.unnamed_files()):
        file = repository.write(
            lambda tx, digest=digest: tx.remove_unnamed_file(digest),  # type: ignore[misc]
            may_use_reserve=True,
        )
        if file is not None:
            store.remove(file.object_name)
            listed.pop(file.object_name, None)
            collected.files += 1
            collected.file_bytes += file.size
    names = iter(listed)
    while batch := list(itertools.islice(names, BATCH)):
        known = repository.read(lambda reader, batch=batch: reader.known_objects(batch))  # type: ignore[misc]
        for name in batch:
            if name not in known:
                store.remove(name)
                collected.objects += 1
    for key in repository.read(lambda reader: reader.unused_verdicts(VERDICT_LIFETIME)):
        # Each by itself: a transaction that removes several could wait for one that cites them in another order.
        collected.verdicts += repository.write(
            lambda tx, key=key: tx.remove_unused_verdict(key),  # type: ignore[misc]
            may_use_reserve=True,
        )
    removed = BATCH
    while removed == BATCH:
        # Each batch by itself, so that on SQLite changes come in between.
        removed = repository.write(lambda tx: tx.remove_old_events(event_retention, BATCH), may_use_reserve=True)
        collected.events += removed
    while count := repository.write(
        lambda tx: tx.remove_old_deliveries(DELIVERY_LIFETIME, BATCH), may_use_reserve=True
    ):
        collected.deliveries += count
    return collected
