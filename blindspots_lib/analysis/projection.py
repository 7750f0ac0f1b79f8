"""Maps of atoms or tokens in the plane by UMAP, and patch tokens whose object is known."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.topk import top_products

NEIGHBOURS = 15  # of an atom on a map


def embed_dictionary(atoms: Float[np.ndarray, "k d"], seed: int) -> Float[np.ndarray, "k 2"]:
    """Return the UMAP of atoms by cosine distance, from exact neighbours, in one thread so that the seed decides it."""
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
