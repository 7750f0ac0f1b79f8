"""The stages of a study, in the order of the paper: generate, extract_tokens, train, measure, judge.

Each makes what is not on disk yet, the stages before it included, and can be interrupted: what is finished is kept.
`open_results` and `open_trial` open what has been made, and compute nothing.
"""

import numpy as np
import pandas as pd

from blindspots_lib.analysis.descriptors import embed_training_corpus
from blindspots_lib.analysis.energies import compute_energies, energies_artifact, gather_statistics
from blindspots_lib.analysis.memorization import Neighbours, nearest_training_images
from blindspots_lib.analysis.results import NAMING_IMAGES, Results, Sources
from blindspots_lib.analysis.tabulate import (
    tabulate_asked,
    tabulate_claims,
    tabulate_concepts,
    tabulate_datapoints,
    tabulate_places,
    tabulate_sae_errors,
)
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.core.config import ExternalImages, Model, PerfectGenerator, SAEConfig, ScenePairs, TrainedSAE
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import fingerprint_of
from blindspots_lib.core.storage import keep_table, open_table
from blindspots_lib.core.study import Study
from blindspots_lib.data.collect import collect_corpus, collect_pairs, corpus_artifact, pairs_artifact
from blindspots_lib.data.scene_pairs import are_public
from blindspots_lib.models.clip import clip_artifact, embed_images, embed_words
from blindspots_lib.models.external import external_artifact, take_images
from blindspots_lib.models.generate import generate_images, generation_artifact
from blindspots_lib.models.perfect import draw_afresh, perfect_artifact
from blindspots_lib.models.tokens import TokenSource, open_tokens, tokens_artifact
from blindspots_lib.models.tokens import extract_tokens as extract_source
from blindspots_lib.sae.batches import TrainingTokens
from blindspots_lib.sae.formats import import_sae, imported_artifact
from blindspots_lib.sae.stability import SAMPLE, compare_runs, describe_runs, run_configs, train_runs
from blindspots_lib.sae.train import fit_sae, sae_artifact
from blindspots_lib.trial.ablations import ablation_table, power_table
from blindspots_lib.trial.calibration import calibration_table
from blindspots_lib.trial.clip_score import embed_captions
from blindspots_lib.trial.methods import Methods
from blindspots_lib.trial.oracle import judge_images, verdicts_artifact
from blindspots_lib.trial.plants import planted_in
from blindspots_lib.trial.trial import Trial
from blindspots_lib.trial.truth import Truth

STABILITY = Stage("stability", 1)


# -- stages --------------------------------------------------------------------------------------------------------------


def generate(study: Study) -> Sources:
    """Stage 1: collect the real pairs (x, t), and make every model's images x' of the same captions."""
    pairs = collect_pairs(study.workspace, study.pairs)
    return {"real": pairs, **{model.name: make_images(study, model, pairs) for model in study.models}}


def make_images(study: Study, model: Model, pairs: Artifact) -> Artifact:
    """A model's images: generated here, copied from elsewhere, or drawn afresh."""
    match model:
        case ExternalImages():
            return take_images(study.workspace, model, pairs)
        case PerfectGenerator():
            return draw_afresh(study.workspace, model, study.pairs, pairs)
        case _:
            return generate_images(study.workspace, model, pairs)


def extract_tokens(study: Study) -> dict[str, TokenSource]:
    """Stage 2: the backbone's tokens of all images, real and generated."""
    sources = generate(study)
    if study.backbone.keep_tokens:
        for source, images in sources.items():
            extract_source(study.workspace, study.backbone, source, images)
    return open_all_tokens(study)


def train(study: Study) -> Artifact:
    """Stage 3: train the SAE, or import the one that was trained elsewhere; train those that stability compares."""
    if isinstance(study.sae, TrainedSAE):
        return import_sae(study.workspace, study.sae)
    tokens = make_training_tokens(study)
    sae = fit_sae(study.workspace, tokens, study.sae)
    if study.stability:
        train_runs(study.workspace, tokens, study.sae, study.stability)
    return sae


def make_training_tokens(study: Study) -> TokenSource:
    """The tokens that the study's SAEs learn from: those of the real images, or of a corpus of its own."""
    if study.sae.corpus is None:
        return extract_tokens(study)["real"]
    corpus = collect_corpus(study.workspace, study.sae.corpus)
    if study.backbone.keep_tokens:
        extract_source(study.workspace, study.backbone, "corpus", corpus)
    return open_training_tokens(study)


def measure(study: Study) -> Results:
    """Stage 4: codes and energies of all images; from them the tables of concepts, words, pairs and of the SAE's own errors."""
    tokens, sae = extract_tokens(study), train(study)
    for source, of_source in tokens.items():
        compute_energies(study.workspace, study.analysis, source, of_source, sae)
    results = open_results(study)
    for source, energies in results.energies_of.items():
        gather_statistics(study.workspace, study.analysis, source, energies, results.rows[source])
    if study.naming:
        embed_images(study.workspace, study.naming.clip, NAMING_IMAGES, results.sources["real"])
        embed_words(study.workspace, study.naming)
    tabulate_concepts(results)
    tabulate_places(results)
    tabulate_asked(results)
    tabulate_datapoints(results, lambda: training_neighbours(results, tokens))
    tabulate_sae_errors(results, tokens["real"])
    tabulate_claims(results)
    if isinstance(study.sae, SAEConfig) and study.stability:
        compare_stability(study)
    return results


def judge(study: Study) -> Trial:
    """Stage 5, where the answers are known: the oracle's verdicts, CLIP vectors, the SAEs on trial, the trial's tables."""
    check_judged(study)
    measure(study)
    images, clip = images_of(study), study.validation.clip
    for source, artifact in images.items():
        judge_images(study.workspace, study.validation.oracle, source, artifact)
        embed_images(study.workspace, clip, f"images/{source}", artifact)
    embed_captions(study.workspace, clip, images["real"])
    trial = open_trial(study)
    trial.make()
    trial.keep("ablations", lambda: ablation_table(trial))
    model, null = power_models(study)
    trial.keep("power", lambda: power_table(trial, model, null), model=model, null=null)
    energies = trial.results.matrices
    trial.keep("calibration", lambda: calibration_table(energies[null], energies["real"], study.analysis), null=null)
    return trial


def check_judged(study: Study) -> None:
    if study.validation is None:
        raise StudyError("validation: nobody knows the faults of this study's models; add the part, or leave the trial out")


def power_models(study: Study) -> tuple[str, str]:
    """The model whose faults are thinned to see how many pairs it takes, and the perfect generator."""
    return study.models[0].name, next(model.name for model in study.models if isinstance(model, PerfectGenerator))


def training_neighbours(results: Results, tokens: dict[str, TokenSource]) -> dict[str, Neighbours]:
    """For every image its nearest in the models' training corpus; nothing where the study does not know the corpus.

    Real images that are themselves in that corpus (public pairs) have none.
    """
    study = results.study
    if study.training_corpus is None:
        return {}
    corpus = embed_training_corpus(study.workspace, study.backbone, study.training_corpus)
    found = {source: nearest_training_images(some, corpus, results.rows[source]) for source, some in tokens.items()}
    if isinstance(study.pairs, ScenePairs):
        found["real"].similarity[are_public(study.pairs, results.rows["real"])] = np.nan
    return found


def stability_artifacts(study: Study) -> dict[str, Artifact]:
    """The two tables of `compare_stability`."""
    tokens, configs = open_training_tokens(study), run_configs(study.sae, study.stability)
    runs = [sae_artifact(study.workspace, tokens, config).fingerprint for config in configs.values()]
    inputs = {"SAEs": fingerprint_of([list(map(list, configs)), runs])}
    return {name: Artifact(study.workspace, f"tables/{name}", STABILITY, {}, inputs) for name in ("stability", "dictionaries")}


def compare_stability(study: Study) -> None:
    """Make the tables of the SAEs compared: one row per two of them, and one row per SAE."""
    artifacts = stability_artifacts(study)
    if all(artifact.is_complete() for artifact in artifacts.values()):
        return
    tokens = open_training_tokens(study)
    runs = train_runs(study.workspace, tokens, study.sae, study.stability)
    sample = TrainingTokens(tokens, study.sae).sample(SAMPLE, study.sae.seed)
    keep_table(artifacts["stability"], lambda: compare_runs(sample, runs))
    keep_table(artifacts["dictionaries"], lambda: describe_runs(sample, runs))


# -- what has been made --------------------------------------------------------------------------------------------------


def images_of(study: Study) -> Sources:
    """The output folders of `generate`."""
    pairs = pairs_artifact(study.workspace, study.pairs)
    outputs = {ExternalImages: external_artifact, PerfectGenerator: perfect_artifact}
    made = {model.name: outputs.get(type(model), generation_artifact)(study.workspace, model, pairs) for model in study.models}
    return {"real": pairs, **made}


def open_all_tokens(study: Study) -> dict[str, TokenSource]:
    """The tokens of all images. Raises StudyError if they are not made yet."""
    return {source: open_tokens(study.workspace, study.backbone, source, images) for source, images in images_of(study).items()}


def open_training_tokens(study: Study) -> TokenSource:
    """The tokens that the study's SAEs learn from. Raises StudyError if they are not made yet."""
    source, images = training_images(study)
    return open_tokens(study.workspace, study.backbone, source, images)


def training_images(study: Study) -> tuple[str, Artifact]:
    """The source and the output folder of the images that the study's SAEs learn from."""
    if study.sae.corpus is None:
        return "real", pairs_artifact(study.workspace, study.pairs)
    return "corpus", corpus_artifact(study.workspace, study.sae.corpus)


def sae_of(study: Study) -> Artifact:
    """The output folder of the study's SAE."""
    if isinstance(study.sae, TrainedSAE):
        return imported_artifact(study.workspace, study.sae)
    tokens = tokens_artifact(study.workspace, study.backbone, *training_images(study))
    return sae_artifact(study.workspace, tokens, study.sae)


def open_results(study: Study) -> Results:
    """The results of a study as far as they are made; reading what is not made yet raises StudyError."""
    images, sae = images_of(study), sae_of(study)
    energies = {
        source: energies_artifact(
            study.workspace, study.analysis, source, tokens_artifact(study.workspace, study.backbone, source, artifact), sae
        )
        for source, artifact in images.items()
    }
    return Results(study, images, sae, energies)


def open_stability(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The SAEs compared, one row per two of them, and described, one row each."""
    if not (isinstance(study.sae, SAEConfig) and study.stability):
        raise StudyError("stability: this study trains no SAEs again; add a part `stability` to it")
    artifacts = stability_artifacts(study)
    return open_table(artifacts["stability"]), open_table(artifacts["dictionaries"])


def open_truth(study: Study) -> Truth:
    """What is known of a study's faults, where they were planted."""
    check_judged(study)
    images, oracle = images_of(study), study.validation.oracle
    verdicts = {source: verdicts_artifact(study.workspace, oracle, source, artifact) for source, artifact in images.items()}
    return Truth(open_results(study), {model.name: planted_in(model) for model in study.models}, verdicts)


def open_trial(study: Study) -> Trial:
    """The trial of a study as far as it is made; reading what is not made yet raises StudyError."""
    truth = open_truth(study)
    images, clip = images_of(study), study.validation.clip
    vectors = {source: clip_artifact(study.workspace, clip, f"images/{source}", artifact) for source, artifact in images.items()}
    vectors["captions"] = clip_artifact(study.workspace, clip, "captions", images["real"])
    return Trial(truth, Methods(truth, open_all_tokens(study), open_training_tokens(study)), vectors)
