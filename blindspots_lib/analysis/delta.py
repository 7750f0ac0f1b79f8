"""The energy difference delta(k): which concepts a model suppresses or exaggerates, and how certain that is.

Shape letters: k concepts; *s stands for any leading axes. Energies per image are SciPy CSR matrices (pairs, k); row i of
both sides is pair i.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from scipy.special import expit

from blindspots_lib.analysis.energies import Energies
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError

TAIL, DEVIATIONS = 0.025, 1.96  # of a 95 % interval: probability left out on each side, and that in standard deviations
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

    It is Fieller's interval. A pair has the energies e' (generated) and e (real) and the sum s = e + e'. The interval holds
    every delta for which the sum over pairs of e' - delta s is at most 1.96 of its standard deviations away from 0:

        (sum e' - delta sum s)^2 <= 1.96^2 sum (e' - delta s)^2.

    This is a quadratic inequality in delta. If too few pairs show the concept, it excludes nothing and the interval is [0, 1].
    If no pair shows it, the interval is nan.

    If one side never shows the concept, the inequality alone leaves a single point, 0 or 1. So Clopper and Pearson's limits for
    0 successes in m trials apply too, with the effective number of pairs m = (sum s)^2 / sum s^2: the lower end is at most
    0.025^(1/m), the upper end at least 1 - 0.025^(1/m).
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


def concept_table(energies: Mapping[str, Energies], analysis: Analysis, names: list[tuple[str, float]]) -> pd.DataFrame:
    """Return one row per concept, with these columns; `energies` holds "real" and every model.

    - concept: its number; goes_with, goes_with_auc: its name and that name's area under the ROC curve, from `names`;
    - firings: number of real tokens it fires on;
    - n_images_S, energy_S: number of images it fires on, and mean energy, of source S ("real" or a model);
    - delta_M, low_M, high_M: delta(k) of model M and its 95 % interval;
    - ranked_M: whether it fires on at least `analysis.min_images` images, real and generated, so that delta_M can be read.
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
        ranked = real.stats.images + n_images >= analysis.min_images
        if not ranked.any():
            raise StudyError(
                f"analysis.min_images = {analysis.min_images}: no concept fires on so many real images and images of "
                f"{model!r} together; lower it, or take more pairs"
            )
        columns |= {
            f"n_images_{model}": n_images, f"energy_{model}": difference.mean_generated,
            f"delta_{model}": difference.delta, f"low_{model}": difference.low, f"high_{model}": difference.high,
            f"ranked_{model}": ranked,
        }  # fmt: skip
    return pd.DataFrame(columns)


def ranked_deltas(table: pd.DataFrame, model: str) -> pd.Series:
    """Return delta of the concepts that are ranked for a model, from the most suppressed to the most exaggerated."""
    chosen = table[table[f"ranked_{model}"] & table[f"delta_{model}"].notna()]
    return chosen.sort_values([f"delta_{model}", "concept"]).set_index("concept")[f"delta_{model}"]
