"""What would stop a study, found without running it: everything at once, one line each."""

from collections.abc import Callable, Iterator

from blindspots_lib.core.config import (
    DatasetPairs,
    ExternalImages,
    FolderPairs,
    ImageCorpus,
    LinkedPairs,
    Place,
    SAEConfig,
    TrainedSAE,
    WebdatasetPairs,
    Weights,
)
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import fetch, fetch_file, naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve, runs_folder
from blindspots_lib.core.study import Study
from blindspots_lib.data.sources import corpus_images, folder_pairs, stream, webdataset_pairs
from blindspots_lib.models.external import check_ids, files_by_id
from blindspots_lib.run.costs import disk_rows, free_disk, in_units, n_pairs, sae_memory, token_shape, total_memory
from blindspots_lib.run.remote import files_needed, remote_parts


def check(study: Study) -> list[str]:
    """Everything that would stop the study, each in one line. No weights are downloaded, nothing is run."""
    faults: list[str] = []
    for look in looks(study):
        try:
            look()
        except StudyError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults)) or list(room_faults(study))


def looks(study: Study) -> Iterator[Callable[[], object]]:
    """What to look at; each raises StudyError if something is wrong with it."""
    for _, place in remote_parts(study):
        yield lambda place=place: check_repository(place)
    for weights in (study.backbone, *(part for model in study.pipelines for part in model.parts.values())):
        if weights.path:
            yield lambda weights=weights: check_folder(weights)
    yield lambda: check_pairs(study)
    for model in study.models:
        if isinstance(model, ExternalImages):
            yield lambda model=model: check_elsewhere(study, model)
    if isinstance(study.sae, SAEConfig):
        if isinstance(study.sae.corpus, ImageCorpus):
            yield lambda: next(corpus_images(study.sae.corpus, unpinned(study.sae.corpus), 0), None)
    elif study.sae.path:
        yield lambda: check_file(study.sae)


def check_file(sae: TrainedSAE) -> None:
    if not fetch_file(sae).is_file():
        raise StudyError(f"{resolve(sae.path)}: has no file {sae.file!r}; correct sae.path or sae.file")


def check_repository(place: Place) -> None:
    """Whether a repository is there at its commit, open to us, and has safe weights."""
    from huggingface_hub import HfApi

    files_needed(place)
    with naming_hub_errors(place):
        patiently(lambda: HfApi().auth_check(place.repo))


def check_folder(weights: Weights) -> None:
    folder = fetch(weights)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct subfolder in the study")


def check_pairs(study: Study) -> None:
    """Whether the pairs' source is there and the first of them can be read, without drawing or downloading any."""
    pairs = study.pairs
    if isinstance(pairs, FolderPairs):
        next(folder_pairs(pairs), None)
        held = n_pairs(study.model_copy(update={"pairs": pairs.model_copy(update={"n": None})}))
        if pairs.n and held < pairs.n:
            raise StudyError(f"pairs.n = {pairs.n}: the source has only {held} pairs; lower it")
    elif isinstance(pairs, WebdatasetPairs):
        next(webdataset_pairs(pairs, 0), None)
    elif isinstance(pairs, LinkedPairs | DatasetPairs):
        columns = [pairs.caption_column, pairs.link_column if isinstance(pairs, LinkedPairs) else pairs.image_column]
        next(stream(pairs.model_copy(update={"shuffle_buffer": 1}), unpinned(pairs), columns, None, 0), None)


def unpinned(place: Place) -> str | None:
    """The commit of a set as the study says it; the newest for "latest", which is recorded only when the run begins."""
    return None if place.revision == "latest" else place.revision


def check_elsewhere(study: Study, model: ExternalImages) -> None:
    """The ids of images made elsewhere against those of a folder's pairs."""
    files = files_by_id(resolve(model.images))
    if isinstance(study.pairs, FolderPairs):
        check_ids(model, [pair.pair_id for pair in folder_pairs(study.pairs)], files)


def room_faults(study: Study) -> Iterator[str]:
    """Whether the parts fit together, and the study this machine."""
    try:
        tokens, width = token_shape(study)
    except StudyError as error:
        yield str(error)
        return
    needed = sum(size for _, size in disk_rows(study, tokens, width))
    if needed > free_disk():
        yield f"{runs_folder()}: the study needs {in_units(needed)} of disk, {in_units(free_disk())} are free"
    if not isinstance(study.sae, SAEConfig):
        return
    if not study.sae.corpus and n_pairs(study) * tokens < study.sae.n_candidates:
        n = f"{n_pairs(study) * tokens:,}"
        yield f"sae.n_candidates = {study.sae.n_candidates}: the real images have only {n} tokens; lower it"
    memory = sae_memory(study.sae, width)
    if memory > total_memory():
        here = in_units(total_memory())
        yield f"sae: training needs {in_units(memory)} of memory, this machine has {here}; try dictionary: local"
