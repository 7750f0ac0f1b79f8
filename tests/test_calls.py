from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis import calls
from blindspots_lib.analysis.calls import correct_size, make_calls, size_factor
from blindspots_lib.analysis.shrinkage import Shrunken
from blindspots_lib.analysis.swaps import SwapTest
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis(n_swaps=200)


def draw(rng, n_pairs, n_units, firing=0.3):
    return rng.lognormal(size=(n_pairs, n_units)) * (rng.random((n_pairs, n_units)) < firing)


def called(generated, real, analysis=ANALYSIS):
    return make_calls(sp.csr_matrix(generated), sp.csr_matrix(real), analysis)


def test_each_rule_of_a_call(monkeypatch):
    """(low, delta, high, q, local false sign rate) of one unit per rule, with the call and whether it is beyond 0.1 or 0.9."""
    units = [
        ((0.05, 0.2, 0.3), 0.01, 0.01, "suppressed", False),
        ((0.6, 0.7, 0.9), 0.05, 0.05, "exaggerated", False),
        ((0.01, 0.05, 0.099), 0.01, 0.0, "suppressed", True),
        ((0.91, 0.95, 0.99), 0.01, 0.0, "exaggerated", True),
        ((0.01, 0.05, 0.099), 0.06, 0.0, "unclear", False),  # not found by the test
        ((0.1, 0.3, 0.5), 0.01, 0.06, "unclear", False),  # the sign may be wrong
        ((0.4, 0.45, 0.49), 0.01, 0.0, "aligned", False),  # sure and tiny
        ((0.4, 0.46, 0.49), 0.2, 0.2, "unclear", False),  # only the other units make its interval so small
        ((0.39, 0.45, 0.5), 0.2, 0.2, "unclear", False),  # the interval leaves the band
        ((0.5, 0.5, 0.5), np.nan, 1.0, "unclear", False),  # not tested
    ]
    intervals, q, false_sign, expected, beyond = zip(*units, strict=True)
    tested, some = ~np.isnan(q), np.zeros(len(units))
    low, delta, high = np.array(intervals)[tested].T
    known = Shrunken(delta, low, high, np.array(false_sign)[tested], some[tested])
    monkeypatch.setattr(calls, "swap_test", lambda *_: SwapTest(tested, some, some, np.array(q), some))
    monkeypatch.setattr(calls, "shrink", lambda _: known)
    own_high = np.where(np.array(intervals)[:, 1] == 0.46, 0.7, 0.5)
    monkeypatch.setattr(calls, "ratio_interval", lambda *_: (np.full(len(units), 0.45), own_high))
    found = called(np.ones((3, len(units))), np.ones((3, len(units))))
    assert found.call.tolist() == list(expected)
    assert found.beyond.tolist() == list(beyond)
    assert np.isnan(found.shrunken).tolist() == (~tested).tolist()


def test_planted_faults_are_called_and_few_others():
    rng = np.random.default_rng(0)
    real, generated = draw(rng, 400, 300), draw(rng, 400, 300)
    generated[:, :20] *= rng.random((400, 20)) < 0.05
    real[:, 20:30] *= rng.random((400, 10)) < 0.2
    found = called(generated, real)
    assert Counter(found.call[:20]) == {"suppressed": 20}
    assert (found.call[20:30] == "exaggerated").sum() >= 9
    assert np.isin(found.call[30:], ("suppressed", "exaggerated")).sum() <= 2
    assert np.median(found.p_max[:20]) < 0.01
    assert found.beyond[:20].sum() >= 10
    assert not found.beyond[30:].any()


@pytest.mark.parametrize("seed", range(3))
def test_without_faults_hardly_anything_is_called(seed):
    rng = np.random.default_rng(seed)
    sides = (np.repeat(draw(rng, 200, 60), 5, axis=1) * rng.lognormal(0, 0.5, (200, 300)) for _ in range(2))
    found = called(*sides)
    assert np.isin(found.call, ("suppressed", "exaggerated")).sum() <= 5
    assert found.tested.all()


@pytest.mark.parametrize("n_pairs", [1, 2, 30])
def test_with_few_pairs_and_silent_units_the_rest_is_unclear(n_pairs):
    rng = np.random.default_rng(n_pairs)
    real, generated = draw(rng, n_pairs, 6), draw(rng, n_pairs, 6)
    real[:, 4] = generated[:, 4] = real[:, 5] = 0
    found = called(generated, real)
    assert (found.call[4], found.tested[4], found.p[4], found.p_max[4]) == ("unclear", False, 1, 1)
    assert np.isnan(found.shrunken[4])
    if n_pairs < 30:
        assert set(found.call) == {"unclear"}
    assert not np.isin(found.call[:4], ("suppressed", "exaggerated")).any()


@pytest.mark.parametrize(("n_pairs", "call"), [(50, "unclear"), (2000, "aligned")])
def test_what_differs_only_by_chance_is_aligned_once_the_pairs_suffice(n_pairs, call):
    rng = np.random.default_rng(1)
    real, generated = draw(rng, n_pairs, 20, firing=0.5), draw(rng, n_pairs, 20, firing=0.5)
    assert Counter(called(generated, real).call).most_common(1)[0][0] == call


def test_the_size_factor_is_the_median_ratio_of_well_observed_units():
    real = np.ones((5, 5))
    generated = real * [2, 3, 10, 0, 7]
    generated[0, 4] = 0  # 4 images only
    assert size_factor(sp.csr_matrix(generated), sp.csr_matrix(real)) == 3
    assert np.isnan(size_factor(sp.csr_matrix((5, 5)), sp.csr_matrix(real)))


def test_a_budget_that_lifts_every_unit_is_corrected():
    """A third of the energy is gone with one unit; the others rise by 1.5, and would all be called exaggerated."""
    rng = np.random.default_rng(2)
    real, generated = draw(rng, 300, 60, firing=0.8), 1.5 * draw(rng, 300, 60, firing=0.8)
    generated[:, 0] *= 0.02
    generated, real = sp.csr_matrix(generated), sp.csr_matrix(real)
    before = make_calls(generated, real, ANALYSIS)
    correction = correct_size(generated, real, before, ANALYSIS)
    assert correction.factor == pytest.approx(1.5, abs=0.1)
    assert (before.call == "exaggerated").sum() > 20
    assert correction.n_called > 20
    assert correction.n_called_corrected <= 3
    assert correction.n_changed > 20
    nothing = correct_size(sp.csr_matrix((3, 2)), sp.csr_matrix((3, 2)), called(np.zeros((3, 2)), np.zeros((3, 2))), ANALYSIS)
    assert np.isnan([nothing.factor, nothing.rank_correlation]).all()
    assert nothing.n_changed == 0


def test_calls_do_not_depend_on_the_family_wise_p_values():
    rng = np.random.default_rng(4)
    real, generated = (sp.csr_matrix(rng.exponential(size=(80, 30)) * (rng.random((80, 30)) < 0.5)) for _ in range(2))
    generated = sp.csr_matrix(generated.multiply(np.linspace(0.05, 3, 30)))
    whole, quick = make_calls(generated, real, ANALYSIS), make_calls(generated, real, ANALYSIS, family_wise=False)
    for field, values in whole._asdict().items():
        if field != "p_max":
            np.testing.assert_array_equal(values, getattr(quick, field))
    assert (quick.p_max == 1).all()
    assert whole.p_max.min() < 0.05
