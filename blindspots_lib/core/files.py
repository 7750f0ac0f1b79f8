"""Files written whole or not at all, JSON, fingerprints of contents, a lock; what goes wrong on a disk in one line."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from blindspots_lib.core.errors import StudyError

LOCK = ".lock"  # in the folder of a study, held by the process that runs it
FULL = re.compile("No space left on device|[0-9]+ requested and [0-9]+ written")  # the second is NumPy's
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


def fingerprint_of(content: Any) -> str:
    """SHA-256, 16 hexadecimal digits, of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """SHA-256, 16 hexadecimal digits; a file whose size and times stand is read once a process."""
    state = path.stat()
    return digest_of(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@cache
def digest_of(path: str, size: int, *changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Of the names and contents of all files below a folder except its card, for example a model's weights."""
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct the path in the study")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return fingerprint_of({path.relative_to(folder).as_posix(): file_fingerprint(path) for path in files})


def listing_fingerprint(files: Iterable[Path]) -> str:
    """A fingerprint of the names, sizes and modification times of files, without the hidden ones that systems leave there."""
    shown = sorted(file for file in files if file.is_file() and not file.name.startswith("."))
    return fingerprint_of([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in shown])


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn whatever a writer raises on a full disk, or where it may not write, into one line that names the file."""
    try:
        yield
    except Exception as error:  # safetensors raises a kind of its own
        if getattr(error, "errno", None) in REFUSED:
            reason = os.strerror(error.errno)
            raise StudyError(
                f"{path}: cannot be written ({reason}); make its folder writable, or set BLINDSPOTS_RUNS to another"
            ) from None
        if getattr(error, "errno", None) != errno.ENOSPC and not FULL.search(str(error)):
            raise
        there = next(folder for folder in path.absolute().parents if folder.exists())  # its own may not be made yet
        free = shutil.disk_usage(there).free / 1e6
        raise StudyError(
            f"{path}: the disk is full ({free:.0f} MB free); free some space and run again, finished work is kept"
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block ends without an error."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming_full_disk(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, or the target of a link to one. Raises StudyError if that is not possible."""
    with naming_full_disk(folder):
        folder.resolve().mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read an object with these keys, at least. Raises StudyError if the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StudyError(f"{path}: not readable as JSON; delete the folder {path.parent} and run again") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: holds no object {{...}}; delete the folder {path.parent} and run again")
    if lacks := [key for key in keys if key not in content]:
        raise StudyError(f"{path}: has no {lacks[0]!r}, so it was changed; delete the folder {path.parent} and run again")
    return content


def is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other processes from running a study in this folder. Raises StudyError, with the process, if one does already."""
    import fcntl

    make_folder(folder)
    with naming_full_disk(folder / LOCK):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read() or "?"
            raise StudyError(f"{folder}: process {holder} is running this study; wait until it ends, or end it") from None
        except OSError:  # a file system that knows no locks
            pass
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
