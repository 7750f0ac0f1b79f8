"""Match concepts of the SAE to ground-truth concepts, on real images alone.

The directions of other methods (clusters, components, features) are matched in the same way.
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

GROUP, GROUP_WORD = "four objects", "four"  # and how captions say it
NAMES = [*OBJECTS, *BACKGROUNDS, GROUP]  # of all ground-truth concepts
PURE = 0.5  # least purity of a concept that is matched
SEEN = 0.01  # least fraction of the real images on which a matched concept fires


class Matching(NamedTuple):
    """The ground-truth concept that each concept is matched to, -1 for none, and how purely."""

    truth: Int[np.ndarray, "k"]
    purity: Float[np.ndarray, "k"]  # fraction of its energy on images that show the ground-truth concept


def true_presence(config: ScenePairs, positions: Int[np.ndarray, "pairs"], names: list[str]) -> Bool[np.ndarray, "pairs names"]:
    """Return which ground-truth concepts the real images of these pairs show: objects, backgrounds, a group of four."""
    shown = [concepts_of(shown_concepts(config, int(position))) for position in positions]
    return np.array([[name in one for name in names] for one in shown], bool).reshape(len(shown), len(names))


def concepts_of(counts: Mapping[str, int]) -> set[str]:
    n_objects = sum(count for name, count in counts.items() if name in OBJECTS)
    return set(counts) | ({GROUP} if n_objects == 4 else set())


def match_concepts(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Matching:
    """Match each concept to the ground-truth concept whose images hold most of its energy.

    purity(k) = max_c sum_{x shows c} xi_k(x) / sum_x xi_k(x). A concept is matched to none if its purity is below `PURE`, or if
    it fires on a smaller fraction of the images than `SEEN`. Generated images are not used.
    """
    inside = shares_inside(real, present)
    purity = inside.max(axis=1)
    matched = (purity >= PURE) & (real.getnnz(axis=0) >= SEEN * real.shape[0])
    return Matching(np.where(matched, inside.argmax(axis=1), -1), purity)


def amounts_of_truths(
    amounts: Mapping[str, sp.csr_matrix], present: Bool[np.ndarray, "pairs names"]
) -> dict[str, Float[np.ndarray, "pairs names"]]:
    """Return the amount of each ground-truth concept in every image: the sum over all directions matched to it.

    It is a sum because an SAE splits a frequent object over many concepts. If no direction is matched to a ground-truth concept,
    the direction of the highest average precision on real images is taken, however low that is. `amounts` holds "real", which
    alone decides on the matching, and other sources.
    """
    matching, names = match_concepts(amounts["real"], present), np.arange(present.shape[1])
    taken = matching.truth[:, None] == names
    unmatched = ~taken.any(axis=0)
    taken[best_units(amounts["real"], present)[unmatched], names[unmatched]] = True
    return {name: of_images @ taken.astype(np.float64) for name, of_images in amounts.items()}


def best_units(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Int[np.ndarray, "names"]:
    """Return per ground-truth concept the direction of the highest average precision (0 if no image shows it)."""
    return average_precisions(real.tocsc(), present).argmax(axis=0)


def shares_inside(real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> Float[np.ndarray, "k names"]:
    """Return the fraction of each direction's amount on images that show each ground-truth concept; 0 if it never fires."""
    inside = np.asarray((real.T @ sp.csr_matrix(present.astype(np.float64))).todense())
    total = np.asarray(real.sum(axis=0, dtype=np.float64)).ravel()
    return inside / np.maximum(total, np.finfo(float).tiny)[:, None]


def average_precisions(amounts: sp.csc_matrix, present: Bool[np.ndarray, "pairs names"]) -> Float[np.ndarray, "k names"]:
    """Return the average precision of each direction's amount as a detector of each ground-truth concept, ties taken together."""
    shown = present.sum(axis=0)
    found = np.empty((amounts.shape[1], present.shape[1]))
    for unit, (start, end) in enumerate(itertools.pairwise(amounts.indptr)):
        order = np.argsort(-amounts.data[start:end], kind="stable")
        values, hits = amounts.data[start:end][order], present[amounts.indices[start:end][order]]
        ranked = np.searchsorted(-values, -values, side="right")  # number of images with this amount or more
        caught = np.vstack([np.zeros(present.shape[1]), hits.cumsum(axis=0)])[ranked]
        without = (shown - hits.sum(axis=0)) * shown / len(present)  # images without any, tied at 0 after all others
        found[unit] = ((hits * caught / ranked[:, None]).sum(axis=0) + without) / np.maximum(shown, 1)
    return found
