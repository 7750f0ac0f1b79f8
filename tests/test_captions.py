import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis import captions
from blindspots_lib.analysis.captions import caption_audit, caption_fit, caption_vectors, nearest_captions, own_captions


def test_caption_vectors_weigh_rare_words_more():
    presence = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 0]], bool))
    np.testing.assert_allclose(caption_vectors(presence).toarray(), [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    both = caption_vectors(sp.csr_matrix(np.array([[1, 1], [0, 1], [0, 0], [0, 0]], bool))).toarray()[0]
    np.testing.assert_allclose(both, np.array([np.log(4), np.log(2)]) / np.hypot(np.log(4), np.log(2)))


@pytest.mark.parametrize("block", [1, 4, 512])
def test_nearest_captions_are_those_of_a_full_search(monkeypatch, block):
    monkeypatch.setattr(captions, "IMAGES", block)
    vectors = np.random.default_rng(0).random((11, 5))
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    np.testing.assert_array_equal(nearest_captions(sp.csr_matrix(vectors), 3), np.argsort(-cosines, axis=1)[:, :3])
    assert nearest_captions(sp.csr_matrix(vectors), 50).shape == (11, 10)


@pytest.fixture
def world():
    """500 images of 3 of 12 things, with three concepts each, and captions that name them; every tenth is another's."""
    rng = np.random.default_rng(0)
    shown = rng.random((500, 12)).argsort(axis=1) < 3
    energies = np.repeat(shown, 3, axis=1) * rng.lognormal(0, 1, (500, 36)) * (rng.random((500, 36)) < 0.8)
    energies = np.hstack([energies, rng.exponential(3.0, (500, 10)) * (rng.random((500, 10)) < 0.5)])
    named, wrong = shown.copy(), np.arange(500) % 10 == 0
    named[wrong] = np.roll(shown[wrong], 1, axis=0)
    everywhere, stray = np.ones((500, 1), bool), rng.random((500, 2)) < 0.3
    return sp.csr_matrix(energies.astype(np.float32)), sp.csr_matrix(np.hstack([named, everywhere, stray])), wrong


@pytest.mark.parametrize("block", [3, 512])
def test_wrong_captions_fit_worse(world, monkeypatch, block):
    monkeypatch.setattr(captions, "WORDS", block)
    monkeypatch.setattr(captions, "IMAGES", 50 * block)
    real, presence, wrong = world
    fit = caption_fit(real, presence, seed=0)
    above = (fit[~wrong][:, None] > fit[wrong]).mean()
    assert above > 0.9
    assert fit[~wrong].mean() > 0.9
    assert abs(fit[wrong].mean() - 0.5) < 0.15


def test_own_captions_are_ranked_as_by_explicit_loops():
    rng = np.random.default_rng(1)
    ranks, has = rng.random((9, 4)), rng.random((9, 4)) < 0.5
    has[:, 3], has[4] = True, [False, False, False, True]
    weights = np.zeros(4)
    for word in range(3):
        yes, no = ranks[has[:, word], word], ranks[~has[:, word], word]
        weights[word] = max(0, 2 * np.mean([(a > b) + (a == b) / 2 for a in yes for b in no]) - 1)
    ordered = (ranks.argsort(axis=0).argsort(axis=0) + 0.5) / 9  # what `word_ranks` gives
    expected = np.full(9, np.nan)
    known = [i for i in range(9) if (weights * has[i]).sum() > 0]
    for i in known:
        fits = [(ordered[i] * weights * has[j]).sum() / (weights * has[j]).sum() for j in known]
        mine = fits[known.index(i)]
        expected[i] = (sum(fit < mine - 1e-6 for fit in fits) + (sum(abs(fit - mine) <= 1e-6 for fit in fits) - 1) / 2) / (
            len(known) - 1
        )
    found = own_captions(ordered.astype(np.float32), sp.csr_matrix(has.astype(np.float32)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("kind", ["empty", "same", "silent"])
def test_captions_that_say_nothing_have_no_fit(n, kind):
    presence = sp.csr_matrix((n, 0)) if kind == "empty" else sp.csr_matrix(np.ones((n, 2), bool))
    real = sp.csr_matrix((n, 5), dtype=np.float32) if kind == "silent" else sp.csr_matrix(np.ones((n, 5), np.float32))
    assert np.isnan(caption_fit(real, presence, seed=0)).all()


def test_audit_counts_captions_that_fit_badly():
    table = pd.DataFrame({"pair_id": [str(i) for i in range(100)], "model": "m", "energy_distance": np.arange(100.0)})
    table["caption_fit"] = np.where(np.arange(100) % 5 == 4, 0.2, 0.9)
    table.loc[0, "caption_fit"] = np.nan
    audit = caption_audit(table).set_index("pairs")
    assert audit["n"].to_dict() == {"high discrepancy": 5, "all": 99}
    assert audit.loc["high discrepancy", "badly"] == 0.2
    assert audit.loc["high discrepancy", "wrong"] == 0.4
    assert audit.loc["all", "badly"] == pytest.approx(20 / 99)
    assert audit.loc["all", "low"] < 20 / 99 < audit.loc["all", "high"]
    nothing = caption_audit(table.assign(caption_fit=np.nan))
    assert nothing["n"].tolist() == [0, 0]
    assert nothing["badly"].isna().all()
