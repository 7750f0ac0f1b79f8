import numpy as np
import scipy.sparse as sp
from sklearn.metrics import average_precision_score

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.trial import matching
from blindspots_lib.trial.matching import GROUP, amounts_of_truths, average_precisions, best_units, match_concepts, true_presence


def test_a_concept_stands_for_what_holds_most_of_its_energy(monkeypatch):
    monkeypatch.setattr(matching, "SEEN", 0.5)  # of four images, two
    present = np.array([[True, False], [True, True], [False, True], [False, False]])
    real = sp.csr_matrix(np.array([
        [3.0, 1.0, 9.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [1.0, 3.0, 0.0, 0.0],
        [0.0, 5.0, 0.0, 0.0],
    ]))  # fmt: skip
    found = match_concepts(real, present)
    # 3 of 4 with the first; 4 of 10 with the second; pure, but on one image; silent
    assert found.truth.tolist() == [0, -1, -1, -1]
    np.testing.assert_allclose(found.purity, [0.75, 0.4, 1.0, 0.0])


def test_the_best_unit_is_that_of_the_highest_average_precision():
    rng = np.random.default_rng(0)
    present = rng.random((40, 3)) < 0.3
    amounts = np.round(rng.random((40, 6)) * 4) * (rng.random((40, 6)) < 0.5)  # ties, and many zeros
    expected = np.array([[average_precision_score(shown, unit) for shown in present.T] for unit in amounts.T])
    np.testing.assert_allclose(average_precisions(sp.csc_matrix(amounts), present), expected)
    assert best_units(sp.csr_matrix(amounts), present).tolist() == expected.argmax(axis=0).tolist()


def test_concepts_that_stand_for_the_same_speak_together():
    present = np.array([[True, False, False]] * 2 + [[False, True, False]] * 2)
    real = sp.csr_matrix(np.array([  # two stand for the first, the third for the second, of which it holds 7 of 12
        [4.0, 0.0, 3.0],
        [0.0, 20.0, 2.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, 6.0],
    ]))  # fmt: skip
    generated = sp.csr_matrix([[1.0, 5.0, 3.0]])
    held = amounts_of_truths({"real": real, "m": generated}, present)
    np.testing.assert_allclose(held["real"][:, 0], [4.0, 20.0, 0.0, 0.0])
    np.testing.assert_allclose(held["m"][0, :2], [1 + 5, 3])


def test_what_no_concept_stands_for_is_judged_by_the_one_that_tells_it_best():
    present = np.array([[True], [False], [False], [False]])
    real = sp.csr_matrix(np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [1.0, 2.0]]))  # purity 1/4 and 0
    held = amounts_of_truths({"real": real}, present)
    np.testing.assert_allclose(held["real"][:, 0], [1.0, 2.0, 0.0, 1.0])


def test_presence_of_objects_backgrounds_and_groups_of_four(monkeypatch):
    shown = [{"cat": 3, "dvd": 1, "wood": 1}, {"cat": 3, "wood": 1}]
    monkeypatch.setattr(matching, "shown_concepts", lambda config, position: shown[position])
    found = true_presence(ScenePairs(source="scenes", n=2, seed=0), np.array([1, 0]), ["cat", "dvd", "wood", "sand", GROUP])
    assert found.tolist() == [[True, False, True, False, False], [True, True, True, False, True]]
