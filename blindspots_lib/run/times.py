"""The time that a study still takes, from short runs of its parts on this machine; what is finished counts nothing."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from blindspots_lib.core.config import Place, SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.parallel import n_gpus
from blindspots_lib.core.study import Study, load_study
from blindspots_lib.models.tokens import tokens_artifact
from blindspots_lib.run import costs
from blindspots_lib.run.costs import duration, n_corpus, n_pairs, token_shape, trained_again
from blindspots_lib.run.progress import outputs_of, written
from blindspots_lib.run.published_speeds import first_guess
from blindspots_lib.run.stages import training_images
from blindspots_lib.sae.stability import run_configs
from blindspots_lib.sae.train import sae_artifact

PER_MODEL, PER_CONCEPT = 8.0, 2.5e-3  # seconds: of the tables of 1,000 pairs; of the UMAP of 32,000 concepts, seen on 2 cores


class Task(NamedTuple):
    """One part of a study."""

    what: str
    notebook: str  # that does it
    seconds: float | None  # that it still takes; None: its weights are not here
    note: str


def tasks_of(study: Study, width: int) -> Iterator[Task]:
    """Yield images, tokens, SAEs and codes of a study, each with its time as soon as it is measured."""
    n, outputs = n_pairs(study), outputs_of(study)
    sources = ["real", *(model.name for model in study.models)]

    def left(number: int, *paths: str) -> int:
        found = [written(outputs.get(path)) for path in paths]
        return sum(0 if of_one.complete else max(0, number - of_one.n_images) for of_one in found)

    for model in study.pipelines:
        number, measure = left(n, f"generations/{model.name}"), partial(costs.seconds_per_image, model)
        yield image_task(model.label, "01_generation", number, model.parts.values(), "its", measure, first_guess(model, number))
    n_scenes = study.training_corpus.n if study.training_corpus else 0
    measured: list[float] = []  # once for all images
    encoded = left(n, *(f"energies/{source}" for source in sources))
    if study.backbone.keep_tokens:
        first = "02_dinov2_features", left(n, *(f"tokens/{source}" for source in sources))
    else:  # computed again where they are read: those of the real images twice more for the SAE's errors, and for a training
        trains_on_pairs = isinstance(study.sae, SAEConfig) and study.sae.corpus is None
        first = "03_rasae_training", encoded + (2 + trains_on_pairs) * n * bool(encoded)
    for what, notebook, number in [
        ("tokens", *first),
        ("tokens, the SAE's corpus", "03_rasae_training", left(n_corpus(study), "tokens/corpus")),
        ("tokens, training corpus", "05_memorization", left(n_scenes, "training-corpus")),
    ]:
        measure = partial(first_of, measured, partial(costs.seconds_of_tokens, study))
        if number or what == "tokens":
            yield image_task(what, notebook, number, [study.backbone], "the backbone's", measure)
    if isinstance(study.sae, SAEConfig):
        yield from sae_tasks(study, width)
    yield code_task(study, encoded, width)


def code_task(study: Study, n: int, width: int) -> Task:
    """Return the task of the codes and energies of n images, and of the tables and the map, of which there is only a guess."""
    if not n:
        return Task("codes and tables", "03_rasae_training", 0.0, "finished")
    tables = PER_MODEL * len(study.models) * n_pairs(study) / 1000 + PER_CONCEPT * study.sae.n_concepts
    return Task("codes and tables", "03_rasae_training", n * costs.seconds_of_codes(study, width) + tables,
                f"tables and map by a first guess: {duration(tables)}")  # fmt: skip


def first_of(kept: list[float], measure: Callable[[], float]) -> float:
    """Return what was measured the first time."""
    kept[:] = kept or [measure()]
    return kept[0]


def image_task(
    what: str, notebook: str, n: int, parts: Iterable[Place], whose: str, measure: Callable[[], float],
    guess: str = "",
) -> Task:  # fmt: skip
    """Return the task of n images, where one takes as long as `measure` says; several GPUs divide them.

    `guess` is told where the weights are not here.
    """
    if not n:
        return Task(what, notebook, 0.0, "finished")
    if not all(map(costs.is_here, parts)):
        return Task(what, notebook, None, "; ".join(filter(None, [f"{whose} weights are not here", guess])))
    rate = max(1, n_gpus()) / measure()
    return Task(what, notebook, n / rate, f"{rate:.2g} images per second")


def sae_tasks(study: Study, width: int) -> Iterator[Task]:
    """Yield the study's own SAE, and those that are trained besides, without k-means."""
    if is_left(study, study.sae):
        seconds = costs.seconds_of_training(study.sae, width)
        note = f"{seconds / study.sae.n_steps:.2g} s per step, without k-means"
        yield Task("SAE", "03_rasae_training", seconds, note)
    else:
        yield Task("SAE", "03_rasae_training", 0.0, "finished")
    for notebook, configs in compared(study).items():
        some = [config for config in configs if is_left(study, config)]
        seconds = sum(costs.seconds_of_training(config, width) for config in some)
        yield Task("SAEs for comparison", notebook, seconds, f"{len(some)} trainings" if some else "finished")


def compared(study: Study) -> dict[str, set[SAEConfig]]:
    """Return the SAEs that are trained besides the study's own, by the notebook that does it."""
    again = set(run_configs(study.sae, study.stability).values()) - {study.sae} if study.stability else set()
    found = {"03_rasae_training": again, "06_validation": trained_again(study) - again}
    return {notebook: configs for notebook, configs in found.items() if configs}


def is_left(study: Study, config: SAEConfig) -> bool:
    """Return whether an SAE is not trained yet."""
    try:
        tokens = tokens_artifact(study.workspace, study.backbone, *training_images(study))
        return not written(sae_artifact(study.workspace, tokens, config)).complete
    except StudyError:
        return True


def seconds_by_notebook(study_file: str) -> dict[str, float]:
    """Return the seconds that each notebook still takes, as far as they are known. Raises StudyError if one of them is not."""
    study = load_study(study_file)
    seconds: Counter[str] = Counter()
    for task in tasks_of(study, token_shape(study)[1]):
        if task.seconds is None:
            raise StudyError(f"{task.what}: {task.note}; `make fetch` gets them")
        seconds[task.notebook] += task.seconds
    return dict(seconds)
