"""Numbers over concepts with intervals over pairs, by a jackknife that leaves out one group of pairs at a time.

Shape letters: k concepts, g groups of pairs, n of anything else. Concepts share their images, so they are not independent of
each other; pairs are. The pairs are dealt at random into groups of equal size, and each number is measured again without each
group (Efron and Tibshirani 1993, chapter 11).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

GROUPS = 100  # of pairs; one pair each where there are fewer
SURE = 1.96  # standard errors of a 95 % interval
Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of mean energies, generated and real


def group_sums(energies: sp.csr_matrix, seed: int) -> Float[np.ndarray, "g k"]:
    """Return the sums of energies over each of the groups of pairs; the same seed gives the same groups in every source."""
    n_pairs = energies.shape[0]
    n_groups = min(n_pairs, GROUPS)
    group = np.random.default_rng(seed).permutation(n_pairs) % n_groups
    members = sp.csr_matrix((np.ones(n_pairs), (group, np.arange(n_pairs))), shape=(n_groups, n_pairs))
    return (members @ energies.astype(np.float64)).toarray()


class Measured(NamedTuple):
    """A number per concept over all pairs, and without each group of them."""

    value: Float[np.ndarray, "k"]
    without: Float[np.ndarray, "g k"]


def measure_without_groups(generated: sp.csr_matrix, real: sp.csr_matrix, formula: Formula, seed: int) -> Measured:
    """Return a formula of the mean energies; a concept seen in a single group keeps its value where that one is left out."""
    theirs, ours = group_sums(generated, seed), group_sums(real, seed)
    value = formula(theirs.sum(axis=0) / generated.shape[0], ours.sum(axis=0) / real.shape[0])
    n_left = generated.shape[0] - generated.shape[0] / len(theirs)
    left = [np.maximum(sums.sum(axis=0) - sums, 0) for sums in (theirs, ours)]
    seen = left[0] + left[1] > 1e-9 * (theirs + ours).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Measured(value, np.where(seen, formula(left[0] / n_left, left[1] / n_left), value))


def jackknife_error(without: Float[np.ndarray, "g"]) -> float:
    """Return the standard error of a number that was measured again without each of g groups."""
    n = len(without)
    return float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())) if n > 1 else np.nan


class Correlation(NamedTuple):
    """A correlation over concepts, with its 95 % interval over pairs."""

    r: float
    low: float
    high: float
    n_concepts: int


def correlation_over_pairs(values: Float[np.ndarray, "n"], n_concepts: int) -> Correlation:
    """Return a correlation from its value over all pairs, then without each group, with an interval on Fisher's scale."""
    if len(values) < 5 or n_concepts < 4 or np.isnan(values).any():
        return Correlation(np.nan, np.nan, np.nan, n_concepts)
    z = np.arctanh(np.clip(values, -0.999999, 0.999999))
    half = SURE * jackknife_error(z[1:])
    return Correlation(float(values[0]), float(np.tanh(z[0] - half)), float(np.tanh(z[0] + half)), n_concepts)


def pearson(first: Float[np.ndarray, "*n k"], second: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n"]:
    """Return Pearson's correlation of each row; nan where a side is constant."""
    first, second = (side - side.mean(axis=-1, keepdims=True) for side in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(axis=-1) / np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))


def rank_correlation(first: Float[np.ndarray, "k"], second: Float[np.ndarray, "k"]) -> float:
    """Return Spearman's rank correlation; nan for fewer than three numbers, or if all on one side are equal."""
    from scipy.stats import rankdata

    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
