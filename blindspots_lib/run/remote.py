"""Everything of a study that comes from the hub, and the files of it that are needed."""

from collections.abc import Iterator

from blindspots_lib.core.config import Place, TrainedSAE
from blindspots_lib.core.hub import RemoteFile, files_of, named_file, remembered
from blindspots_lib.core.study import Study


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
