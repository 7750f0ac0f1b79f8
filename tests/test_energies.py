import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

from blindspots_lib.analysis.energies import cooccurrence
from blindspots_lib.core.config import ScenePairs
from blindspots_lib.trial import matching
from blindspots_lib.trial.metrics import auroc
from blindspots_lib.trial.tables import association_names


def test_cooccurrence_counts_images_on_which_both_fire():
    energies = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0], [1.0, 1.0, 0.0]], np.float32))
    assert cooccurrence(energies).toarray().tolist() == [[3, 2, 1], [2, 2, 0], [1, 0, 1]]


def test_areas_under_the_roc_curve_match_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 60).astype(float)
    present = rng.random((60, 3)) < 0.3
    expected = [roc_auc_score(column, scores) for column in present.T]
    np.testing.assert_allclose(auroc(scores, present), expected)
    assert auroc(scores, present[:, 0]) == pytest.approx(expected[0])
    assert np.isnan(auroc(scores, np.ones((60, 1), bool))).all()


def test_concept_is_named_after_what_it_detects(monkeypatch):
    things = [["dvd", "wood"], ["page", "wood"], ["dvd", "sky"], ["page", "sky"]]
    monkeypatch.setattr(matching, "shown_concepts", lambda config, position: dict.fromkeys(things[position], 1))
    config = ScenePairs(source="scenes", n=4, seed=0)
    energies = sp.csr_matrix(np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 2.0]], np.float32))
    names = association_names(energies, config, np.arange(4))
    assert names[0] == ("dvd", 1.0)
    assert names[1][0] == ""
    assert names[2] == ("sky", 1.0)
