import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import beta

from benchmarks.coverage import ENERGIES, Cell, fieller_interval, measure_coverage
from blindspots_lib.analysis.delta import energy_difference, measure_difference, published_interval, ratio_interval
from blindspots_lib.analysis.distribution import frequency_values
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError

ANALYSIS = Analysis()


def test_energy_difference_worked_out_by_hand():
    delta = energy_difference(np.array([0.0, 1.0, 3.0, 2.0, 0.0]), np.array([4.0, 3.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(delta, [0.0, 0.25, 0.75, 1.0, np.nan])


def test_it_is_the_logistic_function_of_the_log_ratio():
    generated, real = np.array([0.3, 7.0]), np.array([0.9, 0.2])
    expected = 1 / (1 + np.exp(-(np.log(generated) - np.log(real))))
    np.testing.assert_allclose(energy_difference(generated, real), expected)


def test_the_published_arithmetic_follows_its_formulas(make_study):
    """Sum over all tokens, sigma(difference / 0.8), sigma(relative / 0.4), as PAPER's formulas say."""
    real, generated = np.array([[1.0, 0.0, 4.0], [3.0, 2.0, 0.0]]), np.array([[0.5, 0.0, 6.0], [0.5, 1.0, 4.0]])
    analysis = Analysis(arithmetic="published", tokens="all")
    measured = measure_difference(sp.csr_matrix(generated), sp.csr_matrix(real), analysis)
    table = pd.DataFrame({"energy_real": real.mean(axis=0), "energy_model": generated.mean(axis=0)})
    difference = generated.mean(axis=0) - real.mean(axis=0)  # [-1.5, -0.5, 3]
    relative = difference / (generated.mean(axis=0) + real.mean(axis=0))  # [-0.6, -1/3, 3/7]
    np.testing.assert_allclose(measured.delta, 1 / (1 + np.exp(-difference / 0.8)))
    np.testing.assert_allclose(frequency_values(table, "model", analysis), 1 / (1 + np.exp(-relative / 0.4)))
    half = 1.96 * np.array([1.0, 0.5, 1.0])  # standard errors: of the differences -0.5 and -2.5, 0 and -1, 2 and 4
    np.testing.assert_allclose(measured.high, 1 / (1 + np.exp(-(difference + half) / 0.8)))
    with pytest.raises(StudyError, match="the published arithmetic sums all tokens; write tokens: all"):
        make_study({"analysis.arithmetic": "published"})


def test_the_published_interval_of_pairs_that_all_differ_alike_is_a_point():
    low, high = published_interval(sp.csr_matrix(np.full((7, 1), 0.7)), sp.csr_matrix((7, 1)))
    np.testing.assert_allclose([low, high], 1 / (1 + np.exp(-0.7 / 0.8)), rtol=1e-12)  # rounding: 0.49 - 0.7**2 < 0


def sparse(rows):
    return sp.csr_matrix(np.array(rows, np.float32))


def test_difference_is_of_the_means_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    real = sparse(rng.exponential(1.0, (300, 3)) * (rng.random((300, 3)) < 0.5))
    generated = sparse(rng.exponential([1.0, 3.0, 0.0], (300, 3)) * (rng.random((300, 3)) < 0.5))
    difference = measure_difference(generated, real, ANALYSIS)
    means = np.asarray(generated.mean(0)).ravel(), np.asarray(real.mean(0)).ravel()
    np.testing.assert_allclose(difference.delta, means[0] / (means[0] + means[1]), rtol=1e-6)
    assert (difference.low <= difference.delta).all()
    assert (difference.delta <= difference.high).all()
    assert difference.low[1] > 0.6


def test_interval_is_jeffreys_with_effective_trials():
    """By explicit loops over pairs."""
    rng = np.random.default_rng(3)
    real, generated = (rng.exponential(1.0, (40, 5)) * (rng.random((40, 5)) < [0.9, 0.6, 0.3, 0.04, 0.0]) for _ in range(2))
    generated[:, 1] *= 3
    low, high = ratio_interval(sp.csr_matrix(generated), sp.csr_matrix(real))
    for k in range(3):
        e, r = generated[:, k], real[:, k]
        s, delta = e + r, e.sum() / (e + r).sum()
        m = min(x.sum() ** 2 / (x**2).sum() for x in (e, r))
        seen, assumed = sum((e - delta * s) ** 2), delta * (1 - delta) * sum((e - r) ** 2)
        trials = delta * (1 - delta) * s.sum() ** 2 / (m / (m + 20) * seen + 20 / (m + 20) * assumed)
        hits, misses = delta * trials, (1 - delta) * trials
        expected = beta.ppf([0.025, 0.975], hits + 0.5, misses + 0.5)
        np.testing.assert_allclose([low[k], high[k]], expected, rtol=1e-6)
    assert np.isnan([low[4], high[4]]).all()


def test_few_pairs_that_are_all_alike_prove_little():
    one = np.ravel(ratio_interval(sparse([[1.0]]), sparse([[1.0]])))
    ten = np.ravel(ratio_interval(sparse([[1.0]] * 10), sparse([[1.0]] * 10)))
    np.testing.assert_allclose(one, [0.025, 0.975])  # half a hit and half a miss: Beta(1, 1), which is uniform
    assert 0.35 < ten[0] < 0.45 < 0.55 < ten[1] < 0.65


@pytest.mark.parametrize(("n", "bound"), [(5, 0.522), (10, 0.308), (100, 0.036)])
def test_what_one_side_never_showed_is_bounded_as_no_success_of_n(n, bound):
    """Clopper and Pearson's 97.5 % limits for 0 of n, from their published tables."""
    shown, never = sparse([[2.0]] * n + [[0.0]] * 30), sparse([[0.0]] * (n + 30))
    np.testing.assert_allclose(np.ravel(ratio_interval(never, shown)), [0, bound], atol=5e-4)
    np.testing.assert_allclose(np.ravel(ratio_interval(shown, never)), [1 - bound, 1], atol=5e-4)


@pytest.mark.parametrize("delta", [0.02, 0.1, 0.5, 0.9])
def test_interval_covers_the_truth_as_often_as_it_says(delta):
    """Means over coarse steps; 0.95 is stated."""
    steps = itertools.product((0.02, 0.2), (300, 1_000), ENERGIES, (0.0, 0.8), (False, True))
    table = measure_coverage(ratio_interval, [Cell(delta, *step) for step in steps], trials=150, seed=1)
    assert 0.94 <= table["coverage"].mean() <= 0.995  # at 0.02 the rarer side is often not seen: there more than 0.95
    assert table["coverage"].min() >= 0.85  # 0.91 less two to three standard errors of 150 trials


def test_interval_of_a_suppressed_concept_does_not_end_too_soon():
    """Seen on 200 images of 1,000 with heavy tails: here Fieller's upper end falls below the truth in more than 10 %."""
    cells = [Cell(delta, 0.2, 1_000, "log-normal, σ = 1.5", together, False) for delta in (0.02, 0.1) for together in (0.0, 0.8)]
    assert measure_coverage(ratio_interval, cells, trials=300)["coverage"].min() >= 0.92
    assert measure_coverage(fieller_interval, cells, trials=300)["coverage"].mean() < 0.9


def test_interval_of_few_firings_is_not_everything():
    cell = Cell(0.5, 0.02, 300, "log-normal, σ = 1", 0.0, False)  # six firings per side
    table = measure_coverage(ratio_interval, [cell], trials=300)
    assert table["coverage"][0] >= 0.93
    assert table["width"][0] < 0.75
