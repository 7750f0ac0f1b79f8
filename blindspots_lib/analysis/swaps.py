"""Test per concept whether generated and real energies differ: random sign swaps within pairs.

If the model had no fault in a concept, the real and the generated image of a pair could change places. Then the difference
d_i = e'_i - e_i of pair i has either sign with probability 1/2, independently over pairs. T = sum d / sqrt(sum d^2) is compared
with its values under such swaps; sum d^2 does not change under them. The test needs no assumption about the distribution of
energies. Shape letters: k units (concepts or families). Row i of both matrices is pair i.
Source of the test: Fisher, The Design of Experiments, section 21; of the maximum: Westfall and Young (1993).
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, log_ndtr

from blindspots_lib.core.config import Analysis

FEW = 12  # differences whose 2^m sets are enumerated at most
ENTRIES = 2**22  # numbers in a block of enumerated sums
SWAPS = 128  # random swaps at a time; their signs stay in the cache
STEPS, PRECISION = 60, 1e-10  # of Newton's method
ROUNDING = 1e-5  # relative error of a sum in float32, at most


class SwapTest(NamedTuple):
    """The swap test of every unit. A unit without any difference between the sides has statistic 0 and p-values 1."""

    tested: Bool[np.ndarray, "k"]  # whether enough pairs show it; see `choose_tested`
    statistic: Float[np.ndarray, "k"]  # T = sum (e' - e) / sqrt(sum (e' - e)^2): below 0 where suppressed
    p: Float[np.ndarray, "k"]  # two-sided p-value of T over all 2^n swaps
    q: Float[np.ndarray, "k"]  # Benjamini and Hochberg's adjusted p-value among the tested units; nan for the others
    p_max: Float[np.ndarray, "k"]  # family-wise p-value, among all units


def swap_test(generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> SwapTest:
    """Test every unit by swaps of its pairs' sides: energies (pairs, k) of both sides, from `analysis` n_swaps, seed and rate.

    p-values are of the distribution over all 2^n swaps. p_max is from `n_swaps` random swaps, the same ones for every unit, so
    that the dependence among units is kept; it is (1 + number of swaps whose largest |T| reaches this |T|) / (1 + n_swaps).
    All units take part in the maximum, so the choice of the tested ones does not touch it.
    """
    apart = sp.csc_matrix(generated - real, dtype=np.float64)
    apart.eliminate_zeros()
    sums, squares = columns_sum(apart, apart.data), columns_sum(apart, apart.data**2)
    statistic = np.divide(sums, np.sqrt(squares), out=np.zeros_like(sums), where=squares > 0)
    p = swap_p_values(apart, sums)
    tested = choose_tested(generated, real, analysis.false_discovery_rate)
    q = adjusted(np.where(tested, p, np.nan))
    maxima = np.sort(largest_statistics(apart, squares, analysis.n_swaps, analysis.seed))
    reached = len(maxima) - np.searchsorted(maxima, np.abs(statistic) * (1 - ROUNDING))
    return SwapTest(tested, statistic, p, q, np.where(squares > 0, (1 + reached) / (1 + len(maxima)), 1.0))


def adjusted(p: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return Benjamini and Hochberg's adjusted p-values (q-values); nan stays nan and is not counted."""
    from scipy.stats import false_discovery_control

    q, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def columns_sum(matrix: sp.csc_matrix, data: Float[np.ndarray, "e"]) -> Float[np.ndarray, "k"]:
    """Return the sum of `data` over each column, where `data` has one number per entry of the matrix."""
    filled = np.diff(matrix.indptr) > 0
    sums = np.zeros(matrix.shape[1])
    if filled.any():
        sums[filled] = np.add.reduceat(data, matrix.indptr[:-1][filled])
    return sums


def swap_p_values(apart: sp.csc_matrix, sums: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Return P(|sum +-d_i| >= |sum d_i|) per column, over all sign patterns, each equally likely.

    A pattern reaches the sum if the |d_i| that it turns against the rest add up to at most D = (sum |d_i| - |sum d_i|) / 2.
    Up to `FEW` of the |d_i| are so small: every set of them is enumerated. More: equal |d_i| make it a binomial probability,
    different ones are approximated by `saddlepoint_p`.
    """
    sizes, sums, magnitudes = np.diff(apart.indptr), np.abs(sums), np.abs(apart.data)
    largest = columns_sum(apart, magnitudes)
    deficit = (largest - sums) / 2 + 1e-9 * largest
    small = magnitudes <= np.repeat(deficit, sizes)
    n_small = columns_sum(apart, small.astype(np.float64)).astype(np.int64)
    starts, movable = np.concatenate([[0], n_small.cumsum()]), magnitudes[small]
    p = np.ones(len(sizes))
    for m in range(FEW + 1):
        chosen = np.flatnonzero((n_small == m) & (sums > 0))
        n_sets = count_sets(movable[starts[chosen][:, None] + np.arange(m)], deficit[chosen])
        p[chosen] = np.minimum(n_sets * 2.0 ** (1 - sizes[chosen]), 1)
    many = (n_small > FEW) & (sums > 0)
    mean = np.divide(largest, sizes, out=np.ones_like(largest), where=sizes > 0)
    equal = many & (columns_sum(apart, np.abs(magnitudes / np.repeat(mean, sizes) - 1)) <= 1e-6 * sizes)
    p[equal] = np.minimum(2 * bdtr(np.floor(deficit[equal] / mean[equal] + 1e-6), sizes[equal], 0.5), 1)
    rest = np.flatnonzero(many & ~equal)
    if len(rest):
        p[rest] = saddlepoint_p(apart[:, rest], sums[rest])
    return p


def count_sets(numbers: Float[np.ndarray, "c m"], limits: Float[np.ndarray, "c"]) -> Int[np.ndarray, "c"]:
    """Return how many of the 2^m sets of the numbers of a row add up to at most its limit."""
    n, m = numbers.shape
    members = (np.arange(2**m)[:, None] >> np.arange(m) & 1).astype(np.float64)
    step = max(1, ENTRIES // len(members))
    parts = [numbers[i : i + step] @ members.T <= limits[i : i + step, None] for i in range(0, n, step)]
    return np.concatenate([np.zeros(0, np.int64), *(part.sum(axis=1) for part in parts)])


def saddlepoint_p(apart: sp.csc_matrix, sums: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
    """Approximate P(|sum +-d_i| >= s) for s = `sums` by Barndorff-Nielsen's r*, relative error about 1/m.

    K(t) = sum log cosh(t d_i) is the cumulant function; t solves K'(t) = s. With r = sqrt(2 (t s - K(t))) and
    u = t sqrt(K''(t)), the p-value is 2 Phi(-r - log(u / r) / r). It holds far in the tail, where a normal p-value fails.
    """
    data, counts = np.abs(apart.data), np.diff(apart.indptr)
    squares = columns_sum(apart, data**2)
    scale = np.sqrt(squares / counts)
    data, s = data / np.repeat(scale, counts), sums / scale
    t = saddlepoints(data, counts, s)
    column = np.repeat(np.arange(len(s)), counts)
    x = t[column] * data
    fall = np.exp(-2 * x)
    cumulant = np.bincount(column, x + np.log1p(fall) - np.log(2), len(s))
    curvature = np.bincount(column, data**2 * 4 * fall / (1 + fall) ** 2, len(s))
    r, u = np.sqrt(np.maximum(2 * (t * s - cumulant), 0)), t * np.sqrt(curvature)
    correct = (r > 1e-3) & (u > 0)  # near the centre log(u / r) / r vanishes
    shift = np.zeros_like(r)
    shift[correct] = np.log(u[correct] / r[correct]) / r[correct]
    p = 2 * np.exp(log_ndtr(-(r + shift)))
    return np.clip(p, 2.0 ** (1 - counts), 1)


def saddlepoints(
    data: Float[np.ndarray, "e"], counts: Int[np.ndarray, "c"], sums: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"]:
    """Solve sum d tanh(t d) = s for t >= 0, for every column, by Newton's method from s / sum d^2.

    The left side is concave in t and below s at the start, so every step stays below the solution. Columns that are solved
    drop out.
    """
    starts = np.concatenate([[0], counts.cumsum()])[:-1]
    t = sums / np.add.reduceat(data**2, starts)
    left, d, n = np.arange(len(sums)), data, counts
    for _ in range(STEPS):
        column = np.repeat(np.arange(len(left)), n)
        tanh = np.tanh(t[left][column] * d)
        missing = sums[left] - np.bincount(column, d * tanh, len(left))
        slope = np.bincount(column, d**2 * (1 - tanh**2), len(left))
        step = np.divide(missing, slope, out=np.zeros_like(missing), where=slope > 0)
        t[left] += step
        wanting = np.abs(step) > PRECISION * (1 + t[left])
        if not wanting.any():
            break
        d, left, n = d[wanting[column]], left[wanting], n[wanting]
    return t


def choose_tested(generated: sp.csr_matrix, real: sp.csr_matrix, rate: float) -> Bool[np.ndarray, "k"]:
    """Choose which units to test: those that at least m pairs show, in either image, where 2^(1 - m) <= rate.

    With fewer pairs no p-value can be as small as the rate, so no such unit could ever be called; it would only cost the
    others power. For a rate of 0.05, m is 6. The number of pairs that show a unit does not change under swaps, and p-values
    are not looked at, so the p-values of the chosen units stay valid. A threshold that is chosen because it gives most
    rejections, as independent filtering does, finds hardly more and raises the rate of false ones.
    """
    shown = sp.csc_matrix(generated + real)
    shown.eliminate_zeros()
    return 2.0 ** (1 - np.diff(shown.indptr)) <= rate


def largest_statistics(apart: sp.csc_matrix, squares: Float[np.ndarray, "k"], n_swaps: int, seed: int) -> Float[np.ndarray, "n"]:
    """Return the largest |T| over all units, for each of `n_swaps` random swaps of the pairs."""
    n_pairs, used = apart.shape[0], np.flatnonzero(squares > 0)
    scaled = (apart[:, used] @ sp.diags_array(1 / np.sqrt(squares[used]))).T.tocsr().astype(np.float32)
    rng, maxima = np.random.default_rng(seed), np.zeros(n_swaps)
    for first in range(0, n_swaps if len(used) else 0, SWAPS):
        width = min(SWAPS, n_swaps - first)
        signs = 2 * rng.integers(0, 2, (n_pairs, SWAPS), np.int8)[:, :width].astype(np.float32) - 1
        found = scaled @ signs
        maxima[first : first + width] = np.maximum(found.max(axis=0), -found.min(axis=0))
    return maxima
