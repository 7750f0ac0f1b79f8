"""Small work side by side, a core each: two cores share what is made of many short operations badly."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

AT_ONCE = 4  # pieces of work, each with memory of its own
Item, Result = TypeVar("Item"), TypeVar("Result")


def n_side_by_side() -> int:
    """How many pieces of small work are done at a time here: one where there is a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), AT_ONCE)


@contextmanager
def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int, given_up: Event | None = None
) -> Iterator[Iterator[Result]]:
    """`work(item)` of every item, in their order, up to `at_once` at a time, each on its share of the cores.

    Where the context ends, `given_up` is set, what has begun is awaited and nothing else begins.
    """
    import torch

    workers = min(at_once, len(items))
    if workers <= 1:
        yield map(work, items)
        return
    share = max(1, torch.get_num_threads() // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    try:
        yield pool.map(work, items)
    finally:
        if given_up is not None:
            given_up.set()
        pool.shutdown(cancel_futures=True)
