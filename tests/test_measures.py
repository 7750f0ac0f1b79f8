import numpy as np
import pytest

from blindspots_lib.measures import (
    agreement_with_oracle,
    concept_change,
    detect,
    over_seeds,
    precision_at_false_positives,
    resampled,
)  # fmt: skip


def test_detection_worked_out_by_hand():
    deltas, planted = np.array([0.05, 0.2, 0.08, 0.5, np.nan]), np.array([True, True, False, False, False])
    found = detect(deltas, planted, "suppressed", 0.1)  # planted at ranks 1 and 3: (1 + 2/3) / 2
    assert found.average_precision == pytest.approx(5 / 6)
    assert (found.recall, found.precision, found.n_planted) == (0.5, 0.5, 2)
    mirrored = detect(1 - deltas, planted, "exaggerated", 0.9)
    assert mirrored == found


def test_change_and_agreement():
    real, generated = np.array([[0.5, 0.2, 0.1]] * 4), np.array([[0.5, 0.6, 0.0]] * 4)
    change = concept_change(generated, real)
    np.testing.assert_allclose(change, [0.5, 0.75, 0.0])
    deltas, truth = np.array([0.5, 0.4, 0.9, 0.8, 0.1, 0.99]), np.array([0, 0, 1, 1, 2, -1])
    assert agreement_with_oracle(deltas, truth, change) == pytest.approx(1.0)
    assert agreement_with_oracle(1 - deltas, truth, change) == pytest.approx(-1.0)


def test_precision_at_one_percent_of_false_positives():
    scores = np.concatenate([np.arange(1000.0), [995.5, 10.0, 2000.0]])
    positive = np.arange(1003) >= 1000
    # above the level that 10 of 1,000 negatives exceed (989.01): 990 ... 999 and two of the three positives
    assert precision_at_false_positives(scores, positive) == pytest.approx(2 / 12)


def test_intervals():
    assert over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    mean = resampled(lambda x: float(x.mean()), np.arange(100.0))
    assert mean.value == 49.5
    assert mean.low == pytest.approx(49.5 - 1.96 * 2.9, abs=0.8)
    assert mean.high == pytest.approx(49.5 + 1.96 * 2.9, abs=0.8)
