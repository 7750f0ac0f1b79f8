import numpy as np
import scipy.sparse as sp

from blindspots_lib import matching
from blindspots_lib.matching import GROUP, match_concepts, true_presence
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


def test_presence_of_objects_backgrounds_and_groups_of_four():
    concepts = [
        [{"name": "cat", "count": 3}, {"name": "dvd", "count": 1}, {"name": "wood", "count": 1}],
        [{"name": "cat", "count": 3}, {"name": "wood", "count": 1}],
    ]
    pairs = PairTable(["a", "b"], ["", ""], concepts)
    found = true_presence(pairs, np.array([1, 0]), ["cat", "dvd", "wood", "sand", GROUP])
    assert found.tolist() == [[True, False, True, False, False], [True, True, True, False, True]]
