"""A study's stages in order, and its finished results opened together: pairs, images, codes, tables."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from blindspots_lib.artifacts import Artifact, replacing
from blindspots_lib.blindspots import concept_table
from blindspots_lib.concepts import Energies, TokenCodes, association_names, compute_energies, load_energies
from blindspots_lib.elsewhere import take_images
from blindspots_lib.features import embed_training_corpus
from blindspots_lib.formats import import_sae
from blindspots_lib.generation import generate_images
from blindspots_lib.memorization import datapoint_table, distance_in_place, nearest_training_images
from blindspots_lib.pairs import ImageStore, PairTable, collect_corpus, collect_pairs, complete_pairs, read_pair_table
from blindspots_lib.parts import MadeElsewhere, Model, PerfectGenerator, ScenePairs, TrainedSAE, contents
from blindspots_lib.perfect import draw_afresh
from blindspots_lib.scene_pairs import place_of
from blindspots_lib.stability import compare_runs, describe_runs, train_runs
from blindspots_lib.study import Study
from blindspots_lib.tokens import TokenSource, open_tokens
from blindspots_lib.training import fit_sae

Sources = dict[str, Artifact]  # "real" and the models' names, in the study's order


def collect_images(study: Study) -> Sources:
    """Stage 1: the real pairs and every model's generations."""
    pairs = collect_pairs(study)
    return {"real": pairs, **{model.name: collect_model_images(study, model, pairs) for model in study.models}}


def collect_model_images(study: Study, model: Model, pairs: Artifact) -> Artifact:
    """A model's images: generated here, made elsewhere and taken in, or drawn afresh."""
    match model:
        case MadeElsewhere():
            return take_images(study, model, pairs)
        case PerfectGenerator():
            return draw_afresh(study, model, pairs)
        case _:
            return generate_images(study, model, pairs)


def collect_tokens(study: Study) -> dict[str, TokenSource]:
    """Stage 2: the backbone's tokens of all images."""
    return {source: open_tokens(study, source, images) for source, images in collect_images(study).items()}


def collect_sae(study: Study) -> Artifact:
    """Stage 3: the SAE: trained already, or trained on the tokens of the real images or of a corpus of its own."""
    if isinstance(study.sae, TrainedSAE):
        return import_sae(study)
    return fit_sae(study, training_tokens(study), study.sae)


def training_tokens(study: Study) -> TokenSource:
    """The tokens that the study's SAE learns from."""
    if study.sae.corpus is None:
        return collect_tokens(study)["real"]
    return open_tokens(study, "corpus", collect_corpus(study))


def collect_energies(study: Study) -> Sources:
    """Stage 4: codes and energies of all images."""
    tokens = collect_tokens(study)
    sae = collect_sae(study)
    return {source: compute_energies(study, source, of_source, sae) for source, of_source in tokens.items()}


@dataclass(frozen=True)
class Results:
    """The finished results of a study. Opening one runs whatever stage is not finished; reading is lazy."""

    study: Study

    @cached_property
    def image_artifacts(self) -> Sources:
        return collect_images(self.study)

    @cached_property
    def energy_artifacts(self) -> Sources:
        return collect_energies(self.study)

    @cached_property
    def pairs(self) -> PairTable:
        return read_pair_table(self.image_artifacts["real"])

    @cached_property
    def completeness(self) -> tuple[list[str], dict[str, dict[str, int]]]:
        return complete_pairs(self.image_artifacts)

    @property
    def lost(self) -> dict[str, dict[str, int]]:
        """Images that each source lost, by cause."""
        return self.completeness[1]

    @property
    def attrition(self) -> dict[str, int]:
        """Candidates that gave no pair, by cause: dead links, images that do not decode, and so on."""
        return self.image_artifacts["real"].facts["lost"]

    @property
    def pair_ids(self) -> list[str]:
        """The pairs that are complete on every side; all tables and energies speak of these."""
        return self.completeness[0]

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """For each source, where the complete pairs stand in its shards, which may lack or order pairs differently."""
        return {source: np.array([store.row_of[pair_id] for pair_id in self.pair_ids]) for source, store in self.images.items()}

    @cached_property
    def images(self) -> dict[str, ImageStore]:
        share = self.study.backbone.crop / self.study.backbone.resize
        return {source: ImageStore(artifact, share) for source, artifact in self.image_artifacts.items()}

    @cached_property
    def energies(self) -> dict[str, Energies]:
        artifacts = self.energy_artifacts
        return {source: load_energies(self.study, artifact, self.rows[source]) for source, artifact in artifacts.items()}

    @cached_property
    def codes(self) -> dict[str, TokenCodes]:
        return {source: TokenCodes(artifact) for source, artifact in self.energy_artifacts.items()}

    @cached_property
    def concepts(self) -> pd.DataFrame:
        """One row a concept, kept as `concepts.parquet`."""
        inputs = {source: artifact.fingerprint for source, artifact in self.energy_artifacts.items()}
        code = ("blindspots", "concepts", "statistics")
        artifact = self.table_artifact("concepts", contents(self.study.analysis), inputs, code)
        return self.table(artifact, self.build_concepts)

    def build_concepts(self) -> pd.DataFrame:
        names = association_names(self.energies["real"].matrix, self.pairs, self.rows["real"])
        return concept_table(self.energies, self.study.analysis, names)

    @cached_property
    def stability(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One row for each two SAEs compared, kept as `stability.parquet`; one for each SAE, as `dictionaries.parquet`."""
        tokens = training_tokens(self.study)
        runs = train_runs(self.study, tokens)
        inputs = {f"{run.kind}/{run.start}/{run.number}": run.artifact.fingerprint for run in runs}
        code = ("stability", "quality", "sae", "dictionaries", "topk")
        tables = {"stability": compare_runs, "dictionaries": describe_runs}
        return tuple(
            self.table(self.table_artifact(name, {}, inputs, code), lambda build=build: build(self.study, tokens, runs))
            for name, build in tables.items()
        )

    @cached_property
    def datapoints(self) -> pd.DataFrame:
        """One row a pair and model, kept as `datapoints.parquet`."""
        inputs = {source: artifact.fingerprint for source, artifact in self.energy_artifacts.items()}
        corpus = self.study.training_corpus
        config = {"training_corpus": corpus.model_dump() if corpus else None}
        return self.table(
            self.table_artifact("datapoints", config, inputs, ("memorization", "features", "concepts")), self.build_datapoints
        )

    def build_datapoints(self) -> pd.DataFrame:
        neighbours = {}
        if self.study.training_corpus:
            corpus = embed_training_corpus(self.study)
            for source, tokens in collect_tokens(self.study).items():
                neighbours[source] = nearest_training_images(tokens, corpus, self.rows[source])
            if isinstance(self.study.pairs, ScenePairs):
                neighbours["real"].similarity[self.are_public(self.study.pairs)] = np.nan
        matrices = {source: energies.matrix for source, energies in self.energies.items()}
        codes, rows = self.codes, self.rows
        in_place = {
            model.name: distance_in_place(codes[model.name], codes["real"], rows[model.name], rows["real"])
            for model in self.study.models
        }
        return datapoint_table(self.pair_ids, matrices, in_place, neighbours)

    def are_public(self, config: ScenePairs) -> np.ndarray:
        """Which of the complete pairs models may have been trained on: (pairs,) bool."""
        return np.array([place_of(config, int(row)).seed != config.seed for row in self.rows["real"]])

    def table_artifact(self, name: str, config: dict, inputs: dict[str, str], code: tuple[str, ...]) -> Artifact:
        return Artifact(self.study.folder / "tables" / name, self.study.name, config, inputs, code)

    @staticmethod
    def table(artifact: Artifact, build) -> pd.DataFrame:
        """The table of an artifact, built and written if it is not there yet."""
        path = artifact.folder / f"{artifact.folder.name}.parquet"
        if not artifact.is_complete():
            artifact.begin()
            table = build()
            with replacing(path) as partial:
                table.to_parquet(partial, index=False)
            artifact.finish(n_rows=len(table))
        return pd.read_parquet(path)

    @property
    def seeds(self) -> dict[str, int]:
        study = self.study
        return {"study": study.seed, "sae": study.sae.seed, "analysis": study.analysis.seed}
