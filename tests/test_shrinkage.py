import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit
from scipy.stats import beta, norm

from blindspots_lib.analysis.shrinkage import GRID, Moments, estimate_weights, log_likelihood, pair_moments, shrink, summarize


def moments_of(generated, real):
    return pair_moments(sp.csr_matrix(np.array(generated, float)), sp.csr_matrix(np.array(real, float)))


def test_moments_worked_out_by_hand():
    found = moments_of([[1, 0], [2, 3]], [[4, 0], [1, 1]])
    np.testing.assert_array_equal(found, [[3, 3], [5, 1], [5, 9], [6, 3], [17, 1]])


@pytest.mark.parametrize(("n", "n_generated"), [(7, 0), (60, 0), (60, 60), (60, 20), (60, 30), (60, 45)])
def test_the_likelihood_of_equal_firings_on_one_side_each_is_binomial(n, n_generated):
    """Each pair shows the concept on one side alone, with energy 3."""
    shown = np.arange(n)[:, None] < n_generated
    found = log_likelihood(moments_of(3 * shown, 3 * ~shown))[0]
    expected = n_generated * np.log(expit(GRID)) + (n - n_generated) * np.log(expit(-GRID))
    one_sided = n_generated in (0, n)
    near = expected > expected.max() - (50 if one_sided else 0.5)  # about one standard error
    assert np.ptp((found - expected)[near]) < (1e-9 if one_sided else 0.15)


def test_at_no_change_the_likelihood_has_the_variance_of_random_swaps():
    """Around 0 the log likelihood of a balanced unit is -theta^2 / (2 se^2), with ash's null standard error."""
    rng = np.random.default_rng(0)
    real, generated = rng.lognormal(size=(2, 400, 1))
    generated *= real.sum() / generated.sum()
    found = log_likelihood(moments_of(generated, real))[0]
    null_error = 2 * np.sqrt(((generated - real) ** 2).sum()) / (generated + real).sum()  # of the log ratio
    curve = -(GRID**2) / 2 / null_error**2
    near = np.abs(GRID) < null_error
    np.testing.assert_allclose((found - found.max())[near], curve[near], atol=0.03)


def test_summaries_of_a_posterior_worked_out_by_hand():
    weights = np.zeros((1, len(GRID)))
    middle = len(GRID) // 2
    weights[0, [middle - 200, middle, middle + 100]] = 0.9, 0.07, 0.03
    delta, low, high, lfsr = (float(x[0]) for x in summarize(weights))
    assert delta == pytest.approx(0.9 * expit(-2) + 0.07 * 0.5 + 0.03 * expit(1))
    assert (low, high) == (pytest.approx(expit(-2)), pytest.approx(expit(1)))
    assert lfsr == pytest.approx(0.1)  # the likelier sign is minus; 0 and plus have 0.1


def test_weights_come_from_the_units():
    """Normal effects with spread 1 in a third of 3,000 units, observed with error 0.2: the textbook example of ash."""
    rng = np.random.default_rng(1)
    effects = np.where(rng.random(3000) < 1 / 3, rng.normal(size=3000), 0)
    seen = effects + 0.2 * rng.normal(size=3000)
    likelihoods = np.stack([norm.pdf(seen, scale=np.hypot(spread, 0.2)) for spread in (0, 0.25, 1, 4)], axis=1)
    weights = estimate_weights(likelihoods)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights, [2 / 3, 0, 1 / 3, 0], atol=0.06)


def test_what_never_fires_on_one_side_is_bounded_by_the_number_of_firings():
    """Units in which one side never fires, beside as many that fire alike: the longer one is missing, the surer."""
    rng = np.random.default_rng(2)
    fires = np.arange(60)[:, None] < np.tile([5, 20, 60], 40)
    real = np.hstack([fires, rng.random((60, 120)) < 0.5])
    generated = np.hstack([0 * fires, rng.random((60, 120)) < 0.5])
    found = shrink(moments_of(generated, real))
    assert found.high[0] > found.high[1] > found.high[2] > 0
    assert found.low[0] < 0.001
    assert found.high[2] < 2 * beta.ppf(0.975, 1, 60)
    assert found.lfsr[2] < 1e-6


def test_units_that_hardly_differ_are_shrunken_to_no_change_and_the_sure_ones_stay():
    rng = np.random.default_rng(3)
    real, generated = (rng.lognormal(size=(400, 200)) * (rng.random((400, 200)) < 0.4) for _ in range(2))
    generated[:, 0] *= 0.1
    raw = generated.sum(axis=0) / (generated + real).sum(axis=0)
    found = shrink(moments_of(generated, real))
    assert np.abs(found.delta[1:] - 0.5).mean() < 0.3 * np.abs(raw[1:] - 0.5).mean()
    assert found.delta[0] == pytest.approx(raw[0], abs=0.03)
    assert (found.low <= found.delta).all()
    assert (found.delta <= found.high).all()
    assert found.s_value[0] <= found.s_value.min() + 1e-12
    assert ((found.low <= 0.5) & (found.high >= 0.5))[1:].mean() > 0.97


def test_both_sides_may_change_places():
    rng = np.random.default_rng(4)
    real, generated = (rng.lognormal(size=(100, 50)) * (rng.random((100, 50)) < 0.2) for _ in range(2))
    generated[:, :20] *= 4
    there, back = shrink(moments_of(generated, real)), shrink(moments_of(real, generated))
    np.testing.assert_allclose(there.delta, 1 - back.delta, atol=1e-4)
    np.testing.assert_allclose(there.lfsr, back.lfsr, atol=1e-4)


def simulate(rng, n_pairs, n_units, sigma):
    """Clusters of five units that fire together; 70 % are unchanged, the others fire less often and less strongly on one side."""
    effects = np.where(rng.random(n_units) < 0.3, 1.2 * rng.standard_t(4, n_units), 0).clip(-6, 6)
    rarity = norm.isf(np.exp(rng.uniform(np.log(0.02), np.log(0.5), n_units)))
    firing, thinned = norm.sf(rarity), rng.random(n_units)
    caption, sides = np.repeat(rng.normal(size=(n_pairs, n_units // 5)), 5, axis=1), []
    for sign in (1, -1):
        image = np.repeat(rng.normal(size=(n_pairs, n_units // 5)), 5, axis=1)
        liking = 0.35**0.5 * caption + 0.4**0.5 * image + 0.5 * rng.normal(size=(n_pairs, n_units))
        fires = liking > norm.isf(firing * np.exp(np.minimum(sign * effects * thinned, 0)))
        sides.append(fires * rng.lognormal(sign * effects * (1 - thinned) / 2, sigma, (n_pairs, n_units)))
    return effects, *map(sp.csr_matrix, sides)


@pytest.mark.parametrize(("n_pairs", "sigma"), [(300, 1.0), (1000, 1.0), (1000, 1.5)])
def test_the_intervals_of_the_most_extreme_units_cover_the_truth(n_pairs, sigma):
    covered, apart, raw_covered = [], [], []
    for seed in range(2):
        effects, generated, real = simulate(np.random.default_rng(seed), n_pairs, 1500, sigma)
        found, truth = shrink(pair_moments(generated, real)), expit(effects)
        shown = np.argsort(-np.abs(found.delta - 0.5))[:100]
        covered.append(((found.low <= truth) & (truth <= found.high))[shown].mean())
        apart.append(np.mean(np.sign(found.delta - 0.5)[shown] * (found.delta - truth)[shown]))
        sure = found.s_value < 0.05
        raw_covered.append((np.sign(found.delta - 0.5) != np.sign(effects))[sure].mean())
    assert 0.91 <= np.mean(covered) <= 0.99  # nominally 0.95; of 200 correlated units
    assert abs(np.mean(apart)) < 0.03  # raw deltas are too extreme by 0.05 to 0.1
    assert np.mean(raw_covered) <= 0.06


def test_units_without_energy_are_nan_and_equal_sides_are_no_change():
    same = np.random.default_rng(5).lognormal(size=(20, 3)) * [1, 1, 0]
    found = shrink(moments_of(same, same))
    assert np.isnan(np.array(found)[:, 2]).all()
    np.testing.assert_allclose(found.delta[:2], 0.5, atol=1e-6)
    assert shrink(Moments(*np.zeros((5, 0)))).delta.shape == (0,)
