import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis.composition import composition_table, judged_pairs, odds_change
from blindspots_lib.analysis.detectors import N_FOLDS, Detectors
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis()


def reading_concepts(words, n, seen=None):
    """Detectors that read concept i as word i, from 0.5 on."""
    one_each, n_words = sp.identity(len(words), format="csr"), len(words)
    seen = np.ones(n_words, bool) if seen is None else np.array(seen)
    asked, folds = sp.csr_matrix((n, n_words), dtype=bool), np.arange(n) % N_FOLDS
    return Detectors(words, asked, folds, [one_each] * N_FOLDS, np.ones(n_words), seen, np.full((N_FOLDS, n_words), 0.5))


def as_energies(shows):
    return sp.csr_matrix(shows.astype(np.float32))


def test_the_log_odds_of_a_table_worked_out_by_hand():
    """8 images show both, 2 only one, 2 only the other, 8 none: log (8.5 * 8.5 / (2.5 * 2.5))."""
    cells = np.repeat([(1, 1), (1, 0), (0, 1), (0, 0)], [8, 2, 2, 8], axis=0).astype(bool)
    found = odds_change(cells, np.roll(cells, 5, axis=0), np.array([0]), np.array([1]))
    expected = np.log(8.5 * 8.5 / (2.5 * 2.5))
    np.testing.assert_allclose([*found.log_odds_real, *found.log_odds_generated, *found.difference], [expected, expected, 0])
    assert [found.n_real.item(), found.n_generated.item()] == [8, 8]


def test_counts_and_errors_are_those_of_explicit_loops():
    rng = np.random.default_rng(0)
    real = rng.random((60, 4)) < 0.4
    generated = np.where(rng.random((60, 4)) < 0.3, ~real, real)
    pairs = list(itertools.combinations(range(4), 2))
    found = odds_change(generated, real, *np.array(pairs).T)
    for place, (i, j) in enumerate(pairs):
        n = {side: {ab: 0.5 for ab in itertools.product((0, 1), repeat=2)} for side in ("g", "r")}
        for row in range(60):
            n["g"][int(generated[row, i]), int(generated[row, j])] += 1
            n["r"][int(real[row, i]), int(real[row, j])] += 1
        odds = {side: sum((-1) ** sum(ab) * np.log(count) for ab, count in cells.items()) for side, cells in n.items()}
        variance = sum(0.5 / count**2 for cells in n.values() for count in cells.values())
        for row in range(60):
            g, r = (int(generated[row, i]), int(generated[row, j])), (int(real[row, i]), int(real[row, j]))
            variance += ((-1) ** sum(g) / n["g"][g] - (-1) ** sum(r) / n["r"][r]) ** 2
        assert found.difference[place] == pytest.approx(odds["g"] - odds["r"])
        assert found.error[place] == pytest.approx(np.sqrt(variance))


def test_pairs_that_part_and_pairs_that_cling_are_called_and_no_others():
    """Each word is as frequent on both sides; only what goes together changes."""
    rng = np.random.default_rng(1)
    n, words = 1500, ["cup", "tea", "sun", "sea", "bed", "owl"]
    real = rng.random((n, 6)) < 0.3
    real[:, 1] = np.where(rng.random(n) < 0.6, real[:, 0], real[:, 1])
    generated = np.where(rng.random((n, 6)) < 0.1, rng.random((n, 6)) < 0.3, real)
    generated[:, 1] = rng.permutation(generated[:, 1])
    generated[:, 3] = np.where(rng.random(n) < 0.5, generated[:, 2], generated[:, 3])
    energies = {"real": as_energies(real), "m": as_energies(generated), "same": as_energies(real)}
    table = composition_table(energies, reading_concepts(words, n), ANALYSIS)
    calls = table[table["call"] != "unclear"].set_index(["model", "first", "second"])["call"].to_dict()
    assert calls == {("m", "cup", "tea"): "rarely together", ("m", "sun", "sea"): "too often together"}
    assert (table.loc[table["model"] == "same", "difference"] == 0).all()
    assert ((table["low"] <= table["difference"]) & (table["difference"] <= table["high"])).all()


def test_false_calls_stay_below_the_rate_where_only_chance_differs():
    rng = np.random.default_rng(5)
    n, n_words, called, judged = 400, 30, 0, 0
    of_captions = rng.random((n, n_words)) < 0.15
    for _ in range(10):
        sides = [np.where(rng.random((n, n_words)) < 0.15, rng.random((n, n_words)) < 0.15, of_captions) for _ in range(2)]
        energies = dict(zip(("real", "m"), map(as_energies, sides), strict=True))
        table = composition_table(energies, reading_concepts([f"w{i}" for i in range(n_words)], n), ANALYSIS)
        called, judged = called + (table["call"] != "unclear").sum(), judged + len(table)
        assert 0.01 <= (table["p"] <= 0.05).mean() <= 0.08
    assert judged > 1000
    assert called <= 0.01 * judged


def test_a_word_that_vanished_or_is_part_of_the_other_is_not_judged():
    shows = np.random.default_rng(2).random((200, 3)) < 0.4
    gone = shows.copy()
    gone[:, 2] = False
    assert list(zip(*judged_pairs(shows, shows, np.array(["a", "b", "b c"], object)), strict=True)) == [(0, 1), (0, 2)]
    assert list(zip(*judged_pairs(gone, shows, np.array(["a", "b", "c"], object)), strict=True)) == [(0, 1)]


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("seen", [[False] * 3, [True] * 3])
def test_few_pairs_and_unseen_words_give_a_table_without_calls(n, seen):
    shows = as_energies(np.random.default_rng(n).random((n, 3)) < 0.5)
    table = composition_table({"real": shows, "m": shows}, reading_concepts(["a", "b", "c"], n, seen), ANALYSIS)
    assert (table["call"] == "unclear").all()
    assert seen[0] or table.empty
