"""What the answers are worth: names, calls, omissions and intrusions, held to what was planted, for every method alike.

The amounts of a method's directions, (pairs, directions), go through the steps that energies of concepts go through. Only the
captions' words, real images and generated images are given to those steps; what was planted judges them.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from blindspots_lib.analysis.asked import asked_table
from blindspots_lib.analysis.calls import EXAGGERATED, SUPPRESSED, Calls, make_calls
from blindspots_lib.analysis.composition import composition_table, odds_change
from blindspots_lib.analysis.detectors import learn_detectors
from blindspots_lib.analysis.families import concept_families, family_energies, family_names
from blindspots_lib.analysis.names import name_concepts
from blindspots_lib.analysis.words import caption_words
from blindspots_lib.core.config import Analysis
from blindspots_lib.data.scenes import OBJECTS, PLURALS
from blindspots_lib.trial.matching import GROUP, GROUP_WORD, NAMES, match_concepts
from blindspots_lib.trial.tables import AmountsOfAll
from blindspots_lib.trial.truth import Known

PURE = 0.8  # purity from which a direction's name is judged
VANISHED = 0.05  # true change below which a suppressed ground-truth concept is gone
SHOWN = 100  # directions of the most extreme shrunken delta, whose intervals are judged
ALTERED = 0.3  # fraction of directions that are altered on purpose to judge intervals
LEAST_KEPT = 0.05  # least fraction of an altered direction's images that keep it
N_ALTERATIONS = 5


def answer_table(amounts: AmountsOfAll, known: Known, analysis: Analysis) -> pd.DataFrame:
    """Return one row per model and measure, with the columns model, measure and value; nan where a measure is not defined.

    name_accuracy          directions of purity 0.8 or more that are named after their ground-truth concept
    name_false_share       directions that get a name when the captions are permuted
    called_recall          planted ground-truth concepts with a family of their name that is called on the planted side
    called_max_recall      likewise, with a family-wise p-value of at most false_discovery_rate
    false_call_share       tested directions that are called suppressed or exaggerated, on a perfect generator
    shown_coverage         intervals of the 100 most extreme shrunken deltas that hold the true delta (`coverage_of_shown`)
    omission_recall        vanished ground-truth concepts whose word is called omitted, with an omission below suppressed_below
    omission_false_share   words called omitted, of those that are seen, on a perfect generator
    intrusion_ap           average precision of the exaggerated objects among all objects, ranked by `intrusion_low`
    intrusion_false_share, composition_false_share   as omission_false_share, of words and of pairs of words
    composition_right      called pairs of words whose change has the same sign by the oracle, surely (`composition_right`)
    """
    return pd.DataFrame(answer_rows(amounts, known, analysis), columns=["model", "measure", "value"])


def answer_rows(amounts: AmountsOfAll, known: Known, analysis: Analysis) -> Iterator[tuple[str, str, float]]:
    names = name_concepts(amounts["real"], known.captions, analysis.seed)["name"].to_numpy()
    detectors = learn_detectors(amounts["real"], caption_words(known.captions), analysis)
    asked, composition = asked_table(amounts, detectors, analysis), composition_table(amounts, detectors, analysis)
    of_names = {
        "name_accuracy": name_accuracy(names, amounts["real"], known.present),
        "name_false_share": name_false_share(amounts["real"], known.captions, analysis.seed),
    }
    for model, sides in known.sides.items():
        words = asked[asked["model"] == model]
        measures = dict(of_names)
        if model in known.perfect:
            pairs = composition.loc[composition["model"] == model, "call"]
            calls = make_calls(amounts[model], amounts["real"], analysis)
            measures |= {
                "false_call_share": float(is_called(calls)[calls.tested].mean()) if calls.tested.any() else np.nan,
                "shown_coverage": coverage_of_shown(amounts[model], amounts["real"], analysis),
                "omission_false_share": share_of(words.loc[words["reason"] == "", "omission_call"], "omitted"),
                "intrusion_false_share": share_of(words.loc[words["reason"] == "", "intrusion_call"], "intruding"),
                "composition_false_share": float((pairs != "unclear").mean()) if len(pairs) else np.nan,
            }
        else:
            measures |= called_recalls(amounts[model], amounts["real"], names, sides, analysis)
            measures["omission_recall"] = omission_recall(words, sides, known.change[model], analysis)
            measures["intrusion_ap"] = intrusion_precision(words, sides)
            pairs = composition[(composition["model"] == model) & (composition["call"] != "unclear")]
            measures["composition_right"] = composition_right(pairs, known.shown[model], known.shown["real"])
        yield from ((model, measure, value) for measure, value in measures.items())


def accepted_names(truth: str) -> set[str]:
    """Return the words and phrases that name a ground-truth concept: its noun, the plural, each of their words."""
    if truth == GROUP:
        return {GROUP_WORD}
    if truth not in OBJECTS:
        return {truth, f"{truth} background"}
    forms = {truth, PLURALS.get(truth, truth + "s")}
    return forms | {word for form in forms for word in form.split()}


def name_accuracy(names: np.ndarray, real: sp.csr_matrix, present: Bool[np.ndarray, "pairs names"]) -> float:
    """Return the fraction of directions of purity `PURE` or more that are named after their ground-truth concept."""
    matching = match_concepts(real, present)
    judged = np.flatnonzero((matching.truth >= 0) & (matching.purity >= PURE))
    return float(np.mean([names[k] in accepted_names(NAMES[matching.truth[k]]) for k in judged])) if len(judged) else np.nan


def name_false_share(real: sp.csr_matrix, captions: list[str], seed: int) -> float:
    """Return the fraction of directions that fire and get a name from captions permuted over the images."""
    permuted = np.random.default_rng(seed).permutation(np.array(captions, object)).tolist()
    names = name_concepts(real, permuted, seed)["name"].to_numpy()
    fires = real.getnnz(axis=0) > 0
    return float((names[fires] != "").mean()) if fires.any() else np.nan


def is_called(calls: Calls) -> Bool[np.ndarray, "k"]:
    return np.isin(calls.call, (SUPPRESSED, EXAGGERATED))


def called_recalls(
    generated: sp.csr_matrix, real: sp.csr_matrix, names: np.ndarray, sides: pd.Series, analysis: Analysis
) -> dict[str, float]:
    """Return the fractions of planted ground-truth concepts with a family of their name that is called on the planted side.

    Families are of equal names: atoms play no part, so that directions without atoms are judged alike.
    """
    nothing = sp.csr_matrix((len(names), len(names)), dtype=np.int64)
    families = concept_families(names.tolist(), nothing, np.zeros(len(names), np.int64))
    calls = make_calls(*(family_energies(side, families) for side in (generated, real)), analysis)
    found = pd.DataFrame({"name": family_names(names.tolist(), families), "call": calls.call, "p_max": calls.p_max})
    hits = [
        found[found["name"].isin(accepted_names(truth)) & (found["call"] == side)] for truth, side in sides[sides != ""].items()
    ]
    if not hits:
        return {"called_recall": np.nan, "called_max_recall": np.nan}
    surest = [(rows["p_max"] <= analysis.false_discovery_rate).any() for rows in hits]
    return {"called_recall": float(np.mean([len(rows) > 0 for rows in hits])), "called_max_recall": float(np.mean(surest))}


def coverage_of_shown(perfect: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> float:
    """Return how many intervals of the `SHOWN` most extreme shrunken deltas hold the true delta, over `N_ALTERATIONS` worlds."""
    rng, covered = np.random.default_rng(analysis.seed), []
    for _ in range(N_ALTERATIONS):
        generated, compared, truth = altered_world(perfect, real, rng)
        calls = make_calls(generated, compared, analysis, family_wise=False)
        shown = most_extreme(calls, SHOWN)
        covered.append((calls.shrunken_low[shown] <= truth[shown]) & (truth[shown] <= calls.shrunken_high[shown]))
    hits = np.concatenate(covered)
    return float(hits.mean()) if len(hits) else np.nan


def altered_world(
    perfect: sp.csr_matrix, real: sp.csr_matrix, rng: np.random.Generator
) -> tuple[sp.csr_matrix, sp.csr_matrix, Float[np.ndarray, "k"]]:
    """Return energies of generated and of real images whose true delta is known, and that delta per direction.

    On a perfect generator every delta is truly 0.5. Of `ALTERED` directions, one side loses each of its images with probability
    1 - f, log f uniform between log `LEAST_KEPT` and 0: then delta is truly f / (1 + f), or 1 / (1 + f) if the real side loses.
    """
    kept = np.exp(rng.uniform(np.log(LEAST_KEPT), 0, real.shape[1]))
    altered, loses = rng.random(real.shape[1]) < ALTERED, rng.random(real.shape[1]) < 0.5
    truth = np.where(altered, np.where(loses, kept, 1) / (1 + kept), 0.5)
    generated, compared = (
        thin(side, np.where(altered & which, kept, 1.0), rng) for side, which in ((perfect, loses), (real, ~loses))
    )
    return generated, compared, truth


def most_extreme(calls: Calls, n: int) -> Int[np.ndarray, "c"]:
    """Return the n tested directions whose shrunken delta is furthest from 0.5."""
    tested = np.flatnonzero(calls.tested)
    return tested[np.argsort(-np.abs(calls.shrunken[tested] - 0.5), kind="stable")[:n]]


def thin(matrix: sp.csr_matrix, kept: Float[np.ndarray, "k"], rng: np.random.Generator) -> sp.csr_matrix:
    """Return energies from which each concept's images are dropped at random, so that a fraction `kept` remains."""
    thinned = matrix.copy()
    thinned.data[rng.random(matrix.nnz) >= kept[matrix.indices]] = 0
    thinned.eliminate_zeros()
    return thinned


def share_of(calls: pd.Series, call: str) -> float:
    return float((calls == call).mean()) if len(calls) else np.nan


def rows_of(words: pd.DataFrame, truth: str) -> pd.DataFrame:
    """Return the seen words of a table that name a ground-truth concept, the best detected first."""
    return words[words["word"].isin(accepted_names(truth)) & (words["reason"] == "")].sort_values("gain", ascending=False)


def omission_recall(words: pd.DataFrame, sides: pd.Series, change: pd.Series, analysis: Analysis) -> float:
    vanished = sides.index[(sides == SUPPRESSED) & (change < VANISHED)]
    rows = [rows_of(words, truth).head(1) for truth in vanished]
    found = [((row["omission_call"] == "omitted") & (row["omission_value"] < analysis.suppressed_below)).any() for row in rows]
    return float(np.mean(found)) if found else np.nan


def intrusion_precision(words: pd.DataFrame, sides: pd.Series) -> float:
    """Return the average precision of planted exaggerated objects, ranked by `intrusion_low`; an object not seen comes last."""
    from sklearn.metrics import average_precision_score

    objects = [name for name in sides.index if name in OBJECTS]
    planted = np.array([sides[name] == EXAGGERATED for name in objects])
    scores = [rows_of(words, name)["intrusion_low"].head(1).fillna(0.0).to_list() for name in objects]
    return float(average_precision_score(planted, [row[0] if row else -1.0 for row in scores])) if planted.any() else np.nan


def composition_right(
    called: pd.DataFrame, generated: Bool[np.ndarray, "pairs names"], real: Bool[np.ndarray, "pairs names"]
) -> float:
    """Return the fraction of called pairs of words whose log odds ratio changes likewise by what the oracle sees in the images.

    The oracle's change must have the same sign and be twice its standard error or more. Pairs with a word that names no
    ground-truth concept are left out.
    """
    place = {word: place for place, truth in reversed(list(enumerate(NAMES))) for word in accepted_names(truth)}
    rows = called[called["first"].isin(place) & called["second"].isin(place)]
    if not len(rows):
        return np.nan
    first, second = (rows[column].map(place).to_numpy(np.int64) for column in ("first", "second"))
    seen = odds_change(generated, real, first, second)
    return float((np.sign(rows["difference"]) * seen.difference / seen.error >= 2).mean())
