"""Units of any kind as tables: what each stands for, judged on real images alone, and its delta for every model."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from blindspots_lib.blindspots import energy_difference
from blindspots_lib.matching import NAMES, best_units, match_concepts
from blindspots_lib.scenes import OBJECTS

AmountsOfAll = Mapping[str, sp.csr_matrix]  # "real" and the models -> (pairs, units), non-negative
Sides = Mapping[str, pd.Series]  # model -> true concept -> "suppressed", "exaggerated" or ""


def unit_table(amounts: AmountsOfAll, present: Bool[np.ndarray, "pairs names"], sides: Sides, min_images: int) -> pd.DataFrame:
    """One row a model and unit that fires on `min_images` or more: the true concept that it stands for, "" for none."""
    matching = match_concepts(amounts["real"], present)
    names = np.array([*NAMES, ""])[matching.truth]
    real, seen = mean_amounts(amounts["real"]), amounts["real"].getnnz(axis=0)
    parts = []
    for model, planted in sides.items():
        ranked = np.flatnonzero(seen + amounts[model].getnnz(axis=0) >= min_images)
        parts.append(pd.DataFrame({
            "model": model, "unit": ranked, "truth": names[ranked], "purity": matching.purity[ranked],
            "delta": energy_difference(mean_amounts(amounts[model]), real)[ranked],
            "planted": planted.reindex(names[ranked], fill_value="").to_numpy(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def truth_table(amounts: AmountsOfAll, present: Bool[np.ndarray, "pairs names"], sides: Sides) -> pd.DataFrame:
    """One row a model and true concept: its best unit, whatever that is worth; delta is nan if no real image shows it."""
    best, real = best_units(amounts["real"], present), mean_amounts(amounts["real"])
    deltas = {
        model: np.where(present.any(axis=0), energy_difference(mean_amounts(amounts[model]), real)[best.unit], np.nan)
        for model in sides
    }
    return named_table(deltas, sides, unit=best.unit, match=best.precision, purity=best.purity)


def gains_table(
    amounts: AmountsOfAll,
    truths: pd.DataFrame,
    shown: Mapping[str, Bool[np.ndarray, "pairs names"]],
    sides: Sides,
) -> pd.DataFrame:
    """Objects that nobody planted and that yet rise above a planted one: where does their best unit gain?

    `truths` is a `truth_table`, `shown` what the images of "real" and of each model show. One row a model and such object:
    `gain`, the amount of its unit in all generations less that in the real images, as a share of the latter; `additions`,
    the share of the gain in pairs where a planted object stands in the generation alone; `pairs`, the share of such pairs.
    """
    rows, objects = [], truths[truths["truth"].isin(OBJECTS)]
    for model, planted in sides.items():
        table = objects[objects["model"] == model].sort_values("delta", ascending=False)
        lowest = table.loc[table["planted"] == "exaggerated", "delta"].min()
        exaggerated = [NAMES.index(name) for name in OBJECTS if planted[name] == "exaggerated"]
        added = (shown[model] & ~shown["real"])[:, exaggerated].any(axis=1)
        for row in table[(table["planted"] == "") & (table["delta"] > lowest)].itertuples():
            real, generated = (amounts[name][:, [row.unit]].toarray()[:, 0] for name in ("real", model))
            gain = (generated - real).sum()
            rows.append({
                "model": model, "truth": row.truth, "delta": row.delta, "gain": gain / real.sum(),
                "additions": (generated - real)[added].sum() / gain, "pairs": added.mean(),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "truth", "delta", "gain", "additions", "pairs"])


def named_table(deltas: Mapping[str, Iterable[float]], sides: Sides, **columns) -> pd.DataFrame:
    """One row a model and true concept: delta, the side it is planted on, and `columns`, the same for every model."""
    parts = [
        pd.DataFrame({"model": model, "truth": NAMES, "delta": list(deltas[model]), "planted": planted.to_numpy(), **columns})
        for model, planted in sides.items()
    ]
    return pd.concat(parts, ignore_index=True)


def mean_amounts(amounts: sp.csr_matrix) -> Float[np.ndarray, "units"]:
    return np.asarray(amounts.mean(axis=0, dtype=np.float64)).ravel()
