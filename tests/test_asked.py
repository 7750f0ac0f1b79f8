import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis.asked import asked_table, intrusion_of, omission_of
from blindspots_lib.analysis.detectors import (
    LEAST,
    average_precision,
    fit_detector,
    is_redundant,
    learn_detectors,
    learn_weights,
    merge_alike,
)
from blindspots_lib.analysis.words import Vocabulary, caption_words
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis(seed=3)
THINGS = ("dog", "lamp", "boat", "rose", "drum", "comb")


def a_world(n=400, missing="", added="", seed=0):
    """Captions of one thing or two, and energies: three concepts per thing, of other names in no table, and noise."""
    rng = np.random.default_rng(seed)
    asked = rng.random((n, len(THINGS))) < 0.12
    asked[np.arange(n), rng.integers(len(THINGS), size=n)] = True
    captions = ["a view of " + " and ".join(np.array(THINGS)[row]) for row in asked]

    def energies(shown):
        signal = np.repeat(shown, 3, axis=1) * rng.exponential(1.0, (n, 18)) * (rng.random((n, 18)) < 0.7)
        noise = rng.exponential(0.5, (n, 40)) * (rng.random((n, 40)) < 0.1)
        return sp.csr_matrix(np.hstack([signal, noise]).astype(np.float32))

    drawn = asked.copy()
    drawn[:, [thing == missing for thing in THINGS]] = False
    drawn[:, [thing == added for thing in THINGS]] |= rng.random((n, 1)) < 0.2
    return captions, {"real": energies(asked), "faulty": energies(drawn), "perfect": energies(asked)}


def test_a_lost_and_an_added_thing_are_called_and_nothing_else():
    captions, energies = a_world(missing="lamp", added="boat")
    detectors = learn_detectors(energies["real"], caption_words(captions), ANALYSIS)
    table = asked_table(energies, detectors, ANALYSIS).set_index(["model", "word"])
    assert set(table.index.get_level_values("word")) >= set(THINGS)
    omitted, intruding = table[table["omission_call"] == "omitted"], table[table["intrusion_call"] == "intruding"]
    assert list(omitted.index) == [("faulty", "lamp")]
    assert omitted["omission_value"].item() < 0.1
    assert list(intruding.index) == [("faulty", "boat")]
    boat = np.array([detectors.words.index("boat")])
    seen = detectors.shows(energies["real"], boat)[detectors.asked_for(boat)].mean()
    assert intruding["intrusion_rate"].item() == pytest.approx(0.2 * seen, abs=0.05)
    unseen = table.loc["perfect"].loc["view"] if "view" in table.loc["perfect"].index else None
    assert unseen is None or unseen["reason"] == "not seen by the concepts"


def test_what_is_added_unasked_is_not_said_to_be_left_out():
    """Every asked picture shows the boat, as do 20 % of the others: above these, the excess of the asked would seem to fall."""
    captions, energies = a_world(n=2000, added="boat")
    detectors = learn_detectors(energies["real"], caption_words(captions), ANALYSIS)
    row = asked_table(energies, detectors, ANALYSIS).set_index(["model", "word"]).loc["faulty", "boat"]
    assert row["omission_value"] == pytest.approx(0.5, abs=0.02)
    assert (row["omission_call"], row["intrusion_call"]) == ("aligned", "intruding")


def test_a_look_alike_of_what_is_added_is_explained_by_it():
    """The best concepts of the comb fire weakly on every boat too: where boats are added, combs seem to be."""
    captions, energies = a_world(n=2000, added="boat")
    alike = {source: matrix.toarray() for source, matrix in energies.items()}
    for matrix in alike.values():
        matrix[:, 15:18] += 0.4 * matrix[:, 6:9]
    alike = {source: sp.csr_matrix(matrix) for source, matrix in alike.items()}
    detectors = learn_detectors(alike["real"], caption_words(captions), ANALYSIS)
    rows = asked_table(alike, detectors, ANALYSIS).set_index(["model", "word"]).loc["faulty"]
    assert rows.loc["boat", ["intrusion_call", "explained_by"]].tolist() == ["intruding", ""]
    assert rows.loc["comb", "intrusion_q"] <= 0.05
    assert rows.loc["comb", ["intrusion_call", "explained_by"]].tolist() == ["explained", "boat"]


def test_detectors_are_read_only_on_pairs_that_they_were_not_learned_on():
    """Energies of one fold may change as they like: its own weights stay, those of the other folds move."""
    captions, energies = a_world()
    before = learn_detectors(energies["real"], caption_words(captions), ANALYSIS)
    changed = energies["real"].toarray()
    changed[before.folds == 0] = np.random.default_rng(9).exponential(1.0, changed[before.folds == 0].shape)
    after = learn_detectors(sp.csr_matrix(changed), caption_words(captions), ANALYSIS)
    assert (before.weights[0] != after.weights[0]).nnz == 0
    assert (before.weights[1] != after.weights[1]).nnz > 0
    some = np.array([0, 2])
    row = np.flatnonzero(before.folds == 4)[0]
    expected = energies["real"][row].toarray() @ before.weights[4].toarray()[:, some]
    np.testing.assert_allclose(before.scores(energies["real"], some)[row], expected[0], rtol=1e-6)


def test_one_concept_that_is_the_word_gets_the_weight_that_makes_asked_images_exceed_others_by_one():
    wanted = np.array([1.0, 1, 0, 0, 0, 0])
    energies = np.array([[5.0], [3], [0], [0], [2], [0]])  # asked 4 on average, others 0.5
    np.testing.assert_allclose(fit_detector(energies, wanted, energies.std(axis=0)), [1 / 3.5])
    np.testing.assert_array_equal(fit_detector(-energies, wanted, energies.std(axis=0)), [0.0])


def test_weights_are_those_of_a_dense_fit_and_never_of_concepts_that_avoid_the_word():
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(2)
    wanted = rng.random(300) < 0.3
    energies = rng.exponential(1.0, (300, 6)) * (rng.random((300, 6)) < 0.5)
    energies[:, :3] *= 1 + 4 * wanted[:, None]
    energies[:, 5] *= ~wanted
    found = learn_weights(sp.csr_matrix(energies), sp.csr_matrix(wanted[:, None])).toarray()[:, 0]
    scaled = (energies - energies.mean(axis=0)) / energies.std(axis=0)
    penalty = 0.1 * 300 / np.sqrt(wanted.sum())
    design = np.vstack([scaled[:, :3], np.sqrt(penalty) * np.eye(3)])
    direct = lsq_linear(design, np.append(wanted - wanted.mean(), np.zeros(3)), (0, np.inf), tol=1e-12).x / energies[:, :3].std(0)
    score = energies[:, :3] @ direct
    np.testing.assert_allclose(found[:3], direct / (score[wanted].mean() - score[~wanted].mean()), rtol=1e-5)
    np.testing.assert_array_equal(found[3:], 0)


def test_average_precision_takes_equal_scores_together():
    from sklearn.metrics import average_precision_score

    scores, wanted = np.array([3.0, 2, 2, 1, 0, 0]), np.array([1, 0, 1, 0, 1, 0], bool)
    by_hand = (1 / 1 + 2 / 3 + 3 / 6) / 3
    assert average_precision(scores, wanted) == pytest.approx(by_hand)
    assert average_precision(scores, wanted) == pytest.approx(average_precision_score(wanted, scores))


def test_words_of_the_same_pairs_become_the_longest_of_them():
    presence = np.zeros((60, 5), bool)
    presence[:20, :3], presence[19, 2], presence[:12, 3], presence[: LEAST - 1, 4] = True, False, True, True
    vocabulary = Vocabulary(["palm", "palm tree", "tree", "sky", "rare"], sp.csr_matrix(presence))
    words, asked = merge_alike(vocabulary)
    assert words == ["palm tree", "sky"]
    np.testing.assert_array_equal(asked.toarray(), presence[:, [1, 3]])


def test_a_phrase_stays_only_if_it_is_detected_better_than_its_words():
    words, lift = ["fire", "fire truck", "wood", "wood background"], np.array([0.2, 0.6, 0.8, 0.5])
    np.testing.assert_array_equal(is_redundant(words, lift), [False, False, False, True])


def test_omission_worked_out_by_hand():
    """Real excess 2, generated excess 0.5: 0.5 / 2.5. Differences -1, -2 of the asked, 0 of the others."""
    asked = np.array([[1], [1], [0], [0], [0]], bool)
    real, generated = np.array([[1.5], [2.5], [0.0], [0], [0]]), np.array([[0.5], [0.5], [0.0], [0], [0]])
    found = omission_of(generated, real, asked)
    assert found.value.item() == pytest.approx(0.2)
    from scipy.stats import t

    assert found.p.item() == pytest.approx(2 * t.sf(1.5 / 0.5, 1))  # mean -1.5, variance 0.5 / 2 pairs
    assert found.low.item() <= 0.2 <= found.high.item()


@pytest.mark.parametrize("kept", [0.05, 0.5, 1.0])
def test_intervals_of_omission_cover_and_its_test_holds_its_level(kept):
    rng = np.random.default_rng(4)
    shape, asked = (200, 1500), np.zeros((200, 1500), bool)
    asked[:30] = True
    real = rng.gamma(2.0, 0.5, shape) * (rng.random(shape) < 0.9) * asked
    generated = rng.gamma(2.0, 0.5, shape) * (rng.random(shape) < 0.9 * kept) * asked
    found = omission_of(generated, real, asked)
    truth = kept / (1 + kept)
    assert (
        0.92 <= ((found.low <= truth) & (truth <= found.high)).mean() <= (0.99 if kept > 0.1 else 1)
    )  # where 30 pairs draw one or two, it must cover more
    assert kept < 1 or 0.03 <= (found.p <= 0.05).mean() <= 0.065


def test_what_is_never_drawn_is_bounded_as_no_success_of_the_asked():
    asked = np.repeat([[True], [False]], [20, 80], axis=0)
    found = omission_of(np.zeros((100, 1)), asked.astype(float), asked)
    np.testing.assert_allclose([found.value.item(), found.low.item()], 0)
    assert found.high.item() == pytest.approx(1 - 0.025 ** (1 / 20))


def test_intrusion_worked_out_by_hand():
    """Of ten unasked pairs four show it generated and one real: 4 / 5; one pair shows it on both sides, so three against none."""
    asked = np.repeat([[False], [True]], [10, 5], axis=0)
    generated, real = asked.copy(), asked.copy()
    generated[:4], real[:1] = True, True
    found = intrusion_of(generated, real, asked)
    assert found.value.item() == pytest.approx(0.8)
    assert found.p.item() == pytest.approx(0.25)
    nothing = intrusion_of(asked, asked, asked)
    np.testing.assert_array_equal([nothing.value, nothing.low, nothing.high, nothing.p], [[np.nan], [0], [1], [1]])


def test_detectable_is_the_omission_that_is_called_with_probability_080():
    captions, energies = a_world(n=300)
    detectors = learn_detectors(energies["real"], caption_words(captions), ANALYSIS)
    table = asked_table(energies, detectors, ANALYSIS)
    row = table[(table["word"] == "dog") & (table["model"] == "perfect")].iloc[0]
    kept, rng, level = (
        row["detectable"] / (1 - row["detectable"]),
        np.random.default_rng(0),
        0.05 / table["omission_p"].notna().sum(),
    )
    place = detectors.words.index("dog")
    asked = detectors.asked_for(np.array([place]))
    scores = detectors.scores(energies["real"], np.array([place]))
    called = []
    for _ in range(200):
        other = scores[:, 0].copy()
        other[asked[:, 0]] = rng.choice(scores[asked], asked.sum()) * (rng.random(asked.sum()) < kept)
        real = scores[:, 0].copy()
        real[asked[:, 0]] = rng.choice(scores[asked], asked.sum())
        called.append(omission_of(other[:, None], real[:, None], asked).p.item() <= level)
    assert np.mean(called) == pytest.approx(0.8, abs=0.15)


BAD = {
    "no words": [""] * 30,
    "all the same": ["a dog"] * 30,
    "one pair": ["a dog"],
    "two pairs": ["a dog", "a cat"],
    "mixed languages": ["ein Hund", "犬と猫", "кошка", "a dog"] * 10,
}


@pytest.mark.parametrize("captions", BAD.values(), ids=BAD)
@pytest.mark.parametrize("firing", [0.0, 0.3])
def test_bad_input_gives_a_table_without_calls(captions, firing):
    rng = np.random.default_rng(0)
    shape = (len(captions), 7)
    energies = {
        name: sp.csr_matrix((rng.random(shape) * (rng.random(shape) < firing)).astype(np.float32)) for name in ("real", "m")
    }
    table = asked_table(energies, learn_detectors(energies["real"], caption_words(captions), ANALYSIS), ANALYSIS)
    assert isinstance(table, pd.DataFrame)
    assert (table["omission_call"] == "unclear").all()
    assert firing or (table["reason"] == "not seen by the concepts").all()
