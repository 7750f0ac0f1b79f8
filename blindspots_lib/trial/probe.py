"""A linear probe that is trained on what covers every patch: what do the backbone's patch tokens say about concepts?

It is an upper bound, not a rival, since nobody knows this of their own images. If the probe misses a ground-truth concept,
the backbone does not represent it. If the probe finds it and the SAE does not, the SAE has lost it.
"""

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scene_pairs import owners_of_patches
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS

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
