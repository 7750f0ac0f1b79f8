"""Captions compared with one another, and with their real images: which are alike, and which do not fit."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

SPLITS = 4  # of the pairs into halves
LEAST = 5  # images with a word in each half, for the word to count
MAX_WORDS = 4096  # the most frequent words are enough
WORDS, IMAGES = 64, 512  # held at a time as dense rows
HIGH = 0.95  # quantile of the energy distance above which a pair is of high discrepancy
BAD = 0.5  # a caption fits badly if fewer than this fraction of the other captions fit worse


def caption_vectors(presence: sp.csr_matrix) -> sp.csr_matrix:
    """Return captions as rows of length 1, (n, v), from the words that they have; words of few captions weigh more (TF-IDF).

    A word's weight is ln(n / number of captions with it). A caption without words, or with words of all captions only, is 0.
    """
    counts = presence.getnnz(axis=0)
    weights = np.log(presence.shape[0] / np.maximum(counts, 1))
    weighted = (presence.astype(np.float64) @ sp.diags(weights)).tocsr()
    return (sp.diags(inverse_lengths(np.asarray(weighted.power(2).sum(axis=1)).ravel())) @ weighted).tocsr()


def inverse_lengths(squares: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)


def nearest_captions(vectors: sp.csr_matrix, m: int) -> Int[np.ndarray, "n m"]:
    """Return for each caption the m others of the highest cosine, the nearest first; all others if there are fewer than m."""
    n = vectors.shape[0]
    m, found = min(m, n - 1), []
    for start in range(0, n, IMAGES):
        cosines = (vectors[start : start + IMAGES] @ vectors.T).toarray()
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -1
        best = np.argpartition(-cosines, m - 1, axis=1)[:, :m] if 0 < m < n - 1 else np.argsort(-cosines, axis=1)[:, :m]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def caption_fit(real: sp.csr_matrix, presence: sp.csr_matrix, *, seed: int) -> Float[np.ndarray, "n"]:
    """Return per pair the fraction of other captions that fit its real image worse than its own caption, in [0, 1].

    `real` are energies (n, k), `presence` says which captions have which words (n, v). A right caption gives a value near 1,
    the caption of another image a value that is nearly uniform in [0, 1].

    Pairs are split into halves. On one half, how much more often each concept fires on the images with a word than on all
    images is the word's direction. On the other half, images are ranked by every direction. A caption fits an image as well as
    the mean rank of the image by the caption's words. A word weighs as much as its ranks separate the images with it from the
    others (2 AUC - 1, at least 0), so that "the" counts nothing. The result is the mean over `SPLITS` random splits; nan for a
    caption without any word that counts.
    """
    fires, rng, n = (real > 0).astype(np.float32), np.random.default_rng(seed), real.shape[0]
    total, counted = np.zeros(n), np.zeros(n)
    for _ in range(SPLITS):
        fit = split_fit(fires, presence, rng.permutation(n))
        total += np.nan_to_num(fit)
        counted += ~np.isnan(fit)
    return np.divide(total, counted, out=np.full(n, np.nan), where=counted > 0)


def split_fit(fires: sp.csr_matrix, presence: sp.csr_matrix, order: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return the fit of each pair by directions that were learned on the other half of `order`."""
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    fit = np.full(len(order), np.nan)
    for learned, judged in (halves, halves[::-1]):
        counts = np.minimum(presence[learned].getnnz(axis=0), presence[judged].getnnz(axis=0))
        words = np.argsort(-counts, kind="stable")[:MAX_WORDS]
        words = words[counts[words] >= LEAST]
        if len(words):
            has = presence[:, words].astype(np.float32).tocsr()
            ranks = word_ranks(fires[learned], has[learned], fires[judged])
            fit[judged] = own_captions(ranks, has[judged])
    return fit


def word_ranks(learned: sp.csr_matrix, has: sp.csr_matrix, judged: sp.csr_matrix) -> Float[np.ndarray, "n v"]:
    """Return where each judged image stands among all by each word's direction, in (0, 1): 1 has most of what goes with it."""
    from scipy.stats import rankdata

    overall = np.asarray(learned.mean(axis=0)).ravel()
    ranks = np.empty((judged.shape[0], has.shape[1]), np.float32)
    for start in range(0, has.shape[1], WORDS):
        some = has[:, start : start + WORDS]
        number = np.asarray(some.sum(axis=0)).ravel()
        directions = (some.T @ learned).toarray() / number[:, None] - overall
        scores = judged @ directions.T.astype(np.float32)
        ranks[:, start : start + WORDS] = (rankdata(scores, axis=0) - 0.5) / len(scores)
    return ranks


def own_captions(ranks: Float[np.ndarray, "n v"], has: sp.csr_matrix) -> Float[np.ndarray, "n"]:
    """Return the fraction of the other captions that fit each image worse than its own; of those that fit as well, half."""
    with_word = np.asarray(has.sum(axis=0)).ravel()
    rank_sums = np.asarray(has.multiply(ranks).sum(axis=0)).ravel() * len(ranks) + with_word / 2
    areas = (rank_sums - with_word * (with_word + 1) / 2) / (with_word * (len(ranks) - with_word)).clip(1)
    weights = np.maximum(2 * areas - 1, 0) * (with_word < len(ranks))
    weighted, total = has @ sp.diags(weights), has @ weights
    known = np.flatnonzero(total > 0)
    captions = (sp.diags(1 / total[known]) @ weighted[known]).T.tocsc()
    fit = np.full(len(ranks), np.nan)
    for start in range(0, len(known), IMAGES):
        own = known[start : start + IMAGES]
        fits = ranks[own] @ captions
        mine = fits[np.arange(len(own)), start + np.arange(len(own))][:, None]
        worse = (fits < mine - 1e-6).sum(axis=1) + ((np.abs(fits - mine) <= 1e-6).sum(axis=1) - 1) / 2
        fit[own] = worse / max(1, len(known) - 1)
    return fit


def caption_audit(datapoints: pd.DataFrame) -> pd.DataFrame:
    """Return per model which fraction of its pairs of high discrepancy have a caption that fits the real image badly.

    `datapoints` has pair_id, model, energy_distance and caption_fit, one row per pair and model.

    model, pairs        the model; "high discrepancy" (the 5 % of greatest energy distance) or "all"
    n                   number of these pairs whose captions can be judged
    badly, low, high    fraction whose caption fits worse than half of the other captions do, with its 95 % interval (Wilson)
    wrong               estimated fraction of captions that belong to another image: half of these fit badly, so twice `badly`
    """
    from scipy.stats import binomtest

    rows = []
    for model, table in datapoints.groupby("model", sort=False):
        high = table["energy_distance"] >= table["energy_distance"].quantile(HIGH)
        for pairs, some in (("high discrepancy", table[high]), ("all", table)):
            fit = some["caption_fit"].dropna()
            row = {"model": model, "pairs": pairs, "n": len(fit), "badly": np.nan, "low": 0.0, "high": 1.0, "wrong": np.nan}
            if len(fit):
                result = binomtest(int((fit < BAD).sum()), len(fit))
                interval = result.proportion_ci(method="wilson")
                row |= {"badly": result.statistic, "low": interval.low, "high": interval.high}
                row["wrong"] = min(1.0, result.statistic / BAD)
            rows.append(row)
    return pd.DataFrame(rows, columns=["model", "pairs", "n", "badly", "low", "high", "wrong"])
