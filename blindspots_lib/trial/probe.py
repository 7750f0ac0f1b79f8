"""What the backbone's patch tokens tell of true concepts: a linear probe that is told what covers every patch.

It is no rival, since nobody is told that of models of their own. It says how much any dictionary over the same tokens could
find: what the probe misses the backbone does not show, what it finds and the SAE misses the SAE has lost.
"""

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scene_pairs import owners_of_patches
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS

FOLDS = 5
SHRINKAGE = 1e-3  # of the covariance within classes, which keeps it invertible


def patch_labels(
    config: ScenePairs, rows: Int[np.ndarray, "pairs"], present: Bool[np.ndarray, "pairs names"], patches_per_side: int
) -> Int[np.ndarray, "pairs t"]:
    """What covers each patch of the real images at `rows`: an object, as a place in OBJECTS, or what follows, the background."""
    owners = owners_of_patches(config, rows, patches_per_side).astype(np.int64)
    backgrounds = len(OBJECTS) + present[:, len(OBJECTS) : len(OBJECTS) + len(BACKGROUNDS)].argmax(axis=1)
    return np.where(owners >= 0, owners, backgrounds[:, None])


def probe_amounts(
    tokens: Mapping[str, Float[np.ndarray, "pairs t d"]], labels: Int[np.ndarray, "pairs t"], n_labels: int, seed: int
) -> dict[str, sp.csr_matrix]:
    """How much of each image every label covers: the sum over its patches of P(label | token), (pairs, labels).

    P is of a linear discriminant analysis fitted to the tokens of "real". Each pair, real or generated, is judged by one
    that was fitted to other pairs. A label that these do not show has amount 0.
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
