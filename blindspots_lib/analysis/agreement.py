"""How far two models agree in their energy differences: on the same pairs, and each on its own half of the pairs.

Shape letters: p pairs, k concepts, g groups of pairs, n of anything else. Intervals are over pairs.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from blindspots_lib.analysis.delta import energy_difference
from blindspots_lib.analysis.jackknife import (
    SURE,
    Correlation,
    correlation_over_pairs,
    group_sums,
    jackknife_error,
    measure_without_groups,
    pearson,
)
from blindspots_lib.core.config import Analysis

SHRUNKEN = ("shrunken", "shrunken_low", "shrunken_high")  # columns: a value and its 95 % interval
SPLITS = 5  # ways to split the pairs in two halves


def correlate_models(
    first: sp.csr_matrix, second: sp.csr_matrix, real: sp.csr_matrix, tested: Bool[np.ndarray, "k"], analysis: Analysis
) -> Correlation:
    """Return the Pearson correlation of two models' E' / (E + E') over the tested concepts; energies are (p, k).

    Both models are compared with the same real images. Chance in those makes even models without faults agree, and the interval
    does not take that out; `correlate_apart` does.
    """
    one, two = (measure_without_groups(side[:, tested], real[:, tested], energy_difference, analysis.seed)
                for side in (first, second))  # fmt: skip
    both = ~np.isnan(one.value) & ~np.isnan(two.value)
    if not both.any():
        return Correlation(np.nan, np.nan, np.nan, 0)
    rows = (np.vstack([side.value, side.without])[:, both] for side in (one, two))
    return correlation_over_pairs(pearson(*rows), int(both.sum()))


class Apart(NamedTuple):
    """The correlation of two models, each measured on its own half of the pairs."""

    raw: Correlation  # attenuated by the noise of both halves
    corrected: Correlation  # raw / sqrt(reliability of the one x reliability of the other); nan if one of them is not reliable
    reliability_first: float  # correlation of a model's delta on one half with its delta on the other half
    reliability_second: float


def correlate_apart(
    generated: Mapping[str, sp.csr_matrix], real: sp.csr_matrix, tested: Mapping[str, Bool[np.ndarray, "k"]], analysis: Analysis
) -> dict[str, Apart]:
    """Correlate each two models, "first~second", as `correlate_models` does, but measure each on its own half of the pairs.

    Two halves have only the models' faults in common, but are noisier, and noise attenuates: even a model with itself stays
    below 1. `corrected` divides by the reliabilities (Spearman 1904). Both are means over several ways to split the pairs.
    """
    sums = {model: group_sums(energies, analysis.seed) for model, energies in generated.items()}
    ours = group_sums(real, analysis.seed)
    rng, n = np.random.default_rng(analysis.seed), len(ours)
    splits = [rng.permutation(n) < n // 2 for _ in range(SPLITS)]
    return {
        f"{one}~{two}": correlate_halves(np.stack([sums[one], sums[two]])[:, :, kept], ours[:, kept], splits)
        for one, two in itertools.combinations(sums, 2)
        for kept in [tested[one] & tested[two]]
    }


def correlate_halves(
    theirs: Float[np.ndarray, "2 g k"], ours: Float[np.ndarray, "g k"], splits: list[Bool[np.ndarray, "g"]]
) -> Apart:
    """Return the correlations of two models over halves of g groups of pairs."""
    total = theirs + ours
    halves = [(half, ~half) for half in splits]
    seen = np.all([total[:, side].sum(axis=1) > 0 for both in halves for side in both], axis=(0, 1))
    n_concepts, nothing = int(seen.sum()), Correlation(np.nan, np.nan, np.nan, int(seen.sum()))
    if len(ours) < 4 or n_concepts < 4:
        return Apart(nothing, nothing, np.nan, np.nan)
    theirs, total = theirs[..., seen], total[..., seen]
    rows = np.mean([moments_without_groups(theirs, total, half) for half in splits], axis=0)
    (own_one, own_two), (norm_one, norm_two) = rows[:, :2].T, rows[:, 3:5].T
    with np.errstate(invalid="ignore", divide="ignore"):
        raw = rows[:, 2] / np.sqrt(norm_one * norm_two)
        corrected = rows[:, 2] / np.sqrt(own_one * own_two)
        reliability = own_one[0] / norm_one[0], own_two[0] / norm_two[0]
    return Apart(correlation_over_pairs(raw, n_concepts), plain_interval(corrected, n_concepts), *map(float, reliability))


def plain_interval(values: Float[np.ndarray, "n"], n_concepts: int) -> Correlation:
    """Return a corrected correlation, which can leave [-1, 1] by chance and is cut there, with its interval."""
    if np.isnan(values).any():
        return Correlation(np.nan, np.nan, np.nan, n_concepts)
    half = SURE * jackknife_error(values[1:])
    return Correlation(*(float(np.clip(end, -1, 1)) for end in (values[0], values[0] - half, values[0] + half)), n_concepts)


def moments_without_groups(
    theirs: Float[np.ndarray, "2 g k"], total: Float[np.ndarray, "2 g k"], half: Bool[np.ndarray, "g"]
) -> Float[np.ndarray, "n 5"]:
    """Return moments of delta over all groups, then without each: covariances over the halves (own, own, cross), variances."""
    sides = [(theirs[:, side].sum(axis=1), total[:, side].sum(axis=1)) for side in (half, ~half)]
    whole = [above / below for above, below in sides]
    rows = [halves_moments(*whole)]
    for group, in_first in enumerate(half):
        which = 0 if in_first else 1
        above, below = sides[which]
        left = below - total[:, group]
        with np.errstate(invalid="ignore", divide="ignore"):
            changed = np.where(left > 1e-9 * below, np.clip((above - theirs[:, group]) / left, 0, 1), whole[which])
        rows.append(halves_moments(changed, whole[1]) if in_first else halves_moments(whole[0], changed))
    return np.array(rows)


def halves_moments(first: Float[np.ndarray, "2 k"], second: Float[np.ndarray, "2 k"]) -> tuple[float, ...]:
    """Return two models' own covariances over the halves, their mean cross covariance, and the geometric means of variances."""
    first, second = (side - side.mean(axis=1, keepdims=True) for side in (first, second))
    across = first @ second.T
    norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return across[0, 0], across[1, 1], (across[0, 1] + across[1, 0]) / 2, norms[0], norms[1]


def surest_differences(table: pd.DataFrame, models: Sequence[str], n: int) -> pd.DataFrame:
    """Return the n named families (or concepts) on which two models differ most surely, one row each, the surest first.

    Of all pairs of models, each row has the surest one: family, name, concept; first, second; difference, low, high: shrunken
    delta of the second less that of the first, with its 95 % interval from both intervals (Zou and Donner 2008). Both deltas
    share the real images, which makes the interval too wide rather than too narrow. Rows whose interval holds 0 are left out.
    """
    named, parts = table[table["name"] != ""], []
    for first, second in itertools.combinations(models, 2):
        a, a_low, a_high = (named[f"{column}_{first}"].to_numpy(float) for column in SHRUNKEN)
        b, b_low, b_high = (named[f"{column}_{second}"].to_numpy(float) for column in SHRUNKEN)
        low, high = b - a - np.hypot(b - b_low, a_high - a), b - a + np.hypot(b_high - b, a - a_low)
        parts.append(named[["family", "name", "concept"]].assign(
            first=first, second=second, difference=b - a, low=low, high=high, sureness=np.maximum(low, -high)
        ))  # fmt: skip
    columns = ["family", "name", "concept", "first", "second", "difference", "low", "high"]
    if not parts:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["sureness"] > 0].sort_values(["sureness", "family"], ascending=[False, True], kind="stable")
    return rows.drop_duplicates("family").head(n)[columns].reset_index(drop=True)
