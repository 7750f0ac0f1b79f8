"""Make the tables of a study's results from its energies, codes and captions: each is made once, then opened by `Results`."""

from collections.abc import Callable

import pandas as pd

from blindspots_lib.analysis.asked import asked_table
from blindspots_lib.analysis.captions import caption_fit, caption_vectors
from blindspots_lib.analysis.claims import claims_table
from blindspots_lib.analysis.composition import composition_table
from blindspots_lib.analysis.concepts import concept_table, family_table, name_table
from blindspots_lib.analysis.detectors import learn_detectors
from blindspots_lib.analysis.energy_definitions import definitions_table
from blindspots_lib.analysis.memorization import (
    Neighbours,
    datapoint_table,
    distance_in_place,
    find_copies,
    similar_captions_null,
)
from blindspots_lib.analysis.projection import embed_dictionary
from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.sae_errors import coherence_table, describe_images, reconstruction_errors, word_errors
from blindspots_lib.analysis.words import caption_words
from blindspots_lib.core.storage import keep_table
from blindspots_lib.models.tokens import TokenSource


def tabulate_concepts(results: Results) -> None:
    """Make the tables of names, of concepts and of families."""
    study = results.study

    def build_names() -> pd.DataFrame:
        seed, vocabulary = study.analysis.seed, results.clip_vocabulary
        return name_table(results.energies["real"], results.captions, results.atoms, seed, vocabulary)

    keep_table(results.names_artifact, build_names)
    keep_table(results.concepts_artifact, lambda: concept_table(results.energies, results.names, study.analysis))
    keep_table(results.families_artifact, lambda: family_table(results.matrices, results.captions, results.names, study.analysis))


def tabulate_places(results: Results) -> None:
    """Make the map of the concepts."""
    seed = results.study.analysis.seed
    keep_table(results.places_artifact, lambda: pd.DataFrame(embed_dictionary(results.atoms, seed), columns=["x", "y"]))


def tabulate_asked(results: Results) -> None:
    """Make the tables of what is asked for and of what goes together, by detectors of the captions' words."""
    if results.asked_artifact.is_complete() and results.composition_artifact.is_complete():
        return
    analysis, matrices = results.study.analysis, results.matrices
    detectors = learn_detectors(matrices["real"], caption_words(results.captions), analysis)
    keep_table(results.asked_artifact, lambda: asked_table(matrices, detectors, analysis))
    keep_table(results.composition_artifact, lambda: composition_table(matrices, detectors, analysis))


def tabulate_datapoints(results: Results, neighbours: Callable[[], dict[str, Neighbours]]) -> None:
    """Make the table of pairs; `neighbours` finds the nearest training images of every source, or none."""

    def build() -> pd.DataFrame:
        codes, rows, models = results.codes, results.rows, [model.name for model in results.study.models]
        presence = caption_words(results.captions).presence
        null = similar_captions_null(codes["real"], rows["real"], caption_vectors(presence))
        sides = {model: (codes[model], codes["real"], rows[model], rows["real"]) for model in models}
        copies = {model: find_copies(*side, null) for model, side in sides.items()}
        in_place = {model: distance_in_place(*side) for model, side in sides.items()}
        fit = caption_fit(results.matrices["real"], presence, seed=results.study.analysis.seed)
        return datapoint_table(results.pair_ids, results.matrices, in_place, neighbours(), copies, fit)

    keep_table(results.datapoints_artifact, build)


def tabulate_sae_errors(results: Results, tokens: TokenSource) -> None:
    """Make the tables of the SAE's own errors, from the tokens of the real images, and of other definitions of the energy."""
    artifacts, analysis = results.sae_error_artifacts, results.study.analysis
    if all(artifact.is_complete() for artifact in artifacts.values()):
        return
    vocabulary, rows, chosen = caption_words(results.captions), results.rows["real"], tokens.layout.selection(analysis.tokens)
    rebuilt = reconstruction_errors(tokens, results.codes["real"], results.atoms, rows, chosen)
    tested = {model.name: results.concepts[f"tested_{model.name}"].to_numpy() for model in results.study.models}

    def build_coherence() -> pd.DataFrame:
        return coherence_table(
            results.energies["real"].stats.top_ids, caption_vectors(vocabulary.presence), describe_images(tokens, rows),
            seed=analysis.seed, false_discovery_rate=analysis.false_discovery_rate,
        )  # fmt: skip

    def build_image_errors() -> pd.DataFrame:
        return pd.DataFrame({"pair_id": results.pair_ids, "unexplained": rebuilt.unexplained})

    keep_table(artifacts["coherence"], build_coherence)
    keep_table(artifacts["image_errors"], build_image_errors)
    keep_table(artifacts["word_errors"], lambda: word_errors(rebuilt.unexplained, vocabulary.presence, vocabulary.words))
    keep_table(artifacts["energy_definitions"], lambda: definitions_table(results.codes, results.rows, tested, chosen))


def tabulate_claims(results: Results) -> None:
    """Make the table of the paper's claims."""

    def build() -> pd.DataFrame:
        return claims_table(results.study, results.matrices, results.concepts, results.datapoints)

    keep_table(results.claims_artifact, build)
