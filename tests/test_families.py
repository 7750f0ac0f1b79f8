import numpy as np
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis.families import NEAR, atom_links, concept_families, family_energies, family_names, leading_concepts


def counts(n, firings, both):
    """`together` and `firings` of n concepts, from {(one, other): tokens on which both fire}."""
    together = np.diag(firings)
    for (one, other), tokens in both.items():
        together[one, other] = together[other, one] = tokens
    return sp.csr_matrix(together), np.array(firings)


def families(names, firings, both, atoms=None):
    return concept_families(names, *counts(len(names), firings, both), atoms).tolist()


def test_concepts_of_one_name_are_one_family_and_of_two_names_never():
    names = ["wood", "cat", "wood", "", "cat"]
    assert families(names, [10] * 5, {(0, 1): 9}) == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(("both", "joins"), [(7, True), (6, False)])
def test_an_unnamed_concept_joins_above_half_overlap(both, joins):
    # Jaccard 7 / (10 + 10 - 7) = 0.54, 6 / 14 = 0.43
    assert families(["wood", ""], [10, 10], {(0, 1): both}) == [0, 0 if joins else 1]


def test_an_unnamed_concept_joins_the_named_one_that_it_overlaps_most():
    assert families(["cat", "wood", ""], [10, 10, 10], {(0, 2): 7, (1, 2): 8}) == [0, 1, 1]


def test_unnamed_concepts_join_their_leader_and_form_no_chain():
    # 0 - 1 - 2 - 3 - 4 overlap as neighbours only; 1 leads, then 3, which 2 overlaps more than 1
    both = {(0, 1): 8, (1, 2): 8, (2, 3): 9, (3, 4): 8}
    assert families([""] * 5, [9, 11, 9, 10, 9], both) == [0, 0, 1, 1, 1]


def test_a_junk_concept_does_not_join_two_names():
    both = {(0, 1): 8, (1, 2): 8, (2, 3): 8}
    assert families(["cat", "", "", "wood"], [10] * 4, both) == [0, 0, 1, 1]


def test_atoms_link_only_where_tokens_do_not_and_only_concepts_that_fire():
    atoms = np.array([[1.0, 0], [1, 0.1], [0, 1], [1, 0.01], [1, 0], [0, 0]])
    both = {(1, 2): 8}
    assert families(["cat", "", "wood", "", "", ""], [10, 10, 10, 10, 0, 10], both, atoms) == [0, 1, 1, 0, 2, 3]


def test_atom_links_by_brute_force(monkeypatch):
    monkeypatch.setattr("blindspots_lib.analysis.families.BLOCK", 7)
    atoms = np.random.default_rng(0).normal(size=(30, 2))
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in atoms] for a in atoms])
    np.fill_diagonal(cosines, 0)
    np.testing.assert_allclose(atom_links(atoms, np.ones(30, bool)).toarray(), cosines * (cosines > NEAR), atol=1e-5)


def test_energies_names_and_leaders_of_families():
    found = np.array([0, 1, 0, 2])
    energies = sp.csr_matrix(np.array([[1, 2, 3, 0], [0, 0, 0, 5]], np.float32))
    summed = family_energies(energies, found)
    assert summed.dtype == np.float32
    assert summed.toarray().tolist() == [[4, 2, 0], [0, 0, 5]]
    assert family_names(["wood", "", "", "cat"], found) == ["wood", "", "cat"]
    assert leading_concepts(found, np.array([1.0, 2, 3, 0])).tolist() == [2, 1, 3]


@pytest.mark.parametrize("k", [0, 1, 3])
def test_concepts_that_never_fire_are_alone(k):
    empty = sp.csr_matrix((k, k), dtype=np.int64)
    assert concept_families([""] * k, empty, np.zeros(k, np.int64), np.zeros((k, 2))).tolist() == list(range(k))
    assert family_energies(sp.csr_matrix((2, k), dtype=np.float32), np.arange(k)).shape == (2, k)
