"""Outputs on disk: atomic, fingerprinted, resumable, each folder with a JSON header that says what made it.

A stage asks for its `Artifact`, returns it if it `is_complete`, else calls `begin`, writes whatever shards are not
there yet through `replacing`, and calls `finish`.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from blindspots_lib.study import PROJECT_ROOT, StudyError

SCHEMA_VERSION = 1
HEADER = "header.json"


def fingerprint_of(content: Any) -> str:
    """SHA-256, 16 hexadecimal digits, of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """SHA-256, 16 hexadecimal digits; a file whose size and time stand is read once a process."""
    state = path.stat()
    return digest_of(str(path), state.st_size, state.st_mtime_ns)


@cache
def digest_of(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Of the names and contents of all files below a folder but its card, for example a model's weights."""
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct the path in the study, or run `make models`")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return fingerprint_of({path.relative_to(folder).as_posix(): file_fingerprint(path) for path in files})


def code_fingerprint(*modules: str) -> str:
    """Of the source of modules of this package, so that a change of code is a change of input."""
    return fingerprint_of({module: file_fingerprint(PROJECT_ROOT / "blindspots_lib" / f"{module}.py") for module in modules})


@cache
def code_revision() -> str:
    """The git commit of the project, with "+" if files differ from it; "unknown" outside a checkout."""
    try:
        git = ["git", "-C", str(PROJECT_ROOT)]
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", ".", ":!figures"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn whatever a writer raises on a full disk into one line that names the file."""
    try:
        yield
    except Exception as error:  # safetensors raises a kind of its own
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left on device" not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise StudyError(
            f"{path}: the disk is full ({free:.0f} MB free); free some space and run again, finished work is kept"
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming_full_disk(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StudyError(f"{path}: not readable as JSON; delete the folder {path.parent} and run again") from None


@dataclass(frozen=True)
class Artifact:
    """One output folder of a study and all that decides what is in it."""

    folder: Path
    study: str  # name
    config: Mapping[str, Any]  # the part of the study that matters here
    inputs: Mapping[str, str]  # name -> fingerprint
    code: tuple[str, ...]  # modules of this package whose source matters

    @property
    def fingerprint(self) -> str:
        return fingerprint_of({"schema": SCHEMA_VERSION, "config": self.config, "inputs": self.inputs,
                               "code": code_fingerprint(*self.code)})  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """What `finish` recorded: counts, losses by cause."""
        return read_json(self.folder / HEADER)["facts"]

    def is_complete(self) -> bool:
        header = self.header()
        return header is not None and header["fingerprint"] == self.fingerprint and header["complete"]

    def header(self) -> dict[str, Any] | None:
        path = self.folder / HEADER
        if not path.exists():
            return None
        header = read_json(path)
        if header["study"] != self.study:
            raise StudyError(
                f"{self.folder}: belongs to the study {header['study']!r}, not to {self.study!r}; "
                "move it away or give the study another name"
            )
        return header

    def begin(self) -> None:
        """Make the folder ready: keep what an interrupted run of the very same stage left, clear anything else."""
        header = self.header()
        if header is None or header["fingerprint"] != self.fingerprint:
            if header is None and self.folder.exists() and any(self.folder.iterdir()):
                raise StudyError(f"{self.folder}: holds files that no study made; move them away and run again")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.write_header(complete=False, facts={})
        for partial in self.folder.glob(".*.partial"):
            partial.unlink()

    def finish(self, **facts: Any) -> None:
        self.write_header(complete=True, facts=facts)

    def write_header(self, complete: bool, facts: Mapping[str, Any]) -> None:
        write_json(self.folder / HEADER, {
            "schema": SCHEMA_VERSION, "study": self.study, "fingerprint": self.fingerprint, "complete": complete,
            "config": self.config, "inputs": self.inputs, "code": {"modules": self.code, "revision": code_revision()},
            "facts": facts, "written": datetime.now(UTC).isoformat(timespec="seconds"),
        })  # fmt: skip


@runtime_checkable
class Fingerprinted(Protocol):
    @property
    def fingerprint(self) -> str: ...


def fingerprints(**groups: Mapping[str, Fingerprinted]) -> dict[str, str]:
    """Of all that a figure is drawn from, as "group/name", for its sidecar."""
    return {
        f"{group}/{name}": artifact.fingerprint for group, artifacts in groups.items() for name, artifact in artifacts.items()
    }


def shard_path(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"shard-{index:05d}.{suffix}"
