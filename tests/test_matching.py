import numpy as np
import scipy.sparse as sp
from sklearn.metrics import average_precision_score

from blindspots_lib import matching
from blindspots_lib.matching import GROUP, average_precisions, best_units, match_concepts, true_presence
from blindspots_lib.pairs import PairTable


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
    found = best_units(sp.csr_matrix(amounts), present)
    np.testing.assert_allclose(average_precisions(sp.csc_matrix(amounts), present), expected)
    assert found.unit.tolist() == expected.argmax(axis=0).tolist()
    np.testing.assert_allclose(found.precision, expected.max(axis=0))
    inside = [amounts[shown, unit].sum() / amounts[:, unit].sum() for unit, shown in zip(found.unit, present.T, strict=True)]
    np.testing.assert_allclose(found.purity, inside)


def test_presence_of_objects_backgrounds_and_groups_of_four():
    concepts = [
        [{"name": "cat", "count": 3}, {"name": "dvd", "count": 1}, {"name": "wood", "count": 1}],
        [{"name": "cat", "count": 3}, {"name": "wood", "count": 1}],
    ]
    pairs = PairTable(["a", "b"], ["", ""], concepts)
    found = true_presence(pairs, np.array([1, 0]), ["cat", "dvd", "wood", "sand", GROUP])
    assert found.tolist() == [[True, False, True, False, False], [True, True, True, False, True]]
