"""Outputs on disk: written atomically, resumable, each folder with a JSON header that says what made it.

A stage describes its output as an `Artifact`. It returns it if it `is_complete`; else it calls `begin`, writes the shards
that are missing (`storage.fill_shards`), and calls `finish`.
"""

import importlib.metadata
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import file_fingerprint, fingerprint_of, is_partial, make_folder, read_json, write_json
from blindspots_lib.core.paths import PROJECT_ROOT

SCHEMA_VERSION = 2  # of the header
HEADER = "header.json"
SUPERSEDED = "superseded"  # the folder of a study where outputs go that were made again
KEYS = ("schema", "study", "stage", "version", "fingerprint", "complete", "config", "inputs", "conditions", "superseded", "facts",
        "written")  # that every header has  # fmt: skip
SMALL, ALL_SMALL = 10**6, 64 * 10**6  # bytes of a file, and of the files of an output, that are read whenever it is opened
MIX = "BLINDSPOTS_MIX"  # environment variable: go on with an output that was begun under other conditions


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
        return read_header(self.folder / HEADER)["facts"]

    def is_complete(self) -> bool:
        """Whether this output is finished; if files are missing, only they are made again. Raises StudyError if any changed."""
        return self.is_finished() and not self.missing()

    def is_finished(self) -> bool:
        header = self.header()
        return header is not None and header["fingerprint"] == self.fingerprint and header["complete"]

    def missing(self) -> list["Fault"]:
        """The files of this finished output that are not there. Raises StudyError if one is there and is not as it was."""
        faults = list(faults_of(self.folder))
        for fault in faults:
            if fault.path.exists():
                raise StudyError(str(fault))
        return faults

    def require(self) -> "Artifact":
        """This artifact, if it is complete. Raises StudyError, with what to run, if it is not."""
        if not self.is_finished():
            raise StudyError(f"{self.folder}: {self.path} is not made yet; run `make figures STUDY={self.workspace.study}`")
        for fault in self.missing():
            raise StudyError(str(fault))
        return self

    def rows(self, part: str) -> list[int]:
        """Return the number of rows of each shard, from what `finish` recorded of the files that end in `part`."""
        files = read_header(self.folder / HEADER).get("files", {})
        return [files[name]["rows"] for name in sorted(files) if name.startswith("shard-") and name.endswith(part)]

    def header(self) -> dict[str, Any] | None:
        path = self.folder / HEADER
        if not path.exists():
            return None
        header = read_header(path)
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
        folder = self.folder.resolve()  # a link stays, and the files stay on the disk that it leads to
        prepared = folder.with_name(f".{folder.name}.partial")
        if prepared.exists() and not folder.exists():  # killed between two renames
            prepared.rename(folder)
        shutil.rmtree(prepared, ignore_errors=True)
        conditions, header, superseded = dict(conditions or {}), self.header(), None
        if header is None:
            if self.folder.exists() and any(not is_partial(path) for path in self.folder.iterdir()):
                raise StudyError(f"{self.folder}: holds files that no study made; move them away and run again")
        elif header["fingerprint"] == self.fingerprint:
            conditions = self.continued(header, conditions)
            if missing := self.missing():
                print(f"{self.path}: goes on, {missing[0].path.name} is missing", file=sys.stderr, flush=True)
            superseded = header["superseded"] and Superseded(Path(header["superseded"][0]), tuple(header["superseded"][1]))
        else:
            changes = self.changes(header)
            reason = ", ".join(f"{key} changed" if key in self.inputs else told(key, *change) for key, change in changes.items())
            grown = set(changes) == {growing} and (changes[growing][1] or math.inf) > (changes[growing][0] or math.inf)
            print(f"{self.path}: {'goes on' if grown else 'made again'}, {reason}", file=sys.stderr, flush=True)
            if grown and (missing := self.missing()):
                raise StudyError(str(missing[0]))
            if not grown:
                superseded = Superseded(self.aside(folder, header), tuple(changes))
                self.write_header(prepared / HEADER, complete=False, facts={}, conditions=conditions, superseded=superseded)
                make_folder(superseded.folder.parent)
                folder.rename(superseded.folder)
                prepared.rename(folder)
        self.write_header(folder / HEADER, complete=False, facts={}, conditions=conditions, superseded=superseded)
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

    def aside(self, folder: Path, header: Mapping[str, Any]) -> Path:
        """Return where an outdated folder goes: to the study's `superseded`, or to one beside it on another disk."""
        home = self.workspace.folder.resolve()
        home = home if home.stat().st_dev == folder.stat().st_dev else folder.parent
        name = f"{self.path.replace('/', '--')}-{header['written'].replace(':', '')[:17]}-{header['fingerprint'][:6]}"
        aside = home / SUPERSEDED / name
        while aside.exists():
            aside = aside.with_name(f"{aside.name}+")
        return aside

    def finish(self, **facts: Any) -> None:
        """Record what was made: facts, and each file's size, checksum and rows."""
        conditions = read_header(self.folder / HEADER)["conditions"]
        files = {path.name: described(path) for path in sorted(self.folder.iterdir()) if is_output(path)}
        self.write_header(self.folder / HEADER, complete=True, facts=facts, conditions=conditions, files=files)

    def write_header(
        self, path: Path, complete: bool, facts: Mapping[str, Any], conditions: Mapping[str, Any],
        superseded: Superseded | None = None, files: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        write_json(path, {
            "schema": SCHEMA_VERSION, "study": self.workspace.study, "stage": self.stage.name, "version": self.stage.version,
            "fingerprint": self.fingerprint, "complete": complete, "config": self.config, "inputs": self.inputs,
            "conditions": conditions, "superseded": superseded and [str(superseded.folder), superseded.changed],
            "revision": code_revision(), "facts": facts, "files": files or {},
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        })  # fmt: skip


def read_header(path: Path) -> dict[str, Any]:
    """Read a header; one of an older format stands for an output that is to be made again. Raises StudyError if it is none."""
    header = read_json(path, "schema", "study")
    if header["schema"] == SCHEMA_VERSION:
        return read_json(path, *KEYS)
    return {**header, "complete": False, "fingerprint": "", "written": str(header.get("written", ""))}


def is_output(path: Path) -> bool:
    return path.is_file() and path.name != HEADER and not path.name.startswith(".")


def described(path: Path) -> dict[str, Any]:
    """Return the size and the checksum of a finished file, and the number of rows of an array or a table."""
    rows: dict[str, int] = {}
    if path.suffix == ".npy":
        import numpy as np

        rows = {"rows": len(np.load(path, mmap_mode="r", allow_pickle=False))}
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = {"rows": pq.read_metadata(path).num_rows}
    return {"bytes": path.stat().st_size, "sha256": file_fingerprint(path), **rows}


class Fault(NamedTuple):
    """A file of a finished output that is not as `finish` recorded it."""

    path: Path
    what: str
    stage: str
    study: str

    def __str__(self) -> str:
        mend = f"run `make figures STUDY={self.study}`, which makes it again (stage {self.stage!r})"
        return f"{self.path}: {self.what}; {'delete it and ' if self.path.exists() else ''}{mend}"


def faults_of(folder: Path, deep: bool = False) -> Iterator[Fault]:
    """Yield what is wrong with the files of an output, if it is finished: their sizes, the contents of small ones or of all."""
    header = read_header(folder / HEADER)
    known = header.get("files", {})
    shards = {path.name for path in folder.glob("shard-*")} if known else set()
    left = math.inf if deep else ALL_SMALL
    for name in sorted({*known, *shards}, key=lambda name: (known.get(name, {}).get("bytes", 0), name)):
        path, then, what = folder / name, known.get(name), ""
        if then is None:
            what = "was added after it was finished"
        elif not path.exists():
            what = "is missing"
        elif path.stat().st_size != then["bytes"]:
            what = f"has {path.stat().st_size:,} bytes, and had {then['bytes']:,} when it was finished"
        elif then["bytes"] <= (left if deep else min(left, SMALL)):
            left -= then["bytes"]
            what = "" if file_fingerprint(path) == then["sha256"] else "has other content than when it was finished"
        if what:
            yield Fault(path, what, header["stage"], header["study"])


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {key: value for name, part in config.items() for key, value in flat(part, f"{prefix}.{name}".strip(".")).items()}


def told(key: str, then: Any, now: Any) -> str:
    """One change in words, such as "steps 6 -> 8"."""
    return f"{key} {'default' if then is None else then} -> {'default' if now is None else now}"


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
