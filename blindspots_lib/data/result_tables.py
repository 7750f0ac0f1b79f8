"""Result tables of the paper's authors: one JSON file per model, an object of columns with one entry per concept."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import resolve
from blindspots_lib.core.study import TablesStudy

COLUMNS = ("umap_x", "umap_y", "nb_fire", "energy_diff", "relative_energy_diff")


def read_result_tables(study: TablesStudy) -> dict[str, pd.DataFrame]:
    """Return the table of each model, with `COLUMNS`, one row per concept in the order of the concepts.

    Raises StudyError, in one line, if a file or column is missing, holds no numbers, or speaks of another number of concepts.
    """
    tables = {model.name: read_result_table(resolve(study.tables) / model.file) for model in study.models}
    (first, known), *others = tables.items()
    for name, table in others:
        if len(table) != len(known):
            raise StudyError(
                f"models: {name!r} has {len(table):,} concepts, {first!r} has {len(known):,}; give tables of one dictionary"
            )
    return tables


def read_result_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise StudyError(f"{path}: no such file; put the table there, correct `tables`, or remove the model from the study")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise StudyError(f"{path}: not readable as JSON; is the file whole?") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected an object of columns, found a {type(content).__name__}")
    if lacks := [name for name in COLUMNS if name not in content]:
        raise StudyError(f"{path}: no column {lacks[0]!r}; it has {', '.join(list(content)[:12]) or 'none'}")
    columns = {}
    for name in COLUMNS:
        try:
            columns[name] = np.array(content[name], dtype=float)
        except (TypeError, ValueError):
            columns[name] = np.zeros(())
        if columns[name].ndim != 1:
            raise StudyError(f"{path}: the column {name!r} is not a list of numbers; give one per concept")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise StudyError(f"{path}: its columns differ in length: {', '.join(f'{name} {n:,}' for name, n in lengths.items())}")
    return pd.DataFrame(columns)
