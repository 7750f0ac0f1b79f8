"""Measure the peak memory of a whole study at 1,000 and at 10,000 pairs: python -m benchmarks.pairs N prints two numbers.

They are the peak bytes of the process and the bytes of the tables that it holds at the end. One fresh process makes pairs,
generations, tokens, SAE, energies, tables and two image grids, with a miniature model at two solver steps. Only memory that the
process allocates is counted (RssAnon, sampled), not the pages of memory-mapped files, which the system can take back at any
time. The tables (energies, concepts, datapoints, captions) may grow with the number of pairs; the rest should not.
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import yaml

from benchmarks.timing import Row
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.figures.galleries import concept_sheet, contact_sheet, typical_concepts
from blindspots_lib.run.stages import measure

SIZES = (1_000, 10_000)


class Peak:
    """The largest RssAnon of this process while the block runs."""

    def __enter__(self) -> "Peak":
        self.value, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.value = max(self.value, 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1]))

    def __exit__(self, *error) -> None:
        self.done.set()
        self.thread.join()


def study_of(n: int, folder: Path) -> Path:
    """Write the file of the smoke study with n pairs and one model."""
    content = yaml.safe_load((PROJECT_ROOT / "studies" / "smoke.yaml").read_text())
    content["pairs"] |= {"n": n, "shard_size": 250}
    content["models"] = [model | {"batch_size": 50} for model in content["models"] if model["name"] == "pixart"]
    content["sae"] |= {"n_concepts": 256, "n_candidates": 256, "n_steps": 100, "buffer_size": 32_768}
    del content["stability"], content["training_corpus"]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_study(n: int) -> tuple[int, int]:
    """Return the peak bytes of the process, and the bytes of the tables that it holds at the end."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BLINDSPOTS_RUNS")) as folder:
        os.environ["BLINDSPOTS_RUNS"] = folder
        with Peak() as peak:
            results = measure(load_study(str(study_of(n, Path(folder)))))
            tables = [results.concepts, results.datapoints]
            contact_sheet(results, results.pair_ids[:8])
            concept_sheet(results, typical_concepts(results, n=10))
        matrices = [energies.matrix for energies in results.energies.values()]
        held = sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices)
        held += sum(int(table.memory_usage(deep=True).sum()) for table in tables)
        held += sum(len(text) for text in (*results.pairs.pair_ids, *results.pairs.captions))
    return peak.value, held


def run_pairs() -> list[Row]:
    """Measure the peak memory beyond the tables at both sizes, each in a fresh process."""
    found = {}
    for n in SIZES:
        command = [sys.executable, "-m", "benchmarks.pairs", str(n)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT_ROOT)
        peak, tables = map(int, done.stdout.split()[-2:])
        found[n] = peak - tables
        print(f"    {n:,} pairs: peak {peak / 1e6:.0f} MB, of which tables {tables / 1e6:.0f} MB", flush=True)
    few, many = SIZES
    what = f"peak memory of a study beyond its tables, {many:,} over {few:,} pairs"
    return [Row(what, f"{found[few] / 1e6:.0f} MB at {few:,} pairs", [found[many] / found[few]], 1.1, "times")]


if __name__ == "__main__":
    print(*run_study(int(sys.argv[1])))
