"""The energy difference delta(k): which concepts a model suppresses or exaggerates, and how certain that is.

Shape letters: k concepts; *s stands for any leading axes. Energies per image are SciPy CSR matrices (pairs, k); row i of
both sides is pair i.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from scipy.special import betaincinv, expit

from blindspots_lib.core.config import Analysis

TAIL, DEVIATIONS = 0.025, 1.96  # of a 95 % interval: probability left out on each side, and that in standard deviations
PRIOR_IMAGES = 20  # the variance that was seen counts half, where the rarer side fires on so many images
DIFFERENCE_TEMPERATURE, RELATIVE_TEMPERATURE = 0.8, 0.4  # in the published scripts
Interval = tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]  # lower ends, upper ends


def energy_difference(generated: Float[np.ndarray, "*s k"], real: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s k"]:
    """Return delta(k) = E' / (E + E') per concept; E' is its mean energy over the generated images, E over the real images.

    delta(k) is in [0, 1]. A concept below 0.5 is suppressed, one at 0.5 is aligned, one above 0.5 is exaggerated. A concept
    without energy on both sides gets nan. Equal forms: sigma(log E' - log E), where sigma is the logistic function, and
    (1 + r) / 2, where r = (E' - E) / (E + E') is the relative difference.
    Source: the paper, section 3, delta(k) = p_k(D') / (p_k(D) + p_k(D')) for generated images D' and real images D.
    """
    total = generated + real
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, generated / total, np.nan)


def published_difference(generated: Float[np.ndarray, "*s k"], real: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s k"]:
    """Return sigma((E' - E) / 0.8) per concept, which the published histograms and maps show; energies are of all tokens.

    It depends on the unit of the energies: a concept that fires strongly looks worse than one that fires weakly.
    """
    return expit((generated - real) / DIFFERENCE_TEMPERATURE)


def published_relative(generated: Float[np.ndarray, "k"], real: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Return sigma(r / 0.4), r = (E' - E) / (E + E'), which the published frequency plot shows; nan where both are 0."""
    return expit((2 * energy_difference(generated, real) - 1) / RELATIVE_TEMPERATURE)


def ratio_interval(generated: sp.csr_matrix, real: sp.csr_matrix) -> Interval:
    """Return a 95 % interval of `energy_difference` per concept, from the energies of both sides over the same pairs.

    It is Jeffreys' interval of a fraction delta, seen in n trials, where n is an effective number of trials (Korn and Graubard
    1998): delta has the variance delta (1 - delta) / n. A pair has the energies e' and e and the sum s = e + e'.
    There are two estimates of that variance. The delta method's takes what was seen,

        V = sum (e' - delta s)^2 / (sum s)^2,

    and is too small where a side fires on few images. The other one takes both sides to have images of the same energies, only
    in different numbers: V_0 = delta (1 - delta) sum (e' - e)^2 / (sum s)^2. The interval uses w V + (1 - w) V_0. The weight is
    w = m / (m + 20), where m is the effective number of images of the rarer side, (sum x)^2 / sum x^2 over its energies x.

    With one side never seen, the limits are those of 0 successes in (sum s)^2 / sum s^2 trials. If no pair shows the concept,
    the interval is nan. In simulation it covers 94 to 97 % for delta from 0.1 to 0.9 where three or more images fire, and 98 %
    for delta = 0.02, where the rarer side is often not seen at all (`python -m benchmarks coverage`).
    """
    e, r = column_sums(generated), column_sums(real)
    ee, er, rr = (column_sums(x.multiply(y)) for x, y in ((generated, generated), (generated, real), (real, real)))
    s, ss = e + r, ee + 2 * er + rr
    with np.errstate(invalid="ignore", divide="ignore"):
        delta, pairs = e / s, s**2 / ss
        rarer = np.fmin(np.where(e > 0, e**2 / ee, 0), np.where(r > 0, r**2 / rr, 0))
        seen = np.maximum(ee - 2 * delta * (ee + er) + delta**2 * ss, 0) / (delta * (1 - delta))
        weight = rarer / (rarer + PRIOR_IMAGES)
        trials = s**2 / (np.where(weight > 0, weight * seen, 0) + (1 - weight) * np.maximum(ee - 2 * er + rr, 0))
        trials = np.fmin(trials, pairs**2)  # pairs that are all alike prove no more than that
    return fraction_interval(delta, trials)


def fraction_interval(fraction: Float[np.ndarray, "k"], trials: Float[np.ndarray, "k"]) -> Interval:
    """Return Jeffreys' 95 % interval of a fraction seen in a number of trials, which need not be whole.

    Its ends are quantiles of Beta(hits + 1/2, misses + 1/2). With no hit, or no miss, it is Clopper and Pearson's interval.
    Source: Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", 2001.
    """
    hits, misses = fraction * trials, (1 - fraction) * trials
    low, high = (betaincinv(hits + 0.5, misses + 0.5, tail) for tail in (TAIL, 1 - TAIL))
    nothing, everything = (hits <= 0) & (misses > 0), (misses <= 0) & (hits > 0)
    low = np.where(nothing, 0.0, np.where(everything, betaincinv(np.maximum(hits, TAIL), 1, TAIL), low))
    high = np.where(everything, 1.0, np.where(nothing, betaincinv(1, np.maximum(misses, TAIL), 1 - TAIL), high))
    return low, high


def published_interval(generated: sp.csr_matrix, real: sp.csr_matrix) -> Interval:
    """Return a 95 % interval of `published_difference`: the mean of e' - e over pairs, plus and minus 1.96 standard errors."""
    n_pairs = real.shape[0]
    apart = generated - real
    mean = column_sums(apart) / n_pairs
    half = DEVIATIONS * np.sqrt(np.maximum(column_sums(apart.power(2)) / n_pairs - mean**2, 0) / max(n_pairs - 1, 1))
    return published_difference(mean - half, np.zeros_like(mean)), published_difference(mean + half, np.zeros_like(mean))


def column_sums(matrix: sp.spmatrix) -> Float[np.ndarray, "k"]:
    return np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()


ARITHMETICS = {"ratio": (energy_difference, ratio_interval), "published": (published_difference, published_interval)}


class Difference(NamedTuple):
    """delta(k) of one model, with its 95 % interval over the pairs."""

    delta: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]  # lower end of the interval
    high: Float[np.ndarray, "k"]  # upper end of the interval
    mean_generated: Float[np.ndarray, "k"]


def measure_difference(generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> Difference:
    """Return delta(k) of one model with its interval, by the arithmetic of the analysis ("ratio" or "published")."""
    formula, interval = ARITHMETICS[analysis.arithmetic]
    means = column_sums(generated) / generated.shape[0], column_sums(real) / real.shape[0]
    return Difference(formula(*means), *interval(generated, real), means[0])


def deltas_of_tested(table: pd.DataFrame, model: str) -> pd.Series:
    """Return delta of the concepts that are tested for a model, from the most suppressed to the most exaggerated."""
    chosen = table[table[f"tested_{model}"] & table[f"delta_{model}"].notna()]
    return chosen.sort_values([f"delta_{model}", "concept"]).set_index("concept")[f"delta_{model}"]
