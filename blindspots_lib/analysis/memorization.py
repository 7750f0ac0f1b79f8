"""Datapoint differences: how far each generated image is from its real image, and how near to a training image."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.special import expit

from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import BLOCK, TokenCodes
from blindspots_lib.analysis.statistics import blocks_of
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.storage import open_array
from blindspots_lib.models.tokens import TokenSource


def datapoint_delta(generated: sp.csr_matrix, real: sp.csr_matrix) -> Float[np.ndarray, "pairs"]:
    """Return the mean over concepts of sigma(xi_k(x') - xi_k(x)) per pair, from energies (pairs, k); 0.5 is neutral.

    A concept that fires on neither image counts 0.5, so values lie near 0.5 and only nonzero differences are computed.
    Source: the paper, section 3.
    """
    excess = (generated - real).tocsr()
    excess.data = expit(excess.data) - 0.5
    return 0.5 + np.asarray(excess.sum(axis=1)).ravel() / real.shape[1]


def energy_distance(generated: sp.csr_matrix, real: sp.csr_matrix) -> Float[np.ndarray, "pairs"]:
    """Return ||xi(x') - xi(x)||_2 per pair: 0 only if every concept has the same energy in both images."""
    return np.sqrt(np.asarray((generated - real).power(2).sum(axis=1)).ravel())


def distance_in_place(
    generated: TokenCodes, real: TokenCodes, generated_rows: Int[np.ndarray, "pairs"], real_rows: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs"]:
    """Return ||z(x') - z(x)||_2 per pair, over all patches: 0 only if every patch has the same codes in both images.

    Unlike energies, codes keep positions: a copy is nearer than a good image of the same things elsewhere.
    """
    parts = []
    for block in blocks_of(generated.sizes(generated_rows) + real.sizes(real_rows), BLOCK):
        difference = generated.patch_codes(generated_rows[block]) - real.patch_codes(real_rows[block])
        parts.append(np.asarray(difference.power(2).sum(axis=1)).reshape(block.stop - block.start, -1).sum(axis=1))
    return np.sqrt(np.concatenate(parts))


class Neighbours(NamedTuple):
    """The nearest training image of each image."""

    similarity: Float[np.ndarray, "n"]  # cosine, 1 for a copy
    index: Int[np.ndarray, "n"]  # in the training corpus


def nearest_training_images(tokens: TokenSource, corpus: Artifact, rows: Int[np.ndarray, "n"]) -> Neighbours:
    """Find the nearest training image of each image at `rows`: an exact search by `image_descriptor` over the whole corpus."""
    import faiss

    queries = np.concatenate([image_descriptor(shard, tokens.layout) for shard in tokens])[rows]
    index = faiss.IndexFlatIP(queries.shape[1])
    for path in sorted(corpus.folder.glob("shard-*.npy")):
        index.add(np.ascontiguousarray(open_array(path), dtype=np.float32))
    similarity, neighbours = index.search(np.ascontiguousarray(queries, dtype=np.float32), 1)
    return Neighbours(similarity[:, 0], neighbours[:, 0])


def datapoint_table(
    pair_ids: list[str], energies: dict[str, sp.csr_matrix], in_place: dict[str, Float[np.ndarray, "pairs"]],
    neighbours: dict[str, Neighbours],
) -> pd.DataFrame:  # fmt: skip
    """Return one row per pair and model, with the measures of this module.

    `energies` and `neighbours` hold "real" and every model; real images give the similarity of images that nobody copied.
    `in_place` holds each model's `distance_in_place`.
    """
    parts = []
    for model, matrix in energies.items():
        if model == "real":
            continue
        columns = {
            "pair_id": pair_ids, "model": model, "datapoint_delta": datapoint_delta(matrix, energies["real"]),
            "energy_distance": energy_distance(matrix, energies["real"]), "distance_in_place": in_place[model],
        }  # fmt: skip
        if neighbours:
            columns |= {"training_similarity": neighbours[model].similarity, "training_index": neighbours[model].index,
                        "training_similarity_real": neighbours["real"].similarity}  # fmt: skip
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def extreme_pairs(table: pd.DataFrame, model: str, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the n pairs with the least and the n with the greatest energy distance of one model, most extreme first."""
    rows = table[table["model"] == model].sort_values(["energy_distance", "pair_id"])
    return rows.head(n), rows.tail(n).iloc[::-1]


class Excess(NamedTuple):
    """Fraction of generated images that are nearer to a training image than almost all real images are."""

    share: float
    low: float  # 95 % interval by Wilson
    high: float
    chance: float  # fraction of real images that are as near


def nearer_than_real(table: pd.DataFrame, model: str, chance: float = 0.01) -> Excess:
    """Return the fraction of a model's images above the similarity that only a fraction `chance` of real images exceeds."""
    from scipy.stats import binomtest

    threshold = table.drop_duplicates("pair_id")["training_similarity_real"].quantile(1 - chance)
    similarity = table.loc[table["model"] == model, "training_similarity"]
    result = binomtest(int((similarity > threshold).sum()), len(similarity))
    interval = result.proportion_ci(method="wilson")
    return Excess(float(result.statistic), float(interval.low), float(interval.high), chance)
