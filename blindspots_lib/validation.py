"""The tables behind the scorecard: what was planted against what the instrument and its rivals find, model by model."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Int

from blindspots_lib.artifacts import Artifact, read_json
from blindspots_lib.baselines import amounts_of, clusters, principal_components, random_dictionary, raw_features
from blindspots_lib.blindspots import energy_difference
from blindspots_lib.concepts import encode_images
from blindspots_lib.hub import fetch
from blindspots_lib.matching import Matching, match_concepts
from blindspots_lib.parts import Analysis, Model, PerfectGenerator, SAEConfig
from blindspots_lib.scenes import BACKGROUNDS, OBJECTS
from blindspots_lib.scorecard import agreement_with_oracle, detect
from blindspots_lib.statistics import image_energies
from blindspots_lib.study import Study
from blindspots_lib.tokens import TokenSource, TrainingTokens
from blindspots_lib.training import fit_sae

NAMES = [*OBJECTS, *BACKGROUNDS]
SAMPLE = 40_000  # tokens that baselines are fitted to


class Planted(NamedTuple):
    """What a model was made to do wrong."""

    suppressed: frozenset[str]  # true concepts
    exaggerated: frozenset[str]
    memorized: dict[str, int]  # pair -> how often it is in the training corpus

    def labels(self, side: str, matching: Matching) -> Bool[np.ndarray, "u"]:
        """Whether each matched unit stands for something planted on that side."""
        names = self.suppressed if side == "suppressed" else self.exaggerated
        return np.array([NAMES[truth] in names for truth in matching.truth[matching.truth >= 0]], bool)


def planted_in(study: Study, model: Model) -> Planted:
    """The plants of a model, from the `plants.json` beside its weights; none of the perfect generator."""
    if isinstance(model, PerfectGenerator):
        return Planted(frozenset(), frozenset(), {})
    facts = read_json(fetch(model) / "plants.json")
    suppressed = {*facts["withheld"], *facts["drawn_away"], *facts["background_drawn_as"]}
    exaggerated = {*facts["added"], *facts["background_drawn_as"].values()}
    memorized = {f"scene-{facts['seed']}-{int(index):06d}": copies for index, copies in facts["memorized"].items()}
    return Planted(frozenset(suppressed), frozenset(exaggerated), memorized)


Amounts = Mapping[str, sp.csr_matrix]  # "real" and the models -> (pairs, units), non-negative


def sae_amounts(
    artifact: Artifact, n_concepts: int, tokens: Mapping[str, TokenSource], rows: Mapping[str, np.ndarray]
) -> Amounts:
    """Energies of all sources by one SAE, over the patch tokens of the complete pairs."""
    from blindspots_lib.sae import load_sae

    sae = load_sae(artifact.folder)

    def energies(source: TokenSource) -> Iterator[sp.csr_matrix]:
        for shard in source:
            yield image_energies(*encode_images(sae, np.asarray(shard[:, source.layout.patches])), n_concepts)

    return {name: sp.vstack(list(energies(source)), format="csr")[rows[name]] for name, source in tokens.items()}


def all_amounts(
    study: Study, tokens: Mapping[str, TokenSource], rows: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, int, Amounts]]:
    """Units, seed and amounts: RA-SAE and plain top-k SAE for every seed, then what has nothing to do with SAEs."""
    for kind, dictionary in (("RA-SAE", study.sae.dictionary), ("TopK SAE", "free")):
        for seed in range(study.validation.n_seeds):
            config = study.sae.model_copy(update={"dictionary": dictionary, "seed": seed, "kmeans_seed": seed})
            artifact = fit_sae(study, tokens["real"], config, f"validation/{dictionary}-{seed}")
            yield kind, seed, sae_amounts(artifact, config.n_concepts, tokens, rows)
    for seed in range(study.validation.n_seeds):
        for kind, amounts in rivals(study.sae, sample_of(study, tokens["real"], seed), seed).items():
            yield kind, seed, {name: amounts_of(source, amounts)[rows[name]] for name, source in tokens.items()}


def sample_of(study: Study, real: TokenSource, seed: int) -> np.ndarray:
    return TrainingTokens(real, study.sae).sample(SAMPLE, seed).numpy()


def rivals(config: SAEConfig, sample: np.ndarray, seed: int) -> dict:
    return {
        "k-means": clusters(sample, config.n_concepts, seed),
        "random dictionary": random_dictionary(sample, config.n_concepts, config.k, seed),
        "PCA": principal_components(sample),
        "raw features": raw_features(sample),
    }


def detection_rows(
    kind: str, seed: int, amounts: Amounts, present: Bool[np.ndarray, "pairs names"], planted: Mapping[str, Planted],
    change: Mapping[str, np.ndarray], analysis: Analysis,
) -> Iterator[dict]:  # fmt: skip
    """One row a model and side: how well delta of the units that stand for something finds what was planted."""
    matching = match_concepts(amounts["real"], present)
    matched = matching.truth >= 0
    real = mean_amounts(amounts["real"])
    for model, plants in planted.items():
        deltas = energy_difference(mean_amounts(amounts[model]), real)[matched]
        beyond = (deltas < analysis.suppressed_below) | (deltas > analysis.exaggerated_above)
        common = {
            "units": kind, "seed": seed, "model": model, "n_units": len(matched), "n_matched": int(matched.sum()),
            "n_truths": len(np.unique(matching.truth[matched])), "flagged_share": float(beyond.mean()) if len(beyond) else np.nan,
            "oracle_rho": agreement_with_oracle(deltas, matching.truth[matched], change[model]),
        }  # fmt: skip
        for side, threshold in (("suppressed", analysis.suppressed_below), ("exaggerated", analysis.exaggerated_above)):
            yield common | {"side": side} | detect(deltas, plants.labels(side, matching), side, threshold)._asdict()


def mean_amounts(amounts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(amounts.mean(axis=0, dtype=np.float64)).ravel()


def memorization_table(datapoints: pd.DataFrame, planted: Mapping[str, Planted], public: Int[np.ndarray, "pairs"] | np.ndarray):
    """The public pairs of each model, with whether and how often the pair was repeated in its training corpus."""
    parts = []
    for model, plants in planted.items():
        table = datapoints[datapoints["model"] == model].reset_index(drop=True)[public]
        parts.append(table.assign(copies=[plants.memorized.get(pair_id, 0) for pair_id in table["pair_id"]]))
    return pd.concat(parts, ignore_index=True)
