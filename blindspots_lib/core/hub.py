"""Files from the hub: chosen by name, pinned to a commit, checked against their hashes; nothing in them is executed.

`fetch` turns a `Weights` of a study into a local folder. What is in the hub's cache already is used without a network.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from blindspots_lib.core.artifacts import (
    file_fingerprint,
    fingerprint_of,
    folder_fingerprint,
    naming_full_disk,
    read_json,
    write_json,
)
from blindspots_lib.core.config import Place, TrainedSAE, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import resolve

PLAIN = (".json", ".txt", ".model")  # configurations and vocabularies
WEIGHTS = re.compile(r"(?P<stem>\w+)(\.(?P<variant>\w+))?(-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"(?P<stem>\w+)\.safetensors\.index(\.(?P<variant>\w+))?\.json")
N_TRIES = 5  # of a request that the hub answers with 429 or 5xx, or not at all


class RemoteFile(NamedTuple):
    path: str
    size: int  # bytes
    sha256: str | None  # of large files
    blob: str  # git's hash of small ones


def fetch(weights: Weights) -> Path:
    """The local folder of a model: a pipeline's folder, or one with a config.json. Downloads what is not there yet.

    Raises StudyError, naming the repository, if it is gated, missing, damaged or out of reach.
    """
    if weights.path:
        folder = resolve(weights.path)
        if not folder.is_dir():
            raise StudyError(f"{folder}: no such folder; correct the path in the study, or run `make models`")
        return folder / (weights.subfolder or "")
    return obtain(weights, lambda: files_of(weights)) / (weights.subfolder or "")


def fetch_config(weights: Weights) -> dict[str, Any]:
    """A model's config.json, which says its sizes, without its weights."""
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
    """The local path of the one file that a trained SAE is in."""
    if place.path:
        path = resolve(place.path)
        return path if path.is_file() else path / place.file
    return obtain(place, lambda: named_file(place, place.file)) / place.file


def obtain(place: Place, choose: Callable[[], list[RemoteFile]]) -> Path:
    """The snapshot folder with the chosen files; what was chosen and checked is remembered, so the next time needs no network."""
    known = remembered(place)
    files = known or choose()
    folder = download(place, files, checked=known is not None)
    if known is None:
        write_json(record_path(place), [file._asdict() for file in files])
    return folder


def named_file(place: Place, name: str) -> list[RemoteFile]:
    """The one file of that name."""
    found = [file for file in list_files(place) if file.path == name]
    if not found:
        raise StudyError(f"{place.title}: has no file {name!r}; correct it in the study")
    return found


def weights_fingerprint(weights: Weights | TrainedSAE) -> str:
    """Of what `fetch` gives: of the content of a local folder, or of a repository's commit and what is taken of it."""
    said = weights.model_dump(include={"repo", "revision", "variant", "subfolder", "file"}, exclude_none=True)
    if weights.repo:
        return fingerprint_of(said)
    path = resolve(weights.path)
    return fingerprint_of({**said, "content": file_fingerprint(path) if path.is_file() else folder_fingerprint(path)})


def hashes(place: Weights | TrainedSAE) -> dict[str, str]:
    """What was fetched: the hash of each file, SHA-256 of large ones and git's of small ones; none of a local folder."""
    return {file.path: file.sha256 or file.blob for file in remembered(place) or []} if place.repo else {}


def list_files(place: Place) -> list[RemoteFile]:
    """All files of a repository at its commit."""
    from huggingface_hub import HfApi

    with naming_hub_errors(place):
        info = patiently(lambda: HfApi().model_info(place.repo, revision=place.revision, files_metadata=True))
    return [RemoteFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None, s.blob_id) for s in info.siblings]


def files_of(weights: Weights) -> list[RemoteFile]:
    """Which files of a repository are needed: configurations, vocabularies, and one set of safetensors for each part.

    Raises StudyError if a part has weights in no form that is safe to read.
    """
    if file := getattr(weights, "file", None):
        return named_file(weights, f"{weights.subfolder}/{file}" if weights.subfolder else file)
    files = [file for file in list_files(weights) if in_folder(file.path, weights.subfolder or "")]
    folders = sorted({str(Path(file.path).parent) for file in files})
    chosen = [file for folder in folders for file in part_files(weights, folder, files)]
    if not chosen:
        raise StudyError(f"{weights.title}: no model files there; correct repo and subfolder")
    return chosen


def in_folder(path: str, folder: str) -> bool:
    """Whether a file is part of a model in `folder`: in it, or one level below it, as the parts of a pipeline are."""
    inside = path.startswith(f"{folder}/") if folder else True
    depth = path[len(folder) :].strip("/").count("/")
    return inside and depth <= 1 and path.endswith((*PLAIN, ".safetensors", ".bin", ".pt", ".pth", ".ckpt"))


def part_files(weights: Weights, folder: str, files: list[RemoteFile]) -> list[RemoteFile]:
    """Of one folder of a repository: plain files, and the weights of the variant, else those without one."""
    here = [file for file in files if str(Path(file.path).parent) == folder]
    names = {Path(file.path).name: file for file in here}
    of_pipeline = folder == (weights.subfolder or ".") and "model_index.json" in names
    if of_pipeline:
        return [names["model_index.json"]]
    matches = {name: WEIGHTS.fullmatch(name) or INDEX.fullmatch(name) for name in names}
    variants = {match["variant"] for match in matches.values() if match}
    variant = weights.variant if weights.variant in variants else None
    plain = [file for name, file in names.items() if name.endswith(PLAIN) and not INDEX.fullmatch(name)]
    safe = [names[name] for name, match in matches.items() if match and match["variant"] == variant]
    if not safe and any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names) and "config.json" in names:
        raise StudyError(
            f"{weights.title}: {folder} has pickled weights only, which are not read; "
            "look for a revision with safetensors, or convert them where you trust them"
        )
    return plain + safe


def record_path(place: Place) -> Path:
    """Where it is remembered which files were taken from a repository, in the hub's own cache."""
    from huggingface_hub import constants

    named = place.model_dump(include={"variant", "subfolder", "file"}, exclude_none=True)
    return (
        Path(constants.HF_HOME) / "blindspots" / place.repo.replace("/", "--") / f"{place.revision}-{fingerprint_of(named)}.json"
    )


def remembered(place: Place) -> list[RemoteFile] | None:
    try:
        return [RemoteFile(**row) for row in json.loads(record_path(place).read_text())]
    except (OSError, ValueError, TypeError):
        return None


def cached(place: Place, file: RemoteFile) -> Path | None:
    """Where a file of a repository lies on this machine, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repo, file.path, revision=place.revision)
    return Path(found) if isinstance(found, str) and Path(found).exists() else None


def download(place: Place, files: list[RemoteFile], checked: bool) -> Path:
    """The snapshot folder with these files, downloaded if need be; each is checked against its hash, unless it was before."""
    from huggingface_hub import hf_hub_download

    missing = [file for file in files if cached(place, file) is None]
    with tqdm(total=sum(file.size for file in missing), desc=place.title, unit="B", unit_scale=True, disable=not missing) as bar:
        for file in missing:
            with naming_hub_errors(place, file.path), naming_full_disk(record_path(place)):
                path = Path(patiently(lambda file=file: hf_hub_download(place.repo, file.path, revision=place.revision)))
            check_hash(place, file, path)
            bar.update(file.size)
    for file in () if checked else [file for file in files if file not in missing]:
        check_hash(place, file, cached(place, file))
    first = cached(place, files[0])
    return first.parents[len(Path(files[0].path).parts) - 1]


def check_hash(place: Place, file: RemoteFile, path: Path) -> None:
    """Raise StudyError, and forget the file, if it is not what the hub said it is."""
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
    """The answer to a request; again, after the time the hub asks for or a growing one, if it is busy or cuts the connection."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(N_TRIES):
        try:
            return request()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if attempt + 1 == N_TRIES or not (status == 429 or status >= 500):
                raise
            wait(retry_after(error.response.headers.get("Retry-After"), attempt))
        except (httpx2.TransportError, OSError) as error:
            hopeless = isinstance(error, httpx2.ConnectError | OfflineModeIsEnabled | FileNotFoundError)
            if (
                attempt + 1 == N_TRIES or hopeless or getattr(error, "errno", None)
            ):  # an errno is this machine's, not the network's
                raise
            wait(retry_after(None, attempt))


def retry_after(header: str | None, attempt: int) -> float:
    """Seconds to wait: what the header says, at most a minute, or 1, 2, 4, 8."""
    return min(60.0, float(header)) if header and header.replace(".", "", 1).isdigit() else 2.0**attempt


def page_of(place: Place) -> str:
    """The address of a repository's page; sets have a split, models none."""
    return f"https://huggingface.co/{'datasets/' if hasattr(place, 'split') else ''}{place.repo}"


@contextmanager
def naming_hub_errors(place: Place, file: str = "") -> Iterator[None]:
    """Turn whatever the hub's client raises into one line that says what to do."""
    import httpx2
    from huggingface_hub import errors

    name = f"{place.title}{': ' + file if file else ''}"
    try:
        yield
    except errors.GatedRepoError:
        raise StudyError(f"{name}: is gated; accept its agreement at {page_of(place)} and log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise StudyError(f"{name}: has no revision {place.revision}; copy a commit hash from its history") from None
    except errors.RepositoryNotFoundError:
        raise StudyError(f"{name}: no such repository, or a private one; correct repo, or log in with `hf auth login`") from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise StudyError(f"{name}: is not in the cache and the hub is out of reach; connect and run again") from None
        raise StudyError(f"{name}: is missing from the repository; choose another revision") from None
    except errors.OfflineModeIsEnabled:
        raise StudyError(f"{name}: is not in the cache and HF_HUB_OFFLINE is set; unset it once to download") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise StudyError(f"{name}: the hub answered {status}; run again later, what came is kept") from None
    except (httpx2.HTTPError, ConnectionError) as error:
        raise StudyError(f"{name}: the hub is out of reach ({type(error).__name__}); connect and run again") from None
