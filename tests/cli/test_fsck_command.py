"""modelregistry fsck: each fault that is planted in a database is found, and nothing else. On every backend."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import make_url, text
from typer.testing import CliRunner, Result

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from modelregistry.v1.promotion_request_pb2 import PROMOTION_REQUEST_STATE_PROMOTED
from modelregistry.v1.promotion_service_pb2 import RollbackBranchRequest
from server.cli import build_app
from server.core import rids
from server.process import app
from server.rules.fsck import REMEDIES, Examination
from server.rules.promotion import rollback_branch
from server.storage.contract import StoredFile, Transaction, UploadKey
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, file_store, promote
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.inspection import alter

FILES = b"weights" * 1000


class Kept(NamedTuple):
    """A registry with something of everything, and where it is."""

    url: str
    data_dir: Path
    repository: SqlRepository
    source: ModelVersion
    promoted: ModelVersion
    imported: ModelVersion
    target: Model
    object: Path

    def fsck(self, *options: str) -> Result:
        return fsck("--database-url", self.url, "--data-dir", self.data_dir, *options)

    def faults(self, *options: str) -> list[dict[str, str]]:
        result = self.fsck("--output", "json", *options)
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.exit_code == bool(found), result.output
        return found


def fsck(*options: object) -> Result:
    return CliRunner().invoke(build_app(), ["fsck", *map(str, options)])


@pytest.fixture
def kept(migrated_url: str, repository: SqlRepository, tmp_path: Path) -> Kept:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    store = file_store(repository, data_dir)
    model, target = add_model(repository, created_by="user:jane"), add_model(repository)
    source = append(repository, builders.version(model.rid))
    append(repository, builders.version(target.rid, label="another"), legacy_source='{"type": "container"}')
    promote(repository, source, target.rid, reason="it is \u202e better")
    promoted = promote(repository, source, target.rid)
    repository.write(
        lambda tx: rollback_branch(tx, ADMIN, RollbackBranchRequest(model_rid=target.rid, to_version_number=2))
    )
    imported = imported_version(target.rid)
    builders.append_imported(repository, *imported)
    promote(repository, imported[0], model.rid)
    for name in ("user:jane", "user:joe"):
        for role in (ROLE_VIEWER, ROLE_OWNER):
            builders.grant(repository, model.rid, name, role)
    builders.revoke(repository, model.rid, "user:joe")
    with store.write("weights") as file:
        file.write(FILES)

    def upload(tx: Transaction) -> None:
        key = UploadKey.of("one", ADMIN, model.rid)
        tx.begin_upload(key, "weights", timedelta(days=1))
        tx.finish_upload(key, StoredFile(sha256(FILES).digest(), len(FILES), "weights"))
        tx.begin_upload(UploadKey.of("two", ADMIN, model.rid), "incomplete", timedelta(days=1))
        version = builders.version(model.rid)
        tx.append_version(version, tx.put_content(version, sha256(FILES).digest()))

    repository.write(upload)
    [stored] = data_dir.glob("files/*/weights")
    return Kept(migrated_url, data_dir, repository, source, promoted, imported[0], target, stored)


def imported_version(model_rid: str) -> tuple[ModelVersion, Promotion]:
    """A version that was promoted in another registry, from what this one does not have."""
    version = builders.version(model_rid)
    elsewhere = PromotedSource(
        previous_model_rid=rids.new_model_rid(), previous_model_version_rid=rids.new_model_version_rid()
    )
    version.source.CopyFrom(ModelVersionSource(promoted=elsewhere))
    version.root_model_version_rid = elsewhere.previous_model_version_rid
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=elsewhere.previous_model_rid,
        source_model_version_rid=elsewhere.previous_model_version_rid,
    )
    return version, promotion


def test_a_registry_that_is_whole_has_no_fault(kept: Kept) -> None:
    result = kept.fsck()

    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(
        r"checked 3 contents, 2 branches, 8 versions, 5 promotions, 2 grants, 1 uploads, 15 events, 1 files;"
        r" the chains of promotions end in [0-9a-f]{64}\neverything is whole\n",
        result.stderr,
    )


ON = "UPDATE {} SET {} WHERE {}"
PROMOTED = "(SELECT id FROM versions WHERE rid = :promoted)"
BRANCH = "(SELECT branch_id FROM versions WHERE rid = :promoted)"
LAST = f"(SELECT max(p.id) FROM promotions p JOIN versions v ON v.id = p.version_id WHERE v.branch_id = {BRANCH})"

CONTENT = ON.format("contents", "{}", "file_digest IS NOT NULL")
HEAD = ON.format("branches", "{}", f"id = {BRANCH}")
VERSION = ON.format("versions", "{}", "rid = :promoted")
PROMOTION = ON.format("promotions", "{}", f"version_id = {PROMOTED}")
END = ON.format("promotions", "{}", f"id = {LAST}")
GRANT = ON.format("grants", "{}", "principal = 'user:jane'")


class Planted(NamedTuple):
    """What is done to a database, which checks find it, and of what the first of them is, if that is in `Kept`."""

    statements: tuple[str, ...]
    checks: list[str]
    subject: str = ""


def planted(check: str, *statements: str, of: str = "", times: int = 1) -> Planted:
    return Planted(statements, [check] * times, of)


PLANTED = {
    "a content that is altered": planted("content", CONTENT.format("payload = :bytes")),
    "the files of a content that are altered": planted("content", CONTENT.format("file_digest = NULL")),
    "a size that is altered": planted("content", CONTENT.format("size = size + 1")),
    "a content that is gone": planted("content", "DELETE FROM contents WHERE file_digest IS NOT NULL"),
    "files that are gone": planted("content", "DELETE FROM uploads WHERE file_digest IS NOT NULL", "DELETE FROM files"),
    "a head that moved back": planted("head", HEAD.format("version_count = version_count - 1"), of="target"),
    "a head without a version": planted("head", HEAD.format("version_count = version_count + 1"), of="target"),
    "a version that is gone": planted(
        "number", f"DELETE FROM versions WHERE version_number = 1 AND branch_id = {BRANCH}"
    ),
    "a branch that is gone": planted("number", f"DELETE FROM branches WHERE id <> {BRANCH}", times=3),
    "a record that is gone": Planted((f"DELETE FROM promotions WHERE id = {LAST} - 1",), ["record", "chain", "event"]),
    "the last record that is gone": Planted(
        (f"DELETE FROM promotions WHERE id = {LAST}",), ["record", "chain", "event"]
    ),
    "a record of another creator": planted("record", PROMOTION.format("created_by = 'user:nemo'")),
    "a version of another creator": planted("record", VERSION.format("created_by = 'user:nemo'")),
    "a record of another time": planted("record", PROMOTION.format("created_time = 1")),
    "a record of another source": planted("record", PROMOTION.format("source_rid = :imported")),
    "a record with another reason": planted("chain", PROMOTION.format("reason = 'because'")),
    "a record of another kind": planted("chain", PROMOTION.format("kind = 2")),
    "a hash that is altered": planted("chain", END.format("hash = :bytes"), times=2),
    "a chain that ends elsewhere": planted("chain", HEAD.format("chain = :bytes"), of="target"),
    "a chain that is cut off": planted("chain", HEAD.format("chain = NULL"), of="target"),
    "a promotion that is not chained": planted(
        "unchained",
        HEAD.format(f"chain = (SELECT previous_hash FROM promotions WHERE id = {LAST})"),
        END.format("hash = NULL, previous_hash = NULL"),
    ),
    "a source with another content": planted(
        "lineage",
        "UPDATE versions SET content_digest = (SELECT max(digest) FROM contents WHERE digest <> content_digest)"
        " WHERE rid = :source",
        times=2,
    ),
    "a source that is gone": Planted(
        ("UPDATE versions SET rid = 'ri.models.main.model-version.x', root_rid = :bytes WHERE rid = :source",),
        ["lineage", "lineage", "lineage"],
    ),
    "another root": planted("lineage", VERSION.format("root_rid = :imported"), of="promoted", times=1),
    "a root of what was not promoted": planted(
        "lineage", "UPDATE versions SET root_rid = :promoted WHERE id = (SELECT max(id) FROM versions)"
    ),
    "a source that cannot be read": planted("lineage", VERSION.format("source = :bytes"), of="promoted"),
    "a grant without its change": planted("grant", "INSERT INTO grants VALUES (:target, 'user:nemo', 4)", of="target"),
    "a grant that is raised": planted("grant", GRANT.format("role = 1"), times=1),
    "a grant that is gone": planted("grant", "DELETE FROM grants WHERE principal = 'user:jane'"),
    "an upload of files that are gone": planted(
        "upload", "UPDATE uploads SET file_digest = :bytes WHERE file_digest IS NOT NULL"
    ),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_fault_in_the_database_is_found_and_told_once(kept: Kept, planted: Planted) -> None:
    names = {"promoted": kept.promoted.rid, "source": kept.source.rid, "imported": kept.imported.rid}
    names["target"] = kept.target.rid
    values = {**names, "bytes": b"\xff\xff"}
    statements = [text(statement) for statement in planted.statements]
    alter(kept.url, *(each.bindparams(**{name: values[name] for name in each.compile().params}) for each in statements))

    found = kept.faults()

    assert [fault["check"] for fault in found] == planted.checks, found
    assert all(fault["remedy"] == REMEDIES[fault["check"]] for fault in found)
    if planted.subject:
        assert found[0]["subject"] == names[planted.subject]
    # A line each, for people and for programs.
    lines = kept.fsck().stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == planted.checks
    assert all(line.isprintable() for line in lines)


TWO_DAYS_MS = 2 * 86_400_000
OF_PROMOTED = "type = 3 AND id = (SELECT min(id) FROM events WHERE type = 3) + 1"


def oldest_event_is_of_before(url: str) -> None:
    """Let the oldest event be of two days ago, so that promotions of now have to have theirs."""
    oldest = f"UPDATE events SET created_time = created_time - {TWO_DAYS_MS} WHERE id = (SELECT min(id) FROM events)"
    alter(url, text(oldest))


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE events SET payload = :bytes WHERE id = 2", "cannot be read"),
        ("UPDATE events SET type = 99 WHERE id = 2", "its type is 99"),
        ("UPDATE events SET model_id = 99 WHERE id = 2", "the model that it is about is gone"),
        (f"DELETE FROM events WHERE {OF_PROMOTED}", "no event tells of the promotion"),
        (f"UPDATE events SET type = 2 WHERE {OF_PROMOTED}", "no event tells of the promotion"),
        ("DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE type IN (3, 4))", "no event tells of"),
    ],
    ids=["altered", "of another type", "of no model", "gone", "of a promotion told as something else", "the last"],
)
def test_an_event_that_is_altered_or_gone_is_found(kept: Kept, statement: str, problem: str) -> None:
    oldest_event_is_of_before(kept.url)
    assert kept.faults() == []
    altering = text(statement)
    alter(kept.url, altering.bindparams(bytes=b"\xff\xff") if ":bytes" in statement else altering)

    [fault] = kept.faults()

    assert fault["check"] == "event"
    assert problem in fault["problem"]


def test_a_promotion_of_the_first_day_of_what_is_kept_may_have_no_event(kept: Kept) -> None:
    """Its own may be what `gc` removed last, or servers without events were there."""
    alter(kept.url, text(f"DELETE FROM events WHERE {OF_PROMOTED}"))
    assert kept.faults() == []
    oldest_event_is_of_before(kept.url)
    [fault] = kept.faults()
    assert fault["check"] == "event"


def test_what_gc_leaves_of_the_events_is_whole(kept: Kept) -> None:
    alter(kept.url, text(f"UPDATE events SET created_time = created_time - {TWO_DAYS_MS} WHERE id <= 9"))
    assert kept.repository.write(lambda tx: tx.remove_old_events(timedelta(days=1), 1000)) == 9
    assert kept.faults() == []
    alter(kept.url, text("UPDATE events SET created_time = 1 WHERE id < (SELECT max(id) FROM events)"))
    kept.repository.write(lambda tx: tx.remove_old_events(timedelta(days=1), 1000))
    assert kept.faults() == []


def carry_out_request(kept: Kept) -> None:
    """Promote once more, as an approved request is carried out."""
    asked = builders.promotion_request(kept.source, kept.target.rid)
    made = builders.version(kept.target.rid)
    made.source.promoted.previous_model_rid = kept.source.model_rid
    made.source.promoted.previous_model_version_rid = kept.source.rid
    made.root_model_version_rid = kept.source.root_model_version_rid
    record = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=kept.source.model_rid,
        source_model_version_rid=kept.source.rid,
        promotion_request_rid=asked.rid,
    )

    def carry_out(tx: Transaction) -> None:
        tx.add_promotion_request(asked)
        tx.append_promoted(made, tx.put_content(made), record, None)
        state = PROMOTION_REQUEST_STATE_PROMOTED
        tx.close_promotion_request(asked, state, ADMIN.user, record.rid, made.rid)

    kept.repository.write(carry_out)


@pytest.mark.parametrize(
    ("statement", "checks"),
    [
        ("UPDATE promotion_requests SET promotion_rid = 'another'", ["request", "request"]),
        ("DELETE FROM promotion_requests", ["request"]),
        ("UPDATE promotions SET promotion_request_rid = NULL", ["chain", "request"]),
    ],
    ids=["a request of another promotion", "a request that is gone", "a record that does not cite its request"],
)
def test_a_request_and_the_promotion_that_carried_it_out_name_each_other(
    kept: Kept, statement: str, checks: list[str]
) -> None:
    carry_out_request(kept)
    assert kept.faults() == []
    assert " 1 requests," in kept.fsck().stderr

    alter(kept.url, text(statement))

    assert [fault["check"] for fault in kept.faults()] == checks


def test_a_fault_in_the_files_is_found_unless_they_are_not_read(kept: Kept) -> None:
    intact = kept.object.read_bytes()
    for damage in (
        lambda: kept.object.write_bytes(intact[:-1]),
        lambda: kept.object.write_bytes(intact[:-1] + b"?"),
        lambda: kept.object.unlink(),
    ):
        damage()
        [fault] = kept.faults()
        assert (fault["check"], fault["subject"]) == ("file", sha256(FILES).hexdigest())
        assert kept.faults("--without-files") == []
    shutil.rmtree(kept.data_dir / "files")
    [_] = kept.faults()
    assert not (kept.data_dir / "files").exists()


def test_a_copy_of_a_file_is_checked_where_nothing_can_be_written(
    new_database: NewDatabase, open_repository: OpenRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database("sqlite", migrated=True)
    append(repository := open_repository(url), builders.version(add_model(repository).rid))
    repository.close()
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(make_url(url).database or "", tmp_path / "copy" / "registry.db")
    # As it is for others than root.
    monkeypatch.setattr("os.access", lambda path, mode: mode & os.W_OK == 0)

    result = fsck("--database-url", f"sqlite:///{copy}", "--without-files")

    assert (result.exit_code, result.stdout) == (0, "")
    assert [each.name for each in copy.parent.iterdir()] == [copy.name]


def test_what_is_changed_meanwhile_is_no_fault(kept: Kept) -> None:
    """All is seen as of one moment; only files can be newer."""
    store = file_store(kept.repository, kept.data_dir)
    with app.open_kept(kept.url, kept.data_dir, None, with_files=True) as (inventory, files):
        faults = Examination(inventory, files).faults()
        list(inventory.uploads())
        promote(kept.repository, kept.source, kept.target.rid)
        append(kept.repository, builders.version(kept.target.rid, "new"))
        builders.revoke(kept.repository, kept.source.model_rid, "user:jane")
        with store.write("instead") as file:
            file.write(FILES)
        stored = StoredFile(sha256(FILES).digest(), len(FILES), "instead")
        kept.repository.write(lambda tx: tx.replace_object(stored, "weights"))
        store.remove("weights")

        assert list(faults) == []
    assert kept.faults() == []


def test_a_registry_is_whole_while_it_is_used(kept: Kept) -> None:
    done = threading.Event()

    def use() -> int:
        for number in itertools.count():
            if done.is_set():
                return number
            promote(kept.repository, kept.source, kept.target.rid, branch=f"{number % 3}")
            builders.grant(kept.repository, kept.target.rid, f"user:{number % 3}", ROLE_VIEWER)
            builders.revoke(kept.repository, kept.target.rid, f"user:{number % 3}")
        raise AssertionError

    with ThreadPoolExecutor(1) as thread:
        using = thread.submit(use)
        try:
            for _ in range(5):
                assert kept.faults() == []
        finally:
            done.set()
    assert using.result()


def test_many_pages_are_like_one(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept.fsck()
    monkeypatch.setattr("server.storage.sql.inventory.PAGE", 1)
    monkeypatch.setattr("server.storage.sql.inventory.PAGE_OF_CONTENTS", 1)

    assert kept.fsck().stderr == whole.stderr


@pytest.mark.parametrize("what", ["no file", "no schema", "an older schema", "no database"])
def test_what_is_no_registry_is_no_fault(backend: str, new_database: NewDatabase, tmp_path: Path, what: str) -> None:
    url = new_database(backend, migrated=what == "an older schema")
    if what == "an older schema":
        alter(url, text("UPDATE alembic_version SET version_num = '0001'"))
    elif what == "no database":
        url = "postgresql://postgres@127.0.0.1:1/none"
    elif backend == "sqlite" and what == "no schema":
        Path(make_url(url).database or "").touch()

    result = fsck("--database-url", url, "--data-dir", tmp_path / "data")

    if backend == "postgresql" and what == "no file":
        assert "schema is older" in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "data").exists()
