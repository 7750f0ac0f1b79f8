from threading import Barrier, Event

import pytest

from blindspots_lib.cores import side_by_side


def test_work_is_done_at_once_and_comes_in_order():
    together = Barrier(2, timeout=60)  # broken if one is done after the other
    assert list(side_by_side(lambda item: (together.wait(), item)[1], range(6), 2)) == list(range(6))
    assert list(side_by_side(lambda item: item, range(3), 1)) == list(range(3))


def test_work_that_has_begun_is_told_when_the_rest_is_given_up():
    given_up = Event()

    def fail_or_wait(item):
        if item:
            assert given_up.wait(timeout=60)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        list(side_by_side(fail_or_wait, range(2), 2, given_up))
