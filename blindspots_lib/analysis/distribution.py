"""The distribution of delta(k) over concepts: its shape, how it depends on frequency, and what of it is chance.

Shape letters: p pairs, k concepts, g groups of pairs, n of anything else. Intervals are over pairs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped

from blindspots_lib.analysis.delta import ARITHMETICS, energy_difference, published_relative
from blindspots_lib.analysis.jackknife import (
    SURE,
    Formula,
    Measured,
    correlation_over_pairs,
    group_sums,
    jackknife_error,
    measure_without_groups,
    pearson,
)
from blindspots_lib.core.config import Analysis

BY_CHANCE, SWAPS_AT_ONCE = 100, 20  # random swaps of real and generated images that show what chance alone gives
FREQUENCY_FORMULAS = {"ratio": energy_difference, "published": published_relative}


class Shape(NamedTuple):
    """The shape of a model's distribution of delta(k); intervals are at 95 %, over pairs."""

    median: float
    median_low: float
    median_high: float
    skewness: float  # without what chance adds to the spread of delta; nan if chance explains all of it
    skewness_low: float
    skewness_high: float
    skewness_raw: float  # of delta(k) as it is, as published
    n_suppressed: int
    n_exaggerated: int
    n_tested: int


def distribution_shape(generated: sp.csr_matrix, real: sp.csr_matrix, tested: Bool[np.ndarray, "k"], analysis: Analysis) -> Shape:
    """Return median and skewness of delta(k) over the tested concepts, and the number of them beyond each threshold.

    Chance spreads delta(k) and makes its skewness smaller. `skewness` takes that out: if noise has the variance v(k) and the
    third moment t(k), both estimated by the jackknife, and m(k) is delta(k) less its mean,

        skewness = mean(m^3 - t - 3 m v) / mean(m^2 - v)^1.5.

    In simulation its interval covers 98 to 100 %, and is wide where most concepts are rare. The interval of the median covers
    87 to 98 %, since chance also moves the median of a skewed distribution; its standard error comes from resampled groups of
    pairs. Thresholds: lambda_min and lambda_max of the paper, section 3 (`suppressed_below`, `exaggerated_above`). Energies are
    (p, k); what cannot be measured is nan.
    """
    if not tested.any():
        return Shape(*[np.nan] * 7, 0, 0, 0)
    generated, real, formula = generated[:, tested], real[:, tested], ARITHMETICS[analysis.arithmetic][0]
    delta = measure_without_groups(generated, real, formula, analysis.seed)
    seen = ~np.isnan(delta.value)
    delta = Measured(delta.value[seen], delta.without[:, seen])
    if not seen.any():
        return Shape(*[np.nan] * 7, 0, 0, 0)
    skewness, low, high = noiseless_skewness(delta)
    median, error = float(np.median(delta.value)), median_error(generated, real, formula, analysis)
    return Shape(
        median, max(median - SURE * error, 0), min(median + SURE * error, 1), skewness, low, high, raw_skewness(delta.value),
        int((delta.value < analysis.suppressed_below).sum()), int((delta.value > analysis.exaggerated_above).sum()),
        len(delta.value),
    )  # fmt: skip


def raw_skewness(deltas: Float[np.ndarray, "k"]) -> float:
    apart = deltas - deltas.mean()
    spread = (apart**2).mean()
    return float((apart**3).mean() / spread**1.5) if spread > 1e-16 else np.nan


def noiseless_skewness(delta: Measured) -> tuple[float, float, float]:
    """Return the skewness of delta(k) without the noise of the pairs, with its 95 % interval; nan if nothing else is left."""
    n = len(delta.without)
    if n < 4:
        return np.nan, np.nan, np.nan
    pull = (delta.value - delta.without) * (n - 1) / n  # what each group adds to delta
    variance, third = (pull**2).sum(axis=0), (pull**3).sum(axis=0)
    left = [(all_ - pull**power) * (n / (n - 1)) ** power for all_, power in ((variance, 2), (third, 3))]
    values = np.vstack([delta.value, delta.without])
    variances, thirds = np.vstack([variance, left[0]]), np.vstack([third, left[1]])
    apart = values - values.mean(axis=1, keepdims=True)
    spread = (apart**2 - variances).mean(axis=1)
    if spread.min() <= 0.02 * (apart[0] ** 2).mean():
        return np.nan, np.nan, np.nan
    skewness = (apart**3 - thirds - 3 * apart * variances).mean(axis=1) / spread**1.5
    half = SURE * jackknife_error(skewness[1:])
    return float(skewness[0]), float(skewness[0] - half), float(skewness[0] + half)


def median_error(generated: sp.csr_matrix, real: sp.csr_matrix, formula: Formula, analysis: Analysis) -> float:
    """Return the standard error of the median of delta(k), from `n_bootstrap` resamplings of the groups of pairs."""
    theirs, ours = group_sums(generated, analysis.seed), group_sums(real, analysis.seed)
    n = len(theirs)
    draws = np.random.default_rng(analysis.seed).multinomial(n, np.full(n, 1 / n), analysis.n_bootstrap) / generated.shape[0]
    medians = [np.median(kept[~np.isnan(kept)]) for kept in (formula(draw @ theirs, draw @ ours) for draw in draws)
               if not np.isnan(kept).all()]  # fmt: skip
    return float(np.std(medians)) if n > 1 else np.nan


def shows_sign(value: float, low: float, high: float, sign: int) -> str:
    """Return "shown" if a number surely has a sign (-1 or 1), else "not shown"; low and high are its 95 % interval.

    Shown means that a second, independent measurement of the same kind has that sign too, with a probability of 97.5 %. Two
    measurements differ by sqrt(2) times the error of one, so the interval, widened by sqrt(2) around the value, must leave out 0.
    """
    nearest = value + np.sqrt(2) * (high - value if sign < 0 else low - value)
    return "shown" if sign * nearest > 0 else "not shown"


def energy_ratio(table: pd.DataFrame, model: str) -> pd.Series:
    """Return E' / (E + E') of a table's concepts, also where its delta is published arithmetic; (1 + relative difference) / 2."""
    ratio = energy_difference(table[f"energy_{model}"].to_numpy(), table["energy_real"].to_numpy())
    return pd.Series(ratio, index=table.index)


def frequency_values(table: pd.DataFrame, model: str, analysis: Analysis) -> pd.Series:
    """Return what the frequency plot shows of a table's concepts: delta, or sigma(relative difference / 0.4) as published."""
    if analysis.arithmetic == "ratio":
        return table[f"delta_{model}"]
    values = published_relative(table[f"energy_{model}"].to_numpy(), table["energy_real"].to_numpy())
    return pd.Series(values, index=table.index)


class FrequencyCorrelation(NamedTuple):
    """The Spearman correlation of frequency and error, its 95 % interval over pairs, and what chance alone would give."""

    r: float
    low: float
    high: float
    n_concepts: int
    chance_low: float  # 2.5 % and 97.5 % quantiles if real and generated images did not differ
    chance_high: float


def correlate_error_with_frequency(
    generated: sp.csr_matrix, real: sp.csr_matrix, firings: Int[np.ndarray, "k"], tested: Bool[np.ndarray, "k"],
    analysis: Analysis,
) -> FrequencyCorrelation:  # fmt: skip
    """Return the Spearman correlation of |delta - 0.5| with the number of firings; negative if rare concepts err most.

    Rare concepts have noisier deltas. So the correlation is negative by chance too: compare it with `chance_low` and
    `chance_high`, where real and generated images are swapped at random within pairs.
    """
    from scipy.stats import rankdata

    formula = FREQUENCY_FORMULAS[analysis.arithmetic]
    generated, real = generated[:, tested], real[:, tested]
    measured = measure_without_groups(generated, real, formula, analysis.seed)
    seen = ~np.isnan(measured.value)
    n_concepts, frequency = int(seen.sum()), rankdata(firings[tested][seen])
    if n_concepts < 4:
        return FrequencyCorrelation(np.nan, np.nan, np.nan, n_concepts, np.nan, np.nan)

    def spearman(values):
        errors = rankdata(np.abs(values[:, seen] - 0.5).round(12), axis=1)
        return pearson(errors, np.broadcast_to(frequency, errors.shape))

    r = correlation_over_pairs(spearman(np.vstack([measured.value, measured.without])), n_concepts)
    chance = np.concatenate([spearman(values) for values in swapped_values(generated, real, formula, analysis.seed)])
    low, high = np.quantile(chance, (0.025, 0.975))
    return FrequencyCorrelation(*r, float(low), float(high))


def swapped_values(
    generated: sp.csr_matrix, real: sp.csr_matrix, formula: Formula, seed: int
) -> Iterator[Float[np.ndarray, "n k"]]:
    """Yield a formula of the mean energies after real and generated images were swapped at random within pairs."""
    rng, n_pairs = np.random.default_rng(seed), real.shape[0]
    total, apart = (side.astype(np.float64) for side in (generated + real, generated - real))
    both = np.asarray(total.sum(axis=0)) / n_pairs
    for _ in range(0, BY_CHANCE, SWAPS_AT_ONCE):
        signs = rng.choice([-1.0, 1.0], (SWAPS_AT_ONCE, n_pairs))
        moved = np.clip((signs @ apart) / n_pairs, -both, both)
        yield formula((both + moved) / 2, (both - moved) / 2)


def null_funnel(
    generated: sp.csr_matrix, real: sp.csr_matrix, x: Shaped[np.ndarray, "k"], analysis: Analysis, n_bins: int = 12
) -> pd.DataFrame:
    """Return the 95 % band in which delta lies by chance alone, against x: one row per bin of x, with the columns x, low, high.

    x is a number per concept, such as its firings or its total energy; bins are equally filled, and `x` is their median. Chance
    is that of real and generated images swapped at random within pairs: delta = 0.5 + sum(+-(e' - e)) / (2 sum(e' + e)).
    """
    formula = FREQUENCY_FORMULAS[analysis.arithmetic]
    seen = np.flatnonzero(np.asarray((generated + real).sum(axis=0)).ravel() > 0)
    values = np.vstack([*swapped_values(generated[:, seen], real[:, seen], formula, analysis.seed)])
    rows = [
        (np.median(x[seen][chosen]), *np.quantile(values[:, chosen], (0.025, 0.975))) for chosen in equal_bins(x[seen], n_bins)
    ]
    return pd.DataFrame(rows, columns=["x", "low", "high"], dtype=float)


def equal_bins(x: Shaped[np.ndarray, "k"], n_bins: int) -> list[Int[np.ndarray, "n"]]:
    """Return the positions of x in order, in bins that are equally filled, with five or more in each."""
    order = np.argsort(x, kind="stable")
    return np.array_split(order, min(n_bins, max(1, len(order) // 5))) if len(order) else []


def frequency_bands(firings: Int[np.ndarray, "k"], deltas: Float[np.ndarray, "k"], n_bins: int = 12) -> pd.DataFrame:
    """Return the 5 %, 50 % and 95 % quantiles of delta in bins of the number of firings, equally filled; one row per bin."""
    rows = [(np.exp(np.log1p(firings[chosen]).mean()) - 1, *np.quantile(deltas[chosen], (0.05, 0.5, 0.95)))
            for chosen in equal_bins(firings, n_bins)]  # fmt: skip
    return pd.DataFrame(rows, columns=["firings", "low", "median", "high"], dtype=float)
