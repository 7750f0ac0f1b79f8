"""The trial of the instrument where the answers are known: what was planted, what was found, and what rivals would find."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from blindspots_lib import training
from blindspots_lib.agreement import (
    ClipEncoder,
    agreement,
    embed_captions,
    embed_images,
    name_concepts,
    open_vectors,
    word_scores,
)  # fmt: skip
from blindspots_lib.artifacts import Artifact, fingerprint_of
from blindspots_lib.baselines import GlobalScores, amounts_of, global_scores, rivals
from blindspots_lib.candidates import keep_start
from blindspots_lib.concepts import encode_images
from blindspots_lib.cores import n_side_by_side, side_by_side
from blindspots_lib.features import image_descriptor
from blindspots_lib.matching import NAMES, amounts_of_truths, match_concepts, true_presence
from blindspots_lib.measures import concept_change, detection_table
from blindspots_lib.oracle import Verdicts, judge_images, open_verdicts
from blindspots_lib.parts import SAEConfig, contents
from blindspots_lib.planted import Planted, planted_in
from blindspots_lib.probe import patch_labels, probe_amounts
from blindspots_lib.rankings import AmountsOfAll, gains_table, named_table, truth_table, unit_table
from blindspots_lib.results import Results, collect_tokens, training_tokens
from blindspots_lib.scene_pairs import caption_owners
from blindspots_lib.statistics import image_energies
from blindspots_lib.tokens import TokenSource, TrainingTokens
from blindspots_lib.training import fit_saes

SAMPLE = 60_000  # tokens that baselines are fitted to
RA_SAE, TOPK_SAE, WORDS = "RA-SAE", "TopK SAE", "CLIP score of a word"
PROBE, ORACLE = "supervised probe", "oracle"  # no rivals but ceilings: they are told what is to be found
CODE = (
    "validation", "matching", "rankings", "baselines", "probe", "measures", "concepts", "statistics", "blindspots",
    *training.CODE,
)  # fmt: skip

Reduce = Callable[[np.ndarray, np.ndarray, int], sp.csr_matrix]  # indices, values, K -> (images, units)


class CodesOfAll(NamedTuple):
    """Codes of all tokens by one SAE."""

    n_concepts: int
    shards: Mapping[str, list[tuple[np.ndarray, np.ndarray]]]  # "real" and the models -> indices and values, (b, t, a) each


@dataclass(frozen=True)
class Trial:
    """All tables of the scorecard. Opening one makes whatever is not there yet, and keeps it."""

    results: Results

    @property
    def study(self):
        return self.results.study

    @cached_property
    def planted(self) -> dict[str, Planted]:
        return {model.name: planted_in(model) for model in self.study.models}

    @cached_property
    def tokens(self) -> dict[str, TokenSource]:
        return collect_tokens(self.study)

    @cached_property
    def present(self) -> Bool[np.ndarray, "pairs names"]:
        """What the real images show."""
        return true_presence(self.results.pairs, self.results.rows["real"], NAMES)

    @cached_property
    def noisy(self) -> Bool[np.ndarray, "pairs"]:
        """Which pairs carry the caption of another."""
        noise = self.results.image_artifacts["real"].facts["caption_noise"]
        return np.array([pair_id in noise for pair_id in self.results.pair_ids])

    @cached_property
    def sides(self) -> dict[str, pd.Series]:
        """For each model, on which side each true concept was planted, "" for none."""
        return {model: pd.Series({name: planted.side(name) for name in NAMES}) for model, planted in self.planted.items()}

    @cached_property
    def verdict_artifacts(self) -> dict[str, Artifact]:
        return {source: judge_images(self.study, source, images) for source, images in self.results.image_artifacts.items()}

    @cached_property
    def verdicts(self) -> dict[str, Float[np.ndarray, "pairs names"]]:
        """The oracle's probability of every true concept in every image."""
        opened: dict[str, Verdicts] = {source: open_verdicts(artifact) for source, artifact in self.verdict_artifacts.items()}
        return {source: verdicts.of(NAMES)[self.results.rows[source]] for source, verdicts in opened.items()}

    @cached_property
    def change(self) -> dict[str, pd.Series]:
        """The true change of frequency of every true concept, by the oracle."""
        real = self.verdicts["real"]
        return {m.name: pd.Series(concept_change(self.verdicts[m.name], real), index=NAMES) for m in self.study.models}

    @cached_property
    def detection(self) -> pd.DataFrame:
        """How well each kind of units finds the plants: see `detection_table`."""
        told = [self.words, self.true_changes]
        units, truths = (pd.concat([table, *told], ignore_index=True) for table in (self.units, self.truths))
        return detection_table(units, truths, self.sides, self.change, self.study.analysis)

    @cached_property
    def vectors(self) -> dict[str, Float[np.ndarray, "pairs d"]]:
        """CLIP vectors of all images, and of the captions."""
        rows, images = self.results.rows, self.results.image_artifacts
        vectors = {
            name: open_vectors(embed_images(self.study, name, of_source))[rows[name]] for name, of_source in images.items()
        }
        return vectors | {"captions": open_vectors(embed_captions(self.study, images["real"]))[rows["real"]]}

    @cached_property
    def named_alike(self) -> Bool[np.ndarray, "matched"]:
        """Of the study's own concepts that stand for a true concept: whether CLIP, which knows no truth, names it too."""
        energies = self.results.energies["real"].matrix
        matching = match_concepts(energies, self.present)
        words = ClipEncoder(self.study.validation.clip).captions([f"a {name}" for name in NAMES])
        named = name_concepts(energies, self.vectors["real"], words)
        return (named == matching.truth)[matching.truth >= 0]

    @cached_property
    def agreement(self) -> dict[str, Float[np.ndarray, "pairs"]]:
        """How well the caption of each pair fits its image, real and of each model, by CLIP."""
        captions = self.vectors["captions"]
        return {name: agreement(images, captions) for name, images in self.vectors.items() if name != "captions"}

    def kept(self, name: str, build: Callable[[], pd.DataFrame], *code: str) -> pd.DataFrame:
        """A table of the trial, made if it is not there."""
        inputs = {f"tokens/{source}": tokens.fingerprint for source, tokens in self.tokens.items()}
        inputs |= {f"verdicts/{source}": artifact.fingerprint for source, artifact in self.verdict_artifacts.items()}
        inputs["corpus"] = training_tokens(self.study).fingerprint
        inputs |= {f"planted/{model.name}": fingerprint_of(self.sides[model.name].to_dict()) for model in self.study.models}
        study = self.study
        config = {"sae": contents(study.sae), "validation": contents(study.validation), "analysis": contents(study.analysis)}
        return self.results.table(self.results.table_artifact(name, config, inputs, (*CODE, *code)), build)

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row a model and unit, of every kind of units and every seed: what it stands for ("": nothing), and its delta."""
        return self.kept("units", lambda: self.judged["units"])

    @cached_property
    def truths(self) -> pd.DataFrame:
        """One row a model and true concept, of every kind of units and every seed: its delta by the units that stand for it."""
        return self.kept("truths", lambda: self.judged["truths"])

    @cached_property
    def judged(self) -> dict[str, pd.DataFrame]:
        units, truths = [], []
        for kind, seed, amounts in self.amounts_of_kinds():
            units.append(self.unit_rows(amounts).assign(kind=kind, seed=seed))
            truths.append(self.truth_rows(amounts).assign(kind=kind, seed=seed))
        return {"units": pd.concat(units, ignore_index=True), "truths": pd.concat(truths, ignore_index=True)}

    def amounts_of_kinds(self) -> Iterator[tuple[str, int, AmountsOfAll]]:
        """Kind, seed and amounts of all units that are judged."""
        seeds, rows = self.study.validation.seeds, self.results.rows
        self.fit(self.judged_config(seed, dictionary) for dictionary in (None, "free") for seed in seeds)
        for seed in seeds:
            ours = self.first_codes if seed == seeds[0] else self.sae_codes(self.judged_config(seed))
            yield RA_SAE, seed, self.amounts(ours)
            yield TOPK_SAE, seed, self.amounts(self.sae_codes(self.judged_config(seed, "free")))
            tokens = training_tokens(self.study)
            sample = TrainingTokens(tokens, self.study.sae).sample(SAMPLE, seed).numpy()
            candidates = keep_start(self.study, tokens, self.judged_config(seed)).candidates.numpy()
            for kind, amounts in rivals(self.study.sae, sample, candidates, seed).items():
                yield kind, seed, {name: amounts_of(source, amounts)[rows[name]] for name, source in self.tokens.items()}
        yield PROBE, seeds[0], self.probed(seeds[0])

    def probed(self, seed: int) -> AmountsOfAll:
        """How much of every image each true concept covers, by the supervised probe."""
        rows, side = self.results.rows, self.tokens["real"].layout.patches_per_side
        patches = {name: patch_tokens(source)[rows[name]] for name, source in self.tokens.items()}
        return probe_amounts(patches, patch_labels(self.study.pairs, rows["real"], self.present, side), len(NAMES), seed)

    def judged_config(self, seed: int, dictionary: str | None = None) -> SAEConfig:
        """The study's SAE with a seed of the trial, and maybe another dictionary."""
        changes = {"dictionary": dictionary or self.study.sae.dictionary, "seed": seed, "kmeans_seed": seed}
        return self.study.sae.model_copy(update=changes)

    @cached_property
    def first_codes(self) -> CodesOfAll:
        """Of the RA-SAE with the first seed: what variants are compared with."""
        return self.sae_codes(self.judged_config(self.study.validation.seeds[0]))

    def sae_codes(self, config: SAEConfig) -> CodesOfAll:
        """Codes of all tokens of all images by an SAE of this configuration, trained if need be."""
        from blindspots_lib.sae import load_sae

        sae = load_sae(self.fit([config])[config].folder)
        places = [(source, index) for source, tokens in self.tokens.items() for index in range(len(tokens))]
        shards = {source: [] for source in self.tokens}

        def encode(place: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
            return encode_images(sae, np.asarray(self.tokens[place[0]].shard(place[1])))

        with side_by_side(encode, places, n_side_by_side()) as encoded:
            for (source, _), codes in zip(places, encoded, strict=True):
                shards[source].append(codes)
        return CodesOfAll(config.n_concepts, shards)

    def fit(self, configs: Iterable[SAEConfig]) -> dict[SAEConfig, Artifact]:
        """Train SAEs of these configurations, or find them trained, be it for the figures or for the stability."""
        return fit_saes(self.study, training_tokens(self.study), configs)

    def amounts(self, codes: CodesOfAll, tokens: str | None = None, reduce: Reduce = image_energies) -> AmountsOfAll:
        """Energies of all images from their codes, over the study's tokens or others."""
        chosen = self.tokens["real"].layout.selection(tokens or self.study.analysis.tokens)

        def of_source(shards) -> sp.csr_matrix:
            parts = [reduce(indices[:, chosen], values[:, chosen], codes.n_concepts) for indices, values in shards]
            return sp.vstack(parts, format="csr")

        return {source: of_source(shards)[self.results.rows[source]] for source, shards in codes.shards.items()}

    def unit_rows(self, amounts: AmountsOfAll) -> pd.DataFrame:
        return unit_table(amounts, self.present, self.sides, self.study.analysis.min_images)

    def truth_rows(self, amounts: AmountsOfAll) -> pd.DataFrame:
        return truth_table(amounts, self.present, self.sides)

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row a model and true concept: what the CLIP scores of the captions that name it say."""
        owners = caption_owners(self.study.pairs)[self.results.rows["real"]]
        named = true_presence(self.results.pairs, owners, NAMES)
        real = self.agreement["real"]
        scores = {model.name: word_scores(self.agreement[model.name], real, named) for model in self.study.models}
        return self.told_rows(WORDS, scores)

    @cached_property
    def true_changes(self) -> pd.DataFrame:
        """One row a model and true concept: the true change itself, which says how well any delta could rank the planted."""
        return self.told_rows(ORACLE, self.change)

    def told_rows(self, kind: str, deltas: Mapping[str, Iterable[float]]) -> pd.DataFrame:
        """Rows like those of `truths`, of a kind whose units are the true concepts themselves."""
        return named_table(deltas, self.sides, kind=kind, seed=0, purity=1.0, match=1.0)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """One row a model and planted true concept: where on the way it is lost, if it is.

        `probe` is how well the supervised probe tells it: does the backbone show it? `match` and `purity` are of its concepts
        together, means over seeds; `least delta` is (1 - p) / (2 - p), the delta of concepts of purity p when what they stand
        for vanishes and nothing else changes.
        """
        ours = self.truths[self.truths["kind"] == RA_SAE]
        found = ours.groupby(["model", "truth"]).agg(
            match=("match", "mean"), purity=("purity", "mean"), delta=("delta", "median")
        )
        found["least delta"] = (1 - found["purity"]) / (2 - found["purity"])
        probed = self.truths[self.truths["kind"] == PROBE].groupby("truth")["match"].mean()
        rows = [
            {"model": model, "truth": name, "planted": side, "true change": self.change[model][name], "probe": probed[name]}
            for model, sides in self.sides.items()
            for name, side in sides[sides != ""].items()
        ]
        columns = ["model", "truth", "planted", "true change", "probe"]
        return pd.DataFrame(rows, columns=columns).join(found, on=["model", "truth"])

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Where the concepts gain that outrank what was exaggerated: see `gains_table`. The first seed's RA-SAE."""

        def build() -> pd.DataFrame:
            ours = (self.truths["kind"] == RA_SAE) & (self.truths["seed"] == self.study.validation.seeds[0])
            shown = {source: verdicts > 0.5 for source, verdicts in self.verdicts.items()}
            held = amounts_of_truths(self.amounts(self.first_codes), self.present)
            return gains_table(held, self.truths[ours], shown)

        return self.kept("gains", build)

    @cached_property
    def global_scores(self) -> dict[str, GlobalScores]:
        """The scores people use, on the images' descriptors."""
        features = {
            name: np.concatenate([image_descriptor(shard, source.layout) for shard in source])[self.results.rows[name]]
            for name, source in self.tokens.items()
        }
        return {model.name: global_scores(features["real"], features[model.name]) for model in self.study.models}

    @cached_property
    def discrepancies(self) -> pd.DataFrame:
        """One row a pair and model: how far the images are apart, whose the caption is, how well it fits the real one."""
        table = self.results.datapoints[["pair_id", "model", "energy_distance"]]
        order = {pair_id: position for position, pair_id in enumerate(self.results.pair_ids)}
        positions = table["pair_id"].map(order).to_numpy()
        public = self.results.are_public(self.study.pairs)
        return table.assign(noisy=self.noisy[positions], public=public[positions], agreement=self.agreement["real"][positions])

    @cached_property
    def copies(self) -> pd.DataFrame:
        """The public pairs of each model: how far from the real image, how near to a training image, how often repeated."""
        table = self.results.datapoints
        public = np.array(self.results.pair_ids)[self.results.are_public(self.study.pairs)]
        table = table[table["pair_id"].isin(public)]
        repeated, untouched = self.repeated, self.untouched
        copies = [repeated[row.model].get(row.pair_id, 0) for row in table.itertuples()]
        alike = [row.pair_id in untouched[row.model] for row in table.itertuples()]
        return table.assign(copies=copies, untouched=alike).reset_index(drop=True)

    @cached_property
    def repeated(self) -> dict[str, Mapping[str, int]]:
        """How often each pair was repeated for a model; of one without plants, for any other: there chance is seen."""
        of_any = {pair: copies for planted in self.planted.values() for pair, copies in planted.memorized.items()}
        return {model: planted.memorized or of_any for model, planted in self.planted.items()}

    @cached_property
    def untouched(self) -> dict[str, set[str]]:
        """The pairs that show nothing that a model was made to draw otherwise, as all repeated ones do."""
        shown = np.array(NAMES)
        per_pair = {pair_id: set(shown[row]) for pair_id, row in zip(self.results.pair_ids, self.present, strict=True)}
        return {
            model: {pair_id for pair_id, names in per_pair.items() if names.isdisjoint(planted.redrawn)}
            for model, planted in self.planted.items()
        }


def patch_tokens(source: TokenSource) -> Float[np.ndarray, "n t d"]:
    return np.concatenate([shard[:, source.layout.patches] for shard in source])
