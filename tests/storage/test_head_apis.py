"""Which Model APIs heads of a branch have had. Each test runs on every backend."""

from __future__ import annotations

import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from server.storage.contract import Comparison, HeadApi, PolicyPeriod, Transaction
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import add_model, append, branch_end

RULES = 7
MOST = 10


class Branch:
    """A branch with three versions, each with a content of its own."""

    def __init__(self, repository: SqlRepository):
        self.repository = repository
        self.model = add_model(repository)
        self.versions = [append(repository, builders.version(self.model.rid, label=label)) for label in "abc"]
        end = repository.read(lambda reader: branch_end(reader, self.model.rid))
        assert end.key is not None
        self.key = end.key
        self.period = PolicyPeriod(self.model.rid, 1)

    def add(self, *numbers: int, period: PolicyPeriod | None = None) -> None:
        """Record that the version of a number brought the Model API that is called like it."""

        def change(tx: Transaction) -> None:
            for number in numbers:
                api = HeadApi(str(number).encode(), number, b"whatever")
                tx.add_head_api(self.model.rid, "master", period or self.period, api)

        self.repository.write(change)

    def content(self, version: ModelVersion) -> bytes:
        return self.repository.write(lambda tx: tx.put_content(version))

    def listed(
        self, candidate: HeadApi | None = None, period: PolicyPeriod | None = None, most: int = MOST
    ) -> list[HeadApi]:
        wanted = candidate or HeadApi(b"new", 4, b"new")
        return self.repository.read(
            lambda reader: reader.list_head_apis(self.key, period or self.period, wanted, RULES, most)
        )


@pytest.fixture
def branch(repository: SqlRepository) -> Branch:
    return Branch(repository)


def numbers(apis: list[HeadApi]) -> list[int]:
    return [api.version_number for api in apis]


def test_the_newest_come_first_with_the_content_of_their_version_and_so_many_at_most(branch: Branch) -> None:
    branch.add(1, 3, 2)
    contents = [branch.content(version) for version in branch.versions]
    expected = [HeadApi(str(number).encode(), number, contents[number - 1]) for number in (3, 2, 1)]
    assert branch.listed() == expected
    assert branch.listed(most=2) == expected[:2]


def test_a_version_is_recorded_once(branch: Branch) -> None:
    branch.add(1, 1)
    branch.add(1)
    assert numbers(branch.listed()) == [1]


def test_what_counts_for_one_period_counts_for_no_other(branch: Branch, repository: SqlRepository) -> None:
    later, of_folder = PolicyPeriod(branch.model.rid, 2), PolicyPeriod(builders.FOLDER, 1)
    branch.add(1)
    branch.add(2, period=later)
    branch.add(3, period=of_folder)
    Branch(repository).add(1)
    assert [numbers(branch.listed(period=each)) for each in (branch.period, later, of_folder)] == [[1], [2], [3]]


def test_verdicts_are_on_the_candidate_by_the_same_rules(branch: Branch, repository: SqlRepository) -> None:
    branch.add(1, 2, 3)
    contents = [branch.content(version) for version in (*branch.versions, builders.version("", label="new"))]

    def add_verdicts(tx: Transaction) -> None:
        for head, candidate, rules, errors in ((0, 3, RULES, 5), (1, 3, RULES + 1, 6), (3, 2, RULES, 7)):
            # The same one may be stored twice.
            for _ in range(2):
                tx.add_verdict(Comparison(contents[head], contents[candidate], rules), Promotion(error_count=errors))

    repository.write(add_verdicts)

    verdicts = {api.version_number: api.verdict for api in branch.listed(HeadApi(b"new", 4, contents[3]))}
    assert [verdict and verdict.error_count for verdict in verdicts.values()] == [None, None, 5]
    found = repository.read(lambda reader: reader.find_verdict(Comparison(contents[0], contents[3], RULES)))
    assert found is not None
    assert verdicts[1] is not None
    assert repository.read(lambda reader: reader.get_findings(verdicts[1])) == Promotion(error_count=5)  # type: ignore[arg-type]


def test_a_candidate_whose_model_api_is_recorded_has_the_verdicts_on_what_is_recorded(
    branch: Branch, repository: SqlRepository
) -> None:
    branch.add(1, 2)
    contents = [branch.content(version) for version in (*branch.versions, builders.version("", label="new"))]
    comparison = Comparison(contents[0], contents[1], RULES)
    repository.write(lambda tx: tx.add_verdict(comparison, Promotion(error_count=5)))

    second, first = branch.listed(HeadApi(b"2", 4, contents[3]))

    assert (second.verdict, first.verdict and first.verdict.error_count) == (None, 5)
