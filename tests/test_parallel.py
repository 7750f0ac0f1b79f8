from threading import Barrier, Event

import pytest
import torch

from blindspots_lib.core.parallel import side_by_side


def test_work_is_done_at_once_on_a_share_of_the_cores_and_comes_in_order():
    together, cores = Barrier(2, timeout=60), torch.get_num_threads()  # broken if one is done after the other

    def work(item):
        together.wait()
        return item, torch.get_num_threads()

    with side_by_side(work, range(6), 2) as results:
        assert list(results) == [(item, max(1, cores // 2)) for item in range(6)]
    with side_by_side(lambda item: (item, torch.get_num_threads()), range(3), 1) as results:
        assert list(results) == [(item, cores) for item in range(3)]


def test_whoever_leaves_early_ends_what_has_begun_and_begins_nothing_else():
    given_up, begun = Event(), []

    def work(item):
        begun.append(item)
        assert item == 0 or given_up.wait(timeout=60)

    with pytest.raises(KeyboardInterrupt), side_by_side(work, range(9), 2, given_up) as results:
        next(results)
        raise KeyboardInterrupt
    assert given_up.is_set()
    assert len(begun) <= 3
