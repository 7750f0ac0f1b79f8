"""Outputs on disk: written atomically, resumable, each folder with a JSON header that says what made it.

A stage describes its output as an `Artifact`. It returns it if it `is_complete`; else it calls `begin`, writes the shards
that are missing (`storage.fill_shards`), and calls `finish`.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT

SCHEMA_VERSION = 2  # of the header
HEADER = "header.json"
SUPERSEDED = "superseded"  # the folder of a study where outputs go that were made again
MIX = "BLINDSPOTS_MIX"  # environment variable: go on with an output that was begun under other conditions


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
    """Of the names and contents of all files below a folder except its card, for example a model's weights."""
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct the path in the study")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return fingerprint_of({path.relative_to(folder).as_posix(): file_fingerprint(path) for path in files})


def listing_fingerprint(files: Iterable[Path]) -> str:
    """A fingerprint of the names, sizes and modification times of files, without the hidden ones that systems leave there."""
    shown = sorted(file for file in files if file.is_file() and not file.name.startswith("."))
    return fingerprint_of([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in shown])


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


class Stage(NamedTuple):
    """What makes an output.

    Raise `version` when the same settings and inputs give another output than before: then, and not when code merely
    moves, finished outputs are made again. tests/test_golden.py fails if an output changes and its version does not.
    """

    name: str
    version: int


class Workspace(NamedTuple):
    """What every stage needs of a study besides its own part: the name, the folder of its outputs, the seed."""

    study: str
    folder: Path
    seed: int


class Superseded(NamedTuple):
    """An output that was set aside because its stage runs again."""

    folder: Path  # where it is now
    changed: tuple[str, ...]  # settings and inputs that are not the same any more


@dataclass(frozen=True)
class Artifact:
    """One output folder of a study and all that decides what is in it."""

    workspace: Workspace
    path: str  # below the workspace's folder, such as "generations/sd15"
    stage: Stage
    config: Mapping[str, Any]  # the part of the study that matters here
    inputs: Mapping[str, str]  # name -> fingerprint

    @property
    def folder(self) -> Path:
        return self.workspace.folder / self.path

    @property
    def fingerprint(self) -> str:
        """Of the stage's version, its settings and its inputs; the machine and the code's text have no part in it."""
        return fingerprint_of({"stage": list(self.stage), "config": self.config, "inputs": self.inputs})

    @property
    def facts(self) -> dict[str, Any]:
        """What `finish` recorded: counts, losses by cause."""
        return read_json(self.folder / HEADER)["facts"]

    def is_complete(self) -> bool:
        header = self.header()
        return header is not None and header.get("fingerprint") == self.fingerprint and header["complete"]

    def require(self) -> "Artifact":
        """This artifact, if it is complete. Raises StudyError, with what to run, if it is not."""
        if not self.is_complete():
            raise StudyError(f"{self.folder}: {self.path} is not made yet; run `make figures STUDY={self.workspace.study}`")
        return self

    def header(self) -> dict[str, Any] | None:
        path = self.folder / HEADER
        if not path.exists():
            return None
        header = read_json(path)
        if header["study"] != self.workspace.study:
            raise StudyError(
                f"{self.folder}: belongs to the study {header['study']!r}, not to {self.workspace.study!r}; "
                "move it away or give the study another name"
            )
        return header

    def changes(self, header: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What differs from the run that wrote `header`: key -> (then, now)."""
        if header["schema"] != SCHEMA_VERSION:
            return {"format of the header": (header["schema"], SCHEMA_VERSION)}
        then = {"stage version": header["version"], **flat(header["config"]), **header["inputs"]}
        now = {"stage version": self.stage.version, **flat(self.config), **self.inputs}
        differ = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        return {key: (then.get(key), now.get(key)) for key in differ}

    def begin(self, conditions: Mapping[str, Any] | None = None, growing: str = "") -> Superseded | None:
        """Make the folder ready; print what is made again, and why.

        A half-made output goes on if the `conditions` that decide its bytes (dtype, device, package versions) are the same.
        An output of other settings or inputs is set aside, unless only the setting `growing` has grown: then it is a part of
        what is wanted. Raises StudyError under other conditions, and for a folder that no study made.
        """
        conditions, header, superseded = dict(conditions or {}), self.header(), None
        if header is None:
            if self.folder.exists() and any(not is_partial(path) for path in self.folder.iterdir()):
                raise StudyError(f"{self.folder}: holds files that no study made; move them away and run again")
        elif header.get("fingerprint") == self.fingerprint:
            conditions = self.continued(header, conditions)
            superseded = header["superseded"] and Superseded(Path(header["superseded"][0]), tuple(header["superseded"][1]))
        else:
            changes = self.changes(header)
            reason = ", ".join(f"{key} changed" if key in self.inputs else told(key, *change) for key, change in changes.items())
            grown = set(changes) == {growing} and (changes[growing][1] or math.inf) > (changes[growing][0] or math.inf)
            print(f"{self.path}: {'goes on' if grown else 'made again'}, {reason}", file=sys.stderr, flush=True)
            superseded = None if grown else Superseded(self.set_aside(header), tuple(changes))
        self.write_header(complete=False, facts={}, conditions=conditions, superseded=superseded)
        for partial in filter(is_partial, self.folder.iterdir()):
            partial.unlink()
        return superseded

    def continued(self, header: Mapping[str, Any], conditions: dict[str, Any]) -> dict[str, Any]:
        """The conditions to record where a half-made output goes on. Raises StudyError if more than a batch size differs."""
        then = header["conditions"]
        differ = {
            key: f"{key} {then.get(key)} there, {value} here" for key, value in conditions.items() if then.get(key) != value
        }
        if not differ:
            return then
        if set(differ) - {"batch_size"} and not os.environ.get(MIX):
            raise StudyError(
                f"{self.folder}: was begun under other conditions ({'; '.join(differ.values())}), and its parts would not match; "
                f"go on where it was begun, delete the folder to begin anew, or set {MIX}=1 to go on here all the same"
            )
        print(f"{self.path}: goes on, {'; '.join(differ.values())}", file=sys.stderr, flush=True)
        return {**conditions, "mixed with": then}

    def set_aside(self, header: Mapping[str, Any]) -> Path:
        """Move the folder to `superseded`, by one rename, so that nothing is ever half there."""
        name = f"{self.path.replace('/', '--')}-{header['written'].replace(':', '')[:17]}-{header['fingerprint'][:6]}"
        aside = self.workspace.folder / SUPERSEDED / name
        aside.parent.mkdir(parents=True, exist_ok=True)
        while aside.exists():
            aside = aside.with_name(f"{aside.name}+")
        self.folder.rename(aside)
        return aside

    def finish(self, **facts: Any) -> None:
        self.write_header(complete=True, facts=facts, conditions=read_json(self.folder / HEADER)["conditions"])

    def write_header(
        self, complete: bool, facts: Mapping[str, Any], conditions: Mapping[str, Any], superseded: Superseded | None = None
    ) -> None:
        write_json(self.folder / HEADER, {
            "schema": SCHEMA_VERSION, "study": self.workspace.study, "stage": self.stage.name, "version": self.stage.version,
            "fingerprint": self.fingerprint, "complete": complete, "config": self.config, "inputs": self.inputs,
            "conditions": conditions, "superseded": superseded and [str(superseded.folder), superseded.changed],
            "revision": code_revision(), "facts": facts,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        })  # fmt: skip


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {key: value for name, part in config.items() for key, value in flat(part, f"{prefix}.{name}".strip(".")).items()}


def told(key: str, then: Any, now: Any) -> str:
    """One change in words, such as "steps 6 -> 8"."""
    return f"{key} {'default' if then is None else then} -> {'default' if now is None else now}"


def is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


def package_versions(*packages: str) -> dict[str, str]:
    """The installed versions, for the conditions of a stage."""
    return {package: importlib.metadata.version(package) for package in packages}


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
