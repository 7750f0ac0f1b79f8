"""Files from the hub: pinned to a commit, checked against their hashes, never executed. What is cached needs no network."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from blindspots_lib.core.config import Place, TrainedSAE, Weights
from blindspots_lib.core.errors import StudyError, first_line
from blindspots_lib.core.files import (
    file_fingerprint,
    fingerprint_of,
    folder_fingerprint,
    naming_full_disk,
    read_json,
    write_json,
)
from blindspots_lib.core.paths import resolve

PLAIN = (".json", ".txt", ".model")  # configurations and vocabularies
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = re.compile(r"\w+(\.(?P<variant>\w+))?(-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"\w+\.safetensors\.index(\.(?P<variant>\w+))?\.json")
N_TRIES = 5  # of a request that the hub answers with 429 or 5xx, or not at all


class RemoteFile(NamedTuple):
    path: str
    size: int  # bytes
    sha256: str | None  # of large files
    blob: str  # git's hash of small ones


def fetch(weights: Weights) -> Path:
    """Return the local folder of a model; download what is not there yet.

    Raises StudyError, with the repository's name, if it is gated, missing, damaged or out of reach.
    """
    folder = resolve(weights.path) if weights.path else obtain(weights)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct the path in the study, or run `make miniatures`")
    return folder / (weights.subfolder or "")


def fetch_config(weights: Weights) -> dict[str, Any]:
    """Return a model's config.json, which says its sizes; its weights are not downloaded."""
    if weights.path:
        path = fetch(weights) / "config.json"
        if not path.exists():
            raise StudyError(f"{path}: no such file; is that a model's folder?")
        return read_json(path)
    inside = f"{weights.subfolder}/config.json" if weights.subfolder else "config.json"
    files = [file for file in remembered(weights) or files_of(weights) if file.path == inside]
    if not files:
        raise StudyError(f"{weights.title}: has no {inside}; correct repo and subfolder")
    return read_json(download(weights, files, checked=False) / inside)


def fetch_file(place: TrainedSAE) -> Path:
    """Return the local path of the one file that holds a trained SAE. Raises StudyError if it is missing."""
    path = resolve(place.path) if place.path else obtain(place)
    file = path if path.is_file() else path / place.file
    if not file.is_file():
        raise StudyError(f"{path}: has no file {place.file!r}; correct sae.path or sae.file")
    return file


def obtain(place: Place, bar: tqdm | None = None) -> Path:
    """Return the snapshot folder with the files of a place. Which files were taken is recorded; then no network is needed.

    `bar` counts the bytes that come; without it the place has one of its own.
    """
    known = remembered(place)
    files = known or files_of(place)
    folder = download(place, files, checked=known is not None, bar=bar)
    if known is None:
        write_json(record_path(place), [file._asdict() for file in files])
    return folder


def weights_fingerprint(weights: Weights | TrainedSAE) -> str:
    """Fingerprint the content of a local folder or of an SAE's one file, or a repository's commit and what is taken from it."""
    said = weights.model_dump(include={"repo", "revision", "variant", "subfolder", "file", "settings"}, exclude_none=True)
    if weights.path:
        path = fetch_file(weights) if isinstance(weights, TrainedSAE) else resolve(weights.path)
        said["content"] = file_fingerprint(path) if path.is_file() else folder_fingerprint(path)
        if getattr(weights, "settings", None) and (path.parent / weights.settings).is_file():
            said["content of settings"] = file_fingerprint(path.parent / weights.settings)
    return fingerprint_of(said)


def hashes(place: Weights | TrainedSAE) -> dict[str, str]:
    """Return the hash of each file that was fetched: SHA-256 of large files, git's of small ones; none of a local folder."""
    return {file.path: file.sha256 or file.blob for file in remembered(place) or []} if place.repo else {}


def files_of(place: Place) -> list[RemoteFile]:
    """Choose the files that are needed: one named file with its settings, or plain files and one set of safetensors per part.

    Raises StudyError if a part has weights in no form that is safe to read.
    """
    from huggingface_hub import HfApi

    with naming_hub_errors(place):
        info = patiently(lambda: HfApi().model_info(place.repo, revision=place.revision, files_metadata=True))
    everything = [RemoteFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None, s.blob_id) for s in info.siblings]
    inside = f"{place.subfolder}/" if getattr(place, "subfolder", None) else ""
    if name := getattr(place, "file", None):
        beside = getattr(place, "settings", None)
        wanted = [inside + name] + ([str(Path(inside + name).parent / beside)] if beside else [])
        chosen = [file for path in wanted for file in everything if file.path == path]
        if lacks := set(wanted) - {file.path for file in chosen}:
            raise StudyError(f"{place.title}: has no file {min(lacks)!r}; correct it in the study")
        return chosen
    files = [file for file in everything if is_model_file(file.path, inside)]
    folders = sorted({str(Path(file.path).parent) for file in files} & parts_named(place, files, inside))
    chosen = [file for folder in folders for file in part_files(place, folder, files)]
    if not chosen:
        raise StudyError(f"{place.title}: no model files there; correct repo and subfolder")
    return chosen


def parts_named(place: Place, files: list[RemoteFile], inside: str) -> set[str]:
    """Return the folder itself and those of the parts that a pipeline's index names; others hold the same weights once more."""
    folders = {str(Path(file.path).parent) for file in files}
    indices = [file for file in files if file.path == f"{inside}model_index.json"]
    if not indices:
        return folders
    index = read_json(download(place, indices, checked=False) / indices[0].path)
    return {str(Path(inside))} | {str(Path(inside, name)) for name, kind in index.items() if isinstance(kind, list)}


def is_model_file(path: str, folder: str) -> bool:
    """Whether a file is part of a model in `folder`: in it, or one level below it, as the parts of a pipeline are."""
    depth = path.removeprefix(folder).count("/")
    return path.startswith(folder) and depth <= 1 and path.endswith((*PLAIN, *PICKLED, ".safetensors"))


def part_files(weights: Weights, folder: str, files: list[RemoteFile]) -> list[RemoteFile]:
    """Choose the files of one folder: plain files, and the weights of the variant, else those without one."""
    names = {Path(file.path).name: file for file in files if str(Path(file.path).parent) == folder}
    if folder == (weights.subfolder or ".") and "model_index.json" in names:
        return [names["model_index.json"]]
    matches = {name: match for name in names if (match := WEIGHTS.fullmatch(name) or INDEX.fullmatch(name))}
    variant = weights.variant if weights.variant in {match["variant"] for match in matches.values()} else None
    plain = [file for name, file in names.items() if name.endswith(PLAIN) and name not in matches]
    safe = [names[name] for name, match in matches.items() if match["variant"] == variant]
    if not safe and any(name.endswith(PICKLED) for name in names) and "config.json" in names:
        raise StudyError(
            f"{weights.title}: {folder} has pickled weights only, which are not read; "
            "look for a revision with safetensors, or convert them where you trust them"
        )
    return plain + safe


def record_path(place: Place) -> Path:
    """Return the file that lists what was taken from a repository, in the hub's own cache."""
    from huggingface_hub import constants

    named = place.model_dump(include={"variant", "subfolder", "file", "settings"}, exclude_none=True)
    folder = Path(constants.HF_HOME) / "blindspots" / place.repo.replace("/", "--")
    return folder / f"{place.revision}-{fingerprint_of(named)}.json"


def remembered(place: Place) -> list[RemoteFile] | None:
    """Return the files that were taken from a repository and checked, or None."""
    try:
        return [RemoteFile(**row) for row in json.loads(record_path(place).read_text())]
    except (OSError, ValueError, TypeError):
        return None


def cached(place: Place, file: RemoteFile) -> Path | None:
    """Return the path of a repository's file on this machine, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repo, file.path, revision=place.revision)
    return Path(found) if isinstance(found, str) and Path(found).exists() else None


def download(place: Place, files: list[RemoteFile], checked: bool, bar: tqdm | None = None) -> Path:
    """Return the snapshot folder with these files; download the missing ones and check hashes that are not checked yet."""
    from huggingface_hub import hf_hub_download

    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2")  # else a storage that fails is named after minutes
    missing = [file for file in files if cached(place, file) is None]
    with nullcontext(bar) if bar is not None else bytes_bar(place.title, missing) as bar:
        kind = silent(bar)
        for file in missing:
            before = bar.n
            with naming_hub_errors(place, file.path), naming_full_disk(record_path(place)):
                path = patiently(
                    lambda file=file: hf_hub_download(place.repo, file.path, revision=place.revision, tqdm_class=kind)
                )
            check_hash(place, file, Path(path))
            bar.update(before + file.size - bar.n)  # what came twice after a cut is counted once
    for file in files:
        if not checked and file not in missing:
            check_hash(place, file, cached(place, file))
    return cached(place, files[0]).parents[files[0].path.count("/")]


def bytes_bar(label: str, files: list[RemoteFile]) -> tqdm:
    """Return a progress bar over the bytes of files that are to come."""
    return tqdm(total=sum(file.size for file in files), desc=label, unit="B", unit_scale=True, disable=not files)


def silent(bar: tqdm) -> type[tqdm]:
    """Return a kind of progress bar for one file, which only counts in `bar`."""

    class Counted(tqdm):
        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            bar.update(n)

    return Counted


def check_hash(place: Place, file: RemoteFile, path: Path) -> None:
    """Raise StudyError, and delete the file, if its hash is not the one that the hub gave."""
    if file.sha256:
        with open(path, "rb") as opened:
            right = hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    else:
        content = path.read_bytes()
        right = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob
    if not right:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise StudyError(f"{place.title}: {file.path} came with a wrong hash and was thrown away; run again")


def patiently(request: Callable[[], Any], wait: Callable[[float], None] = time.sleep) -> Any:
    """Return the answer to a request. Ask again, after a pause, if the hub is busy or the connection is cut."""
    import httpx2

    for attempt in range(N_TRIES):
        try:
            return request()
        except (httpx2.TransportError, OSError) as error:
            pause = pause_after(error, attempt)
            if pause is None or attempt + 1 == N_TRIES:
                raise
            wait(pause)


def pause_after(error: Exception, attempt: int) -> float | None:
    """Return the seconds to wait: what the hub asks for, at most a minute, or 1, 2, 4, 8. None: another try will not help."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    error = answer_behind(error)
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        if status != 429 and status < 500:
            return None
        asked = error.response.headers.get("Retry-After", "")
        return min(60.0, float(asked)) if asked.replace(".", "", 1).isdigit() else 2.0**attempt
    hopeless = isinstance(error, httpx2.ConnectError | OfflineModeIsEnabled | FileNotFoundError)
    return None if hopeless or getattr(error, "errno", None) else 2.0**attempt  # an errno is this machine's, not the network's


def answer_behind(error: Exception) -> Exception:
    """Return the hub's answer where the client only says that a file is not in the cache, else the error itself."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hidden = isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError)
    return error.__cause__ if hidden else error


@contextmanager
def naming_hub_errors(place: Place, file: str = "") -> Iterator[None]:
    """Turn whatever the hub's client raises into one line that says what to do."""
    import httpx2
    from huggingface_hub import errors

    storage = (RuntimeError,) if file else ()  # large files come through hf_xet, which raises nothing else
    try:
        yield
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, httpx2.HTTPError, ConnectionError, *storage) as raised:
        error = answer_behind(raised)
        page = f"https://huggingface.co/{'datasets/' if hasattr(place, 'split') else ''}{place.repo}"  # models have no split
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", "no status")
        if status == 401 and response.request.headers.get("authorization"):  # the same words for every repository
            raise StudyError(
                "the hub does not take this machine's token (401), it may have expired; log in again with `hf auth login`"
            ) from None
        reasons = {
            errors.GatedRepoError: f"is gated; accept its agreement at {page} and log in with `hf auth login`",
            errors.RevisionNotFoundError: f"has no revision {place.revision}; copy a commit hash from its history",
            errors.RepositoryNotFoundError: "no such repository, or a private one; correct repo, or log in with `hf auth login`",
            errors.LocalEntryNotFoundError: "is not in the cache and the hub is out of reach; connect and run again",
            errors.EntryNotFoundError: "is missing from the repository; choose another revision",
            errors.OfflineModeIsEnabled: "is not in the cache and HF_HUB_OFFLINE is set; unset it once to download",
            errors.HfHubHTTPError: f"the hub answered {status}; run again later, what came is kept",
            RuntimeError: f"the hub's storage failed ({first_line(error)}); run again, or set HF_HUB_DISABLE_XET=1",
            Exception: f"the hub is out of reach ({type(error).__name__}); connect and run again",
        }
        reason = next(text for kind, text in reasons.items() if isinstance(error, kind))  # the first that fits
        raise StudyError(f"{place.title}{': ' + file if file else ''}: {reason}") from None
