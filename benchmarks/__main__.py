"""Measure ratios to the peers, with their spread: python -m benchmarks [NAME ...] writes runs/bench/ratios.json.

Names: archetypal, plain, tokens, encode, memory, statistics, growth, pairs, coverage, calls, explorer, libraries; all of them if
none is given.
"""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks import calls, coverage, encoding, explorer, growth, libraries, pairs, training_steps
from benchmarks.memory import peak_of
from benchmarks.timing import Row
from blindspots_lib.core.artifacts import code_revision
from blindspots_lib.core.files import read_json, write_json
from blindspots_lib.core.paths import PROJECT_ROOT

FOLDER = Path(os.environ.get("BLINDSPOTS_RUNS", PROJECT_ROOT / "runs")) / "bench"
SHOWN = PROJECT_ROOT / "figures" / "bench"  # what benchmarks/README.md shows


def training_memory(n: int = 32_000) -> list[Row]:
    """Measure the peak memory of training at K = C = n, including a checkpoint; Overcomplete's training needs 20 GB."""
    rows = []
    for kind, bar in {"local": 2.0, "dense": 14.0}.items():
        peak = peak_of(f"train_{kind}", n) / 1e9
        rows.append(Row(f"peak memory of training, {kind} W, K = C = {n:,}", "Overcomplete RATopKSAE: 20 GB", [peak], bar, "GB"))
    return rows


def run_growth() -> list[Row]:
    curves = growth.measure_growth()
    show("growth", growth.plot_growth(curves), curves)
    return growth.growth_rows(curves)


def run_coverage() -> list[Row]:
    tables = coverage.run_coverage()
    means = {name: coverage.by_firings(table).to_dict("records") for name, table in tables.items()}
    show("coverage", coverage.plot_coverage(tables), means)
    return coverage.coverage_rows(tables)


def run_libraries() -> list[Row]:
    table = libraries.measure_libraries()
    write_json(SHOWN / "libraries.json", table)
    return libraries.library_rows(table)


def show(name: str, figure: Figure, numbers: dict) -> None:
    SHOWN.mkdir(parents=True, exist_ok=True)
    figure.savefig(SHOWN / f"{name}.png", dpi=150)
    write_json(SHOWN / f"{name}.json", numbers)


BENCHMARKS = {
    "archetypal": training_steps.run_archetypal, "plain": training_steps.run_plain,
    "tokens": training_steps.run_equal_tokens, "encode": encoding.run_encode,
    "memory": lambda: [encoding.run_encode_memory(), *training_memory()], "statistics": encoding.run_statistics,
    "growth": run_growth, "pairs": pairs.run_pairs, "coverage": run_coverage, "calls": calls.run_calls,
    "explorer": explorer.run_explorer, "libraries": run_libraries,
}  # fmt: skip


def print_row(row: Row) -> None:
    entry = row.as_json()
    verdict = {None: "", True: "ok", False: "MISSED"}[row.passes]
    spread = f"{entry['median']:10.3g} {row.unit:9}[{entry['min']:.3g}, {entry['max']:.3g}]"
    bar = "" if row.bar is None else f"bar {row.bar:g}"
    print(f"{row.what:86} {spread:36} {bar:9} {verdict}")
    print("    against", "; ".join(filter(None, (row.against, row.note))), flush=True)


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - BENCHMARKS.keys())
    if unknown:
        sys.exit(f"benchmarks: no benchmark {unknown[0]!r}; one of {', '.join(BENCHMARKS)}")
    table = {}
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in names or BENCHMARKS:
        for row in BENCHMARKS[name]():
            print_row(row)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            table[f"{row.what}; against {row.against}"] = row.as_json() | {
                "measured": now, "revision": code_revision(), "machine": machine,
            }  # fmt: skip
            for path in (FOLDER / "ratios.json", SHOWN / "ratios.json"):  # rows of other runs stay
                write_json(path, (read_json(path) if path.exists() else {}) | table)
    print(f"written to {FOLDER / 'ratios.json'}")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main(sys.argv[1:])
