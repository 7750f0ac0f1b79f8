"""Time and memory of the calls of 5 models at the paper's size, and of the swap test against scipy.stats.permutation_test.

python -m benchmarks.calls prints the seconds of the swap tests, those of tests, shrinkage and calls together, and the peak bytes
of the process, which holds the energies of all sources. Energies are synthetic: 450 of 32,000 concepts per image, frequent and
rare ones.
"""

import subprocess
import sys
import time

import numpy as np
import scipy.sparse as sp
from scipy.stats import permutation_test

from benchmarks.memory import resource_high_water
from benchmarks.timing import Row, ratios, time_in_turn
from blindspots_lib.analysis.calls import make_calls
from blindspots_lib.analysis.swaps import swap_test
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.paths import PROJECT_ROOT

PAIRS, CONCEPTS, MODELS, DRAWS = 10_000, 32_000, 5, 500  # draws of a concept per image; some fall on the same one
PEER_CONCEPTS = 20  # SciPy's time is proportional to the number of concepts
SECONDS, GIGABYTES = 180, 4.3  # 3 minutes, 4 GiB
ANALYSIS = Analysis()


def synthetic_energies(n_concepts: int, rng: np.random.Generator, draws: int = DRAWS) -> sp.csr_matrix:
    weights = np.random.default_rng(0).lognormal(0, 2, n_concepts)
    found = rng.choice(n_concepts, PAIRS * draws, p=weights / weights.sum())
    places = np.unique(np.repeat(np.arange(PAIRS), draws) * n_concepts + found)
    energies = rng.lognormal(size=len(places)).astype(np.float32)
    return sp.csr_matrix((energies, np.divmod(places, n_concepts)), shape=(PAIRS, n_concepts))


def seconds_of(work, models: list[sp.csr_matrix], real: sp.csr_matrix) -> float:
    begin = time.perf_counter()
    for model in models:
        work(model, real, ANALYSIS)
    return time.perf_counter() - begin


def run_paper_size() -> tuple[float, float, int]:
    """Return the seconds of the swap tests, those of the whole calls, and the peak bytes of the process."""
    rng = np.random.default_rng(1)
    real, *models = (synthetic_energies(CONCEPTS, rng) for _ in range(1 + MODELS))
    return seconds_of(swap_test, models, real), seconds_of(make_calls, models, real), resource_high_water()


def against_scipy() -> Row:
    """Time 2,000 swaps of a few concepts, of which every image shows one, as SciPy does them on dense arrays, and as here."""
    rng = np.random.default_rng(2)
    generated, real = (synthetic_energies(PEER_CONCEPTS, rng, draws=1) for _ in range(2))
    dense = generated.toarray(), real.toarray()

    def total(x, y, axis):
        return (x - y).sum(axis=axis)

    def peer():
        options = {"permutation_type": "samples", "vectorized": True, "n_resamples": ANALYSIS.n_swaps, "axis": 0, "batch": 20}
        return permutation_test(dense, total, rng=np.random.default_rng(3), **options)

    theirs, ours = peer().pvalue, swap_test(generated, real, ANALYSIS).p
    assert np.abs(theirs - ours).max() < 0.08, "p-values differ by more than chance"  # 5 standard errors of 2,000 swaps, twofold
    seconds = time_in_turn({"peer": peer, "ours": lambda: swap_test(generated, real, ANALYSIS)}, repeats=3, warm_up=False)
    what = f"swap test, {PEER_CONCEPTS} concepts, {PAIRS:,} pairs, {ANALYSIS.n_swaps:,} swaps"
    note = "ours gives the p-value over all swaps and the family-wise one besides"
    return Row(what, "scipy.stats.permutation_test, dense", ratios(seconds, "peer", "ours"), 5, note=note)


def run_calls() -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.calls"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    swaps, calls, peak = map(float, done.stdout.split())
    size = f"{MODELS} models, K = {CONCEPTS:,}, {PAIRS:,} pairs"
    return [
        Row(f"swap tests of {size}, {ANALYSIS.n_swaps:,} swaps", "3 minutes", [swaps], SECONDS, "s"),
        Row(f"tests, shrinkage and calls of {size}", "3 minutes", [calls], SECONDS, "s"),
        Row(f"peak memory of tests, shrinkage and calls of {size}", "4 GiB", [peak / 1e9], GIGABYTES, "GB", "with all energies"),
        against_scipy(),
    ]


if __name__ == "__main__":
    print(*run_paper_size())
