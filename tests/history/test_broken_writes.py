"""The checker objects to writes that were lost, made twice or otherwise than wanted, and to what is stored of them."""

from __future__ import annotations

import pytest

from tests.history import Outcome, Promise, check
from tests.history.operations import Wanted
from tests.history.stories import INITIAL, MASTER, OTHER, REFUSED, RELEASE, SOURCE, Story, copy, rid_of


def test_an_acknowledged_write_that_is_lost_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    lost = story.promote(3, 4, 2)
    story.lose(rid_of(MASTER, 2))
    (violation,) = story.violations()
    assert violation.promise is Promise.NOTHING_LOST
    assert violation.operations == (lost.id,)
    assert lost.id in violation.sentence


def test_an_acknowledged_write_that_has_another_number_in_the_end_is_found(story: Story) -> None:
    first, second = story.promote(1, 9, 1, client="one"), story.promote(2, 8, 2, client="other")
    story.tell_again(first, versions=(copy(MASTER, 2)._replace(rid=first.versions[0].rid),))
    story.tell_again(second, versions=(copy(MASTER, 1)._replace(rid=second.versions[0].rid),))
    assert Promise.PERMANENT in story.broken()


def test_a_write_that_was_applied_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2, tag="master-1", outcome=Outcome.UNKNOWN)
    assert Promise.ONCE in story.broken()


def test_a_write_of_unknown_end_that_was_applied_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1, outcome=Outcome.UNKNOWN)
    story.stored.append(copy(MASTER, 2, "master-1"))
    assert Promise.ONCE in story.broken()


def test_a_repeated_request_with_two_answers_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2, tag="master-1")
    assert {Promise.ANSWER, Promise.ONCE} <= story.broken()
    assert any("which sent the same request" in violation.sentence for violation in story.violations())


def test_two_requests_with_one_answer_are_found(story: Story) -> None:
    first = story.promote(1, 9, 1)
    story.promote(2, 8, 2, client="other", stored=False, tag="another", versions=first.versions)
    assert story.broken() == {Promise.ANSWER}


def test_a_failed_write_that_was_carried_out_is_found(story: Story) -> None:
    story.promote(1, 2, 1, outcome=Outcome.FAIL, failures=(REFUSED,))
    assert story.broken() == {Promise.FAILED_IS_NOT_DONE}


def test_a_version_that_nobody_made_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.history.clear()
    assert story.broken() == {Promise.NOTHING_FROM_NOWHERE}


def test_half_a_batch_is_found(story: Story) -> None:
    story.write(1, 2, (MASTER, 1), (RELEASE, 1), outcome=Outcome.UNKNOWN)
    story.lose(rid_of(RELEASE, 1))
    assert story.broken() == {Promise.ALL_OR_NOTHING}


def test_an_unknown_write_that_was_carried_out_elsewhere_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1, place=RELEASE, outcome=Outcome.UNKNOWN)
    story.tell_again(write, wanted=(Wanted(*MASTER, SOURCE.rid),))
    assert story.broken() == {Promise.ALL_OR_NOTHING}


def test_an_answer_from_another_branch_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1, place=RELEASE)
    story.tell_again(write, wanted=(Wanted(*MASTER, SOURCE.rid),))
    assert story.broken() == {Promise.ALL_OR_NOTHING, Promise.ANSWER}


def test_a_batch_whose_numbers_are_not_in_its_order_is_found(story: Story) -> None:
    batch = story.promote(1, 2, 1, 2)
    story.tell_again(batch, versions=batch.versions[::-1])
    assert story.broken() == {Promise.ANSWER}


# What is stored


def test_a_gap_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 3)
    assert Promise.GAPLESS in story.broken()


def test_a_number_that_was_given_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    twin = copy(MASTER, 1)._replace(rid="twin")
    story.promote(3, 4, 1, tag="twin", stored=False, versions=(twin,))
    story.stored.append(twin._replace(tag="twin"))
    assert Promise.GAPLESS in story.broken()


def test_a_version_that_is_listed_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.stored.append(story.stored[-1])
    assert {Promise.ONCE, Promise.GAPLESS} <= story.broken()


def test_a_version_that_is_on_two_branches_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.stored.insert(0, story.stored[-1]._replace(branch="release"))
    (violation,) = (each for each in story.violations() if "listed again" in each.sentence)
    assert violation.promise is Promise.ONCE


def test_a_state_that_was_not_listed_in_order_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    final = story.final()
    upside_down = final._replace(versions=final.versions[::-1])
    assert {each.promise for each in check(story.history, upside_down, INITIAL)} == {Promise.LISTING}


def test_a_time_that_goes_back_is_found(story: Story) -> None:
    first = story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.bend(2, created_ms=99)
    story.records[0] = story.records[0]._replace(created_ms=99)
    story.tell_again(first, versions=(first.versions[0]._replace(created_ms=99),))
    assert story.broken() == {Promise.TIMES}


@pytest.mark.parametrize(
    "change",
    [{"content": "changed"}, {"root_rid": "another"}, {"source_rid": OTHER.rid}, {"source_rid": "nowhere"}],
    ids=str,
)
def test_a_copy_that_is_not_like_its_source_is_found(story: Story, change: dict[str, str]) -> None:
    write = story.promote(1, 2, 1)
    story.bend(2, **change)
    story.tell_again(write, versions=(write.versions[0]._replace(**change),))
    assert Promise.COPY in story.broken()


def test_a_copy_of_what_is_not_there_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.lose(SOURCE.rid)
    (violation,) = check(story.history, story.final())[:1]
    assert violation.promise is Promise.COPY
    assert "source-1, is not there" in violation.sentence


def test_a_copy_of_a_later_version_of_its_branch_is_found(story: Story) -> None:
    story.promote(1, 10, 2)
    write = story.promote(2, 9, 1)
    change = {"source_rid": rid_of(MASTER, 2)}
    story.bend(3, **change)
    story.records[1] = story.records[1]._replace(**change)
    wanted = (write.wanted[0]._replace(**change),)
    story.tell_again(write, wanted=wanted, versions=(write.versions[0]._replace(**change),))
    assert story.broken() == {Promise.COPY}


def test_a_faithful_copy_of_another_source_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1)
    change = {"content": OTHER.content, "source_rid": OTHER.rid, "root_rid": OTHER.rid}
    story.bend(2, **change)
    story.records[0] = story.records[0]._replace(source_rid=OTHER.rid)
    story.tell_again(write, versions=(write.versions[0]._replace(**change),))
    assert story.broken() == {Promise.COPY}


def test_a_rollback_to_another_number_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    back = story.promote(5, 6, 3)
    change = {"source_rid": rid_of(MASTER, 1)}
    story.bend(4, **change)
    story.records[2] = story.records[2]._replace(**change)
    story.tell_again(back, versions=(back.versions[0]._replace(**change),), wanted=(Wanted(*MASTER, source_number=1),))
    assert not story.violations()
    story.tell_again(story.history[2], wanted=(Wanted(*MASTER, source_number=2),))
    assert story.broken() == {Promise.COPY}


def test_a_version_that_was_created_and_has_another_root_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1)
    change = {"source_rid": "", "root_rid": "another"}
    story.bend(2, **change)
    story.records.clear()
    story.tell_again(write, versions=(write.versions[0]._replace(**change),), wanted=(Wanted(*MASTER),))
    assert story.broken() == {Promise.COPY}


@pytest.mark.parametrize("field", ["number", "source_rid", "replaced_rid", "branch", "created_ms"])
def test_a_record_that_does_not_fit_is_found(story: Story, field: str) -> None:
    story.promote(1, 2, 1)
    changed = 7 if field in {"number", "created_ms"} else "another"
    story.records[0] = story.records[0]._replace(**{field: changed})
    assert story.broken() == {Promise.RECORD}


def test_a_record_that_is_missing_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.records.clear()
    assert story.broken() == {Promise.RECORD}


def test_a_record_of_nothing_and_a_second_record_are_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.records.append(story.records[0]._replace(rid="second"))
    assert story.broken() == {Promise.RECORD}
    story.records[1] = story.records[1]._replace(version_rid="nothing")
    assert story.broken() == {Promise.RECORD}


def test_two_records_of_one_name_are_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.records[1] = story.records[1]._replace(rid=story.records[0].rid)
    assert story.broken() == {Promise.RECORD}


def test_what_was_there_before_and_is_lost_or_changed_is_found(story: Story) -> None:
    story.lose(OTHER.rid)
    assert story.broken() == {Promise.NOTHING_LOST}
    story.stored.append(OTHER._replace(created_ms=1))
    assert story.broken() == {Promise.PERMANENT}


def test_a_record_that_was_there_before_and_is_lost_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    before = story.final()
    story.records.clear()
    assert Promise.PERMANENT in {each.promise for each in check([], story.final(), before)}
