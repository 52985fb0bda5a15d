"""What the contract of storage says of model files, on every backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from server.core.config import FileQuota
from server.core.errors import QuotaExceeded, StorageUnavailable
from server.storage.contract import StoredFile, Transaction, UploadKey
from server.storage.sql.files import EXPIRED_AT_ONCE
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import uploads
from tests.builders import ADMIN, FOLDER, add_model, append, caller, find, new_folder_rid, version
from tests.storage.conftest import NOW_MS, Clock, at_once
from tests.storage.inspection import row_counts, rows

DAY = timedelta(days=1)
FILE = StoredFile(b"d" * 32, 5, "first")


@pytest.fixture
def model_rid(repository: SqlRepository) -> str:
    return add_model(repository).rid


def key(model_rid: str, upload_id: str = "id") -> UploadKey:
    return UploadKey.of(upload_id, ADMIN, model_rid)


def begin(repository: SqlRepository, upload: UploadKey, name: str = "first") -> None:
    repository.write(lambda tx: tx.begin_upload(upload, name, DAY))


def uploaded(repository: SqlRepository, upload: UploadKey, file: StoredFile = FILE) -> str:
    """Begin and finish an upload; the object that holds the files."""
    begin(repository, upload, file.object_name)
    return repository.write(lambda tx: tx.finish_upload(upload, file))


def name_it(repository: SqlRepository, model_rid: str, file: StoredFile = FILE) -> bytes:
    """Store a version with these files; the digest of its content."""
    new = version(model_rid)

    def change(tx: Transaction) -> bytes:
        digest = tx.put_content(new, file.digest)
        tx.append_version(new, digest)
        return digest

    return repository.write(change)


def found(repository: SqlRepository, upload: UploadKey) -> bytes | None:
    return repository.write(lambda tx: tx.find_upload(upload))


def test_an_upload_is_told_until_when_it_can_be_found(timed: SqlRepository, migrated_url: str) -> None:
    upload = key(add_model(timed).rid)
    begin(timed, upload)

    expire_time = timed.write(lambda tx: tx.keep_upload(upload, timedelta(hours=2)))

    assert expire_time.ToMilliseconds() == NOW_MS + 7_200_000
    [row] = rows(migrated_url, uploads)
    assert row.expire_time == NOW_MS + 7_200_000


def test_an_upload_is_found_once_it_is_complete(repository: SqlRepository, model_rid: str) -> None:
    begin(repository, key(model_rid))
    assert found(repository, key(model_rid)) is None

    repository.write(lambda tx: tx.finish_upload(key(model_rid), FILE))

    assert found(repository, key(model_rid)) == FILE.digest
    assert found(repository, key(model_rid)) == FILE.digest


def test_an_upload_is_found_by_its_caller_for_its_model_alone(repository: SqlRepository, model_rid: str) -> None:
    uploaded(repository, key(model_rid))
    other_model = add_model(repository).rid

    assert found(repository, key(other_model)) is None
    assert found(repository, UploadKey.of("id", caller("user:jane"), model_rid)) is None
    assert found(repository, key(model_rid, "di")) is None


def test_an_upload_is_not_found_when_its_lifetime_is_over(timed: SqlRepository, clock: Clock) -> None:
    upload = key(add_model(timed).rid)
    uploaded(timed, upload)

    clock.now_ms += 86_399_999
    assert found(timed, upload) == FILE.digest
    clock.now_ms += 1
    assert found(timed, upload) is None


def test_equal_files_are_held_by_one_object(repository: SqlRepository, model_rid: str) -> None:
    assert uploaded(repository, key(model_rid, "a"), FILE) == "first"
    assert uploaded(repository, key(model_rid, "b"), FILE._replace(object_name="second")) == "first"
    assert found(repository, key(model_rid, "b")) == FILE.digest


def test_an_upload_that_was_forgotten_cannot_be_finished(repository: SqlRepository, model_rid: str) -> None:
    with pytest.raises(StorageUnavailable):
        repository.write(lambda tx: tx.finish_upload(key(model_rid), FILE))

    assert repository.read(lambda reader: reader.unnamed_files()) == []


def test_an_upload_that_was_given_up_is_forgotten(repository: SqlRepository, model_rid: str) -> None:
    begin(repository, key(model_rid))

    repository.write(lambda tx: tx.give_up_upload(key(model_rid)))
    repository.write(lambda tx: tx.give_up_upload(key(model_rid)))

    assert repository.read(lambda reader: reader.known_objects(["first"])) == set()


def test_files_are_held_by_another_object_if_theirs_is_lost(repository: SqlRepository, model_rid: str) -> None:
    uploaded(repository, key(model_rid))
    content = name_it(repository, model_rid)
    second = FILE._replace(object_name="second")

    repository.write(lambda tx: tx.replace_object(second, lost_object="first"))
    repository.write(lambda tx: tx.replace_object(FILE._replace(object_name="third"), lost_object="first"))

    assert repository.read(lambda reader: reader.find_file(content)) == second


def test_some_files_are_as_many_as_are_asked_for(repository: SqlRepository, model_rid: str) -> None:
    files = [StoredFile(bytes([number]) * 32, number, f"object {number}") for number in range(3)]
    assert repository.read(lambda reader: reader.some_files(2)) == []
    for number, file in enumerate(files):
        uploaded(repository, key(model_rid, str(number)), file)

    assert len(repository.read(lambda reader: reader.some_files(2))) == 2
    assert sorted(repository.read(lambda reader: reader.some_files(5))) == files


def test_files_are_found_by_the_content_that_names_them(repository: SqlRepository, model_rid: str) -> None:
    uploaded(repository, key(model_rid))

    content = name_it(repository, model_rid)

    assert repository.read(lambda reader: reader.find_file(content)) == FILE


def test_a_content_without_files_has_none_and_is_another_content(repository: SqlRepository, model_rid: str) -> None:
    uploaded(repository, key(model_rid))
    with_files = name_it(repository, model_rid)
    plain = version(model_rid)

    without = repository.write(lambda tx: tx.put_content(plain))

    assert without != with_files
    assert repository.read(lambda reader: reader.find_file(without)) is None


def test_a_version_reads_alike_with_files_and_without(repository: SqlRepository, model_rid: str) -> None:
    uploaded(repository, key(model_rid))
    name_it(repository, model_rid)
    with_files = repository.read(lambda reader: reader.get_branch(model_rid, "master", ADMIN)).head
    plain = append(repository, version(model_rid))

    for stored in (with_files, plain):
        stored.ClearField("rid")
        stored.ClearField("root_model_version_rid")
        stored.ClearField("version_number")
        stored.ClearField("created_time")
    assert with_files == plain


def test_files_are_unnamed_until_an_upload_or_a_content_names_them(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    other = StoredFile(b"e" * 32, 5, "second")
    uploaded(timed, key(model_rid, "a"), FILE)
    uploaded(timed, key(model_rid, "b"), other)
    name_it(timed, model_rid, other)
    assert timed.read(lambda reader: reader.unnamed_files()) == []

    clock.now_ms += 86_400_000
    assert timed.write(lambda tx: tx.remove_expired_uploads()) == 2

    assert timed.read(lambda reader: reader.unnamed_files()) == [FILE.digest]


def test_only_uploads_whose_lifetime_is_over_are_forgotten(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    begin(timed, key(model_rid, "incomplete"), "first")
    clock.now_ms += 1
    begin(timed, key(model_rid, "younger"), "second")
    clock.now_ms += 86_399_999

    assert timed.write(lambda tx: tx.remove_expired_uploads()) == 1
    assert timed.write(lambda tx: tx.remove_expired_uploads()) == 0

    assert timed.read(lambda reader: reader.known_objects(["first", "second"])) == {"second"}


def test_objects_are_known_while_they_are_written_and_while_they_hold_files(
    repository: SqlRepository, model_rid: str
) -> None:
    def known() -> set[str]:
        return repository.read(lambda reader: reader.known_objects(["first", "second", "third"]))

    begin(repository, key(model_rid, "a"), "first")
    begin(repository, key(model_rid, "b"), "second")
    assert known() == {"first", "second"}
    repository.write(lambda tx: tx.finish_upload(key(model_rid, "a"), FILE))
    assert known() == {"first", "second"}
    repository.write(lambda tx: tx.finish_upload(key(model_rid, "b"), FILE._replace(object_name="second")))
    assert known() == {"first"}


def test_unnamed_files_are_removed_and_named_ones_are_not(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    other = StoredFile(b"e" * 32, 7, "second")
    uploaded(timed, key(model_rid, "a"), FILE)
    uploaded(timed, key(model_rid, "b"), other)
    name_it(timed, model_rid, FILE)
    assert timed.write(lambda tx: tx.remove_unnamed_file(other.digest)) is None  # its upload names it

    clock.now_ms += 86_400_000
    timed.write(lambda tx: tx.remove_expired_uploads())

    assert timed.write(lambda tx: tx.remove_unnamed_file(FILE.digest)) is None
    assert timed.write(lambda tx: tx.remove_unnamed_file(other.digest)) == other
    assert timed.write(lambda tx: tx.remove_unnamed_file(other.digest)) is None


Change = Callable[[Transaction], object]


def while_another_waits(
    repository: SqlRepository, first: Change, second: Change, then: Change = lambda tx: None
) -> object:
    """What the second transaction returns, which begins between the first one's change and what it does then."""
    done, going = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        first(tx)
        going.set()
        done.wait(0.3)  # How long the other is given to do the wrong thing; the right thing is to wait.
        then(tx)

    with ThreadPoolExecutor(2) as threads:
        holder = threads.submit(repository.write, hold)
        assert going.wait(60)
        waiter = threads.submit(repository.write, second)
        holder.result()
        return waiter.result()


def test_whoever_is_about_to_name_files_is_waited_for(timed: SqlRepository, clock: Clock) -> None:
    """The files lost their last name, and get a new one while they are being removed."""
    model_rid = add_model(timed).rid
    uploaded(timed, key(model_rid, "a"), FILE)
    clock.now_ms += 86_400_000
    timed.write(lambda tx: tx.remove_expired_uploads())
    again = FILE._replace(object_name="second")
    begin(timed, key(model_rid, "b"), "second")

    removed = while_another_waits(
        timed,
        lambda tx: tx.finish_upload(key(model_rid, "b"), again),
        lambda tx: tx.remove_unnamed_file(FILE.digest),
    )

    assert removed is None
    assert found(timed, key(model_rid, "b")) == FILE.digest


def test_whoever_names_files_that_are_being_removed_waits_and_brings_their_own(
    timed: SqlRepository, clock: Clock
) -> None:
    model_rid = add_model(timed).rid
    uploaded(timed, key(model_rid, "a"), FILE)
    clock.now_ms += 86_400_000
    timed.write(lambda tx: tx.remove_expired_uploads())
    begin(timed, key(model_rid, "b"), "second")
    again = FILE._replace(object_name="second")

    holder = while_another_waits(
        timed,
        lambda tx: tx.remove_unnamed_file(FILE.digest),
        lambda tx: tx.finish_upload(key(model_rid, "b"), again),
    )

    assert holder == "second"
    assert found(timed, key(model_rid, "b")) == FILE.digest


def test_files_that_an_upload_was_found_for_stay_while_the_transaction_lasts(
    timed: SqlRepository, clock: Clock
) -> None:
    """The upload expires, and is forgotten, just when a version is created with it."""
    model_rid = add_model(timed).rid
    uploaded(timed, key(model_rid), FILE)
    new = version(model_rid)

    def forget(tx: Transaction) -> object:
        clock.now_ms += 86_400_000
        tx.remove_expired_uploads()
        return tx.remove_unnamed_file(FILE.digest)

    def find_it(tx: Transaction) -> None:
        assert tx.find_upload(key(model_rid)) == FILE.digest

    def name_it(tx: Transaction) -> None:
        tx.append_version(new, tx.put_content(new, FILE.digest))

    assert while_another_waits(timed, find_it, forget, name_it) is None

    assert find(timed, new.rid) == timed.read(lambda reader: reader.get_branch(model_rid, "master", ADMIN)).head
    assert timed.read(lambda reader: reader.known_objects(["first"])) == {"first"}


def test_a_registry_keeps_its_identity(repository: SqlRepository, model_rid: str, migrated_url: str) -> None:
    before = repository.read(lambda reader: reader.registry_id())
    append(repository, version(model_rid))

    assert before == repository.read(lambda reader: reader.registry_id())
    assert row_counts(migrated_url)["identity"] == 1


def used(repository: SqlRepository, upload: UploadKey) -> list[int]:
    """How many bytes count for the principal and for the folder of an upload."""
    return [use.size for use in repository.read(lambda reader: reader.get_file_uses(upload))]


def test_an_upload_counts_in_full_once_it_is_complete(repository: SqlRepository, model_rid: str) -> None:
    begin(repository, key(model_rid))
    assert used(repository, key(model_rid)) == [0, 0]

    repository.write(lambda tx: tx.finish_upload(key(model_rid), FILE))
    uploaded(repository, key(model_rid, "b"), FILE._replace(object_name="second"))

    assert used(repository, key(model_rid)) == [10, 10]
    assert used(repository, UploadKey.of("x", caller("user:jane"), model_rid)) == [0, 10]


@pytest.mark.parametrize("quota", [FileQuota(9, 0), FileQuota(0, 9), FileQuota(4, 4)])
def test_an_upload_beyond_the_quota_is_refused_and_not_recorded(
    repository: SqlRepository, model_rid: str, quota: FileQuota
) -> None:
    if quota.of_principal != 4:
        uploaded(repository, key(model_rid))
    begin(repository, key(model_rid, "b"), "second")
    before = used(repository, key(model_rid))

    with pytest.raises(QuotaExceeded) as caught:
        repository.write(lambda tx: tx.finish_upload(key(model_rid, "b"), FILE, quota))

    assert caught.value.max_bytes in quota
    assert caught.value.resource == (ADMIN.user if quota.of_principal else FOLDER)
    assert used(repository, key(model_rid)) == before
    assert found(repository, key(model_rid, "b")) is None


def test_the_bytes_of_an_expired_upload_count_no_longer_unless_it_was_found(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    for name in ("a", "b"):
        uploaded(timed, key(model_rid, name), FILE._replace(object_name=name))
    begin(timed, key(model_rid, "c"), "c")
    assert found(timed, key(model_rid, "a")) == FILE.digest

    clock.now_ms += 86_400_000
    assert used(timed, key(model_rid)) == [10, 10]
    assert timed.write(lambda tx: tx.remove_expired_uploads()) == 3

    assert used(timed, key(model_rid)) == [5, 5]
    assert timed.write(lambda tx: tx.remove_expired_uploads()) == 0


def test_a_caller_forgets_a_few_expired_uploads_of_its_own(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    of_jane = UploadKey.of("jane", caller("user:jane"), model_rid)
    uploaded(timed, of_jane, FILE._replace(object_name="jane"))
    for number in range(EXPIRED_AT_ONCE + 1):
        uploaded(timed, key(model_rid, str(number)), FILE._replace(object_name=str(number)))

    clock.now_ms += 86_400_000
    counts = [timed.write(lambda tx: tx.remove_expired_uploads(ADMIN.user)) for _ in range(3)]

    assert counts == [EXPIRED_AT_ONCE, 1, 0]
    assert used(timed, of_jane) == [5, 5]


def test_a_folder_forgets_expired_uploads_of_all_callers_for_its_models(timed: SqlRepository, clock: Clock) -> None:
    model_rid, elsewhere = add_model(timed).rid, add_model(timed, folder=new_folder_rid()).rid
    of_jane = UploadKey.of("jane", caller("user:jane"), model_rid)
    uploaded(timed, of_jane)
    uploaded(timed, key(model_rid), FILE._replace(object_name="second"))
    uploaded(timed, key(elsewhere, "elsewhere"), FILE._replace(object_name="third"))
    clock.now_ms += 86_400_000

    assert timed.write(lambda tx: tx.remove_expired_uploads(FOLDER)) == 2

    assert used(timed, of_jane) == [0, 0]
    assert used(timed, key(elsewhere)) == [5, 5]


def test_expired_uploads_that_give_most_back_are_forgotten_first(timed: SqlRepository, clock: Clock) -> None:
    model_rid = add_model(timed).rid
    for number in range(EXPIRED_AT_ONCE):
        uploaded(timed, key(model_rid, str(number)), FILE._replace(object_name=str(number)))
        assert found(timed, key(model_rid, str(number))) == FILE.digest
        begin(timed, key(model_rid, f"{number} incomplete"), f"{number} incomplete")
    uploaded(timed, key(model_rid, "large"), StoredFile(b"l" * 32, 2**33, "large"))
    clock.now_ms += 86_400_000

    timed.write(lambda tx: tx.remove_expired_uploads(ADMIN.user))

    assert used(timed, key(model_rid)) == [5 * EXPIRED_AT_ONCE, 5 * EXPIRED_AT_ONCE]


def test_callers_that_forget_the_same_expired_uploads_at_once_give_their_bytes_back_once(
    timed: SqlRepository, clock: Clock
) -> None:
    model_rid = add_model(timed).rid
    uploaded(timed, key(model_rid))
    clock.now_ms += 86_400_000
    uploaded(timed, key(model_rid, "younger"), FILE._replace(object_name="second"))

    holders = 2 * [FOLDER, ADMIN.user]
    counts = at_once(4, lambda number: timed.write(lambda tx: tx.remove_expired_uploads(holders[number])))

    assert sorted(counts) == [0, 0, 0, 1]
    assert used(timed, key(model_rid)) == [5, 5]
