"""The checker objects to reads and to orders that cannot be, and to heads that were not the expected ones."""

from __future__ import annotations

import pytest

from tests.history import Outcome, Promise, check
from tests.history.operations import Failure, Wanted
from tests.history.stories import MASTER, REFUSED, RELEASE, Story, rid_of


def test_a_stale_read_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    write = story.promote(3, 4, 2)
    read = story.read(5, 6, 1)
    (violation,) = story.violations()
    assert violation.promise is Promise.NOT_STALE
    assert violation.operations == (write.id, read.id)
    assert "made number 2" in violation.sentence
    assert "saw number 1" in violation.sentence


@pytest.mark.parametrize("empty", ["branch", "list"])
def test_a_read_of_nothing_where_something_is_is_found(story: Story, empty: str) -> None:
    story.promote(1, 2, 1)
    _ = story.read(3, 4, 0) if empty == "branch" else story.listed(3, 4)
    assert story.broken() == {Promise.NOT_STALE}


def test_a_stale_list_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.listed(5, 6, 1)
    assert story.broken() == {Promise.NOT_STALE}


def test_a_stale_read_of_what_was_there_at_first_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    before = story.final()
    story.history.clear()
    story.read(3, 4, 0)
    assert {each.promise for each in check(story.history, story.final(), before)} == {Promise.NOT_STALE}


def test_a_read_from_the_future_is_found(story: Story) -> None:
    story.read(1, 2, 1)
    story.promote(3, 4, 1)
    assert story.broken() == {Promise.NOT_FROM_FUTURE}


def test_a_read_from_the_future_of_a_write_of_unknown_end_is_found(story: Story) -> None:
    story.got(1, 2, 1)
    story.promote(3, None, 1, outcome=Outcome.UNKNOWN)
    assert story.broken() == {Promise.NOT_FROM_FUTURE}


def test_reads_on_one_connection_that_go_back_are_found(story: Story) -> None:
    story.promote(1, 10, 1)
    story.read(2, 3, 1, client="one")
    story.listed(4, 5, client="one")
    assert story.broken() == {Promise.MONOTONIC}


def test_reads_on_one_connection_that_go_back_are_told_as_such_whatever_others_saw(story: Story) -> None:
    story.promote(1, 20, 1)
    story.promote(1, 20, 2, client="another")
    mine = story.read(2, 3, 1, client="one")
    story.read(4, 5, 2, client="other")
    back = story.read(6, 7, 0, client="one")
    (violation,) = story.violations()
    assert violation.promise is Promise.MONOTONIC
    assert violation.operations == (mine.id, back.id)


def test_reads_of_two_clients_that_go_back_are_found(story: Story) -> None:
    story.promote(1, 10, 1)
    story.read(2, 3, 1, client="one")
    story.read(4, 5, 0, client="other")
    assert story.broken() == {Promise.NO_WAY_BACK}


def test_a_version_that_was_acknowledged_and_not_found_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.got(3, 4, 1, found=False)
    assert story.broken() == {Promise.NOT_STALE}


def test_a_source_that_was_acknowledged_and_not_found_is_found(story: Story) -> None:
    missing = Failure("NOT_FOUND", "ModelVersionNotFound")
    story.promote(1, 2, 1, stored=False, outcome=Outcome.FAIL, failures=(missing,))
    assert story.broken() == {Promise.NOT_STALE}


def test_a_read_of_what_is_not_there_in_the_end_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.read(3, 4, 2)
    assert story.broken() == {Promise.PERMANENT}


def test_a_read_of_other_content_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, versions=(read.versions[0]._replace(content="another"),))
    assert story.broken() == {Promise.PERMANENT}


def test_a_read_of_another_branch_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, branch="release")
    assert Promise.ANSWER in story.broken()


def test_a_count_that_does_not_fit_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, count=2)
    assert story.broken() == {Promise.LISTING}


@pytest.mark.parametrize("numbers", [(3, 1), (3, 2), (1, 2, 3), (3, 3, 2, 1)], ids=str)
def test_a_list_with_a_gap_or_in_disorder_is_found(story: Story, numbers: tuple[int, ...]) -> None:
    story.promote(1, 20, 1, 2, 3)
    story.listed(2, 19, *numbers)
    assert story.broken() == {Promise.LISTING}


# Order


def test_numbers_against_real_time_are_found(story: Story) -> None:
    later = story.promote(1, 2, 2)
    earlier = story.promote(3, 4, 1)
    (violation,) = story.violations()
    assert violation.promise is Promise.WRITE_ORDER
    assert violation.operations == (later.id, earlier.id)


def test_numbers_against_real_time_of_a_write_of_unknown_end_are_found(story: Story) -> None:
    story.promote(1, 2, 2)
    story.promote(3, None, 1, outcome=Outcome.UNKNOWN)
    assert story.broken() == {Promise.WRITE_ORDER}


def test_a_repeated_request_counts_from_its_first_acknowledgement(story: Story) -> None:
    story.promote(1, 2, 1)
    story.read(3, 4, 0)
    story.promote(5, 6, 1, stored=False)
    assert story.broken() == {Promise.NOT_STALE}


def test_a_request_that_failed_at_first_counts_from_when_it_was_sent_again(story: Story) -> None:
    story.promote(1, 2, 1, stored=False, outcome=Outcome.FAIL, failures=(REFUSED,))
    story.read(3, 4, 1)
    story.promote(5, 6, 1)
    assert story.broken() == {Promise.NOT_FROM_FUTURE}


def test_a_batch_that_was_seen_on_one_branch_before_the_other_is_found(story: Story) -> None:
    story.write(1, 20, (MASTER, 1), (RELEASE, 1))
    story.read(2, 3, 1, client="one")
    story.read(4, 5, 0, client="other", place=RELEASE)
    assert story.broken() == {Promise.ONE_ORDER}


def test_a_batch_with_another_write_between_its_own_is_found(story: Story) -> None:
    story.promote(1, 20, 1, 3)
    story.promote(2, 19, 2, client="other")
    assert story.broken() == {Promise.ONE_ORDER}


def test_a_copy_that_was_seen_before_its_source_was_asked_for_is_found(story: Story) -> None:
    copying = story.promote(1, 20, 1)
    change = {"source_rid": rid_of(RELEASE, 1)}
    story.bend(2, **change)
    story.records[0] = story.records[0]._replace(**change)
    wanted = (copying.wanted[0]._replace(**change),)
    story.tell_again(copying, wanted=wanted, versions=(copying.versions[0]._replace(**change),))
    read = story.read(2, 3, 1)
    story.tell_again(read, versions=(read.versions[0]._replace(**change),))
    story.promote(4, 19, 1, place=RELEASE)
    assert story.broken() == {Promise.ONE_ORDER}


# Compare and set


def test_a_success_behind_another_head_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.promote(5, 6, 3, expected=rid_of(MASTER, 1))
    assert story.broken() == {Promise.COMPARE_AND_SET}


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.UNKNOWN])
def test_a_refusal_of_the_head_that_was_expected_is_found(story: Story, outcome: Outcome) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=1, expected=rid_of(MASTER, 1), outcome=outcome)
    assert story.broken() == {Promise.COMPARE_AND_SET}


def test_a_refusal_for_the_head_of_a_write_that_expected_none_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    refused = story.refused(3, 4, head=1, expected="")
    story.tell_again(refused, wanted=(refused.wanted[0]._replace(expected_head=None),))
    assert story.broken() == {Promise.COMPARE_AND_SET}


def test_a_refusal_for_a_head_that_was_replaced_before_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.refused(5, 6, head=1, expected=rid_of(MASTER, 2))
    assert story.broken() == {Promise.NOT_STALE}


def test_a_refusal_for_a_head_that_came_later_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=2, expected=rid_of(MASTER, 1))
    story.promote(5, 6, 2)
    assert story.broken() == {Promise.NOT_FROM_FUTURE}


def test_a_refusal_for_a_head_that_never_was_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=7, expected=rid_of(MASTER, 1))
    assert story.broken() == {Promise.PERMANENT}


@pytest.mark.parametrize(
    ("name", "number"), [("VersionAlreadyHead", 1), ("VersionNumberNotFound", 2)], ids=["head", "missing"]
)
def test_a_rollback_that_was_refused_for_what_was_no_more_is_found(story: Story, name: str, number: int) -> None:
    story.promote(1, 2, 1)
    back = (Wanted(*MASTER, source_number=number),)
    failure = Failure("NOT_FOUND", name)
    story.promote(3, 4, 9, stored=False, outcome=Outcome.FAIL, failures=(failure,), wanted=back, tag="back")
    story.promote(5, 6, 2)
    assert not story.violations()
    story.tell_again(story.history[1], invoked=7, completed=8)
    assert story.broken() == {Promise.NOT_STALE}
