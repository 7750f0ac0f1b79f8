"""The published arithmetic on published result tables, where only differences of mean energies are known.

Source: the scripts that accompany the paper. Their two temperatures are kept, so that numbers can be compared; a study of your
own uses `delta`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit
from scipy.stats import skew

from blindspots_lib.analysis.delta import DIFFERENCE_TEMPERATURE, RELATIVE_TEMPERATURE
from blindspots_lib.core.study import TablesStudy


def difference_values(table: pd.DataFrame) -> Float[np.ndarray, "k"]:
    """Return sigma(energy_diff / 0.8) per concept, as the published histograms and maps show it."""
    return expit(table["energy_diff"].to_numpy() / DIFFERENCE_TEMPERATURE)


def relative_values(table: pd.DataFrame) -> Float[np.ndarray, "k"]:
    """Return sigma(relative_energy_diff / 0.4) per concept, as the published frequency plot shows it."""
    return expit(table["relative_energy_diff"].to_numpy() / RELATIVE_TEMPERATURE)


def skewness(table: pd.DataFrame) -> float:
    """Return the skewness of sigma(energy_diff / 0.8) over the concepts, m3 / m2^1.5 with central moments m2 and m3."""
    return float(skew(difference_values(table), nan_policy="omit"))


def correlation(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return Pearson's r of two models' relative differences, over the concepts that have one in both."""
    both = pd.concat([first["relative_energy_diff"], second["relative_energy_diff"]], axis=1).dropna()
    return float(np.corrcoef(both.to_numpy().T)[0, 1]) if len(both) > 2 else np.nan


def correlations(tables: Mapping[str, pd.DataFrame]) -> Float[np.ndarray, "m m"]:
    """Return `correlation` of every two models."""
    return np.array([[correlation(first, second) for second in tables.values()] for first in tables.values()])


def findings(study: TablesStudy, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per published number: what it is, the published value, the one computed here, and their difference."""
    first = study.models[0]
    rows = [(f"skewness, {model.label}", model.published_skewness, skewness(tables[model.name])) for model in study.models]
    for model in study.models[1:]:
        r = correlation(tables[first.name], tables[model.name])
        rows.append((f"r, {first.label} with {model.label}", model.published_correlation, r))
    table = pd.DataFrame(rows, columns=["number", "published", "here"]).astype({"published": float, "here": float})
    return table.assign(difference=table["here"] - table["published"])
