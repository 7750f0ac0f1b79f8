"""Datapoint differences: how far each generation is from its real image, and how near to a training image."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.special import expit

from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import TokenCodes
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.storage import open_array
from blindspots_lib.models.tokens import TokenSource

BLOCK = 500  # pairs whose codes are held at a time


def datapoint_delta(generated: sp.csr_matrix, real: sp.csr_matrix) -> Float[np.ndarray, "pairs"]:
    """mean over concepts of sigma(xi_k(x') - xi_k(x)), per pair; neutral at 0.5 and always near it.

    Concepts that fire on neither image count 0.5 each, so only the differing entries are touched. Source: the paper, section 3.
    """
    difference = (generated - real).tocsr()
    excess = difference.copy()
    excess.data = expit(difference.data) - 0.5
    return 0.5 + np.asarray(excess.sum(axis=1)).ravel() / real.shape[1]


def energy_distance(generated: sp.csr_matrix, real: sp.csr_matrix) -> Float[np.ndarray, "pairs"]:
    """||xi(x') - xi(x)||_2 per pair: 0 only if every concept has the same energy in both images."""
    return np.sqrt(np.asarray((generated - real).power(2).sum(axis=1)).ravel())


def distance_in_place(
    generated: TokenCodes, real: TokenCodes, generated_rows: Int[np.ndarray, "pairs"], real_rows: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs"]:
    """||z(x') - z(x)||_2 per pair, over all patches: 0 only if every patch has the same codes in both images.

    Energies forget where things stand, so that a good drawing of the same things is as near as a copy; codes do not.
    """
    parts = []
    for block in np.array_split(np.arange(len(real_rows)), -(-len(real_rows) // BLOCK)):
        difference = generated.patch_codes(generated_rows[block]) - real.patch_codes(real_rows[block])
        parts.append(np.asarray(difference.power(2).sum(axis=1)).reshape(len(block), -1).sum(axis=1))
    return np.sqrt(np.concatenate(parts))


class Neighbours(NamedTuple):
    """The nearest training image of each image."""

    similarity: Float[np.ndarray, "n"]  # cosine, 1 for a copy
    index: Int[np.ndarray, "n"]  # in the training corpus


def nearest_training_images(tokens: TokenSource, corpus: Artifact, rows: Int[np.ndarray, "n"]) -> Neighbours:
    """Exact search by `image_descriptor` over the whole training corpus, for the images at `rows`."""
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
    """One row a pair and model; `energies` and `neighbours` hold "real" too (the level of images nobody copied).

    `in_place` are the models' distances in place.
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


def extreme_pairs(table: pd.DataFrame, model: str, n: int, column: str = "energy_distance") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The n pairs with the least and the n with the greatest difference of one model, most extreme first."""
    rows = table[table["model"] == model].sort_values([column, "pair_id"])
    return rows.head(n), rows.tail(n).iloc[::-1]


class Excess(NamedTuple):
    """How many generations are nearer to a training image than almost all real images are."""

    share: float
    low: float  # 95 %, Wilson's interval for a share
    high: float
    chance: float  # the share of real images that are as near


def nearer_than_real(table: pd.DataFrame, model: str, chance: float = 0.01) -> Excess:
    """Share of a model's generations above the similarity that the share `chance` of real images exceeds, by unseen ones."""
    from scipy.stats import binomtest

    threshold = table.drop_duplicates("pair_id")["training_similarity_real"].quantile(1 - chance)
    similarity = table.loc[table["model"] == model, "training_similarity"]
    result = binomtest(int((similarity > threshold).sum()), len(similarity))
    interval = result.proportion_ci(method="wilson")
    return Excess(float(result.statistic), float(interval.low), float(interval.high), chance)
