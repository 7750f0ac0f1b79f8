"""Tables of directions and of ground-truth concepts: what is matched to what, on real images alone, and delta per model."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from blindspots_lib.analysis.delta import energy_difference
from blindspots_lib.data.scenes import OBJECTS
from blindspots_lib.trial.matching import NAMES, amounts_of_truths, average_precisions, match_concepts, shares_inside

MIN_IMAGES = 5
AmountsOfAll = Mapping[str, sp.csr_matrix]  # "real" and the models -> (pairs, directions), non-negative
Sides = Mapping[str, pd.Series]  # model -> ground-truth concept -> "suppressed", "exaggerated" or ""


def unit_table(amounts: AmountsOfAll, present: Bool[np.ndarray, "pairs names"], sides: Sides) -> pd.DataFrame:
    """Return one row per model and direction that fires on `MIN_IMAGES` or more; "truth" is what it is matched to, or ""."""
    matching = match_concepts(amounts["real"], present)
    names = np.array([*NAMES, ""])[matching.truth]
    real, seen = mean_amounts(amounts["real"]), amounts["real"].getnnz(axis=0)
    parts = []
    for model, planted in sides.items():
        ranked = np.flatnonzero(seen + amounts[model].getnnz(axis=0) >= MIN_IMAGES)
        parts.append(pd.DataFrame({
            "model": model, "unit": ranked, "truth": names[ranked], "purity": matching.purity[ranked],
            "delta": energy_difference(mean_amounts(amounts[model]), real)[ranked],
            "planted": planted.reindex(names[ranked], fill_value="").to_numpy(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def truth_table(amounts: AmountsOfAll, present: Bool[np.ndarray, "pairs names"], sides: Sides) -> pd.DataFrame:
    """Return one row per model and ground-truth concept.

    delta   of its amount, by the directions matched to it; nan if no real image shows it
    match   average precision of that amount on real images
    purity  fraction of that amount on real images that show the concept
    """
    held = amounts_of_truths(amounts, present)
    real, sparse = held["real"].mean(axis=0), sp.csr_matrix(held["real"])
    deltas = {model: np.where(present.any(axis=0), energy_difference(held[model].mean(axis=0), real), np.nan) for model in sides}
    match = average_precisions(sparse.tocsc(), present).diagonal()
    return named_table(deltas, sides, match=match, purity=shares_inside(sparse, present).diagonal())


def gains_table(
    held: Mapping[str, Float[np.ndarray, "pairs names"]],
    truths: pd.DataFrame,
    shown: Mapping[str, Bool[np.ndarray, "pairs names"]],
) -> pd.DataFrame:
    """Find where objects gain that are not planted and yet have a higher delta than a planted one.

    `held` are the amounts that `truths`, a `truth_table`, compares; `shown` says what the images of each model show. Return one
    row per model and such object.

    gain      its amount in all generations minus that in the real images, as a fraction of the latter
    where     the other object whose images gain most for their number
    share     fraction of the gain in those images
    pictures  fraction of the generations that those images are
    """
    rows = []
    for model, table in truths[truths["truth"].isin(OBJECTS)].groupby("model", sort=False):
        lowest = table.loc[table["planted"] == "exaggerated", "delta"].min()
        rises = table["delta"] > max(lowest, 0.5)
        above = table[(table["planted"] == "") & rises].sort_values("delta", ascending=False)
        pictures = shown[model].mean(axis=0)
        for row in above.itertuples():
            real, generated = (held[name][:, NAMES.index(row.truth)] for name in ("real", model))
            share = (generated - real) @ shown[model] / (generated - real).sum()
            others = [i for i, name in enumerate(NAMES) if name in OBJECTS and name != row.truth]
            most = max(others, key=lambda i: share[i] - pictures[i])
            rows.append({
                "model": model, "truth": row.truth, "delta": row.delta, "gain": generated.sum() / real.sum() - 1,
                "where": NAMES[most], "share": share[most], "pictures": pictures[most],
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "truth", "delta", "gain", "where", "share", "pictures"])


def named_table(deltas: Mapping[str, Iterable[float]], sides: Sides, **columns) -> pd.DataFrame:
    """Return one row per model and ground-truth concept: delta, the side it is planted on, and `columns`, equal in all rows."""
    parts = [
        pd.DataFrame({"model": model, "truth": NAMES, "delta": list(deltas[model]), "planted": planted.to_numpy(), **columns})
        for model, planted in sides.items()
    ]
    return pd.concat(parts, ignore_index=True)


def mean_amounts(amounts: sp.csr_matrix) -> Float[np.ndarray, "u"]:
    return np.asarray(amounts.mean(axis=0, dtype=np.float64)).ravel()
