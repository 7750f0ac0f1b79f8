"""Run small jobs in parallel, one thread each; they are too short to gain from more."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

AT_ONCE = 4  # jobs at a time; each needs its own memory
Item, Result = TypeVar("Item"), TypeVar("Result")


def n_side_by_side() -> int:
    """Return the number of small jobs to run at a time on this machine: one if it has a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), AT_ONCE)


@contextmanager
def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int, given_up: Event | None = None
) -> Iterator[Iterator[Result]]:
    """Yield `work(item)` for every item, in their order, up to `at_once` at a time; jobs divide the cores evenly.

    When the context ends, `given_up` is set, running jobs are awaited and no other job starts.
    """
    import torch

    workers = min(at_once, len(items))
    if workers <= 1:
        yield map(work, items)
        return
    n_threads = max(1, torch.get_num_threads() // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(n_threads,))
    try:
        yield pool.map(work, items)
    finally:
        if given_up is not None:
            given_up.set()
        pool.shutdown(cancel_futures=True)
