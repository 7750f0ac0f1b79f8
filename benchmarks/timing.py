"""Time contestants in one process. Every repeat runs all of them in turn, so that a slow moment of the machine affects all."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

REPEATS = 5


class Row(NamedTuple):
    """One row of the table: a ratio to the peer that should reach the bar, or a quantity that should not exceed it."""

    what: str
    against: str
    values: list[float]  # one per repeat
    bar: float | None  # None: only reported
    unit: str = "x"  # "x" for a ratio, which should reach the bar; a quantity in any other unit should not exceed it
    note: str = ""

    @property
    def passes(self) -> bool | None:
        if self.bar is None:
            return None
        median = float(np.median(self.values))
        return median >= self.bar if self.unit == "x" else median <= self.bar

    def as_json(self) -> dict:
        values = np.array(self.values, float)
        spread = {"median": np.median(values), "min": values.min(), "max": values.max()}
        return {name: float(value) for name, value in spread.items()} | {
            "bar": self.bar, "unit": self.unit, "passes": self.passes, "repeats": len(values), "note": self.note,
        }  # fmt: skip


def time_in_turn(
    contestants: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each contestant, one number per repeat, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(0 if warm_up else 1, repeats + 1):
        for name, run in contestants.items():
            gc.collect()
            begin = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratios(seconds: Mapping[str, list[float]], peer: str, ours: str) -> list[float]:
    """Return the speed of ours over that of the peer, one number per repeat."""
    return [theirs / own for theirs, own in zip(seconds[peer], seconds[ours], strict=True)]
