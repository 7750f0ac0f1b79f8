"""Families: concepts that mean the same, judged together, so that redundancy does not split one blindspot over many rows.

Shape letters: k concepts, f families, d features. Every concept is in exactly one family.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

OVERLAP = 0.5  # Jaccard index of two concepts' tokens above which they are linked
NEAR = 0.9  # cosine of two atoms above which they are linked
BLOCK = 1024  # atoms that are compared with all others at a time


def concept_families(
    names: list[str], together: sp.csr_matrix, firings: Int[np.ndarray, "k"], atoms: Float[np.ndarray, "k d"] | None = None
) -> Int[np.ndarray, "k"]:
    """Return the number of each concept's family, from 0, in the order of the families' first concepts.

    - Concepts of the same name are one family; concepts of different names never are. The name of an unnamed concept is "".
    - An unnamed concept joins the family of the named concept that it is linked to most strongly.
    - The other unnamed concepts are taken from the most to the least frequent. Each joins the leader that it is linked to most
      strongly, or becomes a leader. So every member is linked to its leader, and links form no chains.

    Two concepts are linked if they fire on the same tokens, with a Jaccard index above `OVERLAP`, or else if the cosine of their
    atoms is above `NEAR`. `together` counts the tokens on which two concepts fire, `firings` those on which each one does, as in
    `ConceptStats`. A concept that fires on no token is linked to none.
    """
    links = token_links(together, firings)
    if atoms is not None:
        links = links.maximum(atom_links(atoms, firings > 0)).tocsr()
    named = np.array([name != "" for name in names], bool)
    first = {name: concept for concept, name in reversed(list(enumerate(names)))}
    leader = np.array([first[name] if name else concept for concept, name in enumerate(names)], np.int64)
    to_named = strongest_links(links @ sp.diags(named.astype(np.float64)))
    joins = ~named & (to_named >= 0)
    leader[joins] = leader[to_named[joins]]
    join_leaders(leader, links, np.flatnonzero(~named & ~joins), firings)
    return number_in_order(leader)


def join_leaders(
    leader: Int[np.ndarray, "k"], links: sp.csr_matrix, concepts: Int[np.ndarray, "c"], firings: Int[np.ndarray, "k"]
) -> None:
    """Set the leader of each of these concepts, from the most frequent on: itself, or one of them that became a leader before."""
    leads = np.zeros(len(leader), bool)
    for concept in concepts[np.argsort(-firings[concepts], kind="stable")].tolist():
        span = slice(links.indptr[concept], links.indptr[concept + 1])
        near = leads[links.indices[span]]
        if near.any():
            leader[concept] = links.indices[span][near][links.data[span][near].argmax()]
        else:
            leads[concept] = True


def token_links(together: sp.csr_matrix, firings: Int[np.ndarray, "k"]) -> sp.csr_matrix:
    """Return the links of concepts that fire on the same tokens, sparse (k, k): 1 + the Jaccard index where it is high enough."""
    both = together.tocoo()
    jaccard = both.data / np.maximum(firings[both.row] + firings[both.col] - both.data, 1)
    linked = (both.row != both.col) & (jaccard > OVERLAP)
    return sp.csr_matrix((1 + jaccard[linked], (both.row[linked], both.col[linked])), shape=both.shape)


def atom_links(atoms: Float[np.ndarray, "k d"], fires: Bool[np.ndarray, "k"]) -> sp.csr_matrix:
    """Return the links of concepts with near-equal atoms, sparse (k, k): the cosine where it is high enough."""
    alive = np.flatnonzero(fires & ((atoms**2).sum(axis=1) > 0))
    directions = (atoms[alive] / np.linalg.norm(atoms[alive], axis=1, keepdims=True)).astype(np.float32)
    rows, columns, values = [], [], []
    for start in range(0, len(alive), BLOCK):
        cosines = directions[start : start + BLOCK] @ directions.T
        row, column = np.nonzero(cosines > NEAR)
        apart = row + start != column
        rows.append(alive[row[apart] + start])
        columns.append(alive[column[apart]])
        values.append(cosines[row, column][apart].astype(np.float64))
    found = [np.concatenate([[], *parts]) for parts in (values, rows, columns)]
    return sp.csr_matrix((found[0], (found[1].astype(np.int64), found[2].astype(np.int64))), shape=(len(atoms), len(atoms)))


def strongest_links(links: sp.csr_matrix) -> Int[np.ndarray, "k"]:
    """Return the concept that each one is linked to most strongly, the first among equals; -1 for none."""
    links = links.tocoo()
    present = links.data > 0
    row, column, strength = links.row[present], links.col[present], links.data[present]
    order = np.lexsort((column, -strength, row))
    concepts, place = np.unique(row[order], return_index=True)
    strongest = np.full(links.shape[0], -1, np.int64)
    strongest[concepts] = column[order][place]
    return strongest


def number_in_order(leader: Int[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """Return numbers from 0 for the values of an array, in the order in which they first occur."""
    _, first, which = np.unique(leader, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


def family_energies(energies: sp.csr_matrix, families: Int[np.ndarray, "k"]) -> sp.csr_matrix:
    """Return the energies of families, (pairs, f): the sum over each one's concepts."""
    ones = np.ones(len(families), energies.dtype)
    membership = sp.csr_matrix((ones, (np.arange(len(families)), families)), shape=(len(families), families.max(initial=-1) + 1))
    return (energies @ membership).tocsr()


def family_names(names: list[str], families: Int[np.ndarray, "k"]) -> list[str]:
    """Return the name of each family: that of its named concepts, "" if there is none."""
    found = [""] * (families.max(initial=-1) + 1)
    for name, family in zip(names, families.tolist(), strict=True):
        found[family] = name or found[family]
    return found


def leading_concepts(families: Int[np.ndarray, "k"], energy: Float[np.ndarray, "k"]) -> Int[np.ndarray, "f"]:
    """Return the concept of each family with the greatest energy, the first among equals."""
    order = np.lexsort((np.arange(len(families)), -energy, families))
    return order[np.unique(families[order], return_index=True)[1]]
