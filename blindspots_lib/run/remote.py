"""The weights that a study names, and the files of them that come from the hub."""

from collections.abc import Iterator

from blindspots_lib.core.config import Place, TrainedSAE
from blindspots_lib.core.hub import RemoteFile, files_of, remembered
from blindspots_lib.core.study import Study


def parts_of(study: Study) -> Iterator[tuple[str, Place]]:
    """Yield all weights that a study names, local or on the hub, each with the name for messages."""
    for model in study.pipelines:
        for name, part in model.parts.items():
            yield f"model {model.name}" + (f", {name}" if part is not model else ""), part
    yield "backbone", study.backbone
    yield from study.validation.judges.items() if study.validation else ()
    if isinstance(study.sae, TrainedSAE):
        yield "sae", study.sae


def files_needed(place: Place) -> list[RemoteFile]:
    """Return the files that `fetch` takes from a repository, remembered from an earlier run or listed by the hub."""
    return remembered(place) or files_of(place)
