"""Asked and unasked: what a model leaves out although captions ask for it, and what it draws although they do not.

How much of a word an image holds is read by its detector (`Detectors`): s on the real, s' on the generated image of a pair. The
pairs whose caption has the word are asked, the others unasked. Shape letters: n pairs, w words.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.delta import TAIL, energy_difference, ratio_interval
from blindspots_lib.analysis.detectors import BLOCK, N_FOLDS, Detectors
from blindspots_lib.analysis.swaps import adjusted
from blindspots_lib.core.config import Analysis

POWER = 0.8  # probability with which a detectable omission is called
NOT_SEEN = "not seen by the concepts"
MEASURED = ["value", "low", "high", "p", "q", "call"]
COLUMNS = ["word", "model", "n_asked", "gain", *(f"{side}_{name}" for side in ("omission", "intrusion") for name in MEASURED),
           "omission_beyond", "intrusion_rate", "explained_by", "detectable", "reason"]  # fmt: skip
Scores = Float[np.ndarray, "n w"]
Asked = Bool[np.ndarray, "n w"]
OfWords = Float[np.ndarray, "w"]


class Ratios(NamedTuple):
    """An omission or an intrusion per word, in [0, 1] and 0.5 where generations are as real images."""

    value: OfWords
    low: OfWords  # 95 % interval
    high: OfWords
    p: OfWords  # two-sided, of the hypothesis 0.5


def asked_table(energies: Mapping[str, sp.csr_matrix], detectors: Detectors, analysis: Analysis) -> pd.DataFrame:
    """Return one row per word and model: what is missing when asked for, and what is there when not asked for.

    `energies` are those of "real" and of each model, (n, k). From `analysis`: false_discovery_rate, aligned_band and
    suppressed_below.

    n_asked          pairs whose caption has the word
    gain             how well its detector finds it on real images: average precision above chance
    omission_value   excess of generated over generated + real (`omission_of`), in [0, 1]; 0: nothing of what is asked for is
                     drawn; 0.5: as in real images; with omission_low and _high (95 %), _p, and _q over all words of the model
    omission_call    "aligned": surely above 0.5 - aligned_band; else "omitted": q <= false_discovery_rate and below 0.5; else
                     "unclear"
    omission_beyond  whether the interval lies below suppressed_below, the paper's threshold
    intrusion_*      likewise, of images whose captions do not ask (`intrusion_of`); call "aligned": surely below 0.5 +
                     aligned_band; else "intruding": q <= false_discovery_rate and above 0.5, or "explained"; else "unclear"
    intrusion_rate   fraction of the unasked generated images that show it (half of a usual amount or more), less that of the
                     unasked real images
    explained_by     "", or the surer intruder that an explained one may be mistaken for: without it, it does not intrude
    detectable       greatest omission value that these pairs would have called with probability 0.8 (`detectable_omission`);
                     nan if not even a total loss would have been
    reason           why a row is empty: "not seen by the concepts"

    Words that are not seen have nan in all measures, and calls "unclear".
    """
    models = [name for name in energies if name != "real"]
    seen, step = np.flatnonzero(detectors.seen), max(1, BLOCK // max(1, detectors.asked.shape[0]))
    parts = [block_table(energies, models, detectors, seen[i : i + step]) for i in range(0, len(seen), step)]
    unseen = np.flatnonzero(~detectors.seen)
    parts += [word_columns(detectors, unseen).assign(model=model, reason=NOT_SEEN) for model in models if len(unseen)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    table = table.reindex(columns=[*COLUMNS, "excess", "excess_variance"]).astype({"reason": object})
    judged = [
        judge(table[table["model"] == model].reset_index(drop=True), model, energies, detectors, analysis) for model in models
    ]
    return pd.concat(judged).sort_values("word", kind="stable")[COLUMNS].reset_index(drop=True)


def judge(
    table: pd.DataFrame, model: str, energies: Mapping[str, sp.csr_matrix], detectors: Detectors, analysis: Analysis
) -> pd.DataFrame:
    """Return the rows of one model with q-values, calls, and what could have been detected; no other model plays a part."""
    add_calls(table, analysis)
    intruding = table[table["intrusion_call"] == "intruding"]
    explained = explanations(intruding, energies[model], energies["real"], detectors, analysis)
    table["explained_by"] = pd.Series(explained, dtype=object).reindex(table.index, fill_value="")
    table.loc[table["explained_by"] != "", "intrusion_call"] = "explained"
    return table.assign(detectable=detectable_omission(table, analysis))


def word_columns(detectors: Detectors, words: Int[np.ndarray, "c"]) -> pd.DataFrame:
    n_asked = detectors.asked[:, words].getnnz(axis=0)
    return pd.DataFrame({"word": [detectors.words[i] for i in words], "n_asked": n_asked, "gain": detectors.lift[words]})


def block_table(
    energies: Mapping[str, sp.csr_matrix], models: list[str], detectors: Detectors, words: Int[np.ndarray, "c"]
) -> pd.DataFrame:
    """Return the rows of some words, without calls."""
    asked, columns, parts = detectors.asked_for(words), word_columns(detectors, words), []
    scores, folds = detectors.scores(energies["real"], words), detectors.folds
    real, level = detectors.are_shown(scores, words), unasked_levels(scores, asked, folds)
    excess = scores - level[folds]
    for model in models:
        scores = detectors.scores(energies[model], words)
        generated, lower = detectors.are_shown(scores, words), np.minimum(unasked_levels(scores, asked, folds), level)
        sides = {"omission": omission_of(scores - lower[folds], excess, asked), "intrusion": intrusion_of(generated, real, asked)}
        measured = {f"{side}_{name}": values for side, ratios in sides.items() for name, values in ratios._asdict().items()}
        rate = ((generated & ~asked).sum(axis=0) - (real & ~asked).sum(axis=0)) / (~asked).sum(axis=0)
        of_real = {"excess": mean_asked(excess, asked), "excess_variance": covariance(excess, excess, asked)}
        parts.append(columns.assign(model=model, reason="", intrusion_rate=rate, **measured, **of_real))
    return pd.concat(parts, ignore_index=True)


def unasked_levels(scores: Scores, asked: Asked, folds: Int[np.ndarray, "n"]) -> Float[np.ndarray, "f w"]:
    """Return per fold the mean score of the unasked images."""
    sums = ((scores[folds == fold] * ~asked[folds == fold]).sum(axis=0) for fold in range(N_FOLDS))
    counts = ((~asked[folds == fold]).sum(axis=0) for fold in range(N_FOLDS))
    return np.array([total / np.maximum(n, 1) for total, n in zip(sums, counts, strict=True)])


def omission_of(generated: Scores, real: Scores, asked: Asked) -> Ratios:
    """Return the omission a' / (a + a') per word, from the excess of asked images: a on real, a' on generated images.

    An excess is a score above the level of unasked images. That of generated images is above the lower level of both sides: what
    a model also draws where nobody asks must not make it seem left out where it is drawn.
    A negative excess counts as 0; without any excess the value is nan. The p-value is that of a' - a by Student's t, with the
    asked pairs less one as degrees of freedom. The interval is Fieller's: all values v whose a' - v (a + a') is no further from 0
    than t standard errors, with the errors of both means. If no asked generated image holds anything, that leaves the point 0; so
    its upper end is at least Clopper and Pearson's limit for 0 of m, with m the effective number of asked pairs.
    """
    from scipy.stats import t

    freedom = asked.sum(axis=0) - 1
    a, b = mean_asked(real, asked), mean_asked(generated, asked)
    rr, gr, gg = (covariance(*sides, asked) for sides in ((real, real), (generated, real), (generated, generated)))
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.abs(b - a) / np.sqrt(np.maximum(rr - 2 * gr + gg, 0))
    p = 2 * t.sf(np.nan_to_num(distance, nan=0.0), freedom)
    low, high = fieller(b, a + b, gg, gg + gr, gg + 2 * gr + rr, t.isf(TAIL, freedom))
    sums = np.maximum(real + generated, 0) * asked
    with np.errstate(invalid="ignore", divide="ignore"):
        unseen = np.nan_to_num(1 - TAIL ** ((sums**2).sum(axis=0) / sums.sum(axis=0) ** 2), nan=1.0)
    value = energy_difference(np.maximum(b, 0), np.maximum(a, 0))
    return Ratios(value, np.minimum(low, 1 - unseen), np.maximum(high, unseen), p)


def fieller(
    part: OfWords, whole: OfWords, of_part: OfWords, of_both: OfWords, of_whole: OfWords, deviations: OfWords
) -> tuple[OfWords, OfWords]:
    """Return Fieller's interval of part / whole, cut to [0, 1], from both estimates and their variances and covariance."""
    a, b, c = (x - deviations**2 * y for x, y in ((whole**2, of_whole), (part * whole, of_both), (part**2, of_part)))
    half = np.sqrt(np.maximum(b**2 - a * c, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = (np.where(a > 0, (b + sign * half) / a, end) for sign, end in ((-1, 0.0), (1, 1.0)))
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def mean_asked(scores: Scores, asked: Asked) -> OfWords:
    return (scores * asked).sum(axis=0) / asked.sum(axis=0)


def covariance(first: Scores, second: Scores, asked: Asked) -> OfWords:
    """Return the covariance of two excesses: of the means over the asked, plus that of the means over the unasked images."""
    total = 0.0
    for chosen in (asked, ~asked):
        n = chosen.sum(axis=0)
        product = (first * second * chosen).sum(axis=0) / n - mean_asked(first, chosen) * mean_asked(second, chosen)
        total = total + product / np.maximum(n - 1, 1)
    return total


def intrusion_of(generated: Asked, real: Asked, asked: Asked) -> Ratios:
    """Return the intrusion f' / (f + f') per word; f and f' are the fractions of unasked images that show it, real and generated.

    The interval is `ratio_interval`'s over the unasked pairs. The p-value is that of the sign test: of the pairs that show the
    word on one side only, each side is as likely. If no unasked image shows the word, the value is nan and the interval [0, 1].
    """
    sides = [sp.csr_matrix((shows & ~asked).astype(np.float64)) for shows in (generated, real)]
    gained, lost = ((first & ~second & ~asked).sum(axis=0) for first, second in ((generated, real), (real, generated)))
    p = sign_test(gained, lost)
    low, high = ratio_interval(*sides)
    value = energy_difference(*(np.asarray(side.sum(axis=0)).ravel() for side in sides))
    return Ratios(value, np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0), p)


def sign_test(gained: Int[np.ndarray, "w"], lost: Int[np.ndarray, "w"]) -> OfWords:
    """Return the two-sided p-value of so many gains and losses if both are as likely."""
    from scipy.stats import binom

    return np.minimum(2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5), 1.0)


def explanations(
    intruding: pd.DataFrame, generated: sp.csr_matrix, real: sp.csr_matrix, detectors: Detectors, analysis: Analysis
) -> dict[int, str]:
    """Return for each row of a model's intruding words, by its index, the surer intruder that explains it; others are left out.

    A detector may take what a model adds for something alike. So the intruding words of a model are judged again, from the surest
    (by `intrusion_low`) on: by the sign test over those unasked pairs in which no surer intruder is shown unasked. A word that
    does not intrude there is explained by the surer one that is shown most often in the images that gained the word.
    """
    rows = intruding.sort_values("intrusion_low", ascending=False, kind="stable")
    words = np.array([detectors.words.index(word) for word in rows["word"]], np.int64)
    unasked, found = ~detectors.asked_for(words), {}
    made, before = (detectors.shows(energies, words) & unasked for energies in (generated, real))
    gained, lost = made & ~before, before & ~made
    for place, row in enumerate(rows.index):
        clear = ~made[:, :place].any(axis=1)
        p = sign_test(*(side[clear, place : place + 1].sum(axis=0) for side in (gained, lost)))[0]
        if place and p > analysis.false_discovery_rate:
            found[row] = rows["word"].iloc[int(made[gained[:, place], :place].sum(axis=0).argmax())]
    return found


def add_calls(table: pd.DataFrame, analysis: Analysis) -> None:
    """Add q-values, calls and `omission_beyond`, in place."""
    rate, band = analysis.false_discovery_rate, analysis.aligned_band
    for side in ("omission", "intrusion"):
        table[f"{side}_q"] = adjusted(table[f"{side}_p"].to_numpy(float))
    omission, intrusion = table["omission_value"], table["intrusion_value"]
    omitted, intruding = (table["omission_q"] <= rate) & (omission < 0.5), (table["intrusion_q"] <= rate) & (intrusion > 0.5)
    drawn, absent = table["omission_low"] >= 0.5 - band, table["intrusion_high"] <= 0.5 + band
    table["omission_call"] = np.select([drawn, omitted], ["aligned", "omitted"], "unclear").astype(object)
    table["intrusion_call"] = np.select([absent, intruding], ["aligned", "intruding"], "unclear").astype(object)
    table["omission_beyond"] = (table["omission_call"] == "omitted") & (table["omission_high"] < analysis.suppressed_below)


def detectable_omission(table: pd.DataFrame, analysis: Analysis) -> Float[np.ndarray, "r"]:
    """Return per row the greatest omission value that would have been called with probability `POWER`; nan if 0 would not.

    If the model draws a fraction x of what is asked for, its excess is x a and the variance of both sides' difference is about
    (1 + x) v; a is the real excess and v its variance. It is called with that probability if (1 - x) a = c sqrt((1 + x) v), where
    c is the sum of two quantiles of Student's t: of the greatest p-value that is called in this table, and of `POWER`. With
    r = c^2 v / a^2, x = (2 + r - sqrt(r^2 + 8 r)) / 2, and the omission value is x / (1 + x).
    """
    from scipy.stats import t

    p, q = table["omission_p"].to_numpy(float), table["omission_q"].to_numpy(float)
    freedom = np.maximum(table["n_asked"].to_numpy(float) - 1, 1)
    n_tests = (~np.isnan(p)).sum()
    called = p[q <= analysis.false_discovery_rate]
    level = called.max() if len(called) else analysis.false_discovery_rate / max(n_tests, 1)
    excess, variance = table["excess"].to_numpy(float), table["excess_variance"].to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (t.isf(level / 2, freedom) + t.ppf(POWER, freedom)) ** 2 * variance / excess**2
        kept = (2 + r - np.sqrt(r**2 + 8 * r)) / 2
    return np.where((excess > 0) & (kept >= 0), kept / (1 + kept), np.nan)
