"""Who sees what, and how grants are kept. Each test runs on every backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelregistry.v1.access_service_pb2 import (
    ROLE_EDITOR,
    ROLE_OWNER,
    ROLE_PROMOTER,
    ROLE_UNSPECIFIED,
    ROLE_VIEWER,
    Grant,
)
from modelregistry.v1.model_pb2 import Model
from server.core.caller import Caller
from server.core.errors import ModelNotFound, RegistryError
from server.storage.contract import Reader
from server.storage.paging import PageRequest
from server.storage.sql import tables
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, grant, revoke
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.conftest import NOW_MS, Clock
from tests.storage.inspection import rows

JANE = builders.caller("user:jane", "group:science", "group:ops")
PAGE = PageRequest(100)


# Every question that raises ModelNotFound, and the name of its test.
QUESTIONS: dict[str, Callable[[Reader, str, Caller], object]] = {
    "get_model": lambda reader, model_rid, who: reader.get_model(model_rid, who),
    "get_branch": lambda reader, model_rid, who: reader.get_branch(model_rid, "master", who),
    "get_absent_branch": lambda reader, model_rid, who: reader.get_branch(model_rid, "absent", who),
    "list_branches": lambda reader, model_rid, who: reader.list_branches(model_rid, who, PAGE),
    "list_versions": lambda reader, model_rid, who: reader.list_versions(model_rid, "master", who, PAGE),
    "list_versions_of_absent_branch": lambda reader, model_rid, who: reader.list_versions(
        model_rid, "absent", who, PAGE
    ),
}


@pytest.fixture
def model(repository: SqlRepository) -> Model:
    """A model with a version, on which nobody has a role."""
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    return model


def role(repository: SqlRepository, model: Model, who: Caller = JANE) -> int:
    return repository.read(lambda reader: reader.get_model(model.rid, who)).role


def sees(repository: SqlRepository, model: Model, who: Caller = JANE) -> bool:
    """Whether a caller sees a model; every question answers alike."""
    version_rid = repository.read(lambda reader: reader.get_branch(model.rid, "master", ADMIN)).head.rid
    answers = {
        repository.read(lambda reader: model in reader.list_models(who, None, PAGE).items),
        repository.read(lambda reader: model in reader.list_models(who, model.parent_folder_rid, PAGE).items),
        repository.read(lambda reader: reader.find_version(version_rid, who)) is not None,
        *(not isinstance(answer(repository, ask, model.rid, who), ModelNotFound) for ask in QUESTIONS.values()),
    }
    assert len(answers) == 1, "one question shows what another hides"
    return answers.pop()


def answer(
    repository: SqlRepository, ask: Callable[[Reader, str, Caller], object], model_rid: str, who: Caller
) -> object:
    try:
        return repository.read(lambda reader: ask(reader, model_rid, who))
    except RegistryError as error:
        return error


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_the_invisible_is_answered_like_the_absent(
    repository: SqlRepository, model: Model, ask: Callable[[Reader, str, Caller], object]
) -> None:
    absent_rid = "ri.models.main.model.absent"

    invisible, absent = (answer(repository, ask, rid, JANE) for rid in (model.rid, absent_rid))

    assert isinstance(invisible, ModelNotFound)
    assert isinstance(absent, ModelNotFound)
    assert invisible.parameters == {"modelRid": model.rid}
    assert absent.parameters == {"modelRid": absent_rid}
    assert str(invisible).replace(model.rid, absent_rid) == str(absent)
    assert isinstance(answer(repository, ask, absent_rid, ADMIN), ModelNotFound)


def test_a_version_of_an_invisible_model_is_answered_like_an_absent_one(
    repository: SqlRepository, model: Model
) -> None:
    version = append(repository, builders.version(model.rid))

    assert repository.read(lambda reader: reader.find_version(version.rid, JANE)) is None
    assert repository.read(lambda reader: reader.find_version("ri.models.main.model-version.absent", JANE)) is None
    assert repository.read(lambda reader: reader.find_version("ri.models.main.model-version.absent", ADMIN)) is None


@pytest.mark.parametrize("principal", JANE.principals)
@pytest.mark.parametrize("on_folder", [False, True], ids=["model", "folder"])
def test_a_grant_on_a_model_or_on_its_folder_shows_it_to_a_user_or_group(
    repository: SqlRepository, model: Model, principal: str, on_folder: bool
) -> None:
    assert not sees(repository, model)

    grant(repository, model.parent_folder_rid if on_folder else model.rid, principal, ROLE_VIEWER)

    assert sees(repository, model)
    assert role(repository, model) == ROLE_VIEWER
    assert not sees(repository, model, builders.caller("user:john", "group:sales"))


def test_a_grant_elsewhere_shows_nothing(repository: SqlRepository, model: Model) -> None:
    folder = builders.new_folder_rid()
    other = add_model(repository, folder=folder)
    for resource_rid in (folder, other.rid, model.rid.upper(), "*", ""):
        grant(repository, resource_rid, "user:jane", ROLE_OWNER)
    grant(repository, model.rid, "user:JANE", ROLE_OWNER)
    grant(repository, model.rid, "group:jane", ROLE_OWNER)

    assert not sees(repository, model)


def test_the_highest_of_several_roles_counts(repository: SqlRepository, model: Model) -> None:
    seen = []
    for resource_rid, principal, given in (
        (model.rid, "group:ops", ROLE_VIEWER),
        (model.parent_folder_rid, "group:science", ROLE_PROMOTER),
        (model.rid, "user:jane", ROLE_VIEWER),
        (model.rid, "group:science", ROLE_EDITOR),
        (model.parent_folder_rid, "user:jane", ROLE_OWNER),
    ):
        grant(repository, resource_rid, principal, given)
        seen.append(role(repository, model))

    assert seen == [ROLE_VIEWER, ROLE_PROMOTER, ROLE_PROMOTER, ROLE_EDITOR, ROLE_OWNER]


def test_a_caller_may_be_in_a_thousand_groups(repository: SqlRepository, model: Model) -> None:
    grant(repository, model.rid, "group:999", ROLE_PROMOTER)

    assert role(repository, model, builders.caller("user:jane", *(f"group:{n}" for n in range(1000)))) == ROLE_PROMOTER


def test_an_administrator_sees_all_and_is_an_owner(repository: SqlRepository, model: Model) -> None:
    assert sees(repository, model, ADMIN)
    assert role(repository, model, ADMIN) == ROLE_OWNER
    assert repository.read(lambda reader: reader.get_role(model.parent_folder_rid, ADMIN)) == ROLE_OWNER


def test_a_role_on_a_resource_is_asked_of_the_grants_on_this_very_one(repository: SqlRepository, model: Model) -> None:
    def role_on(resource_rid: str) -> int:
        return repository.read(lambda reader: reader.get_role(resource_rid, JANE))

    grant(repository, model.parent_folder_rid, "user:jane", ROLE_VIEWER)
    grant(repository, model.parent_folder_rid, "group:ops", ROLE_EDITOR)
    grant(repository, model.parent_folder_rid, "group:sales", ROLE_OWNER)

    assert role_on(model.parent_folder_rid) == ROLE_EDITOR
    assert role_on(model.rid) == ROLE_UNSPECIFIED
    assert role_on("ri.models.main.model.absent") == ROLE_UNSPECIFIED


def test_a_role_replaces_the_one_before(repository: SqlRepository, model: Model) -> None:
    grant(repository, model.rid, "user:jane", ROLE_OWNER)
    grant(repository, model.rid, "user:jane", ROLE_VIEWER)

    assert role(repository, model) == ROLE_VIEWER
    assert repository.read(lambda reader: reader.list_grants(model.rid, PAGE)).items == [
        Grant(resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    ]


def test_grants_are_listed_of_this_very_resource_by_principal(repository: SqlRepository, model: Model) -> None:
    principals = ["group:a", "user:B", "user:a", "user:Ä", "user:ｚ", "user:\U0001d4b3"]
    for principal in principals[::-1]:
        grant(repository, model.rid, principal, ROLE_VIEWER)
    grant(repository, model.parent_folder_rid, "user:jane", ROLE_VIEWER)

    listed = repository.read(lambda reader: reader.list_grants(model.rid, PAGE))

    assert [given.principal for given in listed.items] == principals
    assert listed.next_position is None
    assert repository.read(lambda reader: reader.list_grants("ri.models.main.model.absent", PAGE)) == ([], None)


def test_a_role_that_was_taken_away_is_gone_at_once_for_every_connection_and_replica(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    replicas = [open_repository(migrated_url), open_repository(migrated_url)]
    model = add_model(replicas[0])
    append(replicas[0], builders.version(model.rid))
    grant(replicas[0], model.rid, "group:ops", ROLE_VIEWER)
    callers = 8
    seen, revoked = threading.Barrier(callers + 1, timeout=180), threading.Barrier(callers + 1, timeout=180)

    def watch(number: int) -> tuple[bool, bool]:
        replica = replicas[number % 2]

        # Two connections of a thread's own: one that is held by the query, one that is taken from the pool.
        def query(reader: Reader) -> tuple[bool, bool]:
            before = jane_sees(reader) and sees(replica, model)
            seen.wait()
            revoked.wait()
            return before, jane_sees(reader) or sees(replica, model)

        return replica.read(query)

    def jane_sees(reader: Reader) -> bool:
        return model in reader.list_models(JANE, None, PAGE).items

    with ThreadPoolExecutor(callers) as threads:
        watching = [threads.submit(watch, number) for number in range(callers)]
        seen.wait()
        revoke(replicas[0], model.rid, "group:ops")
        revoked.wait()
        assert [done.result() for done in watching] == [(True, False)] * callers


def test_every_change_of_a_grant_is_recorded_with_who_and_when(
    timed: SqlRepository, migrated_url: str, clock: Clock
) -> None:
    grant(timed, "ri.a.b.model.c", "user:jane", ROLE_VIEWER, changed_by="user:admin")
    clock.now_ms += 1
    grant(timed, "ri.a.b.model.c", "user:jane", ROLE_OWNER, changed_by="user:john")
    clock.now_ms += 1
    revoke(timed, "ri.a.b.model.c", "user:jane", changed_by="user:jane")
    revoke(timed, "ri.a.b.model.c", "user:jane", changed_by="user:jane")
    revoke(timed, "ri.a.b.model.absent", "user:jane", changed_by="user:jane")
    clock.now_ms += 1
    grant(timed, "ri.a.b.model.c", "user:jane", ROLE_VIEWER, changed_by="user:admin")

    recorded = [
        (row.resource_rid, row.principal, row.role, row.changed_by, row.changed_time)
        for row in rows(migrated_url, tables.grant_changes)
    ]
    assert recorded == [
        ("ri.a.b.model.c", "user:jane", ROLE_VIEWER, "user:admin", NOW_MS),
        ("ri.a.b.model.c", "user:jane", ROLE_OWNER, "user:john", NOW_MS + 1),
        ("ri.a.b.model.c", "user:jane", None, "user:jane", NOW_MS + 2),
        ("ri.a.b.model.c", "user:jane", ROLE_VIEWER, "user:admin", NOW_MS + 3),
    ]


def test_callers_with_any_number_of_groups_share_a_few_statements(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    """PostgreSQL keeps what is prepared as long as the connection lives."""
    repository = open_repository(new_database("postgresql", migrated=True), pool_size=1)
    model = add_model(repository)
    grant(repository, model.rid, "group:50", ROLE_VIEWER)
    for count in range(1, 101):
        caller = builders.caller("user:jane", *(f"group:{number}" for number in range(count)))
        found = repository.read(lambda reader, caller=caller: reader.get_role(model.rid, caller))  # type: ignore[misc]
        assert found == (ROLE_VIEWER if count > 50 else ROLE_UNSPECIFIED)

    prepared = repository.read(
        lambda reader: reader.session.run("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%max%'")  # type: ignore[attr-defined]
    )
    assert len(prepared) == len({1 << number for number in range(1, 8)})
