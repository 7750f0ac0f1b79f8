"""Find everything that would stop a study, without running it."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from blindspots_lib.core import config
from blindspots_lib.core.artifacts import HEADER, SUPERSEDED, faults_of
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve, runs_folder
from blindspots_lib.core.study import Study
from blindspots_lib.data.collect import text_fault
from blindspots_lib.data.images import UnusableImage, decode_image, naming_image_faults, open_image
from blindspots_lib.data.sources import Lost, corpus_images, folder_rows, stream, webdataset_pairs
from blindspots_lib.models.clip import read_words
from blindspots_lib.models.external import check_ids, files_by_id
from blindspots_lib.run.costs import free_disk, in_units, is_here, memory_of_sae, n_pairs, n_rows, token_shape, total_memory
from blindspots_lib.run.disk import bytes_here, disk_rows
from blindspots_lib.run.remote import files_needed, missing_files, parts_of, whole_place
from blindspots_lib.sae.formats import check_trained
from blindspots_lib.trial.plants import planted_in

SAMPLE = 50  # images of one's own that are decoded


def check(study: Study, say: Callable[[str], object] = lambda line: None) -> list[str]:
    """Return everything that would stop the study, one line each. No weights are downloaded, nothing is run.

    `say` is called with what was looked at.
    """
    faults: list[str] = []
    for look in looks(study):
        try:
            if isinstance(found := look(), str):
                say(found)
        except StudyError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults)) or list(size_faults(study))


def damage(study: Study) -> list[str]:
    """Return the files of all finished outputs that are not as they were made, one line each; every file is read."""
    places = [Path(place) for place, _, files in os.walk(study.folder, followlinks=True) if HEADER in files]
    found: list[str] = []
    for place in tqdm(sorted(place for place in places if SUPERSEDED not in place.parts), desc="finished outputs"):
        try:
            found += map(str, faults_of(place, deep=True))
        except StudyError as error:
            found.append(str(error))
    return found


def looks(study: Study) -> Iterator[Callable[[], object]]:
    """Yield the checks of the study's parts; each raises StudyError if something is wrong, or returns what it looked at."""
    yield partial(check_place, study)
    for _, place in parts_of(study):
        yield partial(check_weights, place)
    if isinstance(study.sae, config.TrainedSAE) and (study.sae.path or is_here(study.sae)):
        yield lambda: check_trained(study.sae) and None
    if study.naming:
        yield lambda: read_words(study.naming) and None
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
        yield partial(check_corpus, corpus)


def check_weights(place: config.Place) -> None:
    """Check that weights are there; on the hub also that they are open to us, at that commit, and safe to read."""
    if place.path:
        whole_place(place)
        return
    from huggingface_hub import HfApi

    files_needed(place)
    with naming_hub_errors(place):
        patiently(lambda: HfApi().auth_check(place.repo))


def check_place(study: Study) -> None:
    """Check that outputs can be written."""
    there = next(place for place in (study.folder, *study.folder.parents) if place.exists())
    if not there.is_dir():
        raise StudyError(f"{there}: is a file where a folder of outputs must be; move it away")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StudyError(f"{there}: cannot be written to; change its permissions, or name another folder in BLINDSPOTS_RUNS")


def check_number(study: Study) -> None:
    """Check that there are two pairs or more, and in a folder as many as the study asks for."""
    n = n_pairs(study)
    held = n_rows(study.pairs.path) if isinstance(study.pairs, config.FolderPairs) else n
    if min(n, held) < 2:
        raise StudyError(f"pairs: {min(n, held)} is too few; a study needs at least 2 pairs, so add some")
    if held < n:
        raise StudyError(f"pairs.n = {n}: the source has only {held} pairs; lower it")


def check_pairs(study: Study) -> str | None:
    """Check all pairs of a folder or of archives, else that the first can be read, without an image that would be downloaded."""
    pairs = study.pairs
    if isinstance(pairs, config.FolderPairs):
        return check_folder(pairs)
    elif isinstance(pairs, config.WebdatasetPairs):
        return check_archives(pairs)
    elif isinstance(pairs, config.LinkedPairs | config.DatasetPairs):
        named = [getattr(pairs, f"{what}_column", None) for what in ("caption", "link", "image", "id")]
        columns = [column for column in named if column]
        next(stream(pairs.model_copy(update={"shuffle_buffer": 1}), unpinned(pairs), columns, None, 0), None)


def check_folder(pairs: config.FolderPairs) -> str:
    """Check ids, captions and images of a folder's pairs; return how many images were looked at."""
    ids: set[str] = set()
    rows, faults = list(itertools.islice(folder_rows(pairs), pairs.n)), []
    for pair_id, caption, _ in rows:
        if fault := text_fault(pair_id, caption, ids):
            faults.append(fault.message)
        ids.add(pair_id)
    unusable, looked = look_at([file for _, _, file in rows])
    stop_at(faults + unusable)
    return f"pairs: {looked}"


def stop_at(faults: list[str]) -> None:
    """Raise StudyError if there are any faults, with the first one and the number of others."""
    if faults:
        raise StudyError(faults[0] + (f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""))


def check_archives(pairs: config.WebdatasetPairs) -> str:
    """Check that archives hold enough pairs; return how many samples were looked at, and the causes why some are lost."""
    ids, lost, looked, decoded, every = set(), Counter(), 0, 0, max(1, pairs.n // SAMPLE)
    with tqdm(total=pairs.n, desc="pairs in archives", leave=False, delay=2) as bar:
        for sample in webdataset_pairs(pairs, 0):
            fault = sample if isinstance(sample, Lost) else text_fault(sample.pair_id, sample.caption, ids)
            try:
                if not fault and looked % every == 0:
                    decode_image(sample.image, sample.pair_id)
                    decoded += 1
                elif not fault:
                    open_image(sample.image, sample.pair_id)
            except UnusableImage as error:
                fault = Lost(error.cause)
            looked += 1
            if fault:
                lost[fault.cause] += 1
                continue
            ids.add(sample.pair_id)
            bar.update()
            if len(ids) == pairs.n:
                break
    if 2 <= pairs.n > len(ids):
        raise StudyError(
            f"pairs.n = {pairs.n}: of {looked:,} samples in {pairs.path} {len(ids)} become pairs{causes(lost)}; lower it"
        )
    return f"pairs: {looked:,} samples looked at, {decoded} of them decoded{causes(lost)}"


def causes(lost: Counter) -> str:
    """Return why some are lost, or ""."""
    counts = ", ".join(f"{count} {cause}" for cause, count in sorted(lost.items()))
    return f"; {lost.total()} are lost ({counts})" if lost else ""


def check_corpus(corpus: config.ImageCorpus) -> str | None:
    """Check all images of a folder that an SAE learns from; of a set that is not here, that its first row can be read."""
    images = corpus_images(corpus, unpinned(corpus), 0)
    if corpus.repo:
        next(images, None)
        return None
    files = list(images)
    if corpus.n and len(files) < corpus.n:
        raise StudyError(f"sae.corpus.n = {corpus.n}: {corpus.path} has only {len(files)} images; lower it")
    unusable, looked = look_at(files)
    stop_at(unusable)
    return f"sae.corpus: {looked}"


def look_at(files: list[Path]) -> tuple[list[str], str]:
    """Open all images by their headers and decode a sample; return what is wrong with some, and how many were looked at."""
    unusable, sample = [], set(np.linspace(0, len(files) - 1, min(len(files), SAMPLE)).astype(int).tolist())
    for number, file in enumerate(tqdm(files, desc="images", leave=False, delay=2)):
        try:
            with naming_image_faults(str(file)), open(file, "rb") as opened:
                open_image(opened, str(file))
                if number in sample:
                    decode_image(file.read_bytes(), str(file))
        except UnusableImage as error:
            unusable.append(str(error))
    return unusable, f"{len(files):,} images looked at, {len(sample)} of them decoded"


def unpinned(place: config.Place) -> str | None:
    """Return the commit of a set; None, the newest one, for "latest", which is recorded only when the run begins."""
    return None if place.revision == "latest" else place.revision


def check_external(study: Study, model: config.ExternalImages) -> str:
    """Check the ids of external images against those of a folder's pairs; return how many images were looked at."""
    files = files_by_id(resolve(model.images))
    if isinstance(study.pairs, config.FolderPairs):
        check_ids(model, [pair_id for pair_id, _, _ in folder_rows(study.pairs)], files)
    unusable, looked = look_at([file for file in files.values() if file.is_file()])
    lost = f"; {len(unusable)} cannot be used, such as {unusable[0]}" if unusable else ""
    return f"model {model.name}: {looked}{lost}"


def size_faults(study: Study) -> Iterator[str]:
    """Yield what does not fit together in size, or does not fit on this machine."""
    try:
        tokens, width = token_shape(study)
    except StudyError as error:
        yield str(error)
        return
    outputs = sum(row.size for row in disk_rows(study, tokens, width)) - bytes_here(study)
    needed = outputs + sum(file.size for file in missing_files(study))
    if needed > free_disk():
        yield f"{runs_folder()}: the study still needs {in_units(needed)} of disk, {in_units(free_disk())} are free"
    trained, n = isinstance(study.sae, config.TrainedSAE), n_pairs(study) * tokens
    if not trained and not study.sae.corpus and n < study.sae.n_candidates:
        yield f"sae.n_candidates = {study.sae.n_candidates}: the real images have only {n:,} tokens; lower it"
    what, memory = memory_of_sae(study, width)
    if memory > total_memory():
        here, mend = in_units(total_memory()), "take a larger one" if trained else "try dictionary: local"
        yield f"sae: {what} needs {in_units(memory)} of memory, this machine has {here}; {mend}"
