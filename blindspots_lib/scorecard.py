"""How well the instrument finds what was planted: measures of the scorecard, each with its definition."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Measure(NamedTuple):
    """A measure with its interval: over seeds of the SAE, or over resampled pairs."""

    value: float
    low: float
    high: float


def over_seeds(values: Iterable[float]) -> Measure:
    """Mean of some trainings, with the 95 % interval of Student's t for the mean; nan for its ends if there is one only."""
    from scipy.stats import t

    values = np.array(list(values), float)
    if len(values) < 2:
        return Measure(float(values.mean()), float("nan"), float("nan"))
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Measure(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


class Detection(NamedTuple):
    """How well a ranking of concepts puts the planted ones first."""

    average_precision: float
    recall: float  # of the planted, beyond the threshold
    precision: float  # of those beyond the threshold, planted; nan if none is
    n_planted: int
    n_concepts: int


def detect(deltas: Float[np.ndarray, "k"], planted: Bool[np.ndarray, "k"], side: str, threshold: float) -> Detection:
    """Rank concepts by delta, from below for "suppressed", from above for "exaggerated"; nan counts as 0.5."""
    from sklearn.metrics import average_precision_score

    deltas = np.nan_to_num(deltas, nan=0.5)
    scores, beyond = (-deltas, deltas < threshold) if side == "suppressed" else (deltas, deltas > threshold)
    if not planted.any():
        return Detection(float("nan"), float("nan"), float("nan"), 0, len(deltas))
    precision = float(planted[beyond].mean()) if beyond.any() else float("nan")
    return Detection(
        float(average_precision_score(planted, scores)), float(beyond[planted].mean()), precision, int(planted.sum()), len(deltas)
    )


def concept_change(generated: Float[np.ndarray, "n c"], real: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "c"]:
    """f' / (f + f'), f the frequency of a true concept on real and f' on generated images, by the oracle's probabilities."""
    before, after = real.mean(axis=0), generated.mean(axis=0)
    return after / np.maximum(before + after, np.finfo(float).tiny)


def agreement_with_oracle(deltas: Float[np.ndarray, "k"], truth: Int[np.ndarray, "k"], change: Float[np.ndarray, "c"]) -> float:
    """Spearman correlation over true concepts: the median delta of the concepts that stand for one, and its true change."""
    from scipy.stats import spearmanr

    known = [c for c in range(len(change)) if (truth == c).any()]
    medians = [np.nanmedian(deltas[truth == c]) for c in known]
    return float(spearmanr(medians, change[known]).statistic)


def auroc(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def precision_at_false_positives(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], share: float = 0.01) -> float:
    """Share of positives among all that score above the level which that share of the negatives exceeds."""
    level = np.quantile(scores[~positive], 1 - share)
    above = scores > level
    return float(positive[above].mean()) if above.any() else 0.0


def resampled(measure, *arrays: np.ndarray, n: int = 1000, seed: int = 0) -> Measure:
    """A measure of rows with its 95 % bootstrap interval; draws on which it is not defined are left out."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n):
        rows = rng.integers(len(arrays[0]), size=len(arrays[0]))
        try:
            samples.append(measure(*(array[rows] for array in arrays)))
        except ValueError:  # a resample without a positive
            continue
    low, high = np.quantile(samples, (0.025, 0.975))
    return Measure(float(measure(*arrays)), float(low), float(high))
