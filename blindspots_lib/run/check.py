"""Find everything that would stop a study, without running it."""

from collections.abc import Callable, Iterator
from functools import partial

from blindspots_lib.core import config
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import fetch, fetch_file, naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve, runs_folder
from blindspots_lib.core.study import Study
from blindspots_lib.data.sources import corpus_images, folder_pairs, stream, webdataset_pairs
from blindspots_lib.models.external import check_ids, files_by_id
from blindspots_lib.run.costs import disk_rows, free_disk, in_units, n_pairs, n_rows, sae_memory, token_shape, total_memory
from blindspots_lib.run.remote import files_needed, parts_of
from blindspots_lib.trial.plants import planted_in


def check(study: Study) -> list[str]:
    """Return everything that would stop the study, one line each. No weights are downloaded, nothing is run."""
    faults: list[str] = []
    for look in looks(study):
        try:
            look()
        except StudyError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults)) or list(size_faults(study))


def looks(study: Study) -> Iterator[Callable[[], object]]:
    """Yield the checks of the study's parts; each raises StudyError if something is wrong."""
    for _, place in parts_of(study):
        yield partial(check_weights, place)
    yield partial(check_number, study)
    yield partial(check_pairs, study)
    for model in study.models:
        if isinstance(model, config.ExternalImages):
            yield partial(check_external, study, model)
    for model in study.pipelines if study.validation else ():
        if (model.unet or model).path:
            yield partial(planted_in, model)
    corpus = getattr(study.sae, "corpus", None)
    if isinstance(corpus, config.ImageCorpus):
        yield lambda: next(corpus_images(corpus, unpinned(corpus), 0), None)


def check_weights(place: config.Place) -> None:
    """Check that weights are there; on the hub also that they are open to us, at that commit, and safe to read."""
    if place.path:
        found = fetch_file(place) if isinstance(place, config.TrainedSAE) else fetch(place)
        if not found.exists():
            raise StudyError(f"{found}: no such folder; correct subfolder in the study")
        return
    from huggingface_hub import HfApi

    files_needed(place)
    with naming_hub_errors(place):
        patiently(lambda: HfApi().auth_check(place.repo))


def check_number(study: Study) -> None:
    """Check that there are two pairs or more, and in a folder as many as the study asks for."""
    n = n_pairs(study)
    held = n_rows(study.pairs.path) if isinstance(study.pairs, config.FolderPairs) else n
    if min(n, held) < 2:
        raise StudyError(f"pairs: {min(n, held)} is too few; a study needs at least 2 pairs, so add some")
    if held < n:
        raise StudyError(f"pairs.n = {n}: the source has only {held} pairs; lower it")


def check_pairs(study: Study) -> None:
    """Check that the first pair can be read, without its image where that would be downloaded."""
    pairs = study.pairs
    if isinstance(pairs, config.FolderPairs):
        next(folder_pairs(pairs), None)
    elif isinstance(pairs, config.WebdatasetPairs):
        next(webdataset_pairs(pairs, 0), None)
    elif isinstance(pairs, config.LinkedPairs | config.DatasetPairs):
        named = [getattr(pairs, f"{what}_column", None) for what in ("caption", "link", "image", "id")]
        columns = [column for column in named if column]
        next(stream(pairs.model_copy(update={"shuffle_buffer": 1}), unpinned(pairs), columns, None, 0), None)


def unpinned(place: config.Place) -> str | None:
    """Return the commit of a set; None, the newest one, for "latest", which is recorded only when the run begins."""
    return None if place.revision == "latest" else place.revision


def check_external(study: Study, model: config.ExternalImages) -> None:
    """Check the ids of external images against those of a folder's pairs."""
    files = files_by_id(resolve(model.images))
    if isinstance(study.pairs, config.FolderPairs):
        check_ids(model, [pair.pair_id for pair in folder_pairs(study.pairs)], files)


def size_faults(study: Study) -> Iterator[str]:
    """Yield what does not fit together in size, or does not fit on this machine."""
    try:
        tokens, width = token_shape(study)
    except StudyError as error:
        yield str(error)
        return
    needed = sum(size for _, size in disk_rows(study, tokens, width))
    if needed > free_disk():
        yield f"{runs_folder()}: the study needs {in_units(needed)} of disk, {in_units(free_disk())} are free"
    if not isinstance(study.sae, config.SAEConfig):
        return
    n = n_pairs(study) * tokens
    if not study.sae.corpus and n < study.sae.n_candidates:
        yield f"sae.n_candidates = {study.sae.n_candidates}: the real images have only {n:,} tokens; lower it"
    memory = sae_memory(study.sae, width)
    if memory > total_memory():
        here = in_units(total_memory())
        yield f"sae: training needs {in_units(memory)} of memory, this machine has {here}; try dictionary: local"
