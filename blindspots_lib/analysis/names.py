"""Names of concepts: the words of captions that go with them, chosen on one half of the pairs and checked on the other.

Shape letters: k concepts (or families), w words, e combinations of a concept and a word. Energies are SciPy CSR matrices
(pairs, k).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.delta import column_sums
from blindspots_lib.analysis.statistics import blocks_of
from blindspots_lib.analysis.words import Vocabulary, caption_words

FALSE_NAMES = 0.02  # fraction of concepts that may get a name when captions are permuted
N_NULL, MOST_PERMUTATIONS = 20_000, 100  # associations of permuted captions that decide on the levels; permutations at most
STRATUM = 200  # concepts of similar frequency that share a level
TEMPERATURE, SOFT = 0.1, 0.99  # of CLIP's cosines; probability that an image on which a concept fires shows it
ROWS, WORDS = 4096, 512  # concepts and words whose scores by CLIP are in memory at a time
ENTRIES = 2**22  # entries of the table of concepts and words in memory at a time


class Choices(NamedTuple):
    """Combinations of a concept and a word."""

    concepts: Int[np.ndarray, "e"]
    words: Int[np.ndarray, "e"]


class Scores(NamedTuple):
    """How well each word fits its concept."""

    lift: Float[np.ndarray, "e"]  # average precision over the base rate; 1: no better than chance
    r: Float[np.ndarray, "e"]  # Pearson correlation of the energy with the word's presence


class ClipVocabulary(NamedTuple):
    """Words that may become names by CLIP, their vectors and those of the real images, all of length 1."""

    words: list[str]
    vectors: Float[np.ndarray, "w d"]
    images: Float[np.ndarray, "pairs d"]


class Entries(NamedTuple):
    """Images that the concepts of choices fire on, one after another."""

    choice: Int[np.ndarray, "f"]  # number of the choice
    energy: Float[np.ndarray, "f"]
    hits: Bool[np.ndarray, "f"]  # whether the caption has the choice's word


def name_concepts(real: sp.csr_matrix, captions: list[str], seed: int) -> pd.DataFrame:
    """Return the names of concepts, from the energies of the real images, (pairs, k), and their captions.

    The pairs are split in two at random. On one half the word or phrase with the strongest `association` is chosen, on the other
    it is scored. It becomes the name if its association there is above what names reach that were chosen in the same way from
    captions permuted over the images (`acceptance_levels`). One row per concept, with these columns:

    - name: a word or a phrase of two words; "" if none fits;
    - lift: average precision of the energy as a detector of the word, over the word's base rate; nan if unnamed;
    - r: Pearson correlation of the energy with the word's presence; nan if unnamed.
    """
    return name_by_vocabulary(real, caption_words(captions), seed)


def name_by_vocabulary(real: sp.csr_matrix, vocabulary: Vocabulary, seed: int) -> pd.DataFrame:
    """Return what `name_concepts` returns, for a vocabulary that is at hand."""
    n_pairs, n_concepts = real.shape
    rng, presence = np.random.default_rng([seed, 7]), vocabulary.presence
    first, second = split_pairs(n_pairs, rng)
    learned, checked = real[first].tocsc(), real[second].tocsc()

    def try_names(rows: Int[np.ndarray, "n"]) -> tuple[Choices, Float[np.ndarray, "k"]]:
        choices = choose_words(learned, presence[rows[first]])
        found = associations(checked, presence[rows[second]], choices)
        return choices, place(found, choices.concepts, n_concepts, 0.0)

    choices, strength = try_names(np.arange(n_pairs))
    n_permutations = min(-(-N_NULL // max(n_concepts, 1)), MOST_PERMUTATIONS)
    null = np.array([try_names(rng.permutation(n_pairs))[1] for _ in range(n_permutations)])
    named = strength > acceptance_levels(null, checked.getnnz(axis=0))
    lift, r = (place(s, choices.concepts, n_concepts, np.nan) for s in score_words(checked, presence[second], choices))
    word = place(choices.words, choices.concepts, n_concepts, -1)
    names = np.array([*vocabulary.words, ""], object)[np.where(named, word, -1)]
    return pd.DataFrame({"name": names, "lift": np.where(named, lift, np.nan), "r": np.where(named, r, np.nan)})


def score_names(real: sp.csr_matrix, captions: list[str], names: list[str], seed: int) -> pd.DataFrame:
    """Return lift and r, as in `name_concepts` and on the same half of the pairs, of names that are known: those of families."""
    vocabulary = caption_words(captions)
    position = {word: number for number, word in enumerate(vocabulary.words)}
    concepts = np.array([concept for concept, name in enumerate(names) if name in position], np.int64)
    choices = Choices(concepts, np.array([position[names[concept]] for concept in concepts], np.int64))
    second = split_pairs(real.shape[0], np.random.default_rng([seed, 7]))[1]
    scores = score_words(real[second].tocsc(), vocabulary.presence[second], choices)
    lift, r = (place(score, concepts, real.shape[1], np.nan) for score in scores)
    return pd.DataFrame({"lift": lift, "r": r})


def split_pairs(n_pairs: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, "n1"], Int[np.ndarray, "n2"]]:
    """Return the positions of the pairs on which names are chosen, and of those on which they are scored: random halves."""
    order = rng.permutation(n_pairs)
    return np.sort(order[: n_pairs // 2]), np.sort(order[n_pairs // 2 :])


def place(values: np.ndarray, concepts: Int[np.ndarray, "e"], n_concepts: int, other: float | int) -> np.ndarray:
    """Return an array over all concepts with these values at these concepts, and `other` elsewhere."""
    placed = np.full(n_concepts, other, values.dtype)
    placed[concepts] = values
    return placed


def choose_words(columns: sp.csc_matrix, presence: sp.csr_matrix) -> Choices:
    """Choose the word with the strongest positive `association` for each concept; none if no caption of its images has one."""
    n_words, chosen = np.diff(presence.indptr), []
    products = column_sums(columns.astype(bool).multiply(n_words[:, None])).astype(np.int64)
    for block in blocks_of(products, ENTRIES):
        both = count_both(columns[:, block], presence).tocoo()
        concepts, words = both.row.astype(np.int64), both.col.astype(np.int64)
        fires, has = columns[:, block].getnnz(axis=0), presence.getnnz(axis=0)
        strength = association(both.data, fires[concepts], has[words], columns.shape[0])
        best = first_of_each(concepts, -strength)
        best = best[strength[best] > 0]
        chosen.append(Choices(concepts[best] + block.start, words[best]))
    return Choices(*(np.concatenate(arrays) for arrays in zip(*chosen, strict=True)))


def count_both(columns: sp.csc_matrix, presence: sp.csr_matrix) -> sp.csr_matrix:
    """Count the images on which a concept fires and whose caption has a word, sparse (k, w)."""
    fires = columns.T.tocsr().astype(bool).astype(np.int64)
    return fires @ presence.astype(np.int64)


def associations(columns: sp.csc_matrix, presence: sp.csr_matrix, choices: Choices) -> Float[np.ndarray, "e"]:
    """Return the `association` of each choice's concept and word on these images."""
    entries, size = entries_of(columns, presence, choices), len(choices.words)
    both = np.bincount(entries.choice, entries.hits, size)
    fires, has = columns.getnnz(axis=0)[choices.concepts], presence.getnnz(axis=0)[choices.words]
    return association(both, fires, has, columns.shape[0])


def association(
    both: Float[np.ndarray, "e"] | Int[np.ndarray, "e"], fires: Int[np.ndarray, "e"], has: Int[np.ndarray, "e"], n: int
) -> Float[np.ndarray, "e"]:
    """Return how surely a concept and a word go together on n images: the signed root of the log-likelihood ratio.

    Images are counted, not words or energies: `both` of them have the word among those on which the concept `fires`, `has` have
    it in all. With O the four counts of the table (fires or not, has the word or not) and E those expected by chance,

        G = sign(O_11 - E_11) sqrt(2 sum O log(O / E)).

    Source: Dunning (1993), Accurate methods for the statistics of surprise and coincidence. It stays right for words that are
    rare, and for a concept that fires on all images of a word and on no other.
    """
    observed = np.stack([both, fires - both, has - both, n - fires - has + both]).astype(np.float64)
    expected = np.stack([fires * has, fires * (n - has), (n - fires) * has, (n - fires) * (n - has)]) / max(n, 1)
    ratio = np.divide(observed, expected, out=np.ones_like(observed), where=observed > 0)
    total = 2 * (observed * np.log(ratio)).sum(axis=0)
    return np.sign(observed[0] - expected[0]) * np.sqrt(np.maximum(total, 0))


def first_of_each(concepts: Int[np.ndarray, "e"], order: Float[np.ndarray, "e"]) -> Int[np.ndarray, "c"]:
    """Return where the least value of `order` stands per concept, the first one among equals; sorted by concept."""
    position = np.lexsort((order, concepts))
    return position[np.unique(concepts[position], return_index=True)[1]]


def score_words(columns: sp.csc_matrix, presence: sp.csr_matrix, choices: Choices) -> Scores:
    """Score chosen words on images by their captions, from the energies (images, k)."""
    return Scores(lifts(columns, presence, choices), correlations(columns, presence, choices))


def entries_of(columns: sp.csc_matrix, presence: sp.csr_matrix, choices: Choices) -> Entries:
    """Return the energies of the images that each choice's concept fires on, and whether their captions have its word."""
    chosen = columns[:, choices.concepts]
    choice = np.repeat(np.arange(len(choices.concepts)), np.diff(chosen.indptr))
    known = np.repeat(np.arange(presence.shape[0]), np.diff(presence.indptr)) * presence.shape[1] + presence.indices
    hits = np.isin(chosen.indices.astype(np.int64) * presence.shape[1] + choices.words[choice], known)
    return Entries(choice, chosen.data.astype(np.float64), hits)


def correlations(columns: sp.csc_matrix, presence: sp.csr_matrix, choices: Choices) -> Float[np.ndarray, "e"]:
    """Return Pearson's correlation of energy and presence per choice; 0 where either is the same on all images."""
    choice, energy, hits = entries_of(columns, presence, choices)
    n, size = max(columns.shape[0], 1), len(choices.words)
    x, xx, xy = (np.bincount(choice, weights, size) / n for weights in (energy, energy**2, energy * hits))
    y = column_sums(presence)[choices.words] / n
    scale = np.sqrt(np.maximum(xx - x**2, 0) * (y - y**2))
    return np.divide(xy - x * y, scale, out=np.zeros(size), where=scale > 0)


def lifts(columns: sp.csc_matrix, presence: sp.csr_matrix, choices: Choices) -> Float[np.ndarray, "e"]:
    """Return average precision over base rate per choice; 1 where no caption has the word.

    Images of equal energy are taken together: each caption with the word adds the precision among all images with its energy or
    more; so one without energy adds the base rate.
    """
    choice, energy, hits = entries_of(columns, presence, choices)
    order = np.lexsort((-energy, choice))
    choice, energy, hits = choice[order], energy[order], hits[order].astype(np.float64)
    ends = np.flatnonzero(np.append((np.diff(choice) != 0) | (np.diff(energy) != 0), True)[: len(choice)])
    last = ends[np.searchsorted(ends, np.arange(len(choice)))]  # of the images with equal energy
    first = np.searchsorted(choice, choice)
    caught = np.append(0, hits.cumsum())
    precision = (caught[last + 1] - caught[first]) / (last + 1 - first)
    n, size = columns.shape[0], len(choices.words)
    having = column_sums(presence)[choices.words]
    total = np.bincount(choice, hits * precision, size) + (having - np.bincount(choice, hits, size)) * having / max(n, 1)
    return np.divide(total * n, having**2, out=np.ones(size), where=having > 0)


def acceptance_levels(null: Float[np.ndarray, "p k"], n_images: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Return the association that a name must exceed, per concept: of those of permuted captions at most `FALSE_NAMES` do.

    `null` has one row per permutation. The level is a quantile over about `STRATUM` concepts that fire on similarly many images
    (`n_images`), because what chance brings depends on a concept's frequency.
    """
    levels = np.zeros(null.shape[1])
    for concepts in np.array_split(np.argsort(n_images, kind="stable"), max(len(levels) // STRATUM, 1)):
        if null[:, concepts].size:
            levels[concepts] = np.quantile(null[:, concepts], 1 - FALSE_NAMES, method="higher")
    return levels


def name_by_clip(
    real: sp.csr_matrix, images: Float[np.ndarray, "pairs d"], words: Float[np.ndarray, "w d"], seed: int
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Return the position of the word that names each concept by CLIP vectors of length 1, and its score; -1 and nan for none.

    It needs no captions, so it can name what they never mention. With P(w | x) = softmax over words of cosine / 0.1 and the
    energy xi(x) of the concept on image x, the score of a word is

        S(w) = sum over x of xi(x) log(1 + 0.99 (P(w | x) - 1)),    z(w) = (S(w) - E S(w)) / sd S(w),

    with mean and deviation over random orders of the images. The word with the highest z is the name if no more than
    `FALSE_NAMES` of the concepts reach that z when images are permuted. This tells names from chance, and not right words from
    wrong ones: where no word is right, the nearest one is taken. S is the soft WPMI of Oikarinen and Weng (2023), CLIP-Dissect,
    weighted by energy; the mean takes the place of their lambda log p(w).
    """
    n, k = real.shape
    if n < 2 or not len(words):
        return np.full(k, -1), np.full(k, np.nan)
    weights = real.T.tocsr().astype(np.float64)
    mean, square = column_sums(weights.T) / n, column_sums(weights.power(2).T) / n
    scale = np.sqrt(np.maximum(square - mean**2, 0) * n * n / (n - 1))  # deviation of a sum over a random order of images
    rng = np.random.default_rng([seed, 8])
    n_permutations = min(-(-N_NULL // max(k, 1)), MOST_PERMUTATIONS)
    orders = [np.arange(n), *(rng.permutation(n) for _ in range(n_permutations))]
    word, top = np.full(k, -1), np.full((len(orders), k), -np.inf)
    for first, evidence in clip_evidence(images, words):
        for number, order in enumerate(orders):
            best, score = best_of_rows(weights, evidence[order])
            if number == 0:
                word = np.where(score > top[0], best + first, word)
            top[number] = np.maximum(top[number], score)
    top = np.divide(top, scale, out=np.zeros_like(top), where=scale > 0)
    named = top[0] > acceptance_levels(top[1:], real.getnnz(axis=0))
    return np.where(named, word, -1), np.where(named, top[0], np.nan)


def clip_evidence(images: Float[np.ndarray, "n d"], words: Float[np.ndarray, "w d"]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield log(1 + 0.99 (P(w | x) - 1)), standardized over images, for some words at a time: the first one, and (n, some)."""
    blocks = range(0, len(words), WORDS)
    total = np.full((len(images), 1), -np.inf)
    for start in blocks:
        logits = images @ words[start : start + WORDS].T / TEMPERATURE
        total = np.logaddexp(total, np.logaddexp.reduce(logits, axis=1, keepdims=True))
    for start in blocks:
        logits = images @ words[start : start + WORDS].T / TEMPERATURE
        evidence = np.log1p(SOFT * np.expm1(logits - total))
        spread = np.maximum(evidence.std(axis=0), np.finfo(np.float32).tiny)
        yield start, (evidence - evidence.mean(axis=0)) / spread


def best_of_rows(weights: sp.csr_matrix, evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the column in which each row of a product is greatest, and its value there."""
    best, score = np.empty(weights.shape[0], np.int64), np.empty(weights.shape[0])
    for start in range(0, weights.shape[0], ROWS):
        product = weights[start : start + ROWS] @ evidence
        best[start : start + ROWS], score[start : start + ROWS] = product.argmax(axis=1), product.max(axis=1)
    return best, score
