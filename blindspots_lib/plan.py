"""What a study will take, before it runs.

    python -m blindspots_lib.plan paper            images, tokens, disk, memory, time, downloads, agreements
    python -m blindspots_lib.plan paper --check    ids, revisions, shapes, agreements, free disk; nothing is run

Times come from a short run of each part on this machine, and only of parts whose weights are here already.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

from blindspots_lib.costs import (
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
from blindspots_lib.hub import RemoteFile, cached, files_of, named_file, naming_hub_errors, patiently, remembered
from blindspots_lib.parts import Place, SAEConfig, TrainedSAE
from blindspots_lib.study import Study, StudyError, load_study


class Row(NamedTuple):
    """One line of a plan."""

    what: str
    value: str
    note: str = ""


def remote_parts(study: Study) -> Iterator[tuple[str, Place]]:
    """Everything of a study that is on the hub, under the name that the study gives it."""
    for model in study.pipelines:
        for name, part in model.parts.items():
            if part.repo:
                yield f"model {model.name}" + (f", {name}" if part is not model else ""), part
    if study.backbone.repo:
        yield "backbone", study.backbone
    if study.validation:
        yield from ((name, judge) for name, judge in study.validation.judges.items() if judge.repo)
    if isinstance(study.sae, TrainedSAE) and study.sae.repo:
        yield "sae", study.sae


def files_needed(place: Place) -> list[RemoteFile]:
    """The files that `fetch` would take, known from an earlier run or asked of the hub."""
    if (files := remembered(place)) is not None:
        return files
    return named_file(place, place.file) if isinstance(place, TrainedSAE) else files_of(place)


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
    from blindspots_lib import ablations, stability
    from blindspots_lib.results import Results
    from blindspots_lib.validation import Trial

    configs = set(stability.run_configs(study).values()) if study.stability else set()
    return (configs | set(ablations.judged_configs(Trial(Results(study))) if study.validation else ())) - {study.sae}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a name in studies/, or the path of a study file")
    parser.add_argument("--check", action="store_true", help="only say what would stop it")
    arguments = parser.parse_args()
    from blindspots_lib.check import check

    try:
        study = load_study(arguments.study)
        if arguments.check:
            faults = check(study)
            for fault in faults:
                print(f"error: {fault}", file=sys.stderr)
            print(f"{study.name}: " + (f"{len(faults)} things to mend" if faults else "nothing stands in its way"))
            return 1 if faults else 0
        for row in plan_rows(study):
            print(f"{row.what:<32} {row.value:>16}  {row.note}".rstrip(), flush=True)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"next: make figures STUDY={arguments.study}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
