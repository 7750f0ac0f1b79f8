"""The SAE's own errors: concepts whose top images have nothing in common, images and words that the dictionary rebuilds worst.

Shape letters: n images, k concepts, m top images per concept, d features, v words.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from blindspots_lib.analysis.captions import inverse_lengths
from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import ENCODED, TokenCodes
from blindspots_lib.analysis.swaps import adjusted
from blindspots_lib.models.tokens import TokenSource

N_TOP = 10  # top images of a concept that are compared
FEW = 5  # with fewer top images than this a concept is unclear
RANDOM_GROUPS = 2000  # of images, for the level of chance
N_IMAGES = 10  # least number of images with a word, and without it, for the word to be tested
CONCEPTS = 2048  # whose mean vectors are held at a time
Vectors = Float[np.ndarray, "n d"] | sp.csr_matrix  # one row per image, of length 1 or 0


# -- concepts that fire on unrelated images --------------------------------------------------------------------------------


def describe_images(tokens: TokenSource, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
    """Return the `image_descriptor` of each image at `rows`, without what all images have in common: centred, length 1 again."""
    found = np.concatenate([image_descriptor(shard, tokens.layout) for shard in tokens])[rows]
    centred = found - found.mean(axis=0)
    return centred * inverse_lengths(np.square(centred).sum(axis=1))[:, None]


def group_similarity(members: Int[np.ndarray, "k m"], vectors: Vectors) -> Float[np.ndarray, "k"]:
    """Return the mean cosine of two different images of each group: (|sum of vectors|^2 - sum of |vector|^2) / (g (g - 1)).

    A row of `members` holds the g images of one group, filled with -1. A group of fewer than two images gives nan.
    """
    n, result = vectors.shape[0], np.empty(len(members))
    own = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel() if sp.issparse(vectors) else np.square(vectors).sum(axis=1)
    for start in range(0, len(members), CONCEPTS):
        some = members[start : start + CONCEPTS]
        groups, places = np.nonzero(some >= 0)
        chosen = sp.csr_matrix((np.ones(len(groups)), (groups, some[groups, places])), shape=(len(some), n))
        sums, sizes = chosen @ vectors, np.diff(chosen.indptr)
        squares = np.asarray(sums.power(2).sum(axis=1)).ravel() if sp.issparse(sums) else np.square(sums).sum(axis=1)
        pairs = np.where(sizes > 1, sizes * (sizes - 1.0), np.nan)
        result[start : start + CONCEPTS] = (squares - chosen @ own) / pairs
    return result


def similarity_p(
    similarity: Float[np.ndarray, "k"], sizes: Int[np.ndarray, "k"], vectors: Vectors, seed: int
) -> Float[np.ndarray, "k"]:
    """Return per group the chance that as many images, drawn at random, are at least as alike; 1 for fewer than two images."""
    rng, largest = np.random.default_rng(seed), int(sizes.max(initial=0))
    drawn = np.array([rng.choice(vectors.shape[0], largest, replace=False) for _ in range(RANDOM_GROUPS)]).reshape(
        RANDOM_GROUPS, largest
    )
    p = np.ones(len(sizes))
    for size in np.unique(sizes[sizes > 1]).tolist():
        chance, of_size = np.sort(group_similarity(drawn[:, :size], vectors)), sizes == size
        alike = len(chance) - np.searchsorted(chance, similarity[of_size] - 1e-9)
        p[of_size] = (1 + alike) / (1 + len(chance))
    return p


def coherence_table(
    top_images: Int[np.ndarray, "k m"], captions: sp.csr_matrix, descriptors: Float[np.ndarray, "n d"], *, seed: int,
    false_discovery_rate: float = 0.05,
) -> pd.DataFrame:  # fmt: skip
    """Return one row per concept: are its top images more alike than images drawn at random, by caption and by the backbone?

    `top_images` is `ConceptStats.top_ids` of the real images, `captions` are `caption_vectors`, `descriptors` come from
    `describe_images`.

    n_top                            number of top images compared, at most 10
    caption_similarity, _p, _q       mean cosine of two captions; its chance; the same after Benjamini-Hochberg
    image_similarity, _p, _q         the same for image descriptors
    call                             "related" if a q is at most `false_discovery_rate`; "unrelated" if none is; "unclear" for
                                     fewer than five top images
    """
    members = top_images[:, :N_TOP]
    sizes = (members >= 0).sum(axis=1)
    enough = sizes >= FEW
    columns, related = {"concept": np.arange(len(members)), "n_top": sizes}, np.zeros(len(members), bool)
    for name, vectors in (("caption", captions), ("image", descriptors)):
        similarity = group_similarity(members, vectors)
        p = np.where(enough, similarity_p(similarity, sizes, vectors, seed), np.nan)
        q = adjusted(p)
        columns |= {f"{name}_similarity": similarity, f"{name}_p": p, f"{name}_q": q}
        related |= q <= false_discovery_rate
    call = np.where(enough, np.where(related, "related", "unrelated"), "unclear")
    return pd.DataFrame(columns | {"call": call})


# -- what the dictionary misses --------------------------------------------------------------------------------------------


class Rebuilt(NamedTuple):
    """How well an SAE rebuilds the tokens of images."""

    unexplained: Float[np.ndarray, "n"]  # 1 - R2 of each image: 0 is perfect, 1 no better than the mean of all tokens
    r2: float  # over all tokens


def reconstruction_errors(
    tokens: TokenSource, codes: TokenCodes, atoms: Float[np.ndarray, "k d"], rows: Int[np.ndarray, "n"], chosen: slice
) -> Rebuilt:
    """Return |x - x^|^2 / |x - mean|^2 of each image at `rows`, both summed over its `chosen` tokens.

    x^ = z D comes from the codes on disk and the atoms D (k, d). The mean is that of all these tokens. One block of tokens is
    in memory at a time.
    """
    layout, first = tokens.layout, 0
    at_once = max(1, ENCODED // layout.n_tokens)
    left, squares, sums = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros((len(rows), layout.width))
    n_tokens = len(range(*chosen.indices(layout.n_tokens)))
    for shard in tokens:
        places = np.flatnonzero((rows >= first) & (rows < first + len(shard)))
        for some in (places[start : start + at_once] for start in range(0, len(places), at_once)):
            x = np.asarray(shard[rows[some] - first], np.float32)[:, chosen]
            rebuilt = codes.at(rows[some], chosen).matrix(np.float32) @ atoms
            left[some] = np.square(x - rebuilt.reshape(x.shape), dtype=np.float64).sum(axis=(1, 2))
            squares[some] = np.square(x, dtype=np.float64).sum(axis=(1, 2))
            sums[some] = x.sum(axis=1, dtype=np.float64)
        first += len(shard)
    mean = sums.sum(axis=0) / (n_tokens * max(1, len(rows)))
    variance = squares - 2 * sums @ mean + n_tokens * mean @ mean
    tiny = np.finfo(float).tiny
    return Rebuilt(left / np.maximum(variance, tiny), float(1 - left.sum() / max(variance.sum(), tiny)))


def word_errors(unexplained: Float[np.ndarray, "n"], presence: sp.csr_matrix, words: list[str]) -> pd.DataFrame:
    """Return one row per word that enough captions have and lack: are images that go with it rebuilt worse? The worst first.

    `presence` says which captions (n) have which words (v).

    word, n_images   the word, the number of images whose caption has it
    mean, others     mean of 1 - R2 over these images, and over the others
    excess           the difference
    low, high        its 95 % interval (Welch)
    p, q             of no difference; q by Benjamini-Hochberg over all words tested
    """
    from scipy.stats import t as student

    n, presence = len(unexplained), presence.astype(np.float64)
    number = np.asarray(presence.sum(axis=0)).ravel()
    tested = np.flatnonzero((number >= N_IMAGES) & (n - number >= N_IMAGES))
    number, presence = number[tested], presence[:, tested]
    centred = unexplained - unexplained.mean() if n else unexplained
    means, errors = [], []
    for size, total, squares in (
        (number, presence.T @ centred, presence.T @ centred**2),
        (n - number, -(presence.T @ centred), (centred**2).sum() - presence.T @ centred**2),
    ):
        mean = total / size
        means.append(mean)
        errors.append(np.maximum(squares / size - mean**2, 0) / (size - 1))
    excess, variance = means[0] - means[1], np.maximum(errors[0] + errors[1], np.finfo(float).tiny)
    freedom = variance**2 / (errors[0] ** 2 / (number - 1) + errors[1] ** 2 / (n - number - 1) + np.finfo(float).tiny)
    freedom = np.maximum(freedom, 1)
    half, p = student.ppf(0.975, freedom) * np.sqrt(variance), 2 * student.sf(np.abs(excess) / np.sqrt(variance), freedom)
    shift = unexplained.mean() if n else 0.0
    table = pd.DataFrame({
        "word": [words[word] for word in tested], "n_images": number.astype(int), "mean": means[0] + shift,
        "others": means[1] + shift, "excess": excess, "low": excess - half, "high": excess + half, "p": p,
        "q": adjusted(p),
    })  # fmt: skip
    return table.sort_values(["excess", "word"], ascending=[False, True], ignore_index=True)
