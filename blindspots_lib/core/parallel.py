"""Run work in parallel: small jobs on a thread each, shards on a GPU each."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from threading import Event
from typing import Any, TypeVar

from blindspots_lib.core.errors import StudyError, first_line

AT_ONCE = 4  # small jobs at a time, which are too short to gain from more threads; each needs its own memory
GPUS = "CUDA_VISIBLE_DEVICES"
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


def n_gpus() -> int:
    """Return the number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()


def on_every_gpu(
    work: Callable[[Sequence[Item], Callable[[Any], object]], object], items: Sequence[Item], report: Callable[[Any], object]
) -> None:
    """Call `work(items, report)` here, or where there are several GPUs `work(some of them, report)` in one process per GPU.

    Each process sees one GPU and takes every n-th item; what it gives to its `report` is given to ours. `work` and the items
    are pickled. If one process fails, or `report` raises, all are ended. Raises StudyError, in one line, if a process fails.
    """
    n = min(n_gpus(), len(items))
    if n <= 1:
        work(items, report)
        return
    shown, context = os.environ.get(GPUS, ""), multiprocessing.get_context("spawn")  # a fork cannot use CUDA
    names, workers = shown.replace(" ", "").split(",") if shown else list(map(str, range(n))), {}
    try:
        for index in range(n):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (work, items[index::n], names[index], theirs)
            workers[ours] = context.Process(target=work_on_gpu, args=arguments, daemon=True)
            workers[ours].start()
            theirs.close()
        running = dict(workers)
        while running:
            for pipe in wait(list(running)):
                receive(pipe, running, report)
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


def receive(pipe: Connection, running: dict[Connection, Any], report: Callable[[Any], object]) -> None:
    """Pass on one message of a process; strike it off when it has ended. Raises StudyError if it failed."""
    try:
        kind, message = pipe.recv()
    except (EOFError, OSError):  # the latter in the middle of a message
        worker = running.pop(pipe)
        worker.join()
        if worker.exitcode:
            died = (
                f"was killed by {signal.Signals(-worker.exitcode).name}" if worker.exitcode < 0 else "ended before its work did"
            )
            raise StudyError(
                f"the process of a GPU {died}, perhaps for want of memory; run again, finished work is kept"
            ) from None
        return
    if kind == "fault":
        raise StudyError(message)
    report(message)


def work_on_gpu(work: Callable, items: Sequence[Any], gpu: str, pipe: Connection) -> None:
    """Run in a process of its own: work on one GPU, send what is reported, and at a fault its one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all; the process that started this one ends it
    os.environ[GPUS] = gpu
    try:
        work(items, lambda message: pipe.send(("report", message)))
    except StudyError as error:
        pipe.send(("fault", str(error)))
    except BrokenPipeError:  # nobody waits any more
        sys.exit(1)
    except Exception as error:
        pipe.send(("fault", f"GPU {gpu}: {type(error).__name__}: {first_line(error)}"))
        raise
