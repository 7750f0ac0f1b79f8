"""The finished results of a study, opened together: pairs, images, energies, codes, tables. Nothing here computes a stage.

`run.stages` makes what is read here; `run.stages.open_results` opens it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Float32, Int

from blindspots_lib.analysis.energies import Energies, TokenCodes, load_energies, statistics_artifact
from blindspots_lib.analysis.names import ClipVocabulary
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.core.config import contents
from blindspots_lib.core.storage import open_table
from blindspots_lib.core.study import Study
from blindspots_lib.data.pairs import ImageStore, PairTable, complete_pairs, read_pair_table
from blindspots_lib.models.clip import clip_artifact, open_vectors, read_words, words_artifact
from blindspots_lib.sae.model import load_sae

NAMES, CONCEPTS, FAMILIES = Stage("names", 1), Stage("concept table", 3), Stage("family table", 2)
ASKED, COMPOSITION, DATAPOINTS = Stage("asked table", 2), Stage("composition table", 1), Stage("datapoint table", 2)
SAE_ERRORS, CLAIMS, PLACES = Stage("SAE errors", 1), Stage("claims", 2), Stage("concept map", 1)
NAMING_IMAGES = "naming/images"  # CLIP vectors of the real images, by the CLIP that names concepts
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
    def captions(self) -> list[str]:
        """The captions of the complete pairs."""
        captions = dict(zip(self.pairs.pair_ids, self.pairs.captions, strict=True))
        return [captions[pair_id] for pair_id in self.pair_ids]

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

    @property
    def matrices(self) -> dict[str, sp.csr_matrix]:
        """The energies of each source, (pairs, k)."""
        return {source: energies.matrix for source, energies in self.energies.items()}

    @cached_property
    def codes(self) -> dict[str, TokenCodes]:
        return {source: TokenCodes(artifact.require()) for source, artifact in self.energies_of.items()}

    @cached_property
    def atoms(self) -> Float[np.ndarray, "k d"]:
        """The atoms of the SAE's dictionary."""
        return load_sae(self.sae.require().folder).dictionary.atoms().detach().numpy()

    @property
    def naming_of(self) -> Sources:
        """CLIP vectors of the real images and of the words, if the study names concepts by CLIP."""
        naming, workspace = self.study.naming, self.study.workspace
        if naming is None:
            return {}
        images = clip_artifact(workspace, naming.clip, NAMING_IMAGES, self.sources["real"])
        return {"CLIP images": images, "CLIP words": words_artifact(workspace, naming)}

    @cached_property
    def clip_vocabulary(self) -> ClipVocabulary | None:
        """What names by CLIP are chosen from, over the complete pairs; None if the study names none by CLIP."""
        if self.study.naming is None:
            return None
        images, words = (open_vectors(artifact.require()) for artifact in self.naming_of.values())
        return ClipVocabulary(read_words(self.study.naming), words, images[self.rows["real"]])

    # -- tables --------------------------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> pd.DataFrame:
        """One row per concept: see `concepts.name_table`."""
        return open_table(self.names_artifact)

    @cached_property
    def concepts(self) -> pd.DataFrame:
        """One row per concept, from `concepts.parquet`: see `concepts.concept_table`."""
        return open_table(self.concepts_artifact)

    @cached_property
    def families(self) -> pd.DataFrame:
        """One row per family of concepts, from `families.parquet`: see `concepts.family_table`."""
        return open_table(self.families_artifact)

    @cached_property
    def asked(self) -> pd.DataFrame:
        """One row per word and model, from `asked.parquet`: see `asked.asked_table`."""
        return open_table(self.asked_artifact)

    @cached_property
    def composition(self) -> pd.DataFrame:
        """One row per two words and model, from `composition.parquet`: see `composition.composition_table`."""
        return open_table(self.composition_artifact)

    @cached_property
    def datapoints(self) -> pd.DataFrame:
        """One row per pair and model, from `datapoints.parquet`: see `memorization.datapoint_table`."""
        return open_table(self.datapoints_artifact)

    @cached_property
    def places(self) -> Float32[np.ndarray, "k 2"]:
        """Where each concept lies on the map, the UMAP of the dictionary."""
        return open_table(self.places_artifact)[["x", "y"]].to_numpy(np.float32)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """One row per claim of the paper and model: see `claims.claims_table`."""
        return open_table(self.claims_artifact)

    def sae_errors(self, name: str) -> pd.DataFrame:
        """Return one of the tables of the SAE's own errors: "coherence", "image_errors", "word_errors", "energy_definitions"."""
        return open_table(self.sae_error_artifacts[name])

    @property
    def names_artifact(self) -> Artifact:
        inputs = fingerprints_of({"real": self.statistics_of["real"], "sae": self.sae, **self.naming_of})
        return Artifact(self.study.workspace, "tables/names", NAMES, {"seed": self.study.analysis.seed}, inputs)

    @property
    def concepts_artifact(self) -> Artifact:
        return self.table("concepts", CONCEPTS, names=self.names_artifact)

    @property
    def families_artifact(self) -> Artifact:
        return self.table("families", FAMILIES, names=self.names_artifact)

    @property
    def asked_artifact(self) -> Artifact:
        return self.table("asked", ASKED)

    @property
    def composition_artifact(self) -> Artifact:
        return self.table("composition", COMPOSITION)

    def table(self, name: str, stage: Stage, **inputs: Artifact) -> Artifact:
        """Return the output folder of a table that settings of the analysis decide."""
        found = fingerprints_of({**self.statistics_of, **inputs})
        return Artifact(self.study.workspace, f"tables/{name}", stage, contents(self.study.analysis), found)

    @property
    def datapoints_artifact(self) -> Artifact:
        config = {"training_corpus": contents(self.study.training_corpus), "seed": self.study.analysis.seed}
        inputs = fingerprints_of(self.statistics_of)
        return Artifact(self.study.workspace, "tables/datapoints", DATAPOINTS, config, inputs)

    @property
    def places_artifact(self) -> Artifact:
        inputs = {"sae": self.sae.fingerprint}
        return Artifact(self.study.workspace, "tables/places", PLACES, {"seed": self.study.analysis.seed}, inputs)

    @property
    def claims_artifact(self) -> Artifact:
        return self.table("claims", CLAIMS, concepts=self.concepts_artifact, datapoints=self.datapoints_artifact)

    @property
    def sae_error_artifacts(self) -> dict[str, Artifact]:
        names = ("coherence", "image_errors", "word_errors", "energy_definitions")
        return {name: self.table(name, SAE_ERRORS, sae=self.sae) for name in names}

    @property
    def seeds(self) -> dict[str, int]:
        study = self.study
        return {"study": study.seed, "sae": study.sae.seed, "analysis": study.analysis.seed}


def fingerprints_of(sources: Sources) -> dict[str, str]:
    return {source: artifact.fingerprint for source, artifact in sources.items()}
