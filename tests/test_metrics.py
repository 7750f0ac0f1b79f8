import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from blindspots_lib.core.config import Analysis
from blindspots_lib.trial.metrics import (
    auroc,
    concept_change,
    copy_scores,
    detect,
    detection_table,
    over_seeds,
    precision_at_false_positives,
    resampled,
)


def test_detection_worked_out_by_hand():
    deltas, planted = np.array([0.05, 0.2, 0.08, 0.5, np.nan]), np.array([True, True, False, False, False])
    found = detect(deltas, planted, "suppressed", 0.1)  # planted at ranks 1 and 3: (1 + 2/3) / 2
    assert found.ap == pytest.approx(5 / 6)
    assert (found.recall, found.precision) == (0.5, 0.5)
    mirrored = detect(1 - deltas, planted, "exaggerated", 0.9)
    assert mirrored == found


def units(**columns):
    rows = {"kind": "ours", "seed": 0, "model": "m", "planted": ""} | columns
    return pd.DataFrame(rows)


def test_the_detection_table_worked_out_by_hand():
    planted = pd.Series({"dvd": "suppressed", "page": "suppressed", "wood": "exaggerated", "cat": "", "dog": ""})
    change = pd.Series({"dvd": 0.0, "page": 0.1, "wood": 0.9, "cat": 0.5, "dog": 0.4})
    best = units(truth=["wood", "dog", "cat", "dvd", "page"], delta=[0.2, 0.6, 0.05, 0.1, np.nan])
    table = detection_table(
        units(
            truth=["dvd", "dvd", "wood", "cat", "", "dog"], delta=[0.0, 0.2, 0.95, 0.05, 0.01, 0.6],
            planted=["suppressed", "suppressed", "exaggerated", "", "", ""],
        ),
        best, {"m": planted}, {"m": change}, Analysis(),
    ).set_index("side")  # fmt: skip
    suppressed, exaggerated = table.loc["suppressed"], table.loc["exaggerated"]
    assert suppressed["ap_of_units"] == pytest.approx((1 + 2 / 3) / 2)  # dvd, cat, dvd, ...
    # of the true concepts: cat .05, dvd .1, wood .2, page unknown, so .5, dog .6
    assert suppressed["ap_of_truths"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert suppressed["ap_of_objects"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert exaggerated["ap_of_truths"] == pytest.approx(1 / 3)
    assert suppressed["ap_of_found"] == 1 / 2  # cat, dvd, dog: no unit stands for the page
    assert np.isnan(exaggerated["ap_of_objects"])
    assert np.isnan(exaggerated["ap_of_found"])
    assert suppressed["found_share"] == 0.5
    assert (suppressed["recall_of_units"], suppressed["precision_of_units"]) == (0.5, 0.5)
    assert (suppressed["recall_of_objects"], suppressed["precision_of_objects"]) == (0.0, 0.0)  # below .1: the cat alone
    assert (exaggerated["ap_of_units"], exaggerated["found_share"]) == (1.0, 1.0)
    assert suppressed["flagged_share"] == pytest.approx(4 / 6)
    assert (suppressed["n_units"], suppressed["n_matched"]) == (6, 5)
    # known: dvd .1, wood .2, cat .05, dog .6 against 0, .9, .5, .4: ranks 2 3 1 4 and 1 4 3 2
    assert suppressed["oracle_rho"] == pytest.approx(1 - 6 * (1 + 1 + 4 + 4) / (4 * 15))
    assert suppressed["oracle_rho_unplanted"] == pytest.approx(-1)  # cat .05, dog .6 against .5 and .4


def test_the_true_change_is_that_of_the_frequency():
    real, generated = np.array([[0.5, 0.2, 0.1]] * 4), np.array([[0.5, 0.6, 0.0]] * 4)
    np.testing.assert_allclose(concept_change(generated, real), [0.5, 0.75, 0.0])


def test_copies_are_told_by_small_distances_and_near_neighbours():
    table = pd.DataFrame({
        "distance_in_place": [1.0, 2.0, 3.0], "energy_distance": [3.0, 2.0, 1.0], "datapoint_delta": [0.5, 0.4, 0.7],
        "training_similarity": [0.7, 0.9, 0.8],
    })  # fmt: skip
    scores = copy_scores(table)
    assert [np.argsort(-scores[name]).tolist() for name in list(scores)[:4]] == [[0, 1, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0]]
    np.testing.assert_allclose(scores["in place and nearest"], [5 / 6 + 1 / 6, 1 / 2 + 5 / 6, 1 / 6 + 1 / 2])


def test_precision_at_one_percent_of_false_positives():
    scores = np.concatenate([np.arange(1000.0), [995.5, 10.0, 2000.0]])
    positive = np.arange(1003) >= 1000
    # above the level that 10 of 1,000 negatives exceed (989.01): 990 ... 999 and two of the three positives
    assert precision_at_false_positives(scores, positive) == pytest.approx(2 / 12)


def test_intervals():
    assert over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert over_seeds([0.9, 1.0], 0.0, 1.0).high == 1.0
    mean = resampled(lambda x: float(x.mean()), np.arange(100.0))
    assert mean.value == 49.5
    assert mean.low == pytest.approx(49.5 - 1.96 * 2.9, abs=0.8)
    assert mean.high == pytest.approx(49.5 + 1.96 * 2.9, abs=0.8)


def test_auroc_matches_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(6, size=50).astype(float), rng.random(50) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert np.isnan(auroc(scores, np.ones(50, bool)))
