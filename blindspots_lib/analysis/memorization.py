"""Datapoint differences: how far each generated image is from its real image, whether it copies it or a training image."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from blindspots_lib.analysis.captions import inverse_lengths, nearest_captions
from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import BLOCK, TokenCodes
from blindspots_lib.analysis.statistics import blocks_of, image_energies
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.storage import open_array
from blindspots_lib.models.tokens import TokenSource

NEAREST = 8  # captions whose images are compared with an image; chosen on other captions than those of the trial
TEMPLATE = 0.9  # similarity in place from which two real images are the same template


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


def similarity_in_place(
    generated: TokenCodes, real: TokenCodes, generated_rows: Int[np.ndarray, "pairs"], real_rows: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs"]:
    """Return the cosine of z(x') and z(x) per pair, over all patches: 1 for a copy, 0 if no patch has a concept in common.

    Unlike `distance_in_place` it does not grow with the strength of the codes. An image without codes gives 0.
    """
    distance = distance_in_place(generated, real, generated_rows, real_rows)
    return cosine_of(distance, lengths_in_place(generated, generated_rows), lengths_in_place(real, real_rows))


def cosine_of(
    distance: Float[np.ndarray, "n"], own: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return the cosine of vectors that are >= 0, from their distance and their lengths; 0 if one of them is 0."""
    product = (own**2 + other**2 - distance**2) / 2
    return np.clip(np.divide(product, own * other, out=np.zeros(len(own)), where=own * other > 0), 0, 1)


def lengths_in_place(codes: TokenCodes, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return ||z(x)||_2 over all patches of each image."""
    parts = []
    for block in blocks_of(codes.sizes(rows), BLOCK):
        squares = np.asarray(codes.patch_codes(rows[block]).power(2).sum(axis=1), np.float64)
        parts.append(squares.reshape(block.stop - block.start, -1).sum(axis=1))
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


class Copies(NamedTuple):
    """Which generated images copy their real image: one entry per pair."""

    similarity: Float[np.ndarray, "pairs"]  # of x' and x in place
    null: Float[np.ndarray, "pairs"]  # how similar x and other real images of similar captions are: see `similar_captions_null`
    p: Float[np.ndarray, "pairs"]  # fraction of pairs whose `null` is at least `similarity`, counting the pair itself
    call: Shaped[np.ndarray, "pairs"]  # "copy" or ""
    group: Int[np.ndarray, "pairs"]  # copies of one template have the same number, from 1 (the largest group); 0: no copy


def similar_captions_null(
    real: TokenCodes, rows: Int[np.ndarray, "pairs"], captions: sp.csr_matrix
) -> Float[np.ndarray, "pairs"]:
    """Return how similar each real image is to images of similar captions that nobody copied: its greatest similarity in place.

    Each image is compared with those of the `NEAREST` captions (`captions` are `caption_vectors`). Their wording differs, so
    they are less similar than images of the same caption would be. The slope b of the similarity on the captions' cosine,
    within images, corrects for this: b (1 - cosine) is added if b > 0. Images that are the same template (similarity from
    `TEMPLATE` on) are left out, so that they can be found as copies. With fewer than two pairs the null is 1.
    """
    nearest = nearest_captions(captions, NEAREST)
    if not nearest.size:
        return np.ones(len(rows))
    lengths, similarity, cosine = lengths_in_place(real, rows), np.empty(nearest.shape), np.empty(nearest.shape)
    for place, others in enumerate(nearest.T):
        distance = distance_in_place(real, real, rows[others], rows)
        similarity[:, place] = cosine_of(distance, lengths[others], lengths)
        cosine[:, place] = np.asarray(captions.multiply(captions[others]).sum(axis=1)).ravel()
    ordinary = similarity < TEMPLATE
    mean = (cosine * ordinary).sum(axis=1, keepdims=True) / ordinary.sum(axis=1, keepdims=True).clip(1)
    spread = np.where(ordinary, cosine - mean, 0.0)
    slope = (similarity * spread).sum() / max((spread**2).sum(), np.finfo(float).tiny)
    return np.where(ordinary, similarity + max(slope, 0.0) * (1 - cosine), 0.0).max(axis=1)


def plainness(codes: TokenCodes, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return how similar each image is in place to itself with its patches shuffled, on average over all orders.

    That is |sum of z over patches|^2 / (number of patches * sum of |z|^2): 1 for an image of one colour, 0 without codes.
    """
    summed = []
    for block in blocks_of(codes.sizes(rows), BLOCK):
        summed.append(image_energies(codes.at(rows[block], codes.layout.patches)).power(2).sum(axis=1, dtype=np.float64))
    squares = codes.layout.patches_per_side**2 * lengths_in_place(codes, rows) ** 2
    return np.divide(np.asarray(np.concatenate(summed)).ravel(), squares, out=np.zeros(len(rows)), where=squares > 0)


def find_copies(
    generated: TokenCodes, real: TokenCodes, generated_rows: Int[np.ndarray, "pairs"], real_rows: Int[np.ndarray, "pairs"],
    null: Float[np.ndarray, "pairs"], false_positive_rate: float = 0.01,
) -> Copies:  # fmt: skip
    """Call the generated images that are nearer to their real image than images of similar captions are.

    `null` comes from `similar_captions_null`. A pair is called a copy if p is at most `false_positive_rate` and its similarity
    is above its own `null` and above the `plainness` of its real image, so that what any image would resemble is not called.
    With fewer than 1 / rate - 1 pairs nothing is called.
    """
    similarity = similarity_in_place(generated, real, generated_rows, real_rows)
    above = len(null) - np.searchsorted(np.sort(null), similarity)
    p = (1 + above) / (1 + len(null))
    ordinary = np.maximum(null, plainness(real, real_rows))
    called = np.flatnonzero((p <= false_positive_rate) & (similarity > ordinary))
    call, group = np.full(len(null), "", object), np.zeros(len(null), int)
    call[called] = "copy"
    if len(called):
        level = np.quantile(null, 1 - false_positive_rate)
        alike = similarities_in_place(generated, generated_rows[called]) > level - 1e-6
        group[called] = numbered_groups(alike)
    return Copies(similarity, null, p, call, group)


def similarities_in_place(codes: TokenCodes, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n n"]:
    """Return `similarity_in_place` of every two of n images."""
    parts = []
    for block in blocks_of(codes.sizes(rows), BLOCK):
        patches = codes.patch_codes(rows[block]).tocoo()
        n = block.stop - block.start
        per_image = patches.shape[0] // n
        columns = patches.col.astype(np.int64) + patches.row.astype(np.int64) % per_image * codes.n_concepts
        shape = (n, per_image * codes.n_concepts)
        parts.append(sp.csr_matrix((patches.data.astype(np.float64), (patches.row // per_image, columns)), shape=shape))
    images = sp.vstack(parts, format="csr")
    images = sp.diags(inverse_lengths(np.asarray(images.power(2).sum(axis=1)).ravel())) @ images
    return (images @ images.T).toarray()


def numbered_groups(alike: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """Return the number of the group of each of n images, from 1, the largest group first; alike images share a group."""
    _, group = connected_components(sp.csr_matrix(alike), directed=False)
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    number = np.empty(len(sizes), int)
    number[np.lexsort((first, -sizes))] = np.arange(1, len(sizes) + 1)
    return number[group]


def datapoint_table(
    pair_ids: list[str], energies: dict[str, sp.csr_matrix], in_place: dict[str, Float[np.ndarray, "pairs"]],
    neighbours: dict[str, Neighbours], copies: dict[str, Copies], fit: Float[np.ndarray, "pairs"],
) -> pd.DataFrame:  # fmt: skip
    """Return one row per pair and model, with the measures of this module.

    `energies` and `neighbours` hold "real" and every model; real images give the similarity of images that nobody copied.
    `in_place` holds each model's `distance_in_place`, `copies` its `find_copies`; `fit` is the `caption_fit` of each pair.
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
        columns |= {f"copy_{name}": values for name, values in copies[model]._asdict().items()}
        parts.append(pd.DataFrame(columns | {"caption_fit": fit}))
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
