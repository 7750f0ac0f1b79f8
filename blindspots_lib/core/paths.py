"""Where things are: the project, the outputs of all studies, the paths that a study file names."""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def runs_folder() -> Path:
    """Where all studies keep their outputs."""
    return Path(os.environ.get("BLINDSPOTS_RUNS", PROJECT_ROOT / "runs"))


def resolve(path: str) -> Path:
    """A path of a study file: absolute, or relative to the project."""
    return PROJECT_ROOT / Path(path).expanduser()
