"""Small work side by side, a core each: two cores share what is made of many short operations badly."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

AT_ONCE = 4  # pieces of work, each with memory of its own

Item, Result = TypeVar("Item"), TypeVar("Result")


def n_side_by_side() -> int:
    """How many pieces of small work are done at a time here: one where there is a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), AT_ONCE)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int, given_up: Event | None = None
) -> Iterator[Result]:
    """`work(item)` of every item, in their order, up to `at_once` at a time, each on its share of the cores.

    If it is interrupted, `given_up` is set and what has begun is awaited.
    """
    import torch

    workers = min(at_once, len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(torch.get_num_threads() // workers,))
    try:
        yield from pool.map(work, items)
    finally:
        if given_up is not None:
            given_up.set()
        pool.shutdown(cancel_futures=True)
