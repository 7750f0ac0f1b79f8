import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

from blindspots_lib.analysis.energies import cooccurrence
from blindspots_lib.data.pairs import PairTable
from blindspots_lib.trial.tables import association_names, roc_areas


def test_cooccurrence_counts_images_on_which_both_fire():
    energies = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0], [1.0, 1.0, 0.0]], np.float32))
    assert cooccurrence(energies).toarray().tolist() == [[3, 2, 1], [2, 2, 0], [1, 0, 1]]


def test_roc_areas_match_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 60).astype(float)
    present = rng.random((60, 3)) < 0.3
    expected = [roc_auc_score(column, scores) for column in present.T]
    np.testing.assert_allclose(roc_areas(scores, present), expected)
    assert np.isnan(roc_areas(scores, np.ones((60, 1), bool))).all()


def test_concept_is_named_after_what_it_detects():
    things = [["dvd", "wood"], ["page", "wood"], ["dvd", "sky"], ["page", "sky"]]
    pairs = PairTable(list("abcd"), [""] * 4, [[{"name": name, "count": 1} for name in names] for names in things])
    energies = sp.csr_matrix(np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 2.0]], np.float32))
    names = association_names(energies, pairs, np.arange(4))
    assert names[0] == ("dvd", 1.0)
    assert names[1][0] == ""
    assert names[2] == ("sky", 1.0)
