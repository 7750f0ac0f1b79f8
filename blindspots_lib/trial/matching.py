"""Concepts of the SAE and true concepts, where those are known: which stands for which, judged on real images alone.

Other units (clusters, components, features) are matched in the same way.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scene_pairs import shown_concepts
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS

GROUP = "four objects"
NAMES = [*OBJECTS, *BACKGROUNDS, GROUP]  # of all true concepts
PURE = 0.5  # share of a concept's energy from which it stands for a true concept
SEEN = 0.01  # share of the real images that a concept must fire on


class Matching(NamedTuple):
    """The true concept that each concept stands for, -1 where none, and how purely."""

    truth: Int[np.ndarray, "k"]
    purity: Float[np.ndarray, "k"]  # share of its energy on images that show the true concept


def true_presence(config: ScenePairs, positions: Int[np.ndarray, "pairs"], names: list[str]) -> Bool[np.ndarray, "pairs names"]:
    """Which ground-truth concepts the real images of these pairs show: objects, backgrounds, a group of four."""
    shown = [concepts_of(shown_concepts(config, int(position))) for position in positions]
    return np.array([[name in one for name in names] for one in shown], bool).reshape(len(shown), len(names))


def concepts_of(counts: Mapping[str, int]) -> set[str]:
    n_objects = sum(count for name, count in counts.items() if name in OBJECTS)
    return set(counts) | ({GROUP} if n_objects == 4 else set())


def match_concepts(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Matching:
    """Match each concept to the true concept whose images hold most of its energy.

    purity(k) = max_c sum_{x shows c} xi_k(x) / sum_x xi_k(x). A concept of lower purity than `PURE`, or that fires on a
    smaller share of the images than `SEEN`, stands for none. Generated images have no say.
    """
    share = shares_inside(real, present)
    purity = share.max(axis=1)
    matched = (purity >= PURE) & (real.getnnz(axis=0) >= SEEN * real.shape[0])
    return Matching(np.where(matched, share.argmax(axis=1), -1), purity)


def amounts_of_truths(
    amounts: Mapping[str, sp.csr_matrix], present: Bool[np.ndarray, "pairs names"]
) -> dict[str, Float[np.ndarray, "pairs names"]]:
    """How much of each true concept every image holds: the summed amounts of all units that stand for it.

    An SAE splits what is frequent over many concepts. Where none stands for a true concept, the one that tells best which real
    images show it, however badly. `amounts` are those of the "real" images, which alone decide, and of any others.
    """
    matching, names = match_concepts(amounts["real"], present), np.arange(present.shape[1])
    speaks = matching.truth[:, None] == names
    unnamed = ~speaks.any(axis=0)
    speaks[best_units(amounts["real"], present)[unnamed], names[unnamed]] = True
    return {name: of_images @ speaks.astype(np.float64) for name, of_images in amounts.items()}


def best_units(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Int[np.ndarray, "names"]:
    """For each true concept the unit of the highest average precision, however low that is (0 if no image shows it)."""
    return average_precisions(real.tocsc(), present).argmax(axis=0)


def shares_inside(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Float[np.ndarray, "k names"]:
    """Share of each unit's amount that lies on images which show each true concept; 0 for a unit that never fires."""
    inside = np.asarray((real.T @ sp.csr_matrix(present.astype(np.float64))).todense())
    total = np.asarray(real.sum(axis=0, dtype=np.float64)).ravel()
    return inside / np.maximum(total, np.finfo(float).tiny)[:, None]


def average_precisions(amounts: sp.csc_matrix, present: Bool[np.ndarray, "pairs names"]) -> Float[np.ndarray, "k names"]:
    """Average precision of each unit's amount, ties taken together, in telling the images of each true concept."""
    shown = present.sum(axis=0)
    found = np.empty((amounts.shape[1], present.shape[1]))
    for unit, (start, end) in enumerate(itertools.pairwise(amounts.indptr)):
        order = np.argsort(-amounts.data[start:end], kind="stable")
        values, hits = amounts.data[start:end][order], present[amounts.indices[start:end][order]]
        ranked = np.searchsorted(-values, -values, side="right")  # how many images have this amount or more
        caught = np.vstack([np.zeros(present.shape[1]), hits.cumsum(axis=0)])[ranked]
        where_silent = (shown - hits.sum(axis=0)) * shown / len(present)  # tied at 0, after all others
        found[unit] = ((hits * caught / ranked[:, None]).sum(axis=0) + where_silent) / np.maximum(shown, 1)
    return found
