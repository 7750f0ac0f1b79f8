"""Measures of how well a method finds what was planted, each with its definition."""

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
    """Return the mean over two seeds or more, with the 95 % interval of Student's t, cut at the measure's range.

    All three are nan if the measure is not defined for one of the seeds.
    """
    from scipy.stats import t

    values = np.array(list(values), float)
    if np.isnan(values).any():
        return Measure(np.nan, np.nan, np.nan)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return Measure(mean, float(max(lowest, mean - half)), float(min(highest, mean + half)))


class Detection(NamedTuple):
    """How well a ranking puts the planted concepts first; all nan if nothing is planted."""

    ap: float  # average precision
    recall: float  # fraction of the planted that lies beyond the threshold
    precision: float  # fraction of those beyond the threshold that is planted; nan if there are none


def detect(deltas: Float[np.ndarray, "k"], planted: Bool[np.ndarray, "k"], side: str, threshold: float) -> Detection:
    """Rank concepts by delta, the lowest first for "suppressed", the highest first for "exaggerated"; nan counts as 0.5."""
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
    """Return one row per method ("kind"), seed, model and side. `ap`, `recall` and `precision` are given for four rankings.

    _of_objects    the objects, each by all directions matched to it together: fair to methods with few and many directions
    _of_truths     all ground-truth concepts, in the same way
    _of_found      the objects to which a direction is matched
    _of_units      the directions that are matched to a ground-truth concept, one by one
    found_share    fraction of the planted to which a direction is matched
    oracle_rho     rank correlation with the true change, over all ground-truth concepts; `_unplanted`: over those not planted
    flagged_share  fraction of all directions beyond the thresholds
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
    """Return f' / (f + f') with f, f' the frequency of a ground-truth concept on real and generated images, by the oracle."""
    before, after = real.mean(axis=0), generated.mean(axis=0)
    return after / np.maximum(before + after, np.finfo(float).tiny)


def auroc(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n *m"]) -> float | Float[np.ndarray, "m"]:
    """Return the area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    With several columns of `positive`, return one area per column; nan if there are no positives or no negatives.
    """
    from scipy.stats import rankdata

    n_positive = positive.sum(axis=0)
    n_negative = len(scores) - n_positive
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = (rankdata(scores) @ positive - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return float(areas) if positive.ndim == 1 else areas


def precision_at_false_positives(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], share: float = 0.01) -> float:
    """Return the fraction of positives among what scores above the level that a fraction `share` of the negatives exceeds.

    It is nan if there are no positives or no negatives.
    """
    if not 0 < positive.sum() < len(positive):
        return np.nan
    level = np.quantile(scores[~positive], 1 - share)
    above = scores > level
    return float(positive[above].mean()) if above.any() else 0.0


def resampled(measure, *arrays: np.ndarray, n: int = 1000, seed: int = 0) -> Measure:
    """Return a measure of rows with its 95 % bootstrap interval, nan if it is not defined; undefined resamples are left out."""
    rng = np.random.default_rng(seed)
    value = measure(*arrays)
    if np.isnan(value):
        return Measure(value, value, value)
    draws = (rng.integers(len(arrays[0]), size=len(arrays[0])) for _ in range(n))
    samples = [measure(*(array[rows] for array in arrays)) for rows in draws]
    low, high = np.nanquantile(samples, (0.025, 0.975))
    return Measure(value, float(low), float(high))


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return ranks from 0 to 1; ties share their mean rank."""
    from scipy.stats import rankdata

    return (rankdata(values) - 0.5) / len(values)


def copy_scores(table: pd.DataFrame) -> dict[str, Float[np.ndarray, "n"]]:
    """Return scores, by name, that should be greater where a model copied a pair, from rows of the datapoint table."""
    nearer, similar = -table["distance_in_place"].to_numpy(), table["training_similarity"].to_numpy()
    return {
        "distance in place": nearer,
        "energy distance": -table["energy_distance"].to_numpy(),
        "datapoint difference": -np.abs(table["datapoint_delta"].to_numpy() - 0.5),
        "nearest training image": similar,
        "in place and nearest": ranks(nearer) + ranks(similar),
    }
