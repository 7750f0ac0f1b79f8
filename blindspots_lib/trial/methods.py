"""The methods on trial, and the amounts of their directions in every image: SAEs, baselines, and a supervised probe.

A direction is what a method measures: a concept of an SAE, a k-means cell, a principal axis, a feature, a word.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import encode_images
from blindspots_lib.analysis.statistics import ShardCodes, image_energies
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.parallel import n_side_by_side, side_by_side
from blindspots_lib.core.study import Study
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.batches import TrainingTokens
from blindspots_lib.sae.kmeans import keep_start
from blindspots_lib.sae.model import load_sae
from blindspots_lib.sae.train import fit_saes
from blindspots_lib.trial.baselines import GlobalScores, amounts_of, global_scores, rivals
from blindspots_lib.trial.matching import NAMES
from blindspots_lib.trial.probe import patch_labels, probe_amounts
from blindspots_lib.trial.tables import AmountsOfAll
from blindspots_lib.trial.truth import Truth

SAMPLE = 60_000  # number of tokens that baselines are fitted to
RA_SAE, TOPK_SAE, KMEANS, WORDS = "RA-SAE", "TopK SAE", "k-means", "CLIP score of a word"
PROBE, ORACLE = "supervised probe", "oracle"  # upper bounds, not rivals: they are given the ground truth

CodesOfAll = Mapping[str, list[ShardCodes]]  # the codes of all tokens by one SAE: of "real" and the models, shard by shard
Reduce = Callable[[ShardCodes], sp.csr_matrix]  # (images, directions)


def judged_config(study: Study, seed: int, dictionary: str | None = None) -> SAEConfig:
    """Return the study's SAE with a seed of the trial, and with another dictionary if one is given."""
    changes = {"dictionary": dictionary or study.sae.dictionary, "seed": seed, "kmeans_seed": seed}
    return study.sae.model_copy(update=changes)


def rival_configs(study: Study) -> list[SAEConfig]:
    """Return the SAEs on trial: per seed one with and one without the archetypal constraint."""
    return [judged_config(study, seed, dictionary) for seed in study.validation.seeds for dictionary in (None, "free")]


@dataclass(frozen=True)
class Methods:
    """The directions of every method and their amounts in all images."""

    truth: Truth
    tokens: Mapping[str, TokenSource]  # of all images
    training_tokens: TokenSource  # the tokens that SAEs and baselines learn from

    @property
    def study(self) -> Study:
        return self.truth.results.study

    @property
    def rows(self) -> dict[str, np.ndarray]:
        return self.truth.results.rows

    def fit(self, configs: Iterable[SAEConfig]) -> dict[SAEConfig, Artifact]:
        """Train the SAEs of these configurations that are not trained yet; return the folders of all."""
        return fit_saes(self.study.workspace, self.training_tokens, configs)

    def amounts_by_method(self) -> Iterator[tuple[str, int, AmountsOfAll]]:
        """Yield method, seed and amounts of all directions that are judged."""
        seeds, study = self.study.validation.seeds, self.study
        self.fit(rival_configs(study))
        for seed in seeds:
            ours = self.first_codes if seed == seeds[0] else self.sae_codes(judged_config(study, seed))
            yield RA_SAE, seed, self.amounts(ours)
            yield TOPK_SAE, seed, self.amounts(self.sae_codes(judged_config(study, seed, "free")))
            sample = TrainingTokens(self.training_tokens, study.sae).sample(SAMPLE, seed).numpy()
            start = keep_start(study.workspace, self.training_tokens, judged_config(study, seed))
            for method, amounts in rivals(study.sae, sample, start.candidates.numpy(), seed).items():
                yield method, seed, {name: amounts_of(source, amounts)[self.rows[name]] for name, source in self.tokens.items()}
        yield PROBE, seeds[0], self.probed(seeds[0])

    def probed(self, seed: int) -> AmountsOfAll:
        """Return how much of every image each ground-truth concept covers, by the supervised probe."""
        side = self.tokens["real"].layout.patches_per_side
        patches = {name: patch_tokens(source)[self.rows[name]] for name, source in self.tokens.items()}
        labels = patch_labels(self.study.pairs, self.rows["real"], self.truth.present, side)
        return probe_amounts(patches, labels, len(NAMES), seed)

    @cached_property
    def first_codes(self) -> CodesOfAll:
        """The codes of the RA-SAE with the first seed, which variants are compared with."""
        return self.sae_codes(judged_config(self.study, self.study.validation.seeds[0]))

    def sae_codes(self, config: SAEConfig) -> CodesOfAll:
        """Return the codes of all tokens by the SAE of this configuration; train it if necessary."""
        sae = load_sae(self.fit([config])[config].folder)
        places = [(source, index) for source, tokens in self.tokens.items() for index in range(len(tokens))]
        shards = {source: [] for source in self.tokens}

        def encode(place: tuple[str, int]) -> ShardCodes:
            return encode_images(sae, np.asarray(self.tokens[place[0]].shard(place[1])))

        with side_by_side(encode, places, n_side_by_side()) as encoded:
            for (source, _), codes in zip(places, encoded, strict=True):
                shards[source].append(codes)
        return shards

    def amounts(self, codes: CodesOfAll, tokens: str | None = None, reduce: Reduce = image_energies) -> AmountsOfAll:
        """Return the energies of all images from their codes, over the study's choice of tokens or another."""
        chosen = self.tokens["real"].layout.selection(tokens or self.study.analysis.tokens)

        def of_source(shards: list[ShardCodes]) -> sp.csr_matrix:
            return sp.vstack([reduce(shard.over(chosen)) for shard in shards], format="csr")

        return {source: of_source(shards)[self.rows[source]] for source, shards in codes.items()}

    @cached_property
    def global_scores(self) -> dict[str, GlobalScores]:
        """The usual global scores of each model, on the images' descriptors."""
        features: dict[str, Float[np.ndarray, "pairs d4"]] = {
            name: np.concatenate([image_descriptor(shard, source.layout) for shard in source])[self.rows[name]]
            for name, source in self.tokens.items()
        }
        return {model.name: global_scores(features["real"], features[model.name]) for model in self.study.models}


def patch_tokens(source: TokenSource) -> Float[np.ndarray, "n t d"]:
    return np.concatenate([np.array(shard[:, source.layout.patches]) for shard in source])  # copies: a shard is an open file
