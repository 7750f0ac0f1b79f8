import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import pearsonr, skew, spearmanr

from blindspots_lib.analysis.agreement import correlate_apart, correlate_models, surest_differences
from blindspots_lib.analysis.delta import energy_difference
from blindspots_lib.analysis.distribution import (
    correlate_error_with_frequency,
    distribution_shape,
    frequency_bands,
    null_funnel,
    shows_sign,
)
from blindspots_lib.analysis.jackknife import GROUPS, group_sums
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis()


def draw(rng, n_pairs, log_ratio, families, frequency):
    """Energies of images (n_pairs, k); concepts of a family fire on the same images, alike."""
    shown = rng.random((n_pairs, families.max() + 1)) < frequency * np.exp(log_ratio)
    size = (shown * rng.lognormal(0, 0.7, shown.shape))[:, families]
    return sp.csr_matrix((size * rng.lognormal(0, 0.4, size.shape)).astype(np.float32))


def true_delta(log_ratio, families):
    return (1 / (1 + np.exp(-log_ratio)))[families]


def everything(matrix):
    return np.ones(matrix.shape[1], bool)


def dense(seed, n_pairs, k):
    rng = np.random.default_rng(seed)
    return [sp.csr_matrix(rng.exponential(1.0, (n_pairs, k)) * (rng.random((n_pairs, k)) < 0.6)) for _ in range(3)]


def ratios(generated, real):
    return energy_difference(*(np.asarray(side.sum(axis=0), float).ravel() for side in (generated, real)))


def error_without_each_pair(function, n_pairs):
    """The jackknife in an explicit loop."""
    values = [function([i for i in range(n_pairs) if i != left_out]) for left_out in range(n_pairs)]
    return np.sqrt((n_pairs - 1) * np.var(values))


def test_shape_counts_the_tested_concepts_beyond_the_thresholds():
    delta = np.array([0.05, 0.099, 0.1, 0.4, 0.5, 0.5, 0.6, 0.9, 0.95, 0.01])
    generated, real = (sp.csr_matrix(np.tile(side, (20, 1))) for side in (delta, 1 - delta))
    shape = distribution_shape(generated, real, np.arange(10) < 9, ANALYSIS)
    assert (shape.n_suppressed, shape.n_exaggerated, shape.n_tested) == (2, 1, 9)
    assert (shape.median, shape.median_low, shape.median_high) == pytest.approx((0.5, 0.5, 0.5))
    assert [shape.skewness, shape.skewness_raw] == pytest.approx([skew(delta[:9])] * 2)  # pairs all alike: no noise to take out


def test_the_skewness_is_that_of_the_truth_not_of_its_noise():
    """Bootstraps over pairs that do not take the noise out cover 0 to 0.4 here."""
    rng, covered, raw = np.random.default_rng(5), [], []
    families = np.repeat(np.arange(150), 2)
    for _ in range(20):
        log_ratio = np.where(rng.random(150) < 0.15, -rng.exponential(1.5, 150), rng.normal(0, 0.3, 150).clip(-0.6, 0.6))
        frequency = np.exp(rng.uniform(np.log(0.03), np.log(0.4), 150))
        real, generated = (draw(rng, 400, side, families, frequency) for side in (np.zeros(150), log_ratio))
        shape, truth = distribution_shape(generated, real, everything(real), ANALYSIS), skew(true_delta(log_ratio, families))
        covered.append(shape.skewness_low <= truth <= shape.skewness_high)
        raw.append(shape.skewness_raw - truth)
    assert np.mean(covered) >= 0.8
    assert np.mean(raw) > 0.15  # noise makes it look less skewed


def test_the_shape_of_a_faultless_model_has_no_skewness():
    rng = np.random.default_rng(0)
    real, generated = (draw(rng, 200, np.zeros(80), np.arange(80), 0.1) for _ in range(2))
    shape = distribution_shape(generated, real, everything(real), ANALYSIS)
    assert np.isnan(shape.skewness) or shape.skewness_low < 0 < shape.skewness_high
    assert shape.median_low < 0.5 < shape.median_high


@pytest.mark.parametrize(
    ("value", "low", "high", "sign", "verdict"),
    [
        (-1.0, -1.5, -0.5, -1, "shown"), (-1.0, -1.5, -0.5, 1, "not shown"), (0.4, 0.1, 0.7, 1, "not shown"),
        (0.43, 0.13, 0.73, 1, "shown"), (-0.4, -0.7, 0.1, -1, "not shown"), (np.nan, np.nan, np.nan, -1, "not shown"),
    ],
)  # fmt: skip
def test_a_sign_is_shown_if_a_second_measurement_would_have_it_too(value, low, high, sign, verdict):
    assert shows_sign(value, low, high, sign) == verdict


def test_signs_that_are_shown_rarely_turn_over():
    first, second = np.random.default_rng(0).normal(1.5, 1.0, (2, 20_000))
    shown = np.array([shows_sign(x, x - 1.96, x + 1.96, 1) == "shown" for x in first])
    assert shown.mean() > 0.05
    assert (second[shown] < 0).mean() < 0.075  # of a true value of 1.5 errors, which is far from sure
    wrong = np.array([shows_sign(x, x - 1.96, x + 1.96, -1) == "shown" for x in first])
    assert wrong.mean() < 1e-3


def test_correlation_and_its_interval_leave_out_one_pair_at_a_time():
    first, second, real = dense(0, 30, 12)
    tested = np.arange(12) < 9

    def r(rows):
        one, two = (ratios(side[rows][:, tested], real[rows][:, tested]) for side in (first, second))
        return pearsonr(one, two).statistic

    result = correlate_models(first, second, real, tested, ANALYSIS)
    half = 1.96 * error_without_each_pair(lambda rows: np.arctanh(r(rows)), 30)
    assert (result.r, result.n_concepts) == (pytest.approx(r(range(30))), 9)
    expected = np.tanh([np.arctanh(result.r) - half, np.arctanh(result.r) + half])
    np.testing.assert_allclose([result.low, result.high], expected)


def planted_models(seed, r, n_pairs=500):
    """Real images and two models whose true deltas correlate at r, in families of three concepts."""
    rng, families = np.random.default_rng(seed), np.repeat(np.arange(120), 3)
    one, other = rng.normal(0, 0.5, (2, 120))
    faults = {"one": one, "two": r * one + np.sqrt(1 - r**2) * other}
    frequency = np.exp(rng.uniform(np.log(0.02), np.log(0.2), 120))
    real = draw(rng, n_pairs, np.zeros(120), families, frequency)
    generated = {name: draw(rng, n_pairs, fault, families, frequency) for name, fault in faults.items()}
    truth = np.corrcoef(*(true_delta(fault, families) for fault in faults.values()))[0, 1]
    return generated, real, truth


def test_disjoint_halves_corrected_by_their_reliability_give_the_true_correlation():
    covered, raw = [], []
    for seed in range(15):
        generated, real, truth = planted_models(seed, 0.73)
        apart = correlate_apart(generated, real, dict.fromkeys(generated, everything(real)), ANALYSIS)["one~two"]
        covered.append(apart.corrected.low <= truth <= apart.corrected.high)
        raw.append(apart.raw.r)
        product = apart.reliability_first * apart.reliability_second
        assert apart.corrected.r == pytest.approx(np.clip(apart.raw.r / np.sqrt(product), -1, 1), abs=1e-6)
    assert np.mean(covered) >= 0.8
    assert np.mean(raw) < 0.62


def test_a_model_agrees_with_itself_on_other_pairs():
    generated, real, _ = planted_models(3, 0.0)
    twice = dict.fromkeys(("one", "again"), generated["one"])
    apart = correlate_apart(twice, real, dict.fromkeys(twice, everything(real)), ANALYSIS)["one~again"]
    assert [apart.corrected.r, apart.corrected.high] == pytest.approx([1, 1])
    assert apart.raw.r < 0.9


def test_apart_the_chance_in_the_real_images_makes_no_faults_agree():
    rng, families = np.random.default_rng(3), np.arange(300)
    real, one, two = (draw(rng, 120, np.zeros(300), families, 0.15) for _ in range(3))
    tested = everything(real)
    apart = correlate_apart({"one": one, "two": two}, real, {"one": tested, "two": tested}, ANALYSIS)["one~two"]
    assert correlate_models(one, two, real, tested, ANALYSIS).low > 0.2
    assert apart.raw.low < 0 < apart.raw.high
    assert np.isnan(apart.corrected.r) or apart.corrected.high - apart.corrected.low > 0.5


def test_rare_concepts_that_err_most_are_compared_with_chance():
    rng, families = np.random.default_rng(4), np.arange(200)
    frequency = np.exp(rng.uniform(np.log(0.01), np.log(0.5), 200))
    real, faultless = (draw(rng, 200, np.zeros(200), families, frequency) for _ in range(2))
    firings, tested = real.getnnz(axis=0) + faultless.getnnz(axis=0), everything(real)
    result = correlate_error_with_frequency(faultless, real, firings, tested, ANALYSIS)
    deltas = ratios(faultless, real)
    seen = ~np.isnan(deltas)
    assert result.r == pytest.approx(spearmanr(np.abs(deltas - 0.5)[seen], firings[seen]).statistic, abs=1e-6)
    assert result.chance_low < result.r < result.chance_high < -0.3
    frequent_errs = draw(rng, 200, np.where(frequency > 0.1, -2.0, 0.0), families, frequency)
    assert correlate_error_with_frequency(frequent_errs, real, firings, tested, ANALYSIS).low > result.chance_high


def test_the_funnel_holds_95_percent_of_a_faultless_models_deltas_and_narrows():
    rng, families = np.random.default_rng(1), np.arange(600)
    frequency = np.exp(rng.uniform(np.log(0.01), np.log(0.5), 600))
    real, faultless = (draw(rng, 200, np.zeros(600), families, frequency) for _ in range(2))
    x = real.sum(axis=0).A1 + faultless.sum(axis=0).A1
    funnel = null_funnel(faultless, real, x, ANALYSIS, n_bins=6)
    which = np.digitize(x, [(a + b) / 2 for a, b in itertools.pairwise(funnel["x"])])
    delta, band = ratios(faultless, real), funnel.iloc[which]
    seen = ~np.isnan(delta)
    inside = ((band["low"] <= delta) & (delta <= band["high"]))[seen]
    assert 0.92 < inside.mean() < 0.985
    assert (np.diff(funnel["high"] - funnel["low"]) < 0).all()
    np.testing.assert_allclose(funnel["low"] + funnel["high"], 1, atol=0.05)


def test_the_funnel_of_three_pairs_by_hand():
    """e' - e is 3, 2, 1 and the energy of both sides 12: the eight swaps move delta by (+-3 +-2 +-1) / 24."""
    generated, real = (sp.csr_matrix(np.array(side, float)[:, None]) for side in ([4, 3, 2], [1, 1, 1]))
    funnel = null_funnel(generated, real, np.array([12.0]), ANALYSIS)
    np.testing.assert_allclose(funnel.to_numpy(), [[12, 0.25, 0.75]])


@pytest.mark.parametrize("n_pairs", [1, 2, 30])
@pytest.mark.parametrize("seen", [False, True])
def test_few_pairs_and_concepts_that_never_fire_give_nan(n_pairs, seen):
    energies = sp.csr_matrix((np.random.default_rng(0).random((n_pairs, 8)) * seen * (np.arange(8) < 6)).astype(np.float32))
    real, both = energies[::-1], {"a": energies, "b": energies}
    tested = np.ones(8, bool)
    shape = distribution_shape(energies, real, tested, ANALYSIS)
    assert shape.n_tested == 6 * seen
    for matrix in (tested, ~tested):
        apart = correlate_apart(both, real, dict.fromkeys(both, matrix), ANALYSIS)["a~b"]
        assert n_pairs >= 4 or np.isnan(apart.corrected.low)
        correlate_models(energies, energies, real, matrix, ANALYSIS)
        correlate_error_with_frequency(energies, real, np.arange(8), matrix, ANALYSIS)
    assert len(null_funnel(energies, real, np.arange(8), ANALYSIS)) == seen


def test_groups_are_the_same_at_any_size_and_hold_every_pair_once():
    energies = sp.csr_matrix(np.eye(250, dtype=np.float32))
    sums = group_sums(energies, 3)
    assert sums.shape == (GROUPS, 250)
    np.testing.assert_array_equal(sums.sum(axis=0), 1)
    assert set(sums.sum(axis=1)) == {2, 3}
    np.testing.assert_array_equal(group_sums(2 * energies, 3), 2 * sums)


def test_bands_are_quantiles_of_equally_filled_bins():
    firings = np.repeat([1, 10, 100], 40)
    deltas = np.concatenate([np.linspace(0, 1, 40), np.linspace(0.2, 0.8, 40), np.full(40, 0.5)])
    bands = frequency_bands(firings, deltas, n_bins=3)
    assert isinstance(bands, pd.DataFrame)
    np.testing.assert_allclose(bands["firings"], [1, 10, 100])
    np.testing.assert_allclose(bands["low"], [0.05, 0.23, 0.5], atol=1e-6)
    np.testing.assert_allclose(bands["high"], [0.95, 0.77, 0.5], atol=1e-6)


def test_the_surest_differences_are_of_the_two_models_that_differ_most():
    """By hand, with intervals of half length 0.1 each: sqrt(2) 0.1 = 0.141 on either side of a difference."""
    shrunken = {"one": [0.1, 0.5, 0.5, 0.0], "two": [0.2, 0.5, 0.9, 0.9], "three": [0.7, 0.6, 0.5, 0.9]}
    table = pd.DataFrame({"family": [4, 5, 6, 7], "name": ["dvd", "cat", "dog", ""], "concept": [1, 2, 3, 9]})
    for model, values in shrunken.items():
        for column, shift in (("shrunken", 0), ("shrunken_low", -0.1), ("shrunken_high", 0.1)):
            table[f"{column}_{model}"] = np.array(values) + shift
    found = surest_differences(table, list(shrunken), n=5)  # cat is not sure, the last has no name
    assert found[["name", "first", "second"]].to_numpy().tolist() == [["dvd", "one", "three"], ["dog", "one", "two"]]
    np.testing.assert_allclose(found[["difference", "low", "high"]], [[0.6, 0.459, 0.741], [0.4, 0.259, 0.541]], atol=1e-3)
    assert surest_differences(table, list(shrunken), n=1)["name"].tolist() == ["dvd"]
    assert surest_differences(table, ["one"], n=5).empty
