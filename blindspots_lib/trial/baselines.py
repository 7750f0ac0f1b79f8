"""Baselines: other methods on the same tokens, and the usual global scores.

A method turns the patch tokens of an image into non-negative amounts of its directions, as the SAE turns them into energies of
concepts. Matching, delta and detection are the same for all methods. Global scores say how different two sets of images are,
but not in which concept.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from blindspots_lib.core.config import SAEConfig
from blindspots_lib.models.tokens import TokenSource

Amounts = Callable[[Float[np.ndarray, "b t d"]], sp.csr_matrix]  # patch tokens -> (b, directions)


def both_ways(along: Float[np.ndarray, "b t u"]) -> sp.csr_matrix:
    """Return the sums over tokens of the projections on each direction, positive and negative ones separately: (b, 2 u)."""
    return sp.csr_matrix(np.concatenate([np.maximum(along, 0).sum(axis=1), np.maximum(-along, 0).sum(axis=1)], axis=1))


def raw_features(sample: Float[np.ndarray, "n d"]) -> Amounts:
    """Return amounts of the backbone's own features, centred."""
    middle = sample.mean(axis=0)
    return lambda tokens: both_ways(tokens - middle)


def principal_components(sample: Float[np.ndarray, "n d"]) -> Amounts:
    """Return amounts of all principal axes of the tokens."""
    middle, (_, axes) = sample.mean(axis=0), np.linalg.eigh(np.cov(sample, rowvar=False))
    axes = axes.astype(sample.dtype)
    return lambda tokens: both_ways((tokens - middle) @ axes)


def clusters(centroids: Float[np.ndarray, "n d"]) -> Amounts:
    """Return the numbers of tokens in each k-means cell: the bins of NDB (Richardson & Weiss, 2018)."""
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))

    def count(tokens: Float[np.ndarray, "b t d"]) -> sp.csr_matrix:
        b, t, d = tokens.shape
        nearest = index.search(np.ascontiguousarray(tokens.reshape(-1, d), np.float32), 1)[1][:, 0]
        counts = sp.coo_matrix((np.ones(b * t), (np.repeat(np.arange(b), t), nearest)), shape=(b, len(centroids)))
        return counts.tocsr()

    return count


def random_dictionary(sample: Float[np.ndarray, "n d"], n: int, k: int, seed: int) -> Amounts:
    """Return the k largest products of a centred token with n random directions of length 1."""
    rng = np.random.default_rng(seed)
    middle, directions = sample.mean(axis=0), rng.standard_normal((n, sample.shape[1])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def strongest(tokens: Float[np.ndarray, "b t d"]) -> sp.csr_matrix:
        import torch

        from blindspots_lib.sae.topk import top_products

        b, t, d = tokens.shape
        flat = torch.from_numpy((tokens - middle).reshape(-1, d).astype(np.float32))
        found = top_products(flat, torch.from_numpy(directions), torch.zeros(n), k)
        owners = np.repeat(np.arange(b), t * k)
        values = found.values.clamp_min(0).numpy().ravel()
        return sp.coo_matrix((values, (owners, found.indices.numpy().ravel())), shape=(b, n)).tocsr()

    return strongest


def rivals(
    config: SAEConfig, sample: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "c d"], seed: int
) -> dict[str, Amounts]:
    """Return the methods that the SAE is compared with, by their names in figures.

    Each has as many directions as the SAE, where the number can be chosen. The centroids of k-means are the `candidates` at
    which the SAE's atoms start.
    """
    return {
        "k-means": clusters(candidates),
        "random dictionary": random_dictionary(sample, config.n_concepts, config.top_k, seed),
        "PCA": principal_components(sample),
        "raw features": raw_features(sample),
    }


def amounts_of(source: TokenSource, amounts: Amounts) -> sp.csr_matrix:
    """Return the amounts in all images of a source, (images, directions)."""
    patches = source.layout.patches
    return sp.vstack([amounts(np.asarray(shard[:, patches], np.float32)) for shard in source], format="csr")


class GlobalScores(NamedTuple):
    """Global scores of two sets of images; none names a concept."""

    frechet_distance: float  # of Gaussians fitted to the images' features; 0 for equal sets
    precision: float  # fraction of generated images within the real ones' neighbourhoods
    recall: float  # fraction of real images within the generated ones' neighbourhoods
    density: float
    coverage: float


def global_scores(real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], k: int = 5) -> GlobalScores:
    """Return FD (Heusel et al. 2017), precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020)."""
    from sklearn.metrics import pairwise_distances

    covariances = [np.cov(features, rowvar=False) for features in (real, generated)]
    spread, axes = np.linalg.eigh(covariances[0])
    root = axes * np.sqrt(np.maximum(spread, 0))  # root root^T is the first covariance; tr (A B)^1/2 = tr (root^T B root)^1/2
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ covariances[1] @ root), 0)).sum()
    distance = np.square(real.mean(axis=0) - generated.mean(axis=0)).sum() + sum(map(np.trace, covariances)) - 2 * mixed
    across = pairwise_distances(real, generated)
    within = [np.partition(pairwise_distances(features), k, axis=1)[:, k] for features in (real, generated)]
    inside = across <= within[0][:, None]
    return GlobalScores(
        float(distance), float(inside.any(axis=0).mean()), float((across <= within[1][None]).any(axis=1).mean()),
        float(inside.sum(axis=0).mean() / k), float(inside.any(axis=1).mean()),
    )  # fmt: skip
