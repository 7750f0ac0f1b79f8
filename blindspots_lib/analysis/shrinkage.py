"""Shrink delta(k) toward 0.5 as far as chance explains it, judged by all units together: adaptive shrinkage.

Of thousands of noisy deltas the most extreme ones are extreme by chance too. So the distribution of the true effects over
units is estimated first (the prior), and each unit is judged given that distribution (the posterior). What is then shown
because it is extreme is as extreme as it looks. An effect is the log ratio theta = log(E' / E) = log(delta / (1 - delta)).
Shape letters: k units (concepts or families), g log ratios of the grid, c components of the prior.
Source: Stephens, False discovery rates: a new deal, Biostatistics 2017, doi 10.1093/biostatistics/kxw041; the likelihood is
not normal here, see `log_likelihood`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.special import expit, log_expit, ndtr, xlogy

from blindspots_lib.analysis.delta import TAIL, column_sums

GRID = np.linspace(-9, 9, 1801)  # log ratios; the middle one is 0
DELTA = expit(GRID)
SPREADS = 0.05 * 2 ** np.arange(0, 7, 0.5)  # standard deviations of the prior's components
NULL_PENALTY = 10  # as many units as this, less 1, count as unchanged beforehand, as in ash
ROUNDS, PRECISION = 2000, 1e-6  # of the EM algorithm
FIRINGS = 2  # effective firings of the rarer side at which its observed variance counts half
SMOOTHEST = 1e6  # effective number of pairs at most
BLOCK, KEPT = 1000, 10_000  # units at a time; units whose likelihoods are kept between two uses (144 MB)


class Moments(NamedTuple):
    """Sums over pairs, per unit, of the energies e' (generated) and e (real) and of their products."""

    generated: Float[np.ndarray, "k"]
    real: Float[np.ndarray, "k"]
    generated_squared: Float[np.ndarray, "k"]
    product: Float[np.ndarray, "k"]
    real_squared: Float[np.ndarray, "k"]


class Shrunken(NamedTuple):
    """What is known of delta(k) given the data of all units; nan where a unit has no energy."""

    delta: Float[np.ndarray, "k"]  # posterior mean
    low: Float[np.ndarray, "k"]  # 2.5 % quantile of the posterior
    high: Float[np.ndarray, "k"]  # 97.5 % quantile
    lfsr: Float[np.ndarray, "k"]  # local false sign rate: probability that the likelier sign is wrong or the effect is 0
    s_value: Float[np.ndarray, "k"]  # mean lfsr of the units that are at least as sure


def pair_moments(generated: sp.csr_matrix, real: sp.csr_matrix) -> Moments:
    """Return the sums that `shrink` needs, from the energies (pairs, k) of both sides."""
    products = (generated, generated), (generated, real), (real, real)
    return Moments(column_sums(generated), column_sums(real), *(column_sums(x.multiply(y)) for x, y in products))


def shrink(moments: Moments) -> Shrunken:
    """Return the posterior of delta(k) for each unit. All units with energy form the prior: give those that were tested.

    The prior of theta is a mixture of a point mass at 0 and normals around 0, whose weights are estimated from the units by
    EM. The posterior mean of delta has the least squared error, and the mean over any units chosen by their data, such as the
    100 most extreme ones, estimates the mean of their true deltas.
    """
    sums = np.array(moments)
    result, seen = np.full((len(Shrunken._fields), sums.shape[1]), np.nan), sums[:2].sum(axis=0) > 0
    if seen.any():
        result[:, seen] = posterior(Moments(*sums[:, seen]))
    return Shrunken(*result)


def log_likelihood(moments: Moments) -> Float[np.ndarray, "k g"]:
    """Return the log likelihood of every log ratio of `GRID`, up to a constant per unit.

    It is a double binomial: with the observed fraction d = sum e' / sum s, s = e' + e, and delta = sigma(theta),

        log L = log(m) / 2 - m KL(d, delta),   KL(d, delta) = d log(d / delta) + (1 - d) log((1 - d) / (1 - delta)),

    where m, the effective number of pairs, gives d its variance at this delta: delta (1 - delta) / m. At delta = 0.5 that is
    sum (e' - e)^2 / (2 sum s)^2, as under random swaps. Elsewhere it is the mean of that m's variance and of the observed
    one, sum (e' - delta s)^2 / (sum s)^2, weighted by 2 against the effective number of firings of the rarer side,
    (sum e)^2 / sum e^2. A side that never fires shows no variance; then L = (1 - delta)^m, as for 0 of m successes.
    Source: Efron, Double exponential families, JASA 1986, doi 10.2307/2289002.
    """
    e, r, ee, er, rr = (np.array(x)[:, None] for x in moments)
    s, ss = e + r, ee + 2 * er + rr
    apart = np.maximum(ee - 2 * er + rr, s**2 / SMOOTHEST)
    squares = np.stack([ee, rr])
    firings = np.divide(np.stack([e, r]) ** 2, squares, out=np.zeros_like(squares), where=squares > 0).min(axis=0)
    observed = np.maximum(ee - 2 * DELTA * (ee + er) + DELTA**2 * ss, 0) / (apart * DELTA * (1 - DELTA))
    m = s**2 / apart * (firings + FIRINGS) / (firings * observed + FIRINGS)
    d = e / s
    divergence = xlogy(d, d) + xlogy(1 - d, 1 - d) - d * log_expit(GRID) - (1 - d) * log_expit(-GRID)
    return np.log(m) / 2 - m * divergence


def prior_components() -> Float[np.ndarray, "c g"]:
    """Return the probabilities that each component gives the points of `GRID`: a point mass at 0, then the normals."""
    edges = np.concatenate([[-np.inf], (GRID[1:] + GRID[:-1]) / 2, [np.inf]])
    null = np.zeros(len(GRID))
    null[len(GRID) // 2] = 1
    return np.stack([null, *np.diff(ndtr(edges / SPREADS[:, None]), axis=1)])


def estimate_weights(likelihoods: Float[np.ndarray, "k c"]) -> Float[np.ndarray, "c"]:
    """Return the weights of the prior's components that maximize the penalized likelihood, by EM.

    `likelihoods` are those of the units under each component; the first component is the null. The penalty is a Dirichlet
    prior, (`NULL_PENALTY`, 1, ..., 1).
    """
    n_units, n_components = likelihoods.shape
    weights = np.full(n_components, 0.5 / (n_components - 1))
    weights[0] = 0.5
    beforehand = np.zeros(n_components)
    beforehand[0] = NULL_PENALTY - 1
    for _ in range(ROUNDS):
        density = likelihoods @ weights
        better = (weights * ((1 / density) @ likelihoods) + beforehand) / (n_units + NULL_PENALTY - 1)
        settled = np.abs(better - weights).max() <= PRECISION
        weights = better
        if settled:
            break
    return weights


def posterior(moments: Moments) -> Shrunken:
    """Return the posterior of units that all have energy; see `shrink`."""
    components, n_units = prior_components(), len(moments.real)
    blocks = [slice(first, first + BLOCK) for first in range(0, n_units, BLOCK)]

    def likelihoods() -> Iterator[Float[np.ndarray, "k g"]]:
        return (likelihood(moments, block) for block in blocks)

    kept = list(likelihoods()) if n_units <= KEPT else None
    prior = estimate_weights(np.concatenate([of_block @ components.T for of_block in kept or likelihoods()])) @ components
    parts = [summarize(of_block * prior) for of_block in kept or likelihoods()]
    mean, low, high, lfsr = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(lfsr, kind="stable")
    s_value = np.empty(n_units)
    s_value[order] = lfsr[order].cumsum() / np.arange(1, n_units + 1)
    return Shrunken(mean, low, high, lfsr, s_value)


def likelihood(moments: Moments, units: slice) -> Float[np.ndarray, "k g"]:
    """Return the likelihood of some units, 1 at its greatest."""
    log = log_likelihood(Moments(*(x[units] for x in moments)))
    return np.exp(log - log.max(axis=1, keepdims=True))


def summarize(weights: Float[np.ndarray, "k g"]) -> tuple[Float[np.ndarray, "k"], ...]:
    """Return mean and quantiles of delta and the local false sign rate, from posterior weights on `GRID`."""
    below = weights.cumsum(axis=1)
    below /= below[:, -1:]
    low, high = (DELTA[np.minimum((below < level).sum(axis=1), len(GRID) - 1)] for level in (TAIL, 1 - TAIL))
    zero = len(GRID) // 2
    lfsr = np.minimum(below[:, zero], 1 - below[:, zero - 1])
    mean = weights @ DELTA / weights.sum(axis=1)
    return mean, np.minimum(low, mean), np.maximum(high, mean), lfsr  # where 0 has nearly all weight, it is both quantiles
