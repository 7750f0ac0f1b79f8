"""What a study will take. Times come from short runs on this machine, of the parts whose weights are here already."""

from collections.abc import Generator, Iterator
from typing import NamedTuple

from blindspots_lib.core.config import Place
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import cached, naming_hub_errors, patiently
from blindspots_lib.core.study import Study
from blindspots_lib.run import costs
from blindspots_lib.run.costs import duration, in_units, n_pairs
from blindspots_lib.run.disk import disk_rows
from blindspots_lib.run.gpu_memory import gpu_rows
from blindspots_lib.run.remote import files_needed, parts_of
from blindspots_lib.run.times import tasks_of


class Row(NamedTuple):
    """One line of a plan."""

    what: str
    value: str
    note: str = ""


def plan_rows(study: Study) -> Iterator[Row]:
    """Yield the plan line by line, as soon as each is known."""
    n_images = n_pairs(study) * (1 + len(study.models))
    yield Row("pairs", f"{n_pairs(study):,}", f"{n_images:,} images in all")
    told: set[str] = set()
    to_come = yield from download_rows(study, told)
    yield from agreement_rows(study, told)
    tokens, width = costs.token_shape(study)
    yield Row("tokens", f"{n_images * tokens:,}", f"{tokens} per image, {width} features each")
    rows = disk_rows(study, tokens, width)
    for what, size, how in rows:
        yield Row(f"disk, {what}", in_units(size), how)
    free, here = in_units(costs.free_disk()), in_units(costs.total_memory())
    downloads = "besides downloads" if to_come is None else "with the downloads"
    yield Row("disk in all", in_units((to_come or 0) + sum(row.size for row in rows)), f"{downloads}; {free} free")
    try:
        what, memory = costs.memory_of_sae(study, width)
        yield Row(f"memory of the SAE's {what}", in_units(memory), f"{here} here")
    except StudyError as error:
        yield Row("memory of the SAE", "not known", told_once(error, told))
    try:
        for label, sizes, note in gpu_rows(study):
            yield Row(f"GPU memory, {label}", sizes, note)
    except StudyError as error:
        yield Row("GPU memory", "not known", told_once(error, told))
    yield from time_rows(study, width)


def told_once(error: StudyError, told: set[str]) -> str:
    """Return what an error says, unless it was told before."""
    text = str(error) if str(error) not in told else "for the same reason"
    told.add(str(error))
    return text


def download_rows(study: Study, told: set[str]) -> Generator[Row, None, int | None]:
    """Yield what is still to come from the hub; return the bytes of all of it, or None if some are not known."""
    total, seen, known = 0, set(), True
    for what, place in ((what, place) for what, place in parts_of(study) if place.repo):
        try:
            files = {(place.title, file.path): file for file in files_needed(place)}
        except StudyError as error:
            yield Row(f"download, {what}", "not known", told_once(error, told))
            known = False
            continue
        size = sum(file.size for key, file in files.items() if key not in seen and cached(place, file) is None)
        seen |= set(files)
        total += size
        whole = in_units(sum(file.size for file in files.values()))
        yield Row(f"download, {what}", in_units(size) if size else "nothing", f"{place.title}, {whole} in all")
    found = in_units(total) if total else "nothing"
    yield Row("download in all", found) if known else Row("download in all", "not known", f"{found} of what is known")
    return total if known else None


def agreement_rows(study: Study, told: set[str]) -> Iterator[Row]:
    """Yield the licence of every repository, once each."""
    places = [("model", place) for _, place in parts_of(study)]
    places += [("dataset", place) for place in (study.pairs, getattr(study.sae, "corpus", None))]
    by_repo = {place.repo: (kind, place) for kind, place in places if getattr(place, "repo", None)}
    for repo, (kind, place) in by_repo.items():
        try:
            yield Row("agreement", licence_of(place, kind), repo)
        except StudyError as error:
            gated = "is gated" in str(error)
            yield Row(
                "agreement", "gated: accept its agreement first" if gated else "not known", f"{repo}, {told_once(error, told)}"
            )


def licence_of(place: Place, kind: str) -> str:
    """Return the licence that the hub states, and whether it is gated. Raises StudyError if the hub does not say."""
    from huggingface_hub import HfApi

    revision = None if place.revision == "latest" else place.revision
    with naming_hub_errors(place):
        info = patiently(lambda: HfApi().repo_info(place.repo, repo_type=kind, revision=revision))
    stated = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return (", ".join(stated) or "no licence stated") + ("; gated" if info.gated else "")


def time_rows(study: Study, width: int) -> Iterator[Row]:
    total, known = 0.0, True
    for task in tasks_of(study, width):
        total, known = total + (task.seconds or 0), known and task.seconds is not None
        yield Row(f"time, {task.what}", "not known yet" if task.seconds is None else duration(task.seconds), task.note)
    note = "at the speed of a short run"
    spent = f"{duration(total)} of what is known, {note}" if total else "`make fetch` gets the weights"
    yield (
        Row("time in all", duration(total), f"{note}, of what is not finished")
        if known
        else Row("time in all", "not known", spent)
    )
