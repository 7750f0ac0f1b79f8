"""Sketches of what every stage makes of the smoke study: a change of an output shows, another processor's rounding does not.

make golden    write tests/golden.json again, after the version of a stage was raised
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from safetensors.numpy import load_file

GOLDEN = Path(__file__).with_name("golden.json")
UNSTABLE = ("gains", "places")  # a handful of rows, or none; a map that another processor turns
QUANTILES = np.linspace(0, 1, 33)  # of a table's columns: rounding may change the number and the order of its rows
N_NUMBERS = 16  # of a sketch: products with random directions
LOOSE = 0.35  # relative difference of sketches that rounding may make where it grows along a training: 0.2 was seen
TIGHT = 0.15  # elsewhere: 0.07 was seen, with float32 in place of bfloat16
TRAINED = {  # stages that a training comes before
    "candidates", "SAE", "energies", "statistics", "names", "concept table", "family table", "asked table", "composition table",
    "datapoint table", "SAE errors", "claims", "stability", "trial",
}  # fmt: skip


def arrays_of(folder: Path) -> Iterator[np.ndarray]:
    """All numbers in an output folder, file by file."""
    from blindspots_lib.data.images import decode_image

    for path in sorted(folder.iterdir()):
        if path.name == "energies.npz":
            energies = sp.load_npz(path)
            yield from (np.asarray(energies.sum(axis=axis)) for axis in (0, 1))
        elif path.suffix == ".npy" and not path.stem.endswith(("offsets", "indices", "values")):
            yield np.load(path)
        elif path.name == "statistics.npz":
            yield np.load(path)["firings"]
        elif path.suffix == ".safetensors":
            yield from load_file(path).values()
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
            if "image" in table:
                yield from (np.asarray(decode_image(cell["bytes"], path.name)) / 255.0 for cell in table["image"] if cell)
            else:
                columns = (table[name].to_numpy(float) for name in table.select_dtypes("number"))
                yield from (np.quantile(np.nan_to_num(column), QUANTILES) for column in columns if len(column))


def sketch(folder: Path) -> list[float]:
    """The length of all numbers in a folder, and their products with random directions over it."""
    products, square = np.zeros(N_NUMBERS), 0.0
    for number, array in enumerate(arrays_of(folder)):
        values = np.nan_to_num(array.astype(np.float64).ravel())
        products += np.random.default_rng(number).standard_normal((N_NUMBERS, values.size)) @ values
        square += np.square(values).sum()
    length = np.sqrt(square)
    return [float(f"{number:.5g}") for number in (length, *(products / max(length, 1e-12)))]


def texts_of(folder: Path) -> str:
    """A hash of the pair ids and captions in a folder."""
    tables = [pd.read_parquet(path) for path in sorted(folder.glob("shard-*.parquet"))]
    texts = [table[["pair_id", "caption"]].to_csv() for table in tables if "caption" in table]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def observe(run: Path) -> dict[str, dict]:
    """For each stage its version and the sketches of its first two outputs in a run."""
    found: dict[str, dict] = {}
    for header_path in sorted(run.rglob("header.json")):
        if "superseded" in header_path.parts or header_path.parent.name in UNSTABLE:
            continue
        header, folder = json.loads(header_path.read_text()), header_path.parent
        stage = found.setdefault(header["stage"], {"version": header["version"], "outputs": {}})
        name = re.sub(r"-[0-9a-f]{16}$", "", folder.relative_to(run).as_posix())
        if len(stage["outputs"]) < 2 and name not in stage["outputs"]:
            stage["outputs"][name] = {"numbers": sketch(folder), "texts": texts_of(folder)}
    return found


def differs(stage: str, expected: dict, actual: dict) -> bool:
    """Whether an output is another one, beyond rounding."""
    if expected["texts"] != actual["texts"]:
        return True
    allowed = LOOSE if stage in TRAINED else TIGHT
    then, now = np.array(expected["numbers"]), np.array(actual["numbers"])
    far = np.linalg.norm(now[1:] - then[1:]) / max(np.linalg.norm(then[1:]), 1e-12)
    return bool(far > allowed or abs(now[0] - then[0]) > allowed * max(then[0], 1e-12))


def main() -> None:
    from conftest import TRIAL, smoke_with

    from blindspots_lib.core.study import load_study
    from blindspots_lib.run.stages import judge

    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLINDSPOTS_RUNS"] = folder
        study_file = Path(folder) / "smoke.yaml"
        study_file.write_text(smoke_with(TRIAL))
        study = load_study(str(study_file))
        judge(study)
        GOLDEN.write_text(json.dumps(observe(study.folder), indent=1) + "\n")
    print(f"{GOLDEN} is written")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
