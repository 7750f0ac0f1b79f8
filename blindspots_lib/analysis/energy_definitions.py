"""Other definitions of an image's energy than the sum over its tokens, and whether they rank concepts alike."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.delta import energy_difference
from blindspots_lib.analysis.energies import BLOCK, TokenCodes
from blindspots_lib.analysis.jackknife import rank_correlation
from blindspots_lib.analysis.statistics import ShardCodes, blocks_of, image_energies


def largest_code(codes: ShardCodes) -> sp.csr_matrix:
    """Return the largest code of each concept in each image, sparse (b, k)."""
    b, t, n_concepts = codes.shape
    images = np.repeat(np.arange(b), np.diff(codes.offsets[::t]))
    found, inverse = np.unique(images * n_concepts + codes.indices.astype(np.int64), return_inverse=True)
    largest = np.zeros(len(found))
    np.maximum.at(largest, inverse, codes.values.astype(np.float64))
    return sp.csr_matrix((largest, (found // n_concepts, found % n_concepts)), shape=(b, n_concepts))


def mean_code(codes: ShardCodes) -> sp.csr_matrix:
    """Return the mean code over the tokens where a concept fires. (Over all tokens it is the sum divided by a constant.)"""
    energies, counts = image_energies(codes), image_energies(codes._replace(values=np.ones_like(codes.values)))
    counts.data = 1 / counts.data
    return energies.multiply(counts).tocsr()


def presence(codes: ShardCodes) -> sp.csr_matrix:
    """Return 1 where a concept fires on any token of an image, sparse (b, k)."""
    found = image_energies(codes)
    found.data[:] = 1
    return found


DEFINITIONS: Mapping[str, Callable[[ShardCodes], sp.csr_matrix]] = {
    "sum": image_energies, "mean": mean_code, "max": largest_code, "presence": presence,
}  # fmt: skip


def mean_energies(codes: TokenCodes, rows: Int[np.ndarray, "n"], chosen: slice) -> dict[str, Float[np.ndarray, "k"]]:
    """Return the mean over the images at `rows` of each concept's energy, by every definition, over the `chosen` tokens."""
    totals = {name: np.zeros(codes.n_concepts) for name in DEFINITIONS}
    for block in blocks_of(codes.sizes(rows), BLOCK):
        some = codes.at(rows[block], chosen)
        for name, reduce in DEFINITIONS.items():
            totals[name] += np.asarray(reduce(some).sum(axis=0, dtype=np.float64)).ravel()
    return {name: total / len(rows) for name, total in totals.items()}


def deltas_by_definition(
    codes: Mapping[str, TokenCodes], rows: Mapping[str, Int[np.ndarray, "n"]], chosen: slice
) -> dict[str, dict[str, Float[np.ndarray, "k"]]]:  # fmt: skip
    """Return delta(k) of every model by every definition of energy; nan where a concept fires on neither side.

    `codes` and `rows` hold "real" and every model.
    """
    means = {source: mean_energies(of_source, rows[source], chosen) for source, of_source in codes.items()}
    real = means.pop("real")
    return {model: {name: energy_difference(means[model][name], real[name]) for name in DEFINITIONS} for model in means}


def definitions_table(
    codes: Mapping[str, TokenCodes], rows: Mapping[str, Int[np.ndarray, "n"]], tested: Mapping[str, Bool[np.ndarray, "k"]],
    chosen: slice,
) -> pd.DataFrame:  # fmt: skip
    """Return Spearman's correlation of delta(k) between every two definitions of energy: one row per model and two of them.

    `codes` and `rows` hold "real" and every model, `tested` the concepts of each model that are ranked.

    model, first, second   the model, two of "sum", "mean" (of the firing tokens), "max", "presence"
    r, n_concepts          the correlation, the number of concepts; r is nan for fewer than three, or if all deltas are equal
    """
    parts = []
    judged = {source: of_source for source, of_source in codes.items() if source == "real" or source in tested}
    for model, deltas in deltas_by_definition(judged, rows, chosen).items():
        ranked = tested[model] & np.isfinite(deltas["sum"])
        for first, second in itertools.product(DEFINITIONS, repeat=2):
            r = rank_correlation(deltas[first][ranked], deltas[second][ranked])
            parts.append({"model": model, "first": first, "second": second, "r": r, "n_concepts": int(ranked.sum())})
    return pd.DataFrame(parts, columns=["model", "first", "second", "r", "n_concepts"])


def definitions_matrix(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the correlations of one model as a matrix, definitions by definitions."""
    names = list(DEFINITIONS)
    return table[table["model"] == model].pivot(index="first", columns="second", values="r").loc[names, names]
