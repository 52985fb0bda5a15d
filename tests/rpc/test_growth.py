"""What the database does for each RPC: as much in a large registry as in a small one.

How fast that is, `bench/growth` tells. It also says what a call is here, and fills the registries: with promotions of
one version into one branch, a model of many branches, and many models with usual ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, text

from bench.growth.calls import CALLS, Call
from bench.growth.fill import BRANCH, Filled, fill
from bench.stock import CALLER
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from server.core.permissions import MODELS_READ, MODELS_WRITE, RPC_SCOPES
from server.storage.paging import Paging
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests.conftest import NewDatabase
from tests.rpc.harness import METHODS, User, path_of, serving
from tests.storage.inspection import Executed, open_engine, statements
from tests.storage.plans import explained, nodes, plan_on_postgresql, rows_read, steps_on_sqlite

SMALL, LARGE = 2_000, 20_000
# Rows for a page of a hundred: a look at four times as many and one, each of which is asked something.
MOST_ROWS = 1_000
# Tables with fewer rows than these are read as a whole if PostgreSQL likes that better.
SMALL_TABLE = 1_000
CHANGES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
VERBS = {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}
# What counts all copies of a version that are live is not among them.
BOUNDED = [call for call in CALLS if call.goal]
STREAMS = {"UploadModelFiles", "DownloadModelFiles", "WatchEvents"}


def test_every_call_is_measured() -> None:
    """But for streams of files, which ask for one row each."""
    assert {call.rpc for call in BOUNDED} | STREAMS == set(METHODS)


Fill = Callable[[str, int], tuple[SqlRepository, Engine, Filled]]


@pytest.fixture
def filled(new_database: NewDatabase) -> Iterator[Fill]:
    """Fills databases of a kind to a size."""
    repositories = []

    def new(kind: str, size: int) -> tuple[SqlRepository, Engine, Filled]:
        url = new_database(kind, migrated=True)
        registry, engine = fill(url, size), open_engine(url)
        repositories.append(SqlRepository(database_of(url)))
        return repositories[-1], engine, registry

    yield new
    for repository in repositories:
        repository.close()


def ready_calls(
    repository: SqlRepository, registry: Filled, is_yanked: bool = False
) -> Iterator[tuple[Call, Callable[[], object]]]:
    """Each call, made once so that all is in memory which is kept there, and how to make it again.

    `is_yanked` is whether one of the many copies of one version is yanked before.
    """
    chance = random.Random(5)
    with serving(repository) as served:
        if is_yanked:
            yank_a_copy(served.user("admin"), registry)
        for call in BOUNDED:
            user: User = served.user("admin" if call.is_admins else CALLER)
            user(call.rpc, **call.fields(registry, chance))
            yield call, partial(user, call.rpc, **call.fields(registry, chance))


def yank_a_copy(admin: User, registry: Filled) -> None:
    """Yank the first version of the deep branch, to which nothing is rolled back."""
    deep = {"model_rid": registry.deep_model}
    position = Paging(int, "ListModelVersions", registry.deep_model, BRANCH).token(2)
    [first] = admin("ListModelVersions", **deep, page_token=position).model_versions
    admin("YankVersion", **deep, model_version_rid=first.rid, scope=YANK_SCOPE_VERSION, reason="poisoned")
    assert admin("GetModelVersion", **deep, model_version_rid=first.rid).yanked


def test_the_scope_to_read_is_that_of_calls_which_change_nothing(filled: Fill) -> None:
    """By what they send to the database."""
    repository, _, registry = filled("sqlite", SMALL)
    for call, make in ready_calls(repository, registry):
        with statements() as executed:
            make()
        changes = [each.statement for each in executed if CHANGES.search(each.statement)]
        assert (RPC_SCOPES[path_of(call.rpc)] == MODELS_WRITE) == bool(changes), (call.name, changes)
    assert RPC_SCOPES[path_of("UploadModelFiles")] == MODELS_WRITE
    assert RPC_SCOPES[path_of("DownloadModelFiles")] == MODELS_READ


@pytest.mark.parametrize("is_yanked", [False, True], ids=["nothing yanked", "one of many copies yanked"])
def test_no_call_makes_sqlite_do_more_where_there_is_more(filled: Fill, is_yanked: bool) -> None:
    """Whatever it scans or sorts. That the trees of an index are deeper is all that may be seen of it."""
    small, large = (_steps(filled, size, is_yanked) for size in (SMALL, LARGE))

    assert {name: (small[name], steps) for name, steps in large.items() if steps > 1.2 * small[name]} == {}


def _steps(filled: Fill, size: int, is_yanked: bool) -> dict[str, int]:
    repository, _, registry = filled("sqlite", size)
    found = {}
    with steps_on_sqlite() as steps:
        for call, make in ready_calls(repository, registry, is_yanked):
            before = steps.count
            make()
            found[call.name] = steps.count - before
        # Each process takes it some four times a second, whether there are calls or not.
        before = steps.count
        repository.read(lambda reader: reader.delivery_work())
        found["the look for what is to be delivered"] = steps.count - before
    assert all(found.values())
    return found


@pytest.mark.parametrize("is_yanked", [False, True], ids=["nothing yanked", "one of many copies yanked"])
def test_no_call_makes_postgresql_scan_a_table_or_read_more_than_some_pages(filled: Fill, is_yanked: bool) -> None:
    """So it sorts no more either. Also as a prepared statement, for which it settles on a plan after five calls."""
    repository, engine, registry = filled("postgresql", LARGE)
    _widen(engine, registry)
    sizes = _sizes(engine)
    asked: dict[str, list[Executed]] = {}
    for call, make in ready_calls(repository, registry, is_yanked):
        with statements() as executed:
            make()
        asked[call.name] = [each for each in executed if each.statement.split()[0] in VERBS]

    assert all(asked.values())
    for name, executed in asked.items():
        for each in executed:
            for calls in (1, 10):
                for node in plan_on_postgresql(engine, each, calls):
                    _require_bounded(node, sizes, f"{name}, call {calls}: {node}\n{each.statement}")


@pytest.mark.parametrize("is_wide", [True, False], ids=["all tables large", "few models, branches and grants"])
def test_nor_do_the_statements_inside_of_functions_and_constraints(filled: Fill, is_wide: bool) -> None:
    """What changes something is carried out here, and not only planned; and by sessions with the settings of a server.

    By those of a database, PostgreSQL reads the whole of a table of some hundred rows for each row of a page.
    """
    repository, engine, registry = filled("postgresql", LARGE)
    if is_wide:
        _widen(engine, registry)
    sizes = _sizes(engine)
    with explained() as plans:
        for call, make in ready_calls(repository, registry):
            plans.clear()
            make()
            assert plans, call.name
            for plan in plans:
                for node in nodes(plan):
                    _require_bounded(node, sizes, f"{call.name}: {node}")


def test_the_statements_of_promotions_are_planned_once(filled: Fill) -> None:
    """A plan for values has them in it. PostgreSQL made one for each call where it expected a little less of that."""
    repository, engine, registry = filled("postgresql", LARGE)
    _widen(engine, registry)
    chance = random.Random(5)
    (call,) = (each for each in BOUNDED if each.name == "PromoteVersion, with an id")
    with explained() as plans, serving(repository) as served:
        user: User = served.user(CALLER)
        for _ in range(10):
            plans.clear()
            fields = call.fields(registry, chance)
            user(call.rpc, **fields)

    conditions = [node["Index Cond"] for plan in plans for node in nodes(plan) if "Index Cond" in node]
    assert any("rid = " in condition for condition in conditions)
    assert [each for each in conditions if fields["model_rid"] in each] == []


# A registry of this size has few branches in a model, and few contents, verdicts and grants, beside what others have.
WIDE = 5_000
WIDEN = (
    "INSERT INTO branches (model_id, name, version_count)"
    " SELECT id, 'a-' || n, 1 FROM models, generate_series(1, :wide) n WHERE rid = :model",
    "INSERT INTO versions (rid, branch_id, version_number, content_digest, root_rid, created_time, created_by)"
    " SELECT 'ri.models.main.model-version.wide-' || id, id, 1, (SELECT min(digest) FROM contents), '', 0, ''"
    " FROM branches WHERE name LIKE 'a-%'",
    "INSERT INTO contents (digest, payload, size)"
    " SELECT sha256(n::text::bytea), '', 0 FROM generate_series(1, :wide) n",
    "INSERT INTO verdicts (head_digest, candidate_digest, rules, error_count, payload, size)"
    " SELECT digest, digest, 0, 0, '', 0 FROM contents WHERE size = 0",
    "INSERT INTO grants (resource_rid, principal, role)"
    " SELECT 'ri.models.main.model.wide-' || n, 'group:wide-' || n, 1 FROM generate_series(1, :wide) n",
    "INSERT INTO yanks (rid, version_id, root_rid, scope, reason, yanked_by, yanked_time)"
    " SELECT 'ri.models.main.yank.wide-' || id, id, 'wide-' || id, 1, '', '', 0 FROM versions WHERE root_rid = ''",
    "INSERT INTO unyanks (yank_id, unyanked_by, unyanked_time)"
    " SELECT id, '', 0 FROM yanks WHERE root_rid LIKE 'wide-%'",
)


def _widen(engine: Engine, registry: Filled) -> None:
    """Add branches of the wide model, contents, verdicts, grants and yanks, on PostgreSQL."""
    with engine.begin() as connection:
        for statement in WIDEN:
            values = {"wide": WIDE, "model": registry.wide_model}
            connection.execute(text(statement), {name: values[name] for name in values if f":{name}" in statement})
        connection.execute(text("ANALYZE"))


def _sizes(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return dict(connection.execute(text("SELECT relname, reltuples FROM pg_class WHERE relkind = 'r'")).all())


def _require_bounded(node: dict[str, Any], sizes: dict[str, int], seen: str) -> None:
    if node["Node Type"] == "Seq Scan":
        assert sizes[node["Relation Name"]] < SMALL_TABLE, seen
    if "Actual Rows" in node:
        assert rows_read(node) <= MOST_ROWS, seen
