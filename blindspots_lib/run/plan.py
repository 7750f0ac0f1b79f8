"""What a study will take, before it runs.

Times come from a short run of each part on this machine, and only of parts whose weights are here already.
"""

from collections.abc import Iterator
from typing import NamedTuple

from blindspots_lib.core.config import Place, SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import cached, naming_hub_errors, patiently
from blindspots_lib.core.study import Study
from blindspots_lib.run.costs import (
    disk_rows,
    duration,
    free_disk,
    in_units,
    local_folder,
    n_corpus,
    n_pairs,
    sae_memory,
    seconds_an_image,
    seconds_of_tokens,
    seconds_of_training,
    token_shape,
    total_memory,
)
from blindspots_lib.run.remote import files_needed, remote_parts
from blindspots_lib.sae.stability import run_configs
from blindspots_lib.trial.ablations import judged_configs


class Row(NamedTuple):
    """One line of a plan."""

    what: str
    value: str
    note: str = ""


# -- the plan ------------------------------------------------------------------------------------------------------------


def plan_rows(study: Study) -> Iterator[Row]:
    """The plan, line by line, as each is known."""
    n, sources = n_pairs(study), 1 + len(study.models)
    yield Row("pairs", f"{n:,}", f"{n * sources:,} images in all")
    yield from download_rows(study)
    yield from agreement_rows(study)
    tokens, width = token_shape(study)
    yield Row("tokens", f"{n * sources * tokens:,}", f"{tokens} an image, {width} features each")
    rows = disk_rows(study, tokens, width)
    free = free_disk()
    for what, size in rows:
        yield Row(f"disk, {what}", in_units(size))
    yield Row("disk in all", in_units(sum(size for _, size in rows)), f"beside downloads; {in_units(free)} free")
    if isinstance(study.sae, SAEConfig):
        yield Row("memory of the SAE's training", in_units(sae_memory(study.sae, width)), f"{in_units(total_memory())} here")
    yield from time_rows(study, width)


def download_rows(study: Study) -> Iterator[Row]:
    total, seen = 0, set()
    for what, place in remote_parts(study):
        try:
            files = {file.path: file for file in files_needed(place)}
        except StudyError as error:
            yield Row(f"download, {what}", "not known", str(error))
            continue
        left = [file for file in files.values() if cached(place, file) is None and (place.title, file.path) not in seen]
        seen |= {(place.title, path) for path in files}
        size = sum(file.size for file in left)
        total += size
        whole = in_units(sum(file.size for file in files.values()))
        yield Row(f"download, {what}", in_units(size) if left else "nothing", f"{place.title}, {whole} in all")
    yield Row("download in all", in_units(total) if total else "nothing")


def agreement_rows(study: Study) -> Iterator[Row]:
    """The licence of everything that comes from the hub, once each."""
    places = {place.repo: ("model", place) for _, place in remote_parts(study)}
    for place in (study.pairs, getattr(study.sae, "corpus", None)):
        if getattr(place, "repo", None):
            places[place.repo] = ("dataset", place)
    for repo, (kind, place) in places.items():
        yield Row("agreement", licence_of(place, kind), repo)


def licence_of(place: Place, kind: str) -> str:
    """The licence that the hub states, and whether an agreement must be accepted first."""
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.dataset_info if kind == "dataset" else api.model_info
    try:
        with naming_hub_errors(place):
            info = patiently(lambda: ask(place.repo, revision=None if place.revision == "latest" else place.revision))
    except StudyError as error:
        if "is gated" in str(error):
            return "gated: accept its agreement first"
        return f"not known ({str(error).partition(': ')[2]})"
    stated = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return (", ".join(stated) or "no licence stated") + ("; gated" if info.gated else "")


def time_rows(study: Study, width: int) -> Iterator[Row]:
    n, seconds = n_pairs(study), 0.0
    for model in study.pipelines:
        if any(local_folder(part) is None for part in model.parts.values()):
            yield Row(f"time, {model.label}", "not known yet", "its weights are not here")
            continue
        each = seconds_an_image(model)
        seconds += each * n
        yield Row(f"time, {model.label}", duration(each * n), f"{1 / each:.2g} images a second")
    if local_folder(study.backbone) is None:
        yield Row("time, tokens", "not known yet", "the backbone's weights are not here")
    else:
        each = seconds_of_tokens(study)
        images = n * (1 + len(study.models)) + n_corpus(study) + (study.training_corpus.n if study.training_corpus else 0)
        seconds += each * images
        yield Row("time, tokens", duration(each * images), f"{1 / each:.2g} images a second")
    if isinstance(study.sae, SAEConfig):
        own = seconds_of_training(study.sae, width)
        yield Row("time, SAE", duration(own), f"{own / study.sae.n_steps:.2g} s a step, k-means not counted")
        again = trained_again(study)
        others = sum(seconds_of_training(config, width) for config in again)
        if again:
            yield Row("time, SAEs for comparison", duration(others), f"{len(again)} trainings")
        seconds += own + others
    yield Row("time in all", duration(seconds), "of what is known, at the speed of a short run")


def trained_again(study: Study) -> set[SAEConfig]:
    """The SAEs that are trained beside the study's own: for stability, and for the trial of the instrument."""
    configs = set(run_configs(study.sae, study.stability).values()) if study.stability else set()
    return (configs | set(judged_configs(study) if study.validation else ())) - {study.sae}
