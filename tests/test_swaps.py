import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binomtest, false_discovery_control, wilcoxon

from blindspots_lib.analysis.swaps import choose_tested, largest_statistics, swap_p_values, swap_test
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis(n_swaps=100)


def p_of(*columns):
    apart = sp.csc_matrix(np.array(columns, float).T)
    return swap_p_values(apart, np.asarray(apart.sum(axis=0)).ravel())


def by_enumeration(d):
    """Every sign pattern, one after the other."""
    sums = np.zeros(1)
    for magnitude in np.abs(d):
        sums = np.concatenate([sums + magnitude, sums - magnitude])
    return (np.abs(sums) >= abs(d.sum()) - 1e-9).mean()


def test_p_values_worked_out_by_hand():
    """Of +-3 +-1 the sums are 4, 2, -2, -4; of +-1 +-1 +-1 they are 3, 1 (three times) and their opposites."""
    np.testing.assert_allclose(p_of([3, 1, 0], [3, -1, 0], [1, 1, 1], [1, 1, -1], [0, 0, 5], [0, 0, 0]), [0.5, 1, 0.25, 1, 1, 1])


def test_differences_of_one_sign_have_only_their_own_pattern_and_its_opposite():
    d = np.random.default_rng(0).lognormal(size=400)
    np.testing.assert_allclose(p_of(d, -d), 2.0**-399)


def test_equal_differences_are_a_binomial_test():
    signs = np.where(np.arange(40) < 13, -0.7, 0.7)
    assert p_of(signs)[0] == pytest.approx(binomtest(13, 40).pvalue)


@pytest.mark.parametrize("n_negative", [0, 1, 2, 3, 4, 5])
def test_p_values_follow_the_distribution_over_all_swaps(n_negative):
    rng = np.random.default_rng(n_negative)
    columns = rng.lognormal(size=(30, 15)) * np.where(np.arange(15) < n_negative, -1, 1)
    expected = np.array([by_enumeration(d) for d in columns])
    found = p_of(*columns)
    rare = expected < 0.1
    assert rare.any()
    np.testing.assert_allclose(found[rare], expected[rare], rtol=0.2)
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_p_values_follow_random_swaps():
    rng = np.random.default_rng(5)
    magnitudes = rng.lognormal(sigma=1.5, size=(8, 300))
    signs = np.where(rng.random((8, 300)) < np.linspace(0.45, 0.8, 8)[:, None], 1, -1)
    swaps = np.where(rng.random((300, 100_000)) < 0.5, np.float32(1), np.float32(-1))
    drawn = np.abs(magnitudes.astype(np.float32) @ swaps)
    expected = (drawn >= np.abs((magnitudes * signs).sum(axis=1))[:, None]).mean(axis=1)
    np.testing.assert_allclose(p_of(*(magnitudes * signs)), expected, atol=4 * 0.5 / 100_000**0.5)
    assert (expected < 0.05).any()


@pytest.mark.parametrize("n_negative", [2, 5, 8, 11])
def test_the_tail_is_that_of_the_exact_signed_rank_test(n_negative):
    """With |d| = 1, 2, ..., 40 it is Wilcoxon's test: p from 1e-9 to 0.03 here."""
    d = np.where(np.random.default_rng(6).permutation(40) < n_negative, -1, 1) * np.arange(1.0, 41)
    assert p_of(d)[0] == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=0.1)


def energies(rng, n_pairs, n_units, firing=0.3):
    return rng.lognormal(size=(n_pairs, n_units)) * (rng.random((n_pairs, n_units)) < firing)


def test_the_test_of_a_whole_table_by_explicit_loops():
    rng = np.random.default_rng(1)
    real, generated = energies(rng, 11, 6), energies(rng, 11, 6)
    generated[:, 1] += 3 * (real[:, 1] + 1)
    real[:, 5] = generated[:, 5] = 0
    found = swap_test(sp.csr_matrix(generated), sp.csr_matrix(real), Analysis(n_swaps=4000))
    d = generated - real
    patterns = 1 - 2 * (np.arange(2**11)[:, None] >> np.arange(11) & 1)
    for k in range(5):
        assert found.statistic[k] == pytest.approx(d[:, k].sum() / np.sqrt((d[:, k] ** 2).sum()))
        assert found.p[k] == pytest.approx(by_enumeration(d[:, k]))
    swapped = np.abs(patterns @ (d[:, :5] / np.sqrt((d[:, :5] ** 2).sum(axis=0)))).max(axis=1)
    expected = [(swapped >= abs(t) - 1e-9).mean() for t in found.statistic[:5]]
    np.testing.assert_allclose(found.p_max[:5], expected, atol=0.04)  # 5 standard errors of 4,000 swaps
    np.testing.assert_allclose(found.q[found.tested], false_discovery_control(found.p[found.tested]))
    assert (found.statistic[5], found.p[5], found.p_max[5], found.tested[5]) == (0, 1, 1, False)
    assert found.p_max[1] < 0.05


def test_without_faults_the_families_and_the_chosen_tests_keep_their_error_rate():
    """The energies of a cluster of six units rise and fall together; at least one unit is found in 5 % of the trials."""
    rng = np.random.default_rng(2)
    any_found = {"q": 0, "p_max": 0}
    for _ in range(150):
        sides = [np.repeat(energies(rng, 60, 20, 0.2), 6, axis=1) * rng.lognormal(0, 0.5, (60, 120)) for _ in range(2)]
        found = swap_test(*map(sp.csr_matrix, sides), ANALYSIS)
        for kind in any_found:
            any_found[kind] += bool((getattr(found, kind)[found.tested] <= 0.05).any())
    assert any_found["p_max"] <= 16  # of 150; 7.5 expected, standard error 2.7
    assert any_found["q"] <= 16


def test_only_units_that_could_be_called_are_tested():
    """Six pairs of one sign have p = 2 / 2^6 = 0.031; five have 0.0625. A pair may show the unit in either image or in both."""
    real, generated = np.zeros((2, 9, 4))
    real[:5, 0] = real[:6, 1] = real[:3, 2] = generated[3:6, 2] = real[:5, 3] = generated[:5, 3] = 1
    assert choose_tested(sp.csr_matrix(generated), sp.csr_matrix(real), 0.05).tolist() == [False, True, True, False]
    found = swap_test(sp.csr_matrix(generated), sp.csr_matrix(real), ANALYSIS)
    assert np.isnan(found.q).tolist() == [True, False, False, True]
    np.testing.assert_allclose(found.p, [0.0625, 0.03125, 1, 1])


def test_every_unit_meets_the_same_swaps():
    """A unit twice in the table changes no maximum; the maximum over units is that over their parts."""
    rng = np.random.default_rng(4)
    apart = sp.csc_matrix(rng.normal(size=(30, 8)) * (rng.random((30, 8)) < 0.5))
    largest = [largest_statistics(part, np.asarray(part.power(2).sum(axis=0)).ravel(), 300, 7)
               for part in (apart, sp.csc_matrix(sp.hstack([apart, apart])), apart[:, :5], apart[:, 5:])]  # fmt: skip
    np.testing.assert_allclose(largest[0], largest[1], rtol=1e-6)
    np.testing.assert_allclose(largest[0], np.maximum(largest[2], largest[3]), rtol=1e-6)


@pytest.mark.parametrize("n_pairs", [0, 1, 2])
def test_with_hardly_any_pairs_nothing_is_found(n_pairs):
    real, generated = sp.csr_matrix(np.ones((n_pairs, 3))), sp.csr_matrix((n_pairs, 3))
    found = swap_test(generated, real, ANALYSIS)
    assert (found.p >= 0.5).all()
    assert not (found.q[found.tested] <= 0.05).any()
