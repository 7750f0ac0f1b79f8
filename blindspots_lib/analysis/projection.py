"""Maps of atoms or tokens in the plane by UMAP, and patch tokens whose object is known."""

import warnings

import numpy as np
import torch
from jaxtyping import Float

from blindspots_lib.sae.topk import top_products

NEIGHBOURS = 15  # of an atom on a map


def embed_dictionary(atoms: Float[np.ndarray, "k d"], seed: int) -> Float[np.ndarray, "k 2"]:
    """Return the UMAP of atoms by cosine distance, from exact neighbours, in one thread so that the seed decides it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)  # for a kind of UMAP that is not used
        import umap

    unit = torch.nn.functional.normalize(torch.from_numpy(atoms), dim=1)
    alike = top_products(unit, unit, torch.zeros(len(unit)), min(NEIGHBOURS, len(unit)))
    own = alike.indices == torch.arange(len(unit))[:, None]
    neighbours = alike.indices.numpy(), (1 - alike.values).clamp(min=0).masked_fill(own, 0).numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn", UserWarning)  # new points could not be added; none are
        layout = umap.UMAP(
            n_neighbors=NEIGHBOURS, min_dist=0.25, metric="cosine", precomputed_knn=neighbours, random_state=seed, n_jobs=1
        )
        return layout.fit_transform(atoms)
