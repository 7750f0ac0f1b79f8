import multiprocessing
import os
from threading import Barrier, Event

import pytest
import torch
from work_of_gpus import work

from blindspots_lib.core import parallel
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.parallel import on_every_gpu, side_by_side


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


def test_every_gpu_has_a_process_that_sees_no_other_and_every_nth_item(monkeypatch):
    monkeypatch.setattr(parallel, "n_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,7")
    reports = []
    on_every_gpu(work, list("abcde"), reports.append)
    of = {gpu: [item for seen, _, item in reports if seen == gpu] for gpu in ("3", "5")}
    assert of == {"3": ["a", "c", "e"], "5": ["b", "d"]}
    assert len({pid for _, pid, _ in reports} | {os.getpid()}) == 3


@pytest.mark.parametrize(("gpus", "items"), [(0, "abc"), (1, "abc"), (4, "a"), (4, "")])
def test_one_gpu_or_one_item_needs_no_other_process(monkeypatch, gpus, items):
    monkeypatch.setattr(parallel, "n_gpus", lambda: gpus)
    reports = []
    on_every_gpu(work, list(items), reports.append)
    assert [(pid, item) for _, pid, item in reports] == [(os.getpid(), item) for item in items]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("fail", "^mend this$"),
        ("die", "^the process of a GPU was killed by SIGKILL, perhaps for want of memory; run again, finished work is kept$"),
        ("break", "^GPU 0: ZeroDivisionError: by nothing$"),
    ],
)
def test_one_process_that_fails_ends_all_with_its_one_line(monkeypatch, item, message):
    monkeypatch.setattr(parallel, "n_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(StudyError, match=message):
        on_every_gpu(work, [item, "wait"], print)
    assert multiprocessing.active_children() == []


def test_an_interruption_ends_all(monkeypatch):
    def interrupt(report):
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "n_gpus", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        on_every_gpu(work, ["a", "wait"], interrupt)
    assert multiprocessing.active_children() == []
