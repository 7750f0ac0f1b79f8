"""The scorecard: how well the instrument did on what is known of every model."""

import numpy as np
import pandas as pd

from blindspots_lib.analysis.distribution import distribution_shape
from blindspots_lib.core.files import write_json
from blindspots_lib.trial.methods import RA_SAE
from blindspots_lib.trial.metrics import (
    SIDES,
    Detection,
    Measure,
    auroc,
    copy_scores,
    over_seeds,
    precision_at_false_positives,
    resampled,
)
from blindspots_lib.trial.trial import Trial

HIGH_DISCREPANCY = 0.95  # quantile of the energy distance from which a pair has high discrepancy
RANKED = {"": "objects", "_of_truths": "truths", "_of_found": "found", "_of_units": "units"}  # end of a name -> what is ranked
COPY_SCORES = {  # score -> first word of its measures
    "distance in place": "memorization", "energy distance": "memorization_energy",
    "datapoint difference": "memorization_datapoint", "nearest training image": "memorization_neighbour",
    "in place and nearest": "memorization_both",
}  # fmt: skip

Card = dict[str, dict[str, Measure]]  # model -> measure -> value, low, high


def scorecard(trial: Trial) -> Card:
    """Return all measures of all models: detection with intervals over seeds, the others over resampled pairs or concepts."""
    return {
        model.name: {
            **detection_measures(trial.detection, model.name), **shape_measures(trial, model.name),
            **memorization_measures(trial.copies, model.name), **noise_measures(trial.discrepancies, model.name),
            **answer_measures(trial.answers, model.name),
            **{name: Measure(value, np.nan, np.nan) for name, value in trial.methods.global_scores[model.name]._asdict().items()},
        }
        for model in trial.study.models
    }  # fmt: skip


def detection_measures(detection: pd.DataFrame, model: str, kind: str = RA_SAE) -> dict[str, Measure]:
    """Return `ap`, `recall` and `precision` per side, over objects and the other rankings of `detection_table`."""
    rows = detection[(detection["kind"] == kind) & (detection["model"] == model)]
    columns = {f"{name}{end}": f"{name}_of_{of}" for end, of in RANKED.items() for name in Detection._fields}
    columns |= {"found_share": "found_share"}
    measures = {
        f"{side}_{name}": over_seeds(group[column], 0.0, 1.0)
        for side, group in rows.groupby("side", sort=False)
        for name, column in columns.items()
    }
    lowest = {"oracle_rho": -1.0, "oracle_rho_unplanted": -1.0, "flagged_share": 0.0}
    once = rows[rows["side"] == SIDES[0]]  # the same on both sides
    return measures | {name: over_seeds(once[name], low, 1.0) for name, low in lowest.items()}


def answer_measures(answers: pd.DataFrame, model: str, kind: str = RA_SAE) -> dict[str, Measure]:
    """Return the measures of `answers.answer_table` for one model, with intervals over seeds."""
    rows = answers[(answers["kind"] == kind) & (answers["model"] == model)]
    return {name: over_seeds(values, 0.0, 1.0) for name, values in rows.groupby("measure", sort=False)["value"]}


def shape_measures(trial: Trial, model: str) -> dict[str, Measure]:
    """Return for the study's own SAE the skewness, the fraction of intervals without 0.5, the spread of datapoint differences."""
    concepts, analysis, datapoints = trial.results.concepts, trial.study.analysis, trial.results.datapoints
    tested = concepts[f"tested_{model}"].to_numpy()
    shape = distribution_shape(trial.results.matrices[model], trial.results.matrices["real"], tested, analysis)
    sure = ((concepts[f"high_{model}"] < 0.5) | (concepts[f"low_{model}"] > 0.5)).to_numpy()[tested]
    spread = datapoints.loc[datapoints["model"] == model, "datapoint_delta"].to_numpy()
    return {
        "datapoint_spread": resampled(lambda deltas: float(deltas.std()), spread, seed=analysis.seed),
        "skewness": Measure(shape.skewness, shape.skewness_low, shape.skewness_high),
        "sure_share": resampled(lambda hits: float(hits.mean()), sure, seed=analysis.seed),
    }


def memorization_measures(copies: pd.DataFrame, model: str) -> dict[str, Measure]:
    """Return how well scores separate copies from other public pairs: area under the ROC curve, precision at 1 % false positives.

    `_untouched_auroc` is the area among the pairs that the model learned as they are: no copy was redrawn, most others were.
    `copy_recall` and `copy_false_share` are the fractions of copies and of other pairs that are called copies.
    """
    table = copies[copies["model"] == model]
    copied, alike = (table["copies"] > 0).to_numpy(), table["untouched"].to_numpy()
    scores, called = copy_scores(table), (table["copy_call"] == "copy").to_numpy()
    return {
        "copy_recall": resampled(lambda hits: float(hits.mean()) if len(hits) else np.nan, called[copied]),
        "copy_false_share": resampled(lambda hits: float(hits.mean()) if len(hits) else np.nan, called[~copied]),
    } | {
        f"{short}_{measure}": resampled(function, scores[name], copied)
        for name, short in COPY_SCORES.items()
        for measure, function in (("auroc", auroc), ("precision", precision_at_false_positives))
    } | {
        f"{short}_untouched_auroc": resampled(auroc, scores[name][alike], copied[alike]) for name, short in COPY_SCORES.items()
    }  # fmt: skip


def noise_measures(discrepancies: pd.DataFrame, model: str) -> dict[str, Measure]:
    """Return the fraction of wrong captions among pairs of high discrepancy, and how well caption-image agreement finds them.

    The latter is over pairs that are not public: public pairs all have their own captions, and CLIP was trained on them.
    `caption_fit_auroc` says how well the concepts alone find wrong captions, over all pairs.
    """
    table = discrepancies[discrepancies["model"] == model]
    high = table[table["energy_distance"] >= table["energy_distance"].quantile(HIGH_DISCREPANCY)]
    unseen = high[~high["public"]]
    return {
        "noise_share": resampled(lambda hits: float(hits.mean()), high["noisy"].to_numpy()),
        "noise_auroc": resampled(auroc, -unseen["agreement"].to_numpy(), unseen["noisy"].to_numpy()),
        "caption_fit_auroc": resampled(auroc, -table["caption_fit"].fillna(1).to_numpy(), table["noisy"].to_numpy()),
    }


def write_scorecard(card: Card, path) -> None:
    """Write one JSON: model -> measure -> {"value", "low", "high"}; null if a measure is not defined or has no interval."""
    plain = {
        model: {name: {key: None if np.isnan(number) else float(f"{number:.4g}") for key, number in measure._asdict().items()}
                for name, measure in measures.items()}
        for model, measures in card.items()
    }  # fmt: skip
    write_json(path, plain)
