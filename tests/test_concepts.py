import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

from blindspots_lib.concepts import (
    association_names,
    cooccurrence,
    count_firings,
    image_energies,
    roc_areas,
    top_images,
)
from blindspots_lib.pairs import PairTable

# Two images of two tokens with two active concepts each, of five concepts.
INDICES = np.array([[[0, 3], [3, 1]], [[4, 0], [2, 0]]], np.uint32)
VALUES = np.array([[[1.0, 2.0], [0.5, 0.0]], [[3.0, 0.25], [0.0, 1.0]]], np.float16)


def test_energy_is_the_sum_of_codes_over_tokens():
    energies = image_energies(INDICES, VALUES, 5)
    assert energies.toarray().tolist() == [[1.0, 0.0, 0.0, 2.5, 0.0], [1.25, 0.0, 0.0, 0.0, 3.0]]
    assert energies.nnz == 4


def test_firings_count_tokens_with_a_positive_code():
    assert count_firings(INDICES, VALUES, 5).tolist() == [3, 0, 0, 2, 1]


def test_cooccurrence_counts_images_on_which_both_fire():
    energies = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0], [1.0, 1.0, 0.0]], np.float32))
    assert cooccurrence(energies).toarray().tolist() == [[3, 2, 1], [2, 2, 0], [1, 0, 1]]


def test_top_images_are_the_strongest_and_only_those_that_fire():
    energies = sp.csr_matrix(np.array([[0.0], [2.0], [5.0], [2.0], [0.0]], np.float32))
    assert top_images(energies, 0, 4).tolist() == [2, 1, 3]
    assert top_images(energies, 0, 1).tolist() == [2]


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
