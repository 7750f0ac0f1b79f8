"""Detectors of words: the concepts that together show whether a real image is one whose caption has the word.

A detector is a non-negative combination of concepts, learned from real images and their captions alone. No image is read by a
detector that was learned on it: pairs are dealt into folds, and each fold is read by detectors learned on the other folds.
Shape letters: n pairs, k concepts, w words, c candidates.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.words import Vocabulary
from blindspots_lib.core.config import Analysis

LEAST, MOST = 8, 2_000  # pairs that ask for a word, and pairs that do not, for it to be judged; number of words judged
ALIKE = 0.9  # Jaccard index of the pairs that ask for two words, from which they are judged as one
N_FOLDS = 5
N_CANDIDATES = 24  # concepts that a detector may combine
LEAST_Z = 3.0  # standard errors by which a candidate fires more where the word is asked for
RIDGE = 0.1  # penalty on squared weights: RIDGE n / sqrt(pairs that ask), concepts in units of their standard deviation
CHANCE = 0.99  # quantile of the lifts with permuted captions that a detector must exceed
LEAST_LIFT = 0.1  # and the least lift: a detector barely above chance measures something else than the word
BLOCK = 2**22  # entries of a dense array (words, concepts) held at a time


class Detectors(NamedTuple):
    """What detects each word, and how well it does so on real images that it was not learned on."""

    words: list[str]
    asked: sp.csr_matrix  # (n, w) bool: the caption has the word
    folds: Int[np.ndarray, "n"]
    weights: list[sp.csr_matrix]  # per fold (k, w), at least 0, learned on the other folds; an asked image exceeds others by 1
    lift: Float[np.ndarray, "w"]  # average precision less the fraction of pairs that ask
    seen: Bool[np.ndarray, "w"]  # lift exceeds what permuted captions give, and is `LEAST_LIFT` or more
    levels: Float[np.ndarray, "f w"]  # per fold the score half-way between unasked and asked images that it was learned on

    def scores(self, energies: sp.csr_matrix, columns: Int[np.ndarray, "c"]) -> Float[np.ndarray, "n c"]:
        """Return how much of some words each image holds: its energies (n, k) times the weights of its fold."""
        return read_folds(energies, self.folds, [weights[:, columns] for weights in self.weights])

    def shows(self, energies: sp.csr_matrix, columns: Int[np.ndarray, "c"]) -> Bool[np.ndarray, "n c"]:
        """Say whether each image shows some words: whether its score lies above the level of its fold."""
        return self.are_shown(self.scores(energies, columns), columns)

    def are_shown(self, scores: Float[np.ndarray, "n c"], columns: Int[np.ndarray, "c"]) -> Bool[np.ndarray, "n c"]:
        """Say the same of images whose scores are known."""
        return scores > self.levels[self.folds][:, columns]

    def asked_for(self, columns: Int[np.ndarray, "c"]) -> Bool[np.ndarray, "n c"]:
        return self.asked[:, columns].toarray()


def learn_detectors(real: sp.csr_matrix, vocabulary: Vocabulary, analysis: Analysis) -> Detectors:
    """Learn what detects each word on real images.

    `real` are energies (n, k) >= 0, `vocabulary` the words of the same n captions, from `analysis` the seed. Words that fewer
    than `LEAST` pairs ask for, or do not ask for, are left out; words that nearly the same pairs ask for become one
    (`merge_alike`); a phrase that is detected no better than one of its words is left out too. There may be no words at all.

    The score of an image is s = sum_k w_k xi_k, w_k >= 0. The weights are the least-squares fit of "the caption asks for the
    word" with a ridge penalty, over the concepts that most surely have more energy where the word is asked for (`fit_detector`).
    """
    words, asked = merge_alike(vocabulary)
    rng = np.random.default_rng(analysis.seed)
    folds = rng.permutation(np.arange(real.shape[0]) % N_FOLDS)
    weights = learn_folds(real, asked, folds)
    lift = held_out_lift(real, asked, folds, weights)
    permuted = asked[rng.permutation(real.shape[0])]
    chance = held_out_lift(real, permuted, folds, learn_folds(real, permuted, folds))
    level = max(LEAST_LIFT, np.quantile(chance, CHANCE)) if len(words) else LEAST_LIFT
    kept = np.flatnonzero(~is_redundant(words, lift))
    found = [some[:, kept] for some in weights]
    half_way = np.array([half_way_levels(real[folds != fold], asked[folds != fold], weights[fold]) for fold in range(N_FOLDS)])
    return Detectors([words[i] for i in kept], asked[:, kept], folds, found, lift[kept], lift[kept] >= level, half_way[:, kept])


def merge_alike(vocabulary: Vocabulary) -> tuple[list[str], sp.csr_matrix]:
    """Return the words to judge and which pairs ask for them, (n, w) bool.

    Words whose pairs have a Jaccard index of `ALIKE` or more are judged as the longest of them, with the pairs of that one.
    """
    n_pairs, presence = vocabulary.presence.shape[0], vocabulary.presence.tocsc()
    counts = presence.getnnz(axis=0)
    frequent = np.flatnonzero((counts >= LEAST) & (counts <= n_pairs - LEAST))
    frequent = frequent[np.argsort(-counts[frequent], kind="stable")[:MOST]]
    order = np.array(sorted(frequent, key=lambda i: (-len(vocabulary.words[i]), vocabulary.words[i])), np.int64)
    asked, sizes = presence[:, order], counts[order]
    both = (asked.T.astype(np.int64) @ asked.astype(np.int64)).tocoo()
    alike = both.data >= ALIKE * (sizes[both.row] + sizes[both.col] - both.data)
    taken = np.ones(len(order), bool)
    for longer, shorter in sorted(zip(both.row[alike].tolist(), both.col[alike].tolist(), strict=True)):
        if longer < shorter and taken[longer]:
            taken[shorter] = False
    kept = np.array(sorted(order[taken], key=lambda i: vocabulary.words[i]), np.int64)
    return [vocabulary.words[i] for i in kept], presence[:, kept].tocsr()


def is_redundant(words: list[str], lift: Float[np.ndarray, "w"]) -> Bool[np.ndarray, "w"]:
    """Say which are phrases that are detected no better than one of their words."""
    lifts = dict(zip(words, lift, strict=True))
    parts = [[lifts[part] for part in word.split() if part != word and part in lifts] for word in words]
    return np.array([bool(of_parts) and own <= max(of_parts) for own, of_parts in zip(lift, parts, strict=True)], bool)


def learn_folds(real: sp.csr_matrix, asked: sp.csr_matrix, folds: Int[np.ndarray, "n"]) -> list[sp.csr_matrix]:
    """Return per fold the weights (k, w) of all words, learned on the pairs of the other folds."""
    return [learn_weights(real[folds != fold], asked[folds != fold]) for fold in range(N_FOLDS)]


def learn_weights(real: sp.csr_matrix, asked: sp.csr_matrix) -> sp.csr_matrix:
    """Return the weights (k, w) of all words from the energies (n, k) of some pairs and what they ask for, (n, w)."""
    (n_pairs, n_concepts), n_words = real.shape, asked.shape[1]
    real, asked = real.astype(np.float64).tocsc(), asked.astype(np.float64).tocsc()
    mean = np.asarray(real.sum(axis=0)).ravel() / max(n_pairs, 1)
    spread = np.sqrt(np.maximum(np.asarray(real.multiply(real).sum(axis=0)).ravel() / max(n_pairs, 1) - mean**2, 0))
    n_asked = np.asarray(asked.sum(axis=0)).ravel()
    step, parts = max(1, BLOCK // n_concepts), []
    for first in range(0, n_words, step):
        inside = (asked[:, first : first + step].T @ real).toarray()
        for word, sums in enumerate(inside, start=first):
            some = candidates(sums, n_asked[word], n_pairs, mean, spread)
            wanted = asked[:, [word]].toarray()[:, 0]
            weights = fit_detector(real[:, some].toarray(), wanted, spread[some])
            parts.append((weights, some, np.full(len(some), word)))
    data, concepts, words = (np.concatenate([np.zeros(0), *column]) for column in zip(*parts, strict=True)) if parts else [[]] * 3
    found = sp.csr_matrix((data, (np.asarray(concepts, np.int64), np.asarray(words, np.int64))), shape=(n_concepts, n_words))
    found.eliminate_zeros()
    return found


def candidates(
    sums: Float[np.ndarray, "k"], n_asked: float, n_pairs: int, mean: Float[np.ndarray, "k"], spread: Float[np.ndarray, "k"]
) -> Int[np.ndarray, "c"]:
    """Return the concepts whose mean energy over the asked pairs, sums / n_asked, lies most surely above that of the others.

    The measure is z = (mean asked - mean unasked) / (standard deviation / sqrt(n_asked)); at least `LEAST_Z`, at most
    `N_CANDIDATES` concepts.
    """
    if not 0 < n_asked < n_pairs:
        return np.zeros(0, np.int64)
    excess = sums / n_asked - (mean * n_pairs - sums) / (n_pairs - n_asked)
    z = np.divide(excess * np.sqrt(n_asked), spread, out=np.zeros_like(excess), where=(spread > 0) & (excess > 0))
    above = np.flatnonzero(z >= LEAST_Z)
    return np.sort(above[np.argsort(-z[above], kind="stable")[:N_CANDIDATES]])


def fit_detector(
    energies: Float[np.ndarray, "n c"], wanted: Float[np.ndarray, "n"], spread: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"]:
    """Return weights w >= 0 that minimize |y - x w|^2 + lambda |w|^2, scaled so that asked images exceed others by 1 on average.

    y is `wanted` (1 or 0) and x the energies in units of their `spread`, both less their means; lambda is RIDGE n / sqrt(sum y).
    The weights are returned for the energies as they are. They are 0 if there are no candidates or nothing is exceeded.
    """
    from scipy.optimize import nnls

    if not len(spread):
        return np.zeros(0)
    scaled = energies / spread
    scaled -= scaled.mean(axis=0)
    penalty = RIDGE * len(wanted) / np.sqrt(wanted.sum()) * np.eye(len(spread))
    root = np.linalg.cholesky(scaled.T @ scaled + penalty)
    weights = nnls(root.T, np.linalg.solve(root, scaled.T @ wanted))[0]
    score = scaled @ weights
    excess = score @ wanted / wanted.sum() - score @ (1 - wanted) / (1 - wanted).sum()
    return weights / spread / excess if excess > 0 else np.zeros(len(spread))


def half_way_levels(real: sp.csr_matrix, asked: sp.csr_matrix, weights: sp.csr_matrix) -> Float[np.ndarray, "w"]:
    """Return the score half-way between the mean of unasked images and that of asked ones, which is greater by 1."""
    n_pairs = max(1, real.shape[0])
    mean = np.asarray(real.sum(axis=0, dtype=np.float64)).ravel() / n_pairs @ weights
    return mean - asked.getnnz(axis=0) / n_pairs + 0.5


def read_folds(energies: sp.csr_matrix, folds: Int[np.ndarray, "n"], weights: list[sp.csr_matrix]) -> Float[np.ndarray, "n w"]:
    """Return the scores of all images, each by the weights (k, w) of its fold."""
    scores = np.empty((energies.shape[0], weights[0].shape[1]))
    for fold, some in enumerate(weights):
        scores[folds == fold] = (energies[folds == fold].astype(np.float64) @ some).toarray()
    return scores


def held_out_lift(
    real: sp.csr_matrix, asked: sp.csr_matrix, folds: Int[np.ndarray, "n"], weights: list[sp.csr_matrix]
) -> Float[np.ndarray, "w"]:
    """Return per word the average precision of its held-out scores on real images, less the fraction of pairs that ask."""
    lift = np.empty(asked.shape[1])
    step = max(1, BLOCK // max(real.shape[0], 1))
    for first in range(0, asked.shape[1], step):
        some = slice(first, first + step)
        scores, wanted = read_folds(real, folds, [part[:, some] for part in weights]), asked[:, some].toarray()
        lift[some] = [average_precision(*both) for both in zip(scores.T, wanted.T, strict=True)] - wanted.mean(axis=0)
    return lift


def average_precision(scores: Float[np.ndarray, "n"], wanted: Bool[np.ndarray, "n"]) -> float:
    """Return the average precision of a ranking by score; equal scores are taken together."""
    order = np.argsort(-scores, kind="stable")
    ranked = np.searchsorted(-scores[order], -scores[order], side="right")  # images with this score or more
    caught = np.append(0, wanted[order].cumsum())[ranked]
    return float((caught / ranked)[wanted[order]].mean())
