"""Outputs on disk: shards of images, memory-mapped arrays, tables, and the one loop that fills an output with shards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, shard_path
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import replacing

Part = TypeVar("Part")


def fill_shards(
    artifact: Artifact, parts: Sequence[Part], make: Callable[[Part], Any], save: Callable[[Path, Any], None], suffix: str,
    label: str,
) -> None:  # fmt: skip
    """Write `make(part)` of every part as one shard, with a progress bar; a shard that is there is not made again."""
    for index, part in enumerate(tqdm(parts, desc=label, unit="shard")):
        path = shard_path(artifact.folder, index, suffix)
        if not path.exists():
            save(path, make(part))


def write_shard(path: Path, rows: list[dict], schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)


def read_shard(path: Path, columns: list[str] | None = None) -> list[dict]:
    """The rows of one Parquet file. Raises StudyError if it is not whole or a column is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            have = ", ".join(file.schema_arrow.names)
            raise StudyError(f"{path}: no column {sorted(missing)[0]!r}; it has {have}")
        return file.read(columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"{path}: not a whole Parquet file ({reason}); delete {path.parent} and run again") from None


def shards_of(artifact: Artifact, at_least: int = 0) -> list[Path]:
    """The Parquet files of an output, in order. Raises StudyError if one is missing before the last, or before `at_least`."""
    found = set(artifact.folder.glob("shard-*.parquet"))
    paths = [shard_path(artifact.folder, index, "parquet") for index in range(max(len(found), at_least))]
    if lost := [path for path in paths if path not in found]:
        raise StudyError(f"{lost[0]}: is missing, and where the others end is unknown; delete {artifact.folder} and run again")
    return paths


def save_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, array)


def open_array(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped. Raises StudyError if it is not whole."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StudyError(f"{path}: not a whole array ({error}); delete {path.parent} and run again") from None


def read_arrays(artifact: Artifact) -> np.ndarray:
    """The rows of all .npy shards of an output, in memory; one file is open at a time."""
    return np.concatenate([np.array(open_array(path)) for path in sorted(artifact.folder.glob("shard-*.npy"))])


def keep_table(artifact: Artifact, build: Callable[[], pd.DataFrame]) -> Artifact:
    """Write the table of an artifact as Parquet, unless it is there."""
    if not artifact.is_complete():
        artifact.begin()
        table = build()
        with replacing(table_path(artifact)) as partial:
            table.to_parquet(partial, index=False)
        artifact.finish(n_rows=len(table))
    return artifact


def open_table(artifact: Artifact) -> pd.DataFrame:
    """Return the table that `keep_table` wrote. Raises StudyError if it is not made yet."""
    return pd.read_parquet(table_path(artifact.require()))


def table_path(artifact: Artifact) -> Path:
    return artifact.folder / f"{artifact.folder.name}.parquet"
