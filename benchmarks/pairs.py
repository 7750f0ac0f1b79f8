"""Peak memory of a whole study at 1,000 and at 10,000 pairs: python -m benchmarks.pairs N prints bytes, tables, files.

Pairs, generations, tokens, SAE, energies, tables and a page of pictures, in one fresh process, on the miniature models
at two solver steps. Counted is what the process allocates (RssAnon, sampled); pages of memory-mapped files are not, since
the system takes them back at will. The tables (energies, concepts, datapoints, captions) are to grow with the pairs.
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
    """The smoke study with n pairs and one model."""
    content = yaml.safe_load((PROJECT_ROOT / "studies" / "smoke.yaml").read_text())
    content["pairs"] |= {"n": n, "shard_size": 250}
    content["models"] = [model | {"batch_size": 50} for model in content["models"] if model["name"] == "pixart"]
    content["sae"] |= {"n_concepts": 256, "n_candidates": 256, "n_steps": 100, "buffer_size": 32_768}
    del content["stability"], content["training_corpus"]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_study(n: int) -> tuple[int, int]:
    """Peak bytes of the process, and bytes of the tables that it holds at the end."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BLINDSPOTS_RUNS")) as folder:
        os.environ["BLINDSPOTS_RUNS"] = folder
        from blindspots_lib.analysis.results import Results
        from blindspots_lib.core.study import load_study
        from blindspots_lib.figures import galleries as exhibits

        with Peak() as peak:
            results = Results(load_study(str(study_of(n, Path(folder)))))
            tables = [results.concepts, results.datapoints]
            exhibits.contact_sheet(results, results.pair_ids[:8])
            exhibits.concept_sheet(results, exhibits.typical_concepts(results, n=10))
        matrices = [energies.matrix for energies in results.energies.values()]
        held = sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices)
        held += sum(int(table.memory_usage(deep=True).sum()) for table in tables)
        held += sum(len(text) for text in (*results.pairs.pair_ids, *results.pairs.captions))
    return peak.value, held


def run_pairs() -> list[Row]:
    found = {}
    for n in SIZES:
        command = [sys.executable, "-m", "benchmarks.pairs", str(n)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT_ROOT)
        peak, tables = map(int, done.stdout.split()[-2:])
        found[n] = peak - tables
        print(f"    {n:,} pairs: peak {peak / 1e6:.0f} MB, of it tables {tables / 1e6:.0f} MB", flush=True)
    few, many = SIZES
    what = f"peak memory of a study beyond its tables, {many:,} over {few:,} pairs"
    return [Row(what, f"{found[few] / 1e6:.0f} MB at {few:,} pairs", [found[many] / found[few]], 1.1, "times")]


if __name__ == "__main__":
    print(*run_study(int(sys.argv[1])))
