"""Tables that users bring (.csv, .jsonl or .parquet), read as text, and the files that they name."""

from pathlib import Path

import pandas as pd

from blindspots_lib.core.errors import StudyError, first_line

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_table(folder: Path) -> Path:
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; correct pairs.path")
    found = [folder / name for name in TABLES if (folder / name).exists()]
    if len(found) != 1:
        state = "holds " + " and ".join(path.name for path in found) if found else f"holds none of {', '.join(TABLES)}"
        raise StudyError(f"{folder}: {state}; it needs one table with the columns file_name and caption")
    return found[0]


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a .csv, .jsonl or .parquet file as text. Raises StudyError if it is not readable or lacks a column."""
    readers = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    try:
        table = readers[path.suffix]()
    except KeyError:
        raise StudyError(f"{path}: a table must be .csv, .jsonl or .parquet") from None
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise StudyError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from None
    if missing := [column for column in columns if column not in table.columns]:
        raise StudyError(f"{path}: no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    return table


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a table names. Raises StudyError if it is outside of the folder, or can be no file."""
    try:
        file = (folder / str(name)).resolve()
        file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a null byte, a link to itself
        reason = getattr(error, "strerror", None) or first_line(error)
        shown = repr(name) if len(str(name)) <= 60 else repr(name)[:60] + "..."
        raise StudyError(f"{folder}: the table names {shown}, which no file can be called ({reason}); correct it") from None
    if not file.is_relative_to(folder.resolve()):
        raise StudyError(f"{folder}: the table names {name!r}, which lies outside of the folder; correct it")
    return file
