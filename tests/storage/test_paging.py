"""Pages: what they hold, where they end, and that they stay true while others write. On every backend."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER, Grant
from modelregistry.v1.model_pb2 import Model
from server.storage.contract import Reader
from server.storage.paging import Page, PageRequest, Position
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, grant

JANE = builders.caller("user:jane")

# How a list is filled with one more item, asked for, and how an item is told from others.
Add = Callable[[SqlRepository, Model, int], None]
Ask = Callable[[Reader, Model, PageRequest], Page[Any]]


def add_sibling(repository: SqlRepository, model: Model, number: int) -> None:
    add_model(repository, f"sibling {number}", folder=model.parent_folder_rid)


def add_branch(repository: SqlRepository, model: Model, number: int) -> None:
    # New names come before, between and behind those of before.
    append(repository, builders.version(model.rid, f"branch {number * 7919 % 1000:03}"))


def add_version(repository: SqlRepository, model: Model, number: int) -> None:
    append(repository, builders.version(model.rid))


def add_grant(repository: SqlRepository, model: Model, number: int) -> None:
    grant(repository, model.rid, f"user:{number * 7919 % 1000:03}", ROLE_VIEWER)


LISTS: dict[str, tuple[Add, Ask]] = {
    "models": (add_sibling, lambda reader, model, page: reader.list_models(ADMIN, model.parent_folder_rid, page)),
    "branches": (add_branch, lambda reader, model, page: reader.list_branches(model.rid, ADMIN, page)),
    "versions": (add_version, lambda reader, model, page: reader.list_versions(model.rid, "master", ADMIN, page)),
    "grants": (add_grant, lambda reader, model, page: reader.list_grants(model.rid, page)),
}
every_list = pytest.mark.parametrize(("add", "ask"), LISTS.values(), ids=LISTS.keys())


def identity(item: Any) -> str:
    return item.principal if isinstance(item, Grant) else getattr(item, "rid", "") or item.name


def joined(pages: Iterable[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(pages))


def pages(repository: SqlRepository, ask: Callable[[Reader, PageRequest], Page[Any]], size: int) -> Iterator[list[str]]:
    """Every page of a list."""
    after: Position | None = None
    while True:
        page = repository.read(lambda reader, after=after: ask(reader, PageRequest(size, after)))
        assert len(page.items) <= size
        yield [identity(item) for item in page.items]
        if page.next_position is None:
            return
        assert page.items
        after = page.next_position


@every_list
@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (7, [6])], ids=lambda value: str(value)
)
def test_pages_hold_every_item_once_and_the_last_has_no_next_position(
    repository: SqlRepository, add: Add, ask: Ask, size: int, lengths: list[int]
) -> None:
    model = add_model(repository, folder=builders.new_folder_rid())
    for number in range(5 if ask is LISTS["models"][1] else 6):
        add(repository, model, number)
    whole = repository.read(lambda reader: ask(reader, model, PageRequest(builders.ALL)))

    walked = list(pages(repository, lambda reader, page: ask(reader, model, page), size))

    assert [len(page) for page in walked] == lengths
    assert joined(walked) == [identity(item) for item in whole.items]
    assert len(set(joined(walked))) == 6


@every_list
def test_pages_neither_repeat_nor_miss_an_item_while_others_are_added(
    repository: SqlRepository, add: Add, ask: Ask
) -> None:
    model = add_model(repository, folder=builders.new_folder_rid())
    for number in range(30):
        add(repository, model, number)
    before = repository.read(lambda reader: ask(reader, model, PageRequest(builders.ALL)))
    present = [identity(item) for item in before.items]
    walked: list[str] = []

    with added_meanwhile(lambda number: add(repository, model, 30 + number)) as added:
        for page in pages(repository, lambda reader, page: ask(reader, model, page), size=4):
            added.get(timeout=180)  # something new lies between any two pages
            walked += page

    assert len(walked) == len(set(walked))
    assert [item for item in walked if item in set(present)] == present


def test_versions_that_are_added_meanwhile_do_not_shift_a_later_page(repository: SqlRepository) -> None:
    model = add_model(repository)
    builders.add_versions(repository, model.rid, 40)
    walked: list[int] = []
    after: Position | None = None

    with added_meanwhile(lambda _: append(repository, builders.version(model.rid))) as added:
        while True:
            page = repository.read(
                lambda r, after=after: r.list_versions(model.rid, "master", ADMIN, PageRequest(4, after))
            )
            walked += [version.version_number for version in page.items]
            after = page.next_position
            if after is None:
                break
            added.get(timeout=180)

    assert walked == list(range(walked[0], 0, -1))


@contextmanager
def added_meanwhile(add: Callable[[int], object]) -> Iterator[queue.Queue[int]]:
    """A thread that adds until the end, at most 20 ahead of what is taken from the queue."""
    added: queue.Queue[int] = queue.Queue(maxsize=20)
    ending = threading.Event()

    def work() -> None:
        number = 0
        while not ending.is_set():
            add(number)
            number += 1
            while not ending.is_set():
                try:
                    added.put(number, timeout=0.05)
                    break
                except queue.Full:
                    continue

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        try:
            yield added
        finally:
            ending.set()
        working.result()


def test_branches_are_listed_in_the_order_of_code_points(repository: SqlRepository) -> None:
    names = sorted(
        [*" -09AZ_azßÄéİﬀｚ", "10", "a b", "a-b", "ab", "\U00010000", "\U0001d4b3", "\U0001f600", "\U0010fffd"]
    )
    model = add_model(repository)
    for name in names[::2] + names[1::2][::-1]:
        append(repository, builders.version(model.rid, name))

    for size in (1, 5, 100):
        walked = pages(repository, lambda reader, page: reader.list_branches(model.rid, ADMIN, page), size)
        assert joined(walked) == names


def test_each_listed_branch_has_its_own_head(repository: SqlRepository) -> None:
    model, other = add_model(repository), add_model(repository)
    heads = [builders.add_versions(repository, model.rid, count, f"branch {count}")[-1] for count in (1, 2, 3)]
    builders.add_versions(repository, other.rid, 4, "branch 1")

    listed = repository.read(lambda reader: reader.list_branches(model.rid, ADMIN, PageRequest(100))).items

    assert [branch.head for branch in listed] == heads
    assert [(branch.name, branch.version_count) for branch in listed] == [
        ("branch 1", 1),
        ("branch 2", 2),
        ("branch 3", 3),
    ]


def test_models_are_listed_by_rid_of_one_folder_or_of_all(repository: SqlRepository) -> None:
    folders = [builders.new_folder_rid(), builders.new_folder_rid()]
    models = [add_model(repository, name, folders[number % 2]) for number, name in enumerate("zaMb")]

    def listed(folder: str | None) -> list[Model]:
        return repository.read(lambda reader: reader.list_models(ADMIN, folder, PageRequest(100))).items

    assert listed(None) == sorted(models, key=rid)
    assert listed(folders[0]) == sorted(models[::2], key=rid)
    assert listed(folders[1]) == sorted(models[1::2], key=rid)
    assert listed(builders.new_folder_rid()) == []


@pytest.mark.parametrize("in_one_folder", [True, False], ids=["one folder", "all folders"])
def test_invisible_models_never_shorten_a_page(repository: SqlRepository, in_one_folder: bool) -> None:
    folder, shared = builders.new_folder_rid(), builders.new_folder_rid()
    models = [add_model(repository, folder=folder) for _ in range(20)]
    visible = models[3::4]
    for model in visible:
        grant(repository, model.rid, "user:jane", ROLE_VIEWER)
    if not in_one_folder:
        visible.append(add_model(repository, folder=shared))
        grant(repository, shared, "user:jane", ROLE_VIEWER)

    def ask(reader: Reader, page: PageRequest) -> Page[Model]:
        return reader.list_models(JANE, folder if in_one_folder else None, page)

    walked = list(pages(repository, ask, 2))

    assert joined(walked) == sorted(map(rid, visible))
    assert [len(page) for page in walked] == ([2, 2, 1] if in_one_folder else [2, 2, 2])


def rid(model: Model) -> str:
    return model.rid
