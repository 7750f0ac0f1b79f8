"""How well the instrument finds what was planted: measures, each with its definition, over the tables of a trial."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from blindspots_lib.core.config import Analysis
from blindspots_lib.data.scenes import OBJECTS

SIDES = ("suppressed", "exaggerated")


class Measure(NamedTuple):
    """A measure with its interval: over seeds of the SAE, or over resampled pairs."""

    value: float
    low: float
    high: float


def over_seeds(values: Iterable[float], lowest: float = -np.inf, highest: float = np.inf) -> Measure:
    """Mean of two trainings or more, with the 95 % interval of Student's t for the mean, cut at the measure's range.

    nan throughout if the measure is not defined for one of them.
    """
    from scipy.stats import t

    values = np.array(list(values), float)
    if np.isnan(values).any():
        return Measure(np.nan, np.nan, np.nan)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return Measure(mean, float(max(lowest, mean - half)), float(min(highest, mean + half)))


class Detection(NamedTuple):
    """How well a ranking of concepts puts the planted ones first; nan throughout where nothing is planted."""

    ap: float  # average precision
    recall: float  # of the planted, beyond the threshold
    precision: float  # of those beyond the threshold, planted; nan if none is


def detect(deltas: Float[np.ndarray, "k"], planted: Bool[np.ndarray, "k"], side: str, threshold: float) -> Detection:
    """Rank concepts by delta, from below for "suppressed", from above for "exaggerated"; nan counts as 0.5."""
    from sklearn.metrics import average_precision_score

    if not planted.any():
        return Detection(np.nan, np.nan, np.nan)
    deltas = np.nan_to_num(deltas, nan=0.5)
    scores, beyond = (-deltas, deltas < threshold) if side == "suppressed" else (deltas, deltas > threshold)
    precision = float(planted[beyond].mean()) if beyond.any() else np.nan
    return Detection(float(average_precision_score(planted, scores)), float(beyond[planted].mean()), precision)


def detection_table(
    units: pd.DataFrame,
    truths: pd.DataFrame,
    planted: Mapping[str, pd.Series],
    change: Mapping[str, pd.Series],
    analysis: Analysis,
) -> pd.DataFrame:
    """One row a kind of units, seed, model and side; `ap`, `recall` and `precision` four times, by what is ranked.

    `_of_objects` and `_of_truths`: the objects, or all true concepts, each by the units that stand for it together, so that
    kinds which represent much or little, in few units or many, are judged alike. `_of_found`: the objects that some unit
    stands for. `_of_units`: the units that stand for a true concept, each counted.
    `found_share` is the share of the planted that some unit stands for; `oracle_rho` the rank correlation with the true change
    over all true concepts, `oracle_rho_unplanted` over those that nobody planted; `flagged_share` is of all units.
    """
    return pd.DataFrame(detection_rows(units, truths, planted, change, analysis))


def detection_rows(units, truths, planted, change, analysis: Analysis) -> Iterator[dict]:
    thresholds = dict(zip(SIDES, (analysis.suppressed_below, analysis.exaggerated_above), strict=True))
    best = {key: group.set_index("truth")["delta"] for key, group in truths.groupby(["kind", "seed", "model"])}
    for (kind, seed, model), group in units.groupby(["kind", "seed", "model"], sort=False):
        sides = planted[model]
        deltas = best[kind, seed, model].reindex(sides.index)
        matched = group[group["truth"] != ""]
        objects = sides.index.isin(list(OBJECTS))
        found = objects & sides.index.isin(matched["truth"])
        ranked = {  # of what -> delta and the side it is planted on
            "objects": (deltas[objects], sides[objects]), "truths": (deltas, sides), "found": (deltas[found], sides[found]),
            "units": (matched["delta"], matched["planted"]),
        }  # fmt: skip
        flagged = (group["delta"] < analysis.suppressed_below) | (group["delta"] > analysis.exaggerated_above)
        for side, threshold in thresholds.items():
            wanted = sides.index[sides == side]
            measured = {
                of: detect(some.to_numpy(), (their_sides == side).to_numpy(), side, threshold)
                for of, (some, their_sides) in ranked.items()
            }
            yield {
                "kind": kind, "seed": seed, "model": model, "side": side,
                **{f"{name}_of_{of}": value for of, measures in measured.items() for name, value in measures._asdict().items()},
                "found_share": float(wanted.isin(matched["truth"]).mean()) if len(wanted) else np.nan,
                "oracle_rho": deltas.corr(change[model], method="spearman"),
                "oracle_rho_unplanted": deltas[sides == ""].corr(change[model], method="spearman"),
                "n_units": len(group), "n_matched": len(matched), "flagged_share": float(flagged.mean()),
            }  # fmt: skip


def concept_change(generated: Float[np.ndarray, "n c"], real: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "c"]:
    """f' / (f + f'), f the frequency of a true concept on real and f' on generated images, by the oracle's probabilities."""
    before, after = real.mean(axis=0), generated.mean(axis=0)
    return after / np.maximum(before + after, np.finfo(float).tiny)


def auroc(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n *m"]) -> float | Float[np.ndarray, "m"]:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    With several columns of `positive`, one area per column; nan where there are no positives or no negatives.
    """
    from scipy.stats import rankdata

    n_positive = positive.sum(axis=0)
    n_negative = len(scores) - n_positive
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = (rankdata(scores) @ positive - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return float(areas) if positive.ndim == 1 else areas


def precision_at_false_positives(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], share: float = 0.01) -> float:
    """Share of positives among all that score above the level which that share of the negatives exceeds; nan without any."""
    if not 0 < positive.sum() < len(positive):
        return np.nan
    level = np.quantile(scores[~positive], 1 - share)
    above = scores > level
    return float(positive[above].mean()) if above.any() else 0.0


def resampled(measure, *arrays: np.ndarray, n: int = 1000, seed: int = 0) -> Measure:
    """A measure of rows with its 95 % bootstrap interval, nan throughout where it is not defined; resamples without count not."""
    rng = np.random.default_rng(seed)
    value = measure(*arrays)
    if np.isnan(value):
        return Measure(value, value, value)
    draws = (rng.integers(len(arrays[0]), size=len(arrays[0])) for _ in range(n))
    samples = [measure(*(array[rows] for array in arrays)) for rows in draws]
    low, high = np.nanquantile(samples, (0.025, 0.975))
    return Measure(value, float(low), float(high))


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 0 to 1, ties shared."""
    from scipy.stats import rankdata

    return (rankdata(values) - 0.5) / len(values)


def copy_scores(table: pd.DataFrame) -> dict[str, Float[np.ndarray, "n"]]:
    """What could tell that a model copied a pair, from its row of the memorization table: greater where it did, by name."""
    nearer, similar = -table["distance_in_place"].to_numpy(), table["training_similarity"].to_numpy()
    return {
        "distance in place": nearer,
        "energy distance": -table["energy_distance"].to_numpy(),
        "datapoint difference": -np.abs(table["datapoint_delta"].to_numpy() - 0.5),
        "nearest training image": similar,
        "in place and nearest": ranks(nearer) + ranks(similar),
    }
