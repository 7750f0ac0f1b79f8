"""The distribution of delta(k) over concepts: its shape, how it depends on frequency, how far models agree."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from blindspots_lib.analysis.delta import energy_difference, published_relative
from blindspots_lib.analysis.energies import Energies
from blindspots_lib.core.config import Analysis


class Shape(NamedTuple):
    """The shape of a model's distribution of delta(k)."""

    median: float
    skewness: float
    skewness_low: float  # 2.5 % quantile over resampled concepts
    skewness_high: float  # 97.5 % quantile
    n_suppressed: int
    n_exaggerated: int
    n_ranked: int


def distribution_shape(deltas: Float[np.ndarray, "k"], analysis: Analysis) -> Shape:
    """Return median and skewness of delta(k) over concepts, and the number of concepts beyond each threshold.

    The thresholds are lambda_min and lambda_max of the paper, section 3 (`suppressed_below`, `exaggerated_above`). Without
    concepts the numbers are nan.
    """
    from scipy.stats import skew

    if not len(deltas):
        return Shape(np.nan, np.nan, np.nan, np.nan, 0, 0, 0)
    rng = np.random.default_rng(analysis.seed)
    samples = skew(deltas[rng.integers(len(deltas), size=(analysis.n_bootstrap, len(deltas)))], axis=1)
    low, high = np.quantile(samples, (0.025, 0.975))
    return Shape(
        float(np.median(deltas)), float(skew(deltas)), float(low), float(high),
        int((deltas < analysis.suppressed_below).sum()), int((deltas > analysis.exaggerated_above).sum()), len(deltas),
    )  # fmt: skip


class Correlation(NamedTuple):
    """A correlation over concepts, with its 95 % interval by Fisher's z."""

    r: float
    low: float
    high: float
    n_concepts: int


def with_interval(r: float, n: int) -> Correlation:
    if n < 4:
        return Correlation(np.nan, np.nan, np.nan, n)
    z, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), 1.96 / np.sqrt(n - 3)
    return Correlation(float(r), float(np.tanh(z - half)), float(np.tanh(z + half)), n)


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


def correlate_models(table: pd.DataFrame, first: str, second: str) -> Correlation:
    """Return the Pearson correlation of two models' relative differences, over the concepts that are ranked for both."""
    ranked = table[table[f"ranked_{first}"] & table[f"ranked_{second}"]]
    both = pd.DataFrame({"first": energy_ratio(ranked, first), "second": energy_ratio(ranked, second)}).dropna()
    return with_interval(both["first"].corr(both["second"]), len(both))


def correlate_apart(energies: Mapping[str, Energies], analysis: Analysis) -> dict[str, Correlation]:
    """Correlate each two models, "first~second", as `correlate_models` does, but measure each on its own half of the pairs.

    On the same pairs both models are compared with the same real images. Chance in those images alone makes even models without
    faults agree. Two halves have only the models' faults in common; they are also noisier.
    """
    order = np.random.default_rng(analysis.seed).permutation(energies["real"].matrix.shape[0])
    halves, real = np.array_split(order, 2), energies["real"].matrix
    models = {model: source.matrix for model, source in energies.items() if model != "real"}
    ratios = {model: [half_ratio(matrix[half], real[half], analysis) for half in halves] for model, matrix in models.items()}
    correlations = {}
    for first, second in itertools.combinations(ratios, 2):
        both = pd.DataFrame({"first": ratios[first][0], "second": ratios[second][1]}).dropna()
        correlations[f"{first}~{second}"] = with_interval(both["first"].corr(both["second"]), len(both))
    return correlations


def half_ratio(generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> Float[np.ndarray, "k"]:
    """Return E' / (E + E') over some pairs; nan where a concept fires on too few of their images."""
    means = (np.asarray(side.mean(axis=0, dtype=np.float64)).ravel() for side in (generated, real))
    ranked = generated.getnnz(axis=0) + real.getnnz(axis=0) >= analysis.min_images
    return np.where(ranked, energy_difference(*means), np.nan)


def correlate_error_with_frequency(firings: Int[np.ndarray, "k"], deltas: Float[np.ndarray, "k"]) -> Correlation:
    """Return the Spearman correlation of |delta - 0.5| with the number of firings; negative if rare concepts err most."""
    return with_interval(float(pd.Series(np.abs(deltas - 0.5)).corr(pd.Series(firings), method="spearman")), len(deltas))


def frequency_bands(firings: Int[np.ndarray, "k"], deltas: Float[np.ndarray, "k"], n_bins: int = 12) -> pd.DataFrame:
    """Return the 5 %, 50 % and 95 % quantiles of delta in bins of the number of firings, equally filled; one row per bin."""
    order = np.argsort(firings, kind="stable")
    bins = np.array_split(order, min(n_bins, max(1, len(order) // 5))) if len(order) else []
    rows = [(np.exp(np.log1p(firings[chosen]).mean()) - 1, *np.quantile(deltas[chosen], (0.05, 0.5, 0.95))) for chosen in bins]
    return pd.DataFrame(rows, columns=["firings", "low", "median", "high"], dtype=float)
