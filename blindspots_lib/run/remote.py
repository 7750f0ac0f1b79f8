"""The weights that a study names, and the files of them that come from the hub."""

from collections.abc import Iterator
from pathlib import Path

from blindspots_lib.core.config import Place, TrainedSAE
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import RemoteFile, bytes_bar, cached, fetch, fetch_file, files_of, obtain, remembered
from blindspots_lib.core.study import Study


def parts_of(study: Study) -> Iterator[tuple[str, Place]]:
    """Yield all weights that a study names, local or on the hub, each with the name for messages."""
    for model in study.pipelines:
        for name, part in model.parts.items():
            yield f"model {model.name}" + (f", {name}" if part is not model else ""), part
    yield "backbone", study.backbone
    if study.naming:
        yield "naming", study.naming.clip
    yield from study.validation.judges.items() if study.validation else ()
    if isinstance(study.sae, TrainedSAE):
        yield "sae", study.sae


def missing_files(study: Study) -> list[RemoteFile]:
    """Return the files of a study that are still to come from the hub, each once. Raises StudyError if the hub cannot say."""
    places = [place for _, place in parts_of(study) if place.repo]
    files = {(place.title, file.path): file for place in places for file in files_needed(place) if cached(place, file) is None}
    return list(files.values())


def fetch_everything(study: Study) -> int:
    """Download all weights of a study that are not here, and check them; return the bytes that came."""
    from blindspots_lib.sae.formats import check_trained

    missing = missing_files(study)
    with bytes_bar("fetching", missing) as bar:
        for _, place in parts_of(study):
            whole_place(place) if place.path else obtain(place, bar)
    if isinstance(study.sae, TrainedSAE):
        check_trained(study.sae)
    return sum(file.size for file in missing)


def whole_place(place: Place) -> Path:
    """Return the local folder or file of weights. Raises StudyError if it is not there."""
    found = fetch_file(place) if isinstance(place, TrainedSAE) else fetch(place)
    if not found.exists():
        raise StudyError(f"{found}: no such folder; correct subfolder in the study")
    return found


def files_needed(place: Place) -> list[RemoteFile]:
    """Return the files that `fetch` takes from a repository, remembered from an earlier run or listed by the hub."""
    return remembered(place) or files_of(place)
