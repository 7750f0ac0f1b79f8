import numpy as np
import scipy.sparse as sp

from blindspots_lib import matching
from blindspots_lib.matching import match_concepts


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
