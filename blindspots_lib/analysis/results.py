"""The finished results of a study, opened together: pairs, images, energies, codes, tables. Nothing here computes a stage.

`run.stages` makes what is read here; `run.stages.open_results` opens it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Int

from blindspots_lib.analysis.delta import concept_table
from blindspots_lib.analysis.energies import Energies, TokenCodes, load_energies, statistics_artifact
from blindspots_lib.analysis.memorization import Neighbours, datapoint_table, distance_in_place
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.core.config import contents
from blindspots_lib.core.files import replacing
from blindspots_lib.core.study import Study
from blindspots_lib.data.pairs import ImageStore, PairTable, complete_pairs, read_pair_table

CONCEPTS, DATAPOINTS = Stage("concept table", 1), Stage("datapoint table", 1)
Sources = Mapping[str, Artifact]  # "real" and the models' names, in the study's order


@dataclass(frozen=True)
class Results:
    """The results of a study. Reading is lazy; what is not made yet is a StudyError that says what to run."""

    study: Study
    sources: Sources  # real pairs and generations
    sae: Artifact
    energies_of: Sources

    @cached_property
    def pairs(self) -> PairTable:
        return read_pair_table(self.sources["real"].require())

    @cached_property
    def completeness(self) -> tuple[list[str], dict[str, dict[str, int]]]:
        return complete_pairs({source: artifact.require() for source, artifact in self.sources.items()})

    @property
    def lost(self) -> dict[str, dict[str, int]]:
        """Images that each source lost, by cause."""
        return self.completeness[1]

    @property
    def attrition(self) -> dict[str, int]:
        """Candidates that gave no pair, by cause: dead links, images that do not decode, and so on."""
        return self.sources["real"].facts["lost"]

    @property
    def pair_ids(self) -> list[str]:
        """The pairs that are complete on every side; all tables and energies cover these."""
        return self.completeness[0]

    @cached_property
    def rows(self) -> dict[str, Int[np.ndarray, "pairs"]]:
        """For each source, where the complete pairs stand in its shards, which may lack or order pairs differently."""
        return {source: np.array([store.row_of[pair_id] for pair_id in self.pair_ids]) for source, store in self.images.items()}

    @cached_property
    def images(self) -> dict[str, ImageStore]:
        """The images of each source by pair id, as the backbone sees them."""
        fraction = self.study.backbone.crop / self.study.backbone.resize
        return {source: ImageStore(artifact.require(), fraction) for source, artifact in self.sources.items()}

    @property
    def statistics_of(self) -> Sources:
        return {
            source: statistics_artifact(self.study.workspace, self.study.analysis, source, artifact, self.rows[source])
            for source, artifact in self.energies_of.items()
        }

    @cached_property
    def energies(self) -> dict[str, Energies]:
        """Energies and statistics of each source, over the complete pairs."""
        statistics = self.statistics_of
        return {
            source: load_energies(artifact.require(), statistics[source].require(), self.rows[source])
            for source, artifact in self.energies_of.items()
        }

    @cached_property
    def codes(self) -> dict[str, TokenCodes]:
        return {source: TokenCodes(artifact.require()) for source, artifact in self.energies_of.items()}

    @cached_property
    def concepts(self) -> pd.DataFrame:
        """One row per concept, from `concepts.parquet`."""
        return open_table(self.concepts_artifact)

    @cached_property
    def datapoints(self) -> pd.DataFrame:
        """One row per pair and model, from `datapoints.parquet`."""
        return open_table(self.datapoints_artifact)

    @property
    def concepts_artifact(self) -> Artifact:
        config = contents(self.study.analysis)
        return Artifact(self.study.workspace, "tables/concepts", CONCEPTS, config, fingerprints_of(self.statistics_of))

    @property
    def datapoints_artifact(self) -> Artifact:
        config = {"training_corpus": contents(self.study.training_corpus)}
        return Artifact(self.study.workspace, "tables/datapoints", DATAPOINTS, config, fingerprints_of(self.statistics_of))

    @property
    def seeds(self) -> dict[str, int]:
        study = self.study
        return {"study": study.seed, "sae": study.sae.seed, "analysis": study.analysis.seed}


def fingerprints_of(sources: Sources) -> dict[str, str]:
    return {source: artifact.fingerprint for source, artifact in sources.items()}


def tabulate_concepts(results: Results, names: Callable[[], list[tuple[str, float]]]) -> Artifact:
    """Make `concepts.parquet`; `names` finds what each concept goes with, and how well (see `concept_table`)."""
    return keep_table(results.concepts_artifact, lambda: concept_table(results.energies, results.study.analysis, names()))


def tabulate_datapoints(results: Results, neighbours: Callable[[], dict[str, Neighbours]]) -> Artifact:
    """Make `datapoints.parquet`; `neighbours` finds the nearest training images of every source, or none."""

    def build() -> pd.DataFrame:
        codes, rows = results.codes, results.rows
        in_place = {
            model.name: distance_in_place(codes[model.name], codes["real"], rows[model.name], rows["real"])
            for model in results.study.models
        }
        matrices = {source: energies.matrix for source, energies in results.energies.items()}
        return datapoint_table(results.pair_ids, matrices, in_place, neighbours())

    return keep_table(results.datapoints_artifact, build)


def keep_table(artifact: Artifact, build: Callable[[], pd.DataFrame]) -> Artifact:
    """Write the table of an artifact as Parquet, unless it is there."""
    if not artifact.is_complete():
        artifact.begin()
        table = build()
        with replacing(table_path(artifact)) as partial:
            table.to_parquet(partial, index=False)
        artifact.finish(n_rows=len(table))
    return artifact


def open_table(artifact: Artifact) -> pd.DataFrame:
    """The table that `keep_table` wrote. Raises StudyError if it is not made yet."""
    return pd.read_parquet(table_path(artifact.require()))


def table_path(artifact: Artifact):
    return artifact.folder / f"{artifact.folder.name}.parquet"
