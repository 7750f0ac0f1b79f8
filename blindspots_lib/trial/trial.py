"""The trial of the instrument on models with known faults: its tables are made once, then opened."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from blindspots_lib.analysis.results import Results, Sources, fingerprints_of
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.core.config import contents
from blindspots_lib.core.files import fingerprint_of
from blindspots_lib.core.storage import keep_table, open_table
from blindspots_lib.core.study import Study
from blindspots_lib.models.clip import ClipEncoder, open_vectors
from blindspots_lib.trial.answers import answer_table
from blindspots_lib.trial.clip_score import agreement, name_concepts, word_scores
from blindspots_lib.trial.matching import NAMES, amounts_of_truths, match_concepts
from blindspots_lib.trial.methods import KMEANS, ORACLE, PROBE, RA_SAE, TOPK_SAE, WORDS, Methods
from blindspots_lib.trial.metrics import detection_table
from blindspots_lib.trial.tables import AmountsOfAll, gains_table, named_table, truth_table, unit_table
from blindspots_lib.trial.truth import Truth

TRIAL = Stage("trial", 3)
ANSWERING = (RA_SAE, TOPK_SAE, KMEANS)  # methods whose directions are named and called


@dataclass(frozen=True)
class Trial:
    """All tables of the scorecard."""

    truth: Truth
    methods: Methods
    clip_of: Sources  # CLIP vectors of "captions" and of each source

    @property
    def results(self) -> Results:
        return self.truth.results

    @property
    def study(self) -> Study:
        return self.results.study

    # -- tables that are kept ----------------------------------------------------------------------------------------------

    def artifact(self, name: str, **config) -> Artifact:
        """Return the output folder of a table; `config` is what decides it besides study, images, tokens and plants."""
        tokens = {f"tokens of {source}": tokens.fingerprint for source, tokens in self.methods.tokens.items()}
        verdicts = {f"verdicts on {source}": value for source, value in fingerprints_of(self.truth.verdicts_of).items()}
        plants = {f"plants of {model}": fingerprint_of(sides.to_dict()) for model, sides in self.truth.sides.items()}
        study = self.study
        config |= {"sae": contents(study.sae), "validation": contents(study.validation), "analysis": contents(study.analysis)}
        inputs = {**tokens, **verdicts, **plants, "corpus": self.methods.training_tokens.fingerprint}
        return Artifact(study.workspace, f"tables/{name}", TRIAL, config, inputs)

    def keep(self, name: str, build: Callable[[], pd.DataFrame], **config) -> None:
        """Make a table of the trial, unless it is made already."""
        keep_table(self.artifact(name, **config), build)

    def open(self, name: str, **config) -> pd.DataFrame:
        """Return a table of the trial. Raises StudyError if it is not made yet."""
        return open_table(self.artifact(name, **config))

    def make(self) -> None:
        """Make the tables of directions, of ground-truth concepts and of answers, of all methods and seeds."""
        if not all(self.artifact(name).is_complete() for name in ("units", "truths", "answers")):
            tables: dict[str, list[pd.DataFrame]] = {"units": [], "truths": [], "answers": []}
            for method, seed, amounts in self.methods.amounts_by_method():
                for name, table in self.tables_of(method, amounts).items():
                    tables[name].append(table.assign(kind=method, seed=seed))
            for name, parts in tables.items():
                self.keep(name, partial(pd.concat, parts, ignore_index=True))
        self.keep("gains", self.build_gains)

    def tables_of(self, method: str, amounts: AmountsOfAll) -> dict[str, pd.DataFrame]:
        tables = {"units": self.unit_rows(amounts), "truths": self.truth_rows(amounts)}
        if method in ANSWERING:
            tables["answers"] = answer_table(amounts, self.truth.known, self.study.analysis)
        return tables

    def build_gains(self) -> pd.DataFrame:
        ours = (self.truths["kind"] == RA_SAE) & (self.truths["seed"] == self.study.validation.seeds[0])
        shown = {source: verdicts > 0.5 for source, verdicts in self.truth.verdicts.items()}
        held = amounts_of_truths(self.methods.amounts(self.methods.first_codes), self.truth.present)
        return gains_table(held, self.truths[ours], shown)

    def unit_rows(self, amounts: AmountsOfAll) -> pd.DataFrame:
        return unit_table(amounts, self.truth.present, self.truth.sides)

    def truth_rows(self, amounts: AmountsOfAll) -> pd.DataFrame:
        return truth_table(amounts, self.truth.present, self.truth.sides)

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row per model and direction of every method and seed: see `unit_table`."""
        return self.open("units")

    @cached_property
    def truths(self) -> pd.DataFrame:
        """One row per model and ground-truth concept, of every method and seed: see `truth_table`."""
        return self.open("truths")

    @cached_property
    def answers(self) -> pd.DataFrame:
        """What names, calls, omissions and intrusions are worth, of the SAEs and of k-means cells: see `answer_table`."""
        return self.open("answers")

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Where objects gain that were not planted, by the RA-SAE of the first seed: see `gains_table`."""
        return self.open("gains")

    # -- tables derived from them ------------------------------------------------------------------------------------------

    @cached_property
    def detection(self) -> pd.DataFrame:
        """How well each method finds the plants: see `detection_table`."""
        told = [self.words, self.told_rows(ORACLE, self.truth.change)]
        units, truths = (pd.concat([table, *told], ignore_index=True) for table in (self.units, self.truths))
        return detection_table(units, truths, self.truth.sides, self.truth.change, self.study.analysis)

    @cached_property
    def words(self) -> pd.DataFrame:
        """One row per model and ground-truth concept: the CLIP score of the captions that name it, as a delta."""
        real = self.agreement["real"]
        scores = {model: word_scores(self.agreement[model], real, self.truth.named) for model in self.truth.plants}
        return self.told_rows(WORDS, scores)

    def told_rows(self, method: str, deltas: Mapping[str, Iterable[float]]) -> pd.DataFrame:
        """Return rows like those of `truths`, of a method whose directions are the ground-truth concepts themselves."""
        return named_table(deltas, self.truth.sides, kind=method, seed=0, purity=1.0, match=1.0)

    @cached_property
    def vectors(self) -> dict[str, Float[np.ndarray, "pairs d"]]:
        """CLIP vectors of all images, and of the captions."""
        rows = self.results.rows
        return {name: open_vectors(artifact)[rows.get(name, rows["real"])] for name, artifact in self.clip_of.items()}

    @cached_property
    def agreement(self) -> dict[str, Float[np.ndarray, "pairs"]]:
        """How well the caption of each pair fits its image, real and of each model, by CLIP."""
        captions = self.vectors["captions"]
        return {name: agreement(images, captions) for name, images in self.vectors.items() if name != "captions"}

    @cached_property
    def named_alike(self) -> Bool[np.ndarray, "matched"]:
        """For the matched concepts of the study's own SAE: whether CLIP, without the ground truth, gives the same name."""
        energies = self.results.energies["real"].matrix
        matching = match_concepts(energies, self.truth.present)
        words = ClipEncoder(self.study.validation.clip).captions([f"a {name}" for name in NAMES])
        named = name_concepts(energies, self.vectors["real"], words)
        return (named == matching.truth)[matching.truth >= 0]

    @cached_property
    def losses(self) -> pd.DataFrame:
        """One row per model and planted ground-truth concept: is it lost, and by which step?

        probe          how well the supervised probe finds it: does the backbone represent it?
        match, purity  of the concepts matched to it together, means over seeds
        least delta    (1 - p) / (2 - p): delta of concepts of purity p if what they are matched to vanishes and nothing else does
        """
        ours = self.truths[self.truths["kind"] == RA_SAE]
        found = ours.groupby(["model", "truth"]).agg(
            match=("match", "mean"), purity=("purity", "mean"), delta=("delta", "median")
        )
        found["least delta"] = (1 - found["purity"]) / (2 - found["purity"])
        probed = self.truths[self.truths["kind"] == PROBE].groupby("truth")["match"].mean()
        change = self.truth.change
        rows = [
            {"model": model, "truth": name, "planted": side, "true change": change[model][name], "probe": probed[name]}
            for model, sides in self.truth.sides.items()
            for name, side in sides[sides != ""].items()
        ]
        columns = ["model", "truth", "planted", "true change", "probe"]
        return pd.DataFrame(rows, columns=columns).join(found, on=["model", "truth"])

    @cached_property
    def discrepancies(self) -> pd.DataFrame:
        """One row per pair and model: energy distance, whether the caption is wrong, its agreement with the real image."""
        table = self.results.datapoints[["pair_id", "model", "energy_distance", "caption_fit"]]
        at = self.positions(table)
        return table.assign(noisy=self.truth.noisy[at], public=self.truth.public[at], agreement=self.agreement["real"][at])

    @cached_property
    def copies(self) -> pd.DataFrame:
        """The public pairs of each model, from the datapoint table, with their numbers of copies in the training corpus."""
        table = self.results.datapoints[self.truth.public[self.positions(self.results.datapoints)]]
        rows = list(zip(table["model"], table["pair_id"], self.positions(table), strict=True))
        copies = [self.truth.copies[model].get(pair_id, 0) for model, pair_id, _ in rows]
        untouched = [bool(self.truth.untouched[model][position]) for model, _, position in rows]
        return table.assign(copies=copies, untouched=untouched).reset_index(drop=True)

    def positions(self, table: pd.DataFrame) -> np.ndarray:
        """Return the positions of a table's pairs among the complete pairs."""
        order = {pair_id: position for position, pair_id in enumerate(self.results.pair_ids)}
        return table["pair_id"].map(order).to_numpy(int)
