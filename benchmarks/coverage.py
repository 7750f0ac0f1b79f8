"""How often the 95 % interval of delta(k) holds the truth, in simulated pairs, beside Fieller's interval.

Coarse steps of what a study meets: delta, firing frequency, number of pairs, heavy tails of the energies, real and generated
images that show a concept together because they have the same caption, and concepts that are drawn less often or fainter.
"""

import itertools
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from matplotlib.figure import Figure

from benchmarks.timing import Row
from blindspots_lib.analysis.delta import DEVIATIONS, column_sums, ratio_interval
from blindspots_lib.figures.style import GRADIENT, INK, QUIET

DELTAS = (0.02, 0.1, 0.3, 0.5, 0.9)
FREQUENCIES, PAIRS = (0.005, 0.02, 0.05, 0.2, 0.5), (100, 300, 1_000, 3_000)
ENERGIES = {
    "log-normal, σ = 1": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "log-normal, σ = 1.5": lambda rng, n: rng.lognormal(0.0, 1.5, n),
    "Pareto, shape 2.5": lambda rng, n: 1 + rng.pareto(2.5, n),
}
TRIALS = 1_000
LOWEST = 0.93  # of the mean coverage at any delta and number of firings
FIRINGS = (0, 3, 10, 30, 100, 1_501)  # edges of what is averaged: firings to be expected on the side that shows it more often
Interval = Callable[[sp.csr_matrix, sp.csr_matrix], tuple[np.ndarray, np.ndarray]]


class Cell(NamedTuple):
    """One kind of concept and study."""

    delta: float
    frequency: float  # fraction of images on which the side fires that shows the concept more often
    n_pairs: int
    energies: str  # of ENERGIES
    together: float  # fraction of concept occurrences that both images of a pair can show
    fainter: bool  # the rarer side fires as often, but weaker; otherwise as strongly, but less often

    @property
    def firings(self) -> float:
        return self.frequency * self.n_pairs


def cells() -> list[Cell]:
    return [Cell(*values) for values in itertools.product(DELTAS, FREQUENCIES, PAIRS, ENERGIES, (0.0, 0.8), (False, True))]


def simulate(cell: Cell, trials: int, seed: int = 0) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return the energies of generated and real images, (pairs, trials): one column per independent trial."""
    rng = np.random.default_rng([seed, zlib.crc32(repr(cell).encode())])
    size, ratio = cell.n_pairs * trials, min(cell.delta, 1 - cell.delta) / max(cell.delta, 1 - cell.delta)
    often = np.flatnonzero(rng.random(size) < cell.frequency) if cell.frequency > 0.05 else rare_places(rng, size, cell.frequency)
    kept = often[rng.random(len(often)) < (1 if cell.fainter else ratio)]
    rarely = np.where(rng.random(len(kept)) < cell.together, kept, rng.integers(0, size, len(kept)))
    sides = [as_matrix(places, ENERGIES[cell.energies](rng, len(places)) * strength, cell.n_pairs, trials)
             for places, strength in ((rarely, ratio if cell.fainter else 1.0), (often, 1.0))]  # fmt: skip
    return (sides[0], sides[1]) if cell.delta <= 0.5 else (sides[1], sides[0])


def rare_places(rng: np.random.Generator, size: int, frequency: float) -> np.ndarray:
    return rng.integers(0, size, rng.poisson(size * frequency))


def as_matrix(places: np.ndarray, energies: np.ndarray, n_pairs: int, trials: int) -> sp.csr_matrix:
    return sp.csr_matrix((energies, (places // trials, places % trials)), shape=(n_pairs, trials))


def fieller_interval(generated: sp.csr_matrix, real: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return every delta for which the sum over pairs of e' - delta s is at most 1.96 of its standard deviations from 0."""
    e, r = column_sums(generated), column_sums(real)
    ee, er, rr = (column_sums(x.multiply(y)) for x, y in ((generated, generated), (generated, real), (real, real)))
    s, es, ss = e + r, ee + er, ee + 2 * er + rr
    a, b, c = s**2 - DEVIATIONS**2 * ss, e * s - DEVIATIONS**2 * es, e**2 - DEVIATIONS**2 * ee
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.sqrt(np.maximum(b**2 - a * c, 0))
        low, high = (np.where(a > 0, (b + sign * half) / a, end) for sign, end in ((-1, 0), (1, 1)))
    return np.where(s > 0, np.clip(low, 0, 1), np.nan), np.where(s > 0, np.clip(high, 0, 1), np.nan)


def measure_coverage(interval: Interval, chosen: Iterable[Cell], trials: int = TRIALS, seed: int = 0) -> pd.DataFrame:
    """Return one row per cell: its fields, firings, coverage and median width of the interval, over trials that fire at all."""
    rows = []
    for cell in chosen:
        low, high = interval(*simulate(cell, trials, seed))
        fires = ~np.isnan(low)
        covered = (low <= cell.delta) & (cell.delta <= high)
        measured = {"coverage": np.mean(covered[fires]), "width": np.median((high - low)[fires])} if fires.any() else {}
        rows.append(cell._asdict() | {"firings": cell.firings} | measured)
    return pd.DataFrame(rows)


def by_firings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean coverage per delta (rows) and number of firings (columns)."""
    groups = pd.cut(table["firings"], FIRINGS, right=False, labels=[f"{a}–{b - 1}" for a, b in itertools.pairwise(FIRINGS)])
    return table.pivot_table("coverage", "delta", groups, observed=True)


def coverage_rows(tables: dict[str, pd.DataFrame]) -> list[Row]:
    """Return how far the mean coverage at any delta and number of firings (three or more) is below and above 95 %."""
    rows = []
    for name, table in tables.items():
        missing = 0.95 - by_firings(table).iloc[:, 1:].to_numpy().min()
        rows.append(Row(f"coverage missing to 95 %, {name}", "a stated 95 %", [max(missing, 0.0)], 0.95 - LOWEST, "fraction"))
        beyond = by_firings(table).iloc[:, 1:].max(axis=1) - 0.95
        note = f"at δ = {beyond.idxmax():g}; elsewhere {beyond.drop(beyond.idxmax()).max():.3f}"
        rows.append(Row(f"coverage beyond 95 %, {name}", "a stated 95 %", [max(beyond.max(), 0.0)], 0.02, "fraction", note))
    return rows[:2] + [row._replace(bar=None) for row in rows[2:]]


def plot_coverage(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw the coverage of each interval against the number of firings, one line per delta and one point per simulated study."""
    figure, axes = plt.subplots(1, len(tables), figsize=(4.6 * len(tables), 3.8), sharey=True, layout="constrained")
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.axhspan(0.93, 0.97, color=QUIET, alpha=0.18, linewidth=0, label="93 to 97 %")
        axis.axhline(0.95, color=INK, linewidth=0.8, linestyle=":")
        for colour, (delta, of_delta) in zip(GRADIENT, table.groupby("delta"), strict=True):
            axis.plot(of_delta["firings"], of_delta["coverage"], "o", markersize=2, alpha=0.25, color=colour)
            mean = of_delta.groupby("firings")["coverage"].mean()
            axis.plot(mean.index, mean, color=colour, linewidth=1.5, label=f"δ = {delta:g}")
        axis.set(xscale="log", xlabel="images that fire, to be expected", title=name, ylim=(0.6, 1.005))
    axes[0].set_ylabel("coverage of the 95 % interval")
    axes[0].legend(fontsize=7.5, loc="lower right")
    return figure


def run_coverage(trials: int = TRIALS) -> dict[str, pd.DataFrame]:
    intervals = {"interval in use": ratio_interval, "Fieller's interval": fieller_interval}
    return {name: measure_coverage(interval, cells(), trials) for name, interval in intervals.items()}
