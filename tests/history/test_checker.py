"""The checker accepts true histories, and tells what is wrong with others."""

from __future__ import annotations

import pytest

from tests.history import Outcome, Promise, assert_kept
from tests.history.operations import Failure
from tests.history.stories import INITIAL, MASTER, NO_RETRY, REFUSED, RELEASE, SOURCE, Story, rid_of


def test_a_history_of_one_client_is_accepted(story: Story) -> None:
    story.read(1, 2, 0)
    story.promote(3, 4, 1)
    story.read(5, 6, 1)
    story.promote(7, 8, 2, expected=rid_of(MASTER, 1))
    story.listed(9, 10, 2, 1)
    story.got(11, 12, 1)
    assert not story.violations()


def test_what_happens_at_once_may_have_happened_in_any_order(story: Story) -> None:
    story.promote(1, 10, 2, client="slow")
    story.promote(2, 9, 1, client="fast")
    story.read(3, 8, 2, client="one")
    story.read(4, 7, 0, client="other")
    story.refused(5, 6, head=1, expected="something else")
    assert not story.violations()


def test_a_write_of_unknown_end_may_have_been_carried_out_at_any_later_time(story: Story) -> None:
    story.promote(1, 2, 3, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,))
    story.promote(3, 4, 1)
    story.promote(5, None, 2, client="killed", outcome=Outcome.UNKNOWN)
    story.read(6, 7, 1)
    story.read(8, 9, 3)
    assert not story.violations()


def test_a_write_of_unknown_end_may_not_have_been_carried_out(story: Story) -> None:
    story.promote(1, 2, 1, stored=False, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,), tag="lost")
    story.promote(3, None, 1, stored=False, outcome=Outcome.UNKNOWN, tag="killed")
    story.read(4, 5, 0)
    story.promote(6, 7, 1)
    assert not story.violations()


def test_a_request_that_is_sent_again_may_have_been_carried_out_the_first_time(story: Story) -> None:
    lost = story.promote(1, 2, 1, outcome=Outcome.UNKNOWN, failures=(NO_RETRY,))
    story.promote(3, 4, 2)
    story.read(5, 6, 2)
    story.promote(7, 8, 1, stored=False)
    story.promote(9, 10, 1, stored=False, client="another")
    assert lost.tag == story.history[-1].tag
    assert not story.violations()


def test_a_request_that_failed_may_be_carried_out_when_it_is_sent_again(story: Story) -> None:
    story.promote(1, 2, 1, stored=False, outcome=Outcome.FAIL, failures=(REFUSED,))
    story.read(3, 4, 0)
    story.promote(5, 6, 1)
    assert not story.violations()


def test_another_request_with_an_id_that_was_used_is_refused(story: Story) -> None:
    story.promote(1, 2, 1)
    used = Failure("ALREADY_EXISTS", "RequestIdAlreadyUsed")
    story.promote(3, 4, 1, place=RELEASE, tag="master-1", stored=False, outcome=Outcome.FAIL, failures=(used,))
    assert not story.violations()


def test_another_request_with_an_id_that_was_used_is_looked_at_all_the_same(story: Story) -> None:
    story.promote(1, 2, 1)
    story.refused(3, 4, head=1, expected=rid_of(MASTER, 1), tag="master-1")
    assert story.broken() == {Promise.COMPARE_AND_SET}


def test_a_batch_is_one_write(story: Story) -> None:
    story.write(1, 2, (MASTER, 1), (RELEASE, 1), (MASTER, 2))
    story.read(3, 4, 2)
    story.read(5, 6, 1, place=RELEASE)
    assert not story.violations()


def test_a_batch_may_be_refused_for_a_head_that_it_would_have_made_itself(story: Story) -> None:
    own = Failure("ABORTED", "BranchHeadChanged", None, "never-stored")
    batch = ((MASTER, 1), (MASTER, 2))
    story.write(1, 2, *batch, stored=False, expected=SOURCE.rid, outcome=Outcome.FAIL, failures=(own,))
    assert not story.violations()


def test_a_refusal_may_end_a_write_that_an_earlier_attempt_made(story: Story) -> None:
    story.promote(1, 2, 1)
    behind, wrong = rid_of(MASTER, 1), Failure("ABORTED", "BranchHeadChanged", None, rid_of(MASTER, 3))
    story.promote(3, 9, 2, expected=behind, outcome=Outcome.UNKNOWN, failures=(NO_RETRY, wrong))
    story.promote(4, 5, 3)
    assert not story.violations()


def test_the_assertion_tells_the_violations(story: Story) -> None:
    story.promote(1, 2, 1)
    assert_kept(story.history, story.final(), INITIAL)
    story.lose(rid_of(MASTER, 1))
    with pytest.raises(AssertionError, match="1 violations in 1 operations:\nnothing acknowledged is lost: writer#1"):
        assert_kept(story.history, story.final(), INITIAL)
