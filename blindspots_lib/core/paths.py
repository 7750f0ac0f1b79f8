"""Paths: the project, the outputs of all studies, and the paths in a study file."""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def runs_folder() -> Path:
    """Return the folder of all studies' outputs."""
    return Path(os.environ.get("BLINDSPOTS_RUNS", PROJECT_ROOT / "runs"))


def resolve(path: str) -> Path:
    """Make a path of a study file absolute; it may be relative to the project."""
    return PROJECT_ROOT / Path(path).expanduser()
