"""Composition: what goes together less or more often in generated images than in real ones, given how often each occurs.

Whether an image shows a word is read by the word's detector (`Detectors.shows`), on both sides alike; captions play no part here.
Shape letters: n pairs of a real and a generated image, w words, m pairs of words.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.delta import DEVIATIONS
from blindspots_lib.analysis.detectors import Detectors
from blindspots_lib.analysis.swaps import adjusted
from blindspots_lib.core.config import Analysis

EXPECTED = 5.0  # images, of both sides together, that would show both words by chance, for their pair to be judged
ON_EACH = 1.0  # and on each side: where one of the words has vanished, nothing can be said about what it goes with
PSEUDO = 0.5  # added to every count, so that none is 0 (Haldane, Anscombe)
STATES = list(itertools.product((0, 1), repeat=2))  # of a word in a pair of images: (generated shows it, real shows it)
CELLS = STATES  # of two words in an image: (shows the first, shows the second)
COLUMNS = [
    "first", "second", "model", "n_real", "n_generated", "log_odds_real", "log_odds_generated", "difference", "low", "high", "p",
    "q", "call",
]  # fmt: skip


class OddsChange(NamedTuple):
    """How much more two words go together in generated images than in real ones, per pair of words."""

    n_real: Float[np.ndarray, "m"]  # images that show both
    n_generated: Float[np.ndarray, "m"]
    log_odds_real: Float[np.ndarray, "m"]  # log odds ratio; 0: together as often as by chance
    log_odds_generated: Float[np.ndarray, "m"]
    difference: Float[np.ndarray, "m"]  # generated less real
    error: Float[np.ndarray, "m"]  # its standard error


def composition_table(energies: Mapping[str, sp.csr_matrix], detectors: Detectors, analysis: Analysis) -> pd.DataFrame:
    """Return one row per pair of words and model, the surest changes of each model first.

    `energies` are those of "real" and of each model, (n, k); from `analysis` the false_discovery_rate. Only words that their
    detectors see are paired, and no phrase with one of its own words. A pair is judged for a model if by chance enough images
    would show both words (`judged_pairs`).

    n_real, n_generated                 images that show both words
    log_odds_real, log_odds_generated   log odds ratio of the two words; 0: together as often as by chance
    difference, low, high               generated less real, with its 95 % interval
    p, q                                of the hypothesis of no difference; q over all pairs of the model
    call                                "rarely together" or "too often together" if q <= false_discovery_rate, else "unclear"
    """
    words, parts = np.flatnonzero(detectors.seen), []
    real = detectors.shows(energies["real"], words)
    names = np.array([detectors.words[i] for i in words], object)
    for model in (name for name in energies if name != "real"):
        generated = detectors.shows(energies[model], words)
        first, second = judged_pairs(generated, real, names)
        change = odds_change(generated, real, first, second)
        table = pd.DataFrame({"first": names[first], "second": names[second], "model": model, **change._asdict()})
        add_calls(table, analysis)
        parts.append(table.sort_values(["p", "first", "second"])[COLUMNS])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def judged_pairs(
    generated: Bool[np.ndarray, "n w"], real: Bool[np.ndarray, "n w"], names: np.ndarray
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Return the positions of the first and of the second word of each pair of words that is judged.

    By chance f g n images of a side would show both words, where f and g are the fractions that show each. That must be
    `EXPECTED` or more in the sum of both sides, and `ON_EACH` or more on each. Both sides count alike: no direction is favoured.
    """
    by_chance = [np.outer(shows.sum(axis=0), shows.sum(axis=0)) / max(1, len(shows)) for shows in (generated, real)]
    enough = (sum(by_chance) >= EXPECTED) & (np.minimum(*by_chance) >= ON_EACH)
    first, second = np.nonzero(np.triu(enough, k=1))
    parts = [set(name.split()) for name in names]
    apart = np.array([parts[i].isdisjoint(parts[j]) for i, j in zip(first, second, strict=True)], bool)
    return first[apart], second[apart]


def odds_change(
    generated: Bool[np.ndarray, "n w"], real: Bool[np.ndarray, "n w"], first: Int[np.ndarray, "m"], second: Int[np.ndarray, "m"]
) -> OddsChange:
    """Return how the log odds ratio of two words differs between the sides, and the error of the difference over pairs of images.

    With n_ab the images of a side that show the first word (a = 1) or not, and the second (b = 1) or not,

        log odds ratio = sum_ab (-1)^(a + b) log(n_ab + 1/2).

    Both sides have the same captions, so their counts go together. By the delta method a pair of images that is in cell ab on the
    generated and in cd on the real side moves the difference by (-1)^(a+b) / (n'_ab + 1/2) - (-1)^(c+d) / (n_cd + 1/2); the
    variance is the sum of the squares, and of 1/2 (n + 1/2)^-2 over the eight cells for what was added to them.
    """
    counts = joint_counts(generated, real, first, second)
    sides = []
    for side in (0, 1):  # generated, real
        cells = {cell: np.full(len(first), PSEUDO) for cell in CELLS}
        for (one, other), count in counts.items():
            cells[one[side], other[side]] += count
        sides.append(cells)
    sign = {cell: (-1) ** sum(cell) for cell in CELLS}
    odds = [sum(sign[cell] * np.log(cells[cell]) for cell in CELLS) for cells in sides]
    variance = sum(PSEUDO / cells[cell] ** 2 for cells in sides for cell in CELLS)
    for (one, other), count in counts.items():
        moved = [sign[cell] / cells[cell] for cell, cells in zip(zip(one, other, strict=True), sides, strict=True)]
        variance = variance + count * (moved[0] - moved[1]) ** 2
    together = [cells[1, 1] - PSEUDO for cells in sides]
    return OddsChange(together[1], together[0], odds[1], odds[0], odds[0] - odds[1], np.sqrt(variance))


def joint_counts(
    generated: Bool[np.ndarray, "n w"], real: Bool[np.ndarray, "n w"], first: Int[np.ndarray, "m"], second: Int[np.ndarray, "m"]
) -> dict[tuple, Float[np.ndarray, "m"]]:
    """Return the number of image pairs in each state of both words, by (state of the first, state of the second).

    Only the states in which a side shows a word are multiplied, for they are rare; the others are what is left.
    """
    none = (0, 0)
    shown = {(g, r): (generated == g) & (real == r) for g, r in STATES if (g, r) != none}
    sparse = {state: sp.csr_matrix(where.astype(np.float64)) for state, where in shown.items()}
    totals = {state: where.sum(axis=0).astype(np.float64) for state, where in shown.items()}
    counts = {(one, other): (sparse[one].T @ sparse[other]).toarray()[first, second] for one in sparse for other in sparse}
    for state in sparse:
        counts[state, none] = totals[state][first] - sum(counts[state, other] for other in sparse)
        counts[none, state] = totals[state][second] - sum(counts[one, state] for one in sparse)
    counts[none, none] = len(real) - sum(counts.values())
    return counts


def add_calls(table: pd.DataFrame, analysis: Analysis) -> None:
    """Add intervals, p- and q-values and calls, in place."""
    from scipy.stats import norm

    difference, error = table["difference"].to_numpy(float), table["error"].to_numpy(float)
    table["low"], table["high"] = difference - DEVIATIONS * error, difference + DEVIATIONS * error
    table["p"] = 2 * norm.sf(np.abs(difference) / error)
    table["q"] = adjusted(table["p"].to_numpy(float))
    sure = table["q"] <= analysis.false_discovery_rate
    sides = [sure & (difference < 0), sure & (difference > 0)]
    table["call"] = np.select(sides, ["rarely together", "too often together"], "unclear").astype(object)
