"""A linear probe that is trained on what covers every patch: what do the backbone's patch tokens say about concepts?

It is an upper bound, not a rival, since nobody knows this of their own images. If the probe misses a ground-truth concept,
the backbone does not represent it. If the probe finds it and the SAE does not, the SAE has lost it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.projection import embed_dictionary
from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scene_pairs import place_of
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS, patch_owners
from blindspots_lib.models.tokens import TokenSource

FOLDS = 5
SHRINKAGE = 1e-3  # of the covariance within classes, so that it is invertible


def patch_labels(
    config: ScenePairs, rows: Int[np.ndarray, "pairs"], present: Bool[np.ndarray, "pairs names"], patches_per_side: int
) -> Int[np.ndarray, "pairs t"]:
    """Return what covers each patch of the real images at `rows`: an object or a background, as its index in `NAMES`."""
    owners = owners_of_patches(config, rows, patches_per_side).astype(np.int64)
    backgrounds = len(OBJECTS) + present[:, len(OBJECTS) : len(OBJECTS) + len(BACKGROUNDS)].argmax(axis=1)
    return np.where(owners >= 0, owners, backgrounds[:, None])


def probe_amounts(
    tokens: Mapping[str, Float[np.ndarray, "pairs t d"]], labels: Int[np.ndarray, "pairs t"], n_labels: int, seed: int
) -> dict[str, sp.csr_matrix]:
    """Return how much of each image every label covers: the sum over its patches of P(label | token), (pairs, labels).

    P comes from a linear discriminant analysis of the tokens of "real". Each pair, real or generated, is judged by a fit to
    other pairs; a label that those do not show has amount 0.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fold_of = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    found = {source: np.zeros((len(labels), n_labels)) for source in tokens}
    for fold in range(FOLDS):
        held = fold_of == fold
        fitted_to = tokens["real"][~held].reshape(labels[~held].size, -1).astype(np.float32)
        probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(fitted_to, labels[~held].ravel())
        for source, of_source in tokens.items():
            n, t, d = of_source[held].shape
            covers = probe.predict_proba(of_source[held].reshape(n * t, d).astype(np.float32))
            found[source][np.ix_(held, probe.classes_)] = covers.reshape(n, t, -1).sum(axis=1)
    return {source: sp.csr_matrix(amounts) for source, amounts in found.items()}


def owners_of_patches(
    config: ScenePairs, positions: Int[np.ndarray, "pairs"], patches_per_side: int
) -> Int[np.ndarray, "pairs patches"]:
    """Return the object (index into OBJECTS) that covers each patch of the real images of these pairs, or -1."""
    return np.stack([patch_owners(*place_of(config, int(position)), patches_per_side) for position in positions])


class OwnedTokens(NamedTuple):
    """Single patch tokens whose object is known."""

    places: Float[np.ndarray, "m 2"]  # on the UMAP
    owners: list[str]  # the object that covers each token
    accuracy: float  # fraction of tokens whose most similar token (cosine) in another image lies on the same object


def owned_tokens(
    real: TokenSource, owners: Int[np.ndarray, "n patches"], names: list[str], n_objects: int, seed: int, per_object: int = 80
) -> OwnedTokens:
    """Map patch tokens of the `n_objects` most frequent objects, at most `per_object` each, on the plane.

    `owners` gives the index in `names` of the object that covers each patch of the n real images, -1 for none.
    """
    frequent = np.argsort(-np.bincount(owners[owners >= 0], minlength=len(names)), kind="stable")[:n_objects]
    rng = np.random.default_rng(seed)
    places = [rng.permutation(np.argwhere(owners == kind))[:per_object] for kind in frequent]
    image, patch = np.concatenate(places).T
    tokens = real.at(image)[np.arange(len(image)), real.layout.patches.start + patch].astype(np.float32)
    kinds = owners[image, patch]
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    similarity = np.where(image[:, None] == image[None], -np.inf, unit @ unit.T)
    accuracy = float((kinds == kinds[similarity.argmax(axis=1)]).mean())
    return OwnedTokens(embed_dictionary(tokens, seed=seed), [names[kind] for kind in kinds], accuracy)
