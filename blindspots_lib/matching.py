"""Which true concept each concept of the SAE stands for, where the truth is known: judged on real images alone."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.pairs import PairTable
from blindspots_lib.scenes import OBJECTS

GROUP = "four objects"
PURE = 0.5  # share of a concept's energy from which it stands for a true concept
SEEN = 0.01  # share of the real images that a concept must fire on


class Matching(NamedTuple):
    """The true concept that each concept stands for, -1 where none, and how purely."""

    truth: Int[np.ndarray, "k"]
    purity: Float[np.ndarray, "k"]  # share of its energy on images that show the true concept


def true_presence(pairs: PairTable, rows: Int[np.ndarray, "pairs"], names: list[str]) -> Bool[np.ndarray, "pairs names"]:
    """Which true concepts the real images of the pairs at `rows` show: objects, backgrounds, a group of four."""
    shown = [concepts_of(pairs.concepts[row]) for row in rows]
    return np.array([[name in one for name in names] for one in shown], bool)


def concepts_of(counts: list[dict]) -> set[str]:
    n_objects = sum(concept["count"] for concept in counts if concept["name"] in OBJECTS)
    return {concept["name"] for concept in counts} | ({GROUP} if n_objects == 4 else set())


def match_concepts(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Matching:
    """Match each concept to the true concept whose images hold most of its energy.

    purity(k) = max_c sum_{x shows c} xi_k(x) / sum_x xi_k(x). A concept of lower purity than `PURE`, or that fires on a
    smaller share of the images than `SEEN`, stands for none. Generated images have no say.
    """
    inside = np.asarray((real.T @ sp.csr_matrix(present.astype(np.float64))).todense())
    total = np.asarray(real.sum(axis=0, dtype=np.float64)).ravel()
    share = inside / np.maximum(total, np.finfo(float).tiny)[:, None]
    purity = np.where(total > 0, share.max(axis=1), 0.0)
    matched = (purity >= PURE) & (real.getnnz(axis=0) >= SEEN * real.shape[0])
    return Matching(np.where(matched, share.argmax(axis=1), -1), purity)
