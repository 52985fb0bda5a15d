"""The checker objects to each kind of broken history, and to no true one."""

from __future__ import annotations

import pytest

from tests.history import Outcome, Promise, Violation, assert_kept, check
from tests.history.operations import Failure, Wanted
from tests.history.stories import INITIAL, MASTER, NO_RETRY, OTHER, REFUSED, RELEASE, SOURCE, Story, copy, rid_of


@pytest.fixture
def story() -> Story:
    return Story()


def violations(story: Story) -> list[Violation]:
    return check(story.history, story.final(), INITIAL)


def broken(story: Story) -> set[Promise]:
    return {violation.promise for violation in violations(story)}


# True histories


def test_a_history_of_one_client_is_accepted(story: Story) -> None:
    story.read(1, 2, 0)
    story.promote(3, 4, 1)
    story.read(5, 6, 1)
    story.promote(7, 8, 2, expected=rid_of(MASTER, 1))
    story.listed(9, 10, 2, 1)
    story.got(11, 12, 1)
    assert not violations(story)


def test_what_happens_at_once_may_have_happened_in_any_order(story: Story) -> None:
    story.promote(1, 10, 2, client="slow")
    story.promote(2, 9, 1, client="fast")
    story.read(3, 8, 2, client="one")
    story.read(4, 7, 0, client="other")
    story.refused(5, 6, head=1, expected="something else")
    assert not violations(story)


def test_a_write_of_unknown_end_may_have_been_carried_out_at_any_later_time(story: Story) -> None:
    story.promote(1, 2, 3, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,))
    story.promote(3, 4, 1)
    story.promote(5, None, 2, client="killed", outcome=Outcome.UNKNOWN)
    story.read(6, 7, 1)
    story.read(8, 9, 3)
    assert not violations(story)


def test_a_write_of_unknown_end_may_not_have_been_carried_out(story: Story) -> None:
    story.promote(1, 2, 1, stored=False, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,), tag="lost")
    story.promote(3, None, 1, stored=False, outcome=Outcome.UNKNOWN, tag="killed")
    story.read(4, 5, 0)
    story.promote(6, 7, 1)
    assert not violations(story)


def test_a_request_that_is_sent_again_may_have_been_carried_out_the_first_time(story: Story) -> None:
    lost = story.promote(1, 2, 1, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,))
    story.promote(3, 4, 2)
    story.read(5, 6, 2)
    story.promote(7, 8, 1, stored=False)
    story.promote(9, 10, 1, stored=False, client="another")
    assert lost.tag == story.history[-1].tag
    assert not violations(story)


def test_a_request_that_failed_may_be_carried_out_when_it_is_sent_again(story: Story) -> None:
    story.promote(1, 2, 1, stored=False, outcome=Outcome.FAIL, failures=(REFUSED,))
    story.read(3, 4, 0)
    story.promote(5, 6, 1)
    assert not violations(story)


def test_another_request_with_an_id_that_was_used_is_refused(story: Story) -> None:
    story.promote(1, 2, 1)
    used = Failure("ALREADY_EXISTS", "RequestIdAlreadyUsed")
    story.promote(3, 4, 1, place=RELEASE, tag="master-1", stored=False, outcome=Outcome.FAIL, failures=(used,))
    assert not violations(story)


def test_another_request_with_an_id_that_was_used_is_looked_at_all_the_same(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=1, expected=rid_of(MASTER, 1), tag="master-1")
    assert broken(story) == {Promise.COMPARE_AND_SET}


def test_a_batch_is_one_write(story: Story) -> None:
    story.write(1, 2, (MASTER, 1), (RELEASE, 1), (MASTER, 2))
    story.read(3, 4, 2)
    story.read(5, 6, 1, place=RELEASE)
    assert not violations(story)


def test_a_refusal_may_end_a_write_that_an_earlier_attempt_made(story: Story) -> None:
    story.promote(1, 2, 1)
    behind, wrong = rid_of(MASTER, 1), Failure("ABORTED", "BranchHeadChanged", None, rid_of(MASTER, 3))
    story.promote(3, 9, 2, expected=behind, outcome=Outcome.UNKNOWN, failures=(NO_RETRY, wrong))
    story.promote(4, 5, 3)
    assert not violations(story)


# Lost, twice, from nowhere


def test_an_acknowledged_write_that_is_lost_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    lost = story.promote(3, 4, 2)
    story.lose(rid_of(MASTER, 2))
    (violation,) = violations(story)
    assert violation.promise is Promise.NOTHING_LOST
    assert violation.operations == (lost.id,)
    assert lost.id in violation.sentence


def test_an_acknowledged_write_that_has_another_number_in_the_end_is_found(story: Story) -> None:
    first, second = story.promote(1, 9, 1, client="one"), story.promote(2, 8, 2, client="other")
    story.tell_again(first, versions=(copy(MASTER, 2)._replace(rid=first.versions[0].rid),))
    story.tell_again(second, versions=(copy(MASTER, 1)._replace(rid=second.versions[0].rid),))
    assert Promise.PERMANENT in broken(story)


def test_a_write_that_was_applied_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2, tag="master-1", outcome=Outcome.UNKNOWN)
    assert Promise.ONCE in broken(story)


def test_a_write_of_unknown_end_that_was_applied_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1, outcome=Outcome.UNKNOWN)
    story.stored.append(copy(MASTER, 2, "master-1"))
    assert Promise.ONCE in broken(story)


def test_a_repeated_request_with_two_answers_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2, tag="master-1")
    assert {Promise.ANSWER, Promise.ONCE} <= broken(story)


def test_two_requests_with_one_answer_are_found(story: Story) -> None:
    first = story.promote(1, 9, 1)
    story.promote(2, 8, 2, client="other", stored=False, tag="another", versions=first.versions)
    assert broken(story) == {Promise.ANSWER}


def test_a_failed_write_that_was_carried_out_is_found(story: Story) -> None:
    story.promote(1, 2, 1, outcome=Outcome.FAIL, failures=(REFUSED,))
    assert broken(story) == {Promise.FAILED_IS_NOT_DONE}


def test_a_version_that_nobody_made_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.history.clear()
    assert broken(story) == {Promise.NOTHING_FROM_NOWHERE}


def test_half_a_batch_is_found(story: Story) -> None:
    story.write(1, 2, (MASTER, 1), (RELEASE, 1), outcome=Outcome.UNKNOWN)
    story.lose(rid_of(RELEASE, 1))
    assert broken(story) == {Promise.ALL_OR_NOTHING}


def test_an_unknown_write_that_was_carried_out_elsewhere_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1, place=RELEASE, outcome=Outcome.UNKNOWN)
    story.tell_again(write, wanted=(Wanted(*MASTER, SOURCE.rid),))
    assert broken(story) == {Promise.ALL_OR_NOTHING}


def test_an_answer_from_another_branch_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1, place=RELEASE)
    story.tell_again(write, wanted=(Wanted(*MASTER, SOURCE.rid),))
    assert broken(story) == {Promise.ALL_OR_NOTHING, Promise.ANSWER}


def test_a_batch_whose_numbers_are_not_in_its_order_is_found(story: Story) -> None:
    batch = story.promote(1, 2, 1, 2)
    story.tell_again(batch, versions=batch.versions[::-1])
    assert broken(story) == {Promise.ANSWER}


# What is stored


def test_a_gap_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 3)
    assert Promise.GAPLESS in broken(story)


def test_a_number_that_was_given_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    twin = copy(MASTER, 1)._replace(rid="twin")
    story.promote(3, 4, 1, tag="twin", stored=False, versions=(twin,))
    story.stored.append(twin._replace(tag="twin"))
    assert Promise.GAPLESS in broken(story)


def test_a_version_that_is_listed_twice_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.stored.append(story.stored[-1])
    assert {Promise.ONCE, Promise.GAPLESS} <= broken(story)


def test_a_time_that_goes_back_is_found(story: Story) -> None:
    first = story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.bend(2, created_ms=99)
    story.records[0] = story.records[0]._replace(created_ms=99)
    story.tell_again(first, versions=(first.versions[0]._replace(created_ms=99),))
    assert broken(story) == {Promise.TIMES}


@pytest.mark.parametrize(
    "change",
    [{"content": "changed"}, {"root_rid": "another"}, {"source_rid": OTHER.rid}, {"source_rid": "nowhere"}],
    ids=str,
)
def test_a_copy_that_is_not_like_its_source_is_found(story: Story, change: dict[str, str]) -> None:
    write = story.promote(1, 2, 1)
    story.bend(2, **change)
    story.tell_again(write, versions=(write.versions[0]._replace(**change),))
    assert Promise.COPY in broken(story)


def test_a_faithful_copy_of_another_source_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1)
    change = {"content": OTHER.content, "source_rid": OTHER.rid, "root_rid": OTHER.rid}
    story.bend(2, **change)
    story.records[0] = story.records[0]._replace(source_rid=OTHER.rid)
    story.tell_again(write, versions=(write.versions[0]._replace(**change),))
    assert broken(story) == {Promise.COPY}


def test_a_rollback_to_another_number_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    back = story.promote(5, 6, 3)
    change = {"source_rid": rid_of(MASTER, 1)}
    story.bend(4, **change)
    story.records[2] = story.records[2]._replace(**change)
    story.tell_again(back, versions=(back.versions[0]._replace(**change),), wanted=(Wanted(*MASTER, source_number=1),))
    assert not violations(story)
    story.tell_again(story.history[2], wanted=(Wanted(*MASTER, source_number=2),))
    assert broken(story) == {Promise.COPY}


def test_a_version_that_was_created_and_has_another_root_is_found(story: Story) -> None:
    write = story.promote(1, 2, 1)
    change = {"source_rid": "", "root_rid": "another"}
    story.bend(2, **change)
    story.records.clear()
    story.tell_again(write, versions=(write.versions[0]._replace(**change),), wanted=(Wanted(*MASTER),))
    assert broken(story) == {Promise.COPY}


@pytest.mark.parametrize("field", ["number", "source_rid", "replaced_rid", "branch", "created_ms"])
def test_a_record_that_does_not_fit_is_found(story: Story, field: str) -> None:
    story.promote(1, 2, 1)
    changed = 7 if field in {"number", "created_ms"} else "another"
    story.records[0] = story.records[0]._replace(**{field: changed})
    assert broken(story) == {Promise.RECORD}


def test_a_record_that_is_missing_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.records.clear()
    assert broken(story) == {Promise.RECORD}


def test_a_record_of_nothing_and_a_second_record_are_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.records.append(story.records[0]._replace(rid="second"))
    assert broken(story) == {Promise.RECORD}
    story.records[1] = story.records[1]._replace(version_rid="nothing")
    assert broken(story) == {Promise.RECORD}


def test_what_was_there_before_and_is_lost_or_changed_is_found(story: Story) -> None:
    story.lose(OTHER.rid)
    assert broken(story) == {Promise.NOTHING_LOST}
    story.stored.append(OTHER._replace(created_ms=1))
    assert broken(story) == {Promise.PERMANENT}


def test_a_record_that_was_there_before_and_is_lost_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    before = story.final()
    story.records.clear()
    assert Promise.PERMANENT in {each.promise for each in check([], story.final(), before)}


# Reads


def test_a_stale_read_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    write = story.promote(3, 4, 2)
    read = story.read(5, 6, 1)
    (violation,) = violations(story)
    assert violation.promise is Promise.NOT_STALE
    assert violation.operations == (write.id, read.id)
    assert "made number 2" in violation.sentence
    assert "saw number 1" in violation.sentence


@pytest.mark.parametrize("empty", ["branch", "list"])
def test_a_read_of_nothing_where_something_is_is_found(story: Story, empty: str) -> None:
    story.promote(1, 2, 1)
    _ = story.read(3, 4, 0) if empty == "branch" else story.listed(3, 4)
    assert broken(story) == {Promise.NOT_STALE}


def test_a_stale_list_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.listed(5, 6, 1)
    assert broken(story) == {Promise.NOT_STALE}


def test_a_stale_read_of_what_was_there_at_first_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    before = story.final()
    story.history.clear()
    story.read(3, 4, 0)
    assert {each.promise for each in check(story.history, story.final(), before)} == {Promise.NOT_STALE}


def test_a_read_from_the_future_is_found(story: Story) -> None:
    story.read(1, 2, 1)
    story.promote(3, 4, 1)
    assert broken(story) == {Promise.NOT_FROM_FUTURE}


def test_a_read_from_the_future_of_a_write_of_unknown_end_is_found(story: Story) -> None:
    story.got(1, 2, 1)
    story.promote(3, None, 1, outcome=Outcome.UNKNOWN)
    assert broken(story) == {Promise.NOT_FROM_FUTURE}


def test_reads_on_one_connection_that_go_back_are_found(story: Story) -> None:
    story.promote(1, 10, 1)
    story.read(2, 3, 1, client="one")
    story.listed(4, 5, client="one")
    assert broken(story) == {Promise.MONOTONIC}


def test_reads_of_two_clients_that_go_back_are_found(story: Story) -> None:
    story.promote(1, 10, 1)
    story.read(2, 3, 1, client="one")
    story.read(4, 5, 0, client="other")
    assert broken(story) == {Promise.NO_WAY_BACK}


def test_a_version_that_was_acknowledged_and_not_found_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.got(3, 4, 1, found=False)
    assert broken(story) == {Promise.NOT_STALE}


def test_a_source_that_was_acknowledged_and_not_found_is_found(story: Story) -> None:
    missing = Failure("NOT_FOUND", "ModelVersionNotFound")
    story.promote(1, 2, 1, stored=False, outcome=Outcome.FAIL, failures=(missing,))
    assert broken(story) == {Promise.NOT_STALE}


def test_a_read_of_what_is_not_there_in_the_end_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.read(3, 4, 2)
    assert broken(story) == {Promise.PERMANENT}


def test_a_read_of_other_content_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, versions=(read.versions[0]._replace(content="another"),))
    assert broken(story) == {Promise.PERMANENT}


def test_a_read_of_another_branch_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, branch="release")
    assert Promise.ANSWER in broken(story)


def test_a_count_that_does_not_fit_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    read = story.read(3, 4, 1)
    story.tell_again(read, count=2)
    assert broken(story) == {Promise.LISTING}


@pytest.mark.parametrize("numbers", [(3, 1), (3, 2), (1, 2, 3), (3, 3, 2, 1)], ids=str)
def test_a_list_with_a_gap_or_in_disorder_is_found(story: Story, numbers: tuple[int, ...]) -> None:
    story.promote(1, 20, 1, 2, 3)
    story.listed(2, 19, *numbers)
    assert broken(story) == {Promise.LISTING}


# Order


def test_numbers_against_real_time_are_found(story: Story) -> None:
    later = story.promote(1, 2, 2)
    earlier = story.promote(3, 4, 1)
    (violation,) = violations(story)
    assert violation.promise is Promise.WRITE_ORDER
    assert violation.operations == (later.id, earlier.id)


def test_numbers_against_real_time_of_a_write_of_unknown_end_are_found(story: Story) -> None:
    story.promote(1, 2, 2)
    story.promote(3, None, 1, outcome=Outcome.UNKNOWN)
    assert broken(story) == {Promise.WRITE_ORDER}


def test_a_repeated_request_counts_from_its_first_acknowledgement(story: Story) -> None:
    story.promote(1, 2, 1)
    story.read(3, 4, 0)
    story.promote(5, 6, 1, stored=False)
    assert broken(story) == {Promise.NOT_STALE}


def test_a_batch_that_was_seen_on_one_branch_before_the_other_is_found(story: Story) -> None:
    story.write(1, 20, (MASTER, 1), (RELEASE, 1))
    story.read(2, 3, 1, client="one")
    story.read(4, 5, 0, client="other", place=RELEASE)
    assert broken(story) == {Promise.ONE_ORDER}


def test_a_batch_with_another_write_between_its_own_is_found(story: Story) -> None:
    story.promote(1, 20, 1, 3)
    story.promote(2, 19, 2, client="other")
    assert broken(story) == {Promise.ONE_ORDER}


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
    assert broken(story) == {Promise.ONE_ORDER}


# Compare and set


def test_a_success_behind_another_head_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.promote(5, 6, 3, expected=rid_of(MASTER, 1))
    assert broken(story) == {Promise.COMPARE_AND_SET}


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.UNKNOWN])
def test_a_refusal_of_the_head_that_was_expected_is_found(story: Story, outcome: Outcome) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=1, expected=rid_of(MASTER, 1), outcome=outcome)
    assert broken(story) == {Promise.COMPARE_AND_SET}


def test_a_refusal_for_the_head_of_a_write_that_expected_none_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    refused = story.refused(3, 4, head=1, expected="")
    story.tell_again(refused, wanted=(refused.wanted[0]._replace(expected_head=None),))
    assert broken(story) == {Promise.COMPARE_AND_SET}


def test_a_refusal_for_a_head_that_was_replaced_before_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.promote(3, 4, 2)
    story.refused(5, 6, head=1, expected=rid_of(MASTER, 2))
    assert broken(story) == {Promise.NOT_STALE}


def test_a_refusal_for_a_head_that_came_later_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=2, expected=rid_of(MASTER, 1))
    story.promote(5, 6, 2)
    assert broken(story) == {Promise.NOT_FROM_FUTURE}


def test_a_refusal_for_a_head_that_never_was_is_found(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=7, expected=rid_of(MASTER, 1))
    assert broken(story) == {Promise.PERMANENT}


@pytest.mark.parametrize(
    ("name", "number"), [("VersionAlreadyHead", 1), ("VersionNumberNotFound", 2)], ids=["head", "missing"]
)
def test_a_rollback_that_was_refused_for_what_was_no_more_is_found(story: Story, name: str, number: int) -> None:
    story.promote(1, 2, 1)
    back = (Wanted(*MASTER, source_number=number),)
    failure = Failure("NOT_FOUND", name)
    story.promote(3, 4, 9, stored=False, outcome=Outcome.FAIL, failures=(failure,), wanted=back, tag="back")
    story.promote(5, 6, 2)
    assert not violations(story)
    story.tell_again(story.history[1], invoked=7, completed=8)
    assert broken(story) == {Promise.NOT_STALE}


# How it is told


def test_the_assertion_tells_the_violations(story: Story) -> None:
    story.promote(1, 2, 1)
    assert_kept(story.history, story.final(), INITIAL)
    story.lose(rid_of(MASTER, 1))
    with pytest.raises(AssertionError, match="1 violations in 1 operations:\nnothing acknowledged is lost: writer#1"):
        assert_kept(story.history, story.final(), INITIAL)
