import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ragged
from scipy.stats import pearsonr, skew

from blindspots_lib.analysis.delta import (
    concept_table,
    energy_difference,
    measure_difference,
    published_interval,
    ranked_deltas,
    ratio_interval,
)
from blindspots_lib.analysis.distribution import (
    correlate_apart,
    correlate_error_with_frequency,
    correlate_models,
    distribution_shape,
    frequency_bands,
    frequency_values,
)
from blindspots_lib.analysis.energies import Energies
from blindspots_lib.analysis.statistics import ConceptStats
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError

ANALYSIS = Analysis(min_images=2)


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
    stats = {name: one_token_images(matrix) for name, matrix in (("real", real), ("model", generated))}
    analysis = Analysis(arithmetic="published", tokens="all", min_images=1)
    table = concept_table(stats, analysis, [("", 0.5)] * 3)
    difference = generated.mean(axis=0) - real.mean(axis=0)  # [-1.5, -0.5, 3]
    relative = difference / (generated.mean(axis=0) + real.mean(axis=0))  # [-0.6, -1/3, 3/7]
    np.testing.assert_allclose(table["delta_model"], 1 / (1 + np.exp(-difference / 0.8)))
    np.testing.assert_allclose(frequency_values(table, "model", analysis), 1 / (1 + np.exp(-relative / 0.4)))
    half = 1.96 * np.array([1.0, 0.5, 1.0])  # standard errors: of the differences -0.5 and -2.5, 0 and -1, 2 and 4
    np.testing.assert_allclose(table["high_model"], 1 / (1 + np.exp(-(difference + half) / 0.8)))
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


def test_interval_is_all_that_the_test_of_a_ratio_does_not_reject():
    rng = np.random.default_rng(3)
    real, generated = (rng.exponential(1.0, (40, 5)) * (rng.random((40, 5)) < [0.9, 0.6, 0.3, 0.04, 0.0]) for _ in range(2))
    generated[:, 1] *= 3
    low, high = ratio_interval(sp.csr_matrix(generated), sp.csr_matrix(real))
    for k in range(3):
        grid = np.linspace(0, 1, 20_001)
        scores = generated[:, k, None] - grid * (generated + real)[:, k, None]
        kept = grid[scores.sum(axis=0) ** 2 <= 1.96**2 * (scores**2).sum(axis=0)]
        np.testing.assert_allclose([low[k], high[k]], [kept.min(), kept.max()], atol=1e-4)
    np.testing.assert_array_equal([low[3:], high[3:]], [[0, np.nan], [1, np.nan]])


@pytest.mark.parametrize(("n", "bound"), [(5, 0.522), (10, 0.308), (100, 0.036)])
def test_what_one_side_never_showed_is_bounded_as_no_success_of_n(n, bound):
    """Clopper and Pearson's 97.5 % limits for 0 of n, from their published tables."""
    shown, never = sparse([[2.0]] * n + [[0.0]] * 30), sparse([[0.0]] * (n + 30))
    np.testing.assert_allclose(np.ravel(ratio_interval(never, shown)), [0, bound], atol=5e-4)
    np.testing.assert_allclose(np.ravel(ratio_interval(shown, never)), [1 - bound, 1], atol=5e-4)


@pytest.mark.parametrize("firing", [0.05, 0.15, 0.6])
@pytest.mark.parametrize("thinned", [1.0, 0.4])
def test_interval_covers_the_truth_as_often_as_it_says(firing, thinned):
    rng = np.random.default_rng(1)
    shape = (150, 2_000)  # pairs, trials
    real, generated = (rng.exponential(1.0, shape) * (rng.random(shape) < firing * share) for share in (1.0, thinned))
    difference = measure_difference(sp.csr_matrix(generated), sp.csr_matrix(real), ANALYSIS)
    truth = thinned / (1 + thinned)
    below, above = (difference.low > truth).mean(), (difference.high < truth).mean()
    assert below + above <= 0.065  # 0.05 nominal, of 2,000 trials with a standard error of 0.005; fewer where the concept is rare
    assert firing < 0.1 or below + above >= 0.03


def one_token_images(codes: list[list[float]]) -> Energies:
    """The energies of images of a single token each, by its codes."""
    values = np.array(codes, np.float16)[:, None]
    stats = ConceptStats.empty(values.shape[-1])
    indices = np.broadcast_to(np.arange(values.shape[-1], dtype=np.uint32), values.shape)
    stats.add(ragged(indices, values, values.shape[-1]), np.arange(len(values)))
    return Energies(sparse(codes), stats)


def test_a_study_in_which_no_concept_can_be_ranked_is_told_what_to_change():
    energies = {"real": one_token_images([[1, 0], [0, 1]]), "one": one_token_images([[1, 0], [0, 0]])}
    with pytest.raises(StudyError, match="analysis.min_images = 9: no concept fires on so many real .* 'one' together; lower it"):
        concept_table(energies, ANALYSIS.model_copy(update={"min_images": 9}), [("", np.nan)] * 2)


def test_table_ranks_only_concepts_seen_often_enough():
    energies = {"real": one_token_images([[1, 0, 0, 0], [1, 1, 0, 0]]), "one": one_token_images([[3, 0, 2, 0], [0, 0, 2, 0]])}
    table = concept_table(energies, ANALYSIS, [("dvd", 0.9), ("", np.nan), ("wood", 0.8), ("", np.nan)])
    assert table["delta_one"].round(3).tolist()[:3] == [0.6, 0.0, 1.0]
    assert np.isnan(table["delta_one"][3])
    assert table["ranked_one"].tolist() == [True, False, True, False]
    assert table["firings"].tolist() == [2, 1, 0, 0]
    assert ranked_deltas(table, "one").to_dict() == {0: pytest.approx(0.6), 2: 1.0}


def test_shape_counts_beyond_the_thresholds():
    deltas = np.array([0.05, 0.099, 0.1, 0.4, 0.5, 0.5, 0.6, 0.9, 0.95])
    shape = distribution_shape(deltas, ANALYSIS)
    assert (shape.n_suppressed, shape.n_exaggerated, shape.n_ranked) == (2, 1, 9)
    assert shape.median == 0.5
    assert shape.skewness == pytest.approx(skew(deltas))
    assert shape.skewness_low < shape.skewness < shape.skewness_high


def test_correlation_is_pearsons_over_concepts_ranked_for_both():
    rng = np.random.default_rng(0)
    first = rng.random(30)
    second = 0.5 * first + 0.5 * rng.random(30)
    energies = {"energy_real": 1.0, "energy_a": first / (1 - first), "energy_b": second / (1 - second)}
    table = pd.DataFrame({**energies, "ranked_a": True, "ranked_b": [True] * 25 + [False] * 5})
    result = correlate_models(table, "a", "b")
    reference = pearsonr(first[:25], second[:25])
    interval = reference.confidence_interval(0.95)
    assert (result.r, result.n_concepts) == (pytest.approx(reference.statistic), 25)
    assert (result.low, result.high) == (pytest.approx(interval.low, abs=1e-3), pytest.approx(interval.high, abs=1e-3))


def test_apart_only_faults_agree():
    rng = np.random.default_rng(3)

    def draw(factor):
        return one_token_images((rng.exponential(1.0, (120, 300)) * (rng.random((120, 300)) < 0.15) * factor).tolist())

    suppressed = np.where(np.arange(300) < 60, 0.2, 1.0)
    energies = {
        "real": draw(1),
        "faultless": draw(1),
        "another": draw(1),
        "faulty": draw(suppressed),
        "as faulty": draw(suppressed),
    }
    table = concept_table(energies, ANALYSIS, [("", np.nan)] * 300)
    apart = correlate_apart(energies, ANALYSIS)
    assert correlate_models(table, "faultless", "another").low > 0.2  # by the chance in the real images alone
    assert apart["faultless~another"].low < 0 < apart["faultless~another"].high
    assert apart["faulty~as faulty"].low > 0.2


def test_rare_concepts_that_err_most_give_a_negative_correlation():
    firings = np.array([1, 2, 3, 4, 5, 6])
    assert correlate_error_with_frequency(firings, np.array([0.0, 0.9, 0.2, 0.7, 0.4, 0.5])).r == pytest.approx(-1)
    assert correlate_error_with_frequency(firings, np.array([0.5, 0.4, 0.7, 0.2, 0.9, 0.0])).r == pytest.approx(1)


def test_bands_are_quantiles_of_equally_filled_bins():
    firings = np.repeat([1, 10, 100], 40)
    deltas = np.concatenate([np.linspace(0, 1, 40), np.linspace(0.2, 0.8, 40), np.full(40, 0.5)])
    bands = frequency_bands(firings, deltas, n_bins=3)
    np.testing.assert_allclose(bands["firings"], [1, 10, 100])
    np.testing.assert_allclose(bands["low"], [0.05, 0.23, 0.5], atol=1e-6)
    np.testing.assert_allclose(bands["high"], [0.95, 0.77, 0.5], atol=1e-6)
