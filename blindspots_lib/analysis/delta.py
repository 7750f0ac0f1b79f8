"""Energy differences delta(k): which concepts a model suppresses or exaggerates, how surely, and across models."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from scipy.special import expit

from blindspots_lib.analysis.energies import Energies
from blindspots_lib.core.config import Analysis

TAIL, DEVIATIONS = 0.025, 1.96  # of 95 % intervals: the share left out on either side, and how far that is out
DIFFERENCE_TEMPERATURE, RELATIVE_TEMPERATURE = 0.8, 0.4  # of the published scripts
Interval = tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]  # its lower and its upper ends


def energy_difference(generated: Float[np.ndarray, "*s k"], real: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s k"]:
    """delta(k) = p_k(D') / (p_k(D) + p_k(D')), from the mean energies of generated (D') and real (D) images.

    In [0, 1]: below 0.5 suppressed, 0.5 aligned, above exaggerated; nan where a concept has no energy on either side.
    It is sigma(log E' - log E) with sigma the logistic function, and (1 + relative difference) / 2. Source: the paper, section 3.
    """
    total = generated + real
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, generated / total, np.nan)


def published_difference(generated: Float[np.ndarray, "*s k"], real: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s k"]:
    """sigma((E' - E) / 0.8), from mean energies over all tokens: what the published histograms and maps show.

    It depends on the unit of the energies: a concept that fires strongly looks worse than one that fires weakly.
    """
    return expit((generated - real) / DIFFERENCE_TEMPERATURE)


def published_relative(generated: Float[np.ndarray, "k"], real: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """sigma(r / 0.4) with r = (E' - E) / (E' + E): what the published frequency plot shows; nan where both are 0."""
    return expit((2 * energy_difference(generated, real) - 1) / RELATIVE_TEMPERATURE)


def ratio_interval(generated: sp.csr_matrix, real: sp.csr_matrix) -> Interval:
    """95 % interval of `energy_difference` over pairs, rows matching; nan where a concept has no energy on either side.

    Fieller's: all delta for which the sum over pairs of e' - delta (e + e') lies within 1.96 of its standard deviations of 0,

        (sum e' - delta sum s)^2 <= 1.96^2 sum (e' - delta s)^2,   s = e + e',

    a quadratic in delta; [0, 1] where the pairs that show the concept are too few to bound it. The pairs alone cannot tell how
    rarely it may yet appear on a side that hardly showed it. There Clopper and Pearson's limit for 0 of m holds, with the
    effective number of pairs m = (sum s)^2 / sum s^2: the interval reaches at least to 1 - 0.025^(1/m), and to 0.025^(1/m).
    """
    e, r = column_sums(generated), column_sums(real)
    ee, er, rr = (column_sums(x.multiply(y)) for x, y in ((generated, generated), (generated, real), (real, real)))
    s, es, ss = e + r, ee + er, ee + 2 * er + rr
    a, b, c = s**2 - DEVIATIONS**2 * ss, e * s - DEVIATIONS**2 * es, e**2 - DEVIATIONS**2 * ee
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.sqrt(np.maximum(b**2 - a * c, 0))
        low, high = (np.where(a > 0, (b + sign * half) / a, end) for sign, end in ((-1, 0), (1, 1)))
        unseen = 1 - TAIL ** (ss / s**2)
    return np.clip(np.minimum(low, 1 - unseen), 0, 1), np.clip(np.maximum(high, unseen), 0, 1)


def published_interval(generated: sp.csr_matrix, real: sp.csr_matrix) -> Interval:
    """95 % interval of `published_difference` over pairs: the mean of e' - e, 1.96 standard errors to either side."""
    n_pairs = real.shape[0]
    apart = generated - real
    mean = column_sums(apart) / n_pairs
    half = DEVIATIONS * np.sqrt(np.maximum(column_sums(apart.power(2)) / n_pairs - mean**2, 0) / max(n_pairs - 1, 1))
    return published_difference(mean - half, np.zeros_like(mean)), published_difference(mean + half, np.zeros_like(mean))


def column_sums(matrix: sp.spmatrix) -> Float[np.ndarray, "k"]:
    return np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()


ARITHMETICS = {"ratio": (energy_difference, ratio_interval), "published": (published_difference, published_interval)}


class Difference(NamedTuple):
    """delta(k) of one model with its uncertainty over the pairs."""

    delta: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]  # of the 95 % interval
    high: Float[np.ndarray, "k"]
    mean_generated: Float[np.ndarray, "k"]
    mean_real: Float[np.ndarray, "k"]


def measure_difference(generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> Difference:
    """delta(k) by the analysis's arithmetic over pairs, rows matching, with a 95 % interval."""
    formula, interval = ARITHMETICS[analysis.arithmetic]
    means = column_sums(generated) / generated.shape[0], column_sums(real) / real.shape[0]
    return Difference(formula(*means), *interval(generated, real), *means)


def concept_table(energies: Mapping[str, Energies], analysis: Analysis, names: list[tuple[str, float]]) -> pd.DataFrame:
    """One row a concept: firings, mean energies and, per model, delta with its interval; `energies` holds "real" too.

    `ranked` says whether a concept fires on enough images (`analysis.min_images`) for its delta to be read at all.
    """
    real = energies["real"]
    columns = {
        "concept": np.arange(real.matrix.shape[1]), "goes_with": [name for name, _ in names],
        "goes_with_auc": [area for _, area in names], "firings": real.stats.firings,
        "n_images_real": real.stats.images, "energy_real": real.stats.mean_energy(),
    }  # fmt: skip
    for model, source in energies.items():
        if model == "real":
            continue
        difference = measure_difference(source.matrix, real.matrix, analysis)
        n_images = source.stats.images
        columns |= {
            f"n_images_{model}": n_images, f"energy_{model}": difference.mean_generated,
            f"delta_{model}": difference.delta, f"low_{model}": difference.low, f"high_{model}": difference.high,
            f"ranked_{model}": real.stats.images + n_images >= analysis.min_images,
        }  # fmt: skip
    return pd.DataFrame(columns)


def ranked_deltas(table: pd.DataFrame, model: str) -> pd.Series:
    """delta of the concepts that are ranked for a model, from the most suppressed to the most exaggerated."""
    chosen = table[table[f"ranked_{model}"] & table[f"delta_{model}"].notna()]
    return chosen.sort_values([f"delta_{model}", "concept"]).set_index("concept")[f"delta_{model}"]
