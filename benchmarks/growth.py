"""How time and memory grow: of training steps with K, of statistics with K and with the number of images (synthetic codes)."""

import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants import BATCH, RATE, make_trainer
from benchmarks.data import make_tokens
from benchmarks.memory import peak_of
from benchmarks.timing import Row
from blindspots_lib.analysis.statistics import ConceptStats, ShardCodes
from blindspots_lib.figures.style import INK

CONCEPTS = (2_000, 4_000, 8_000, 16_000, 32_000)
IMAGES = (1_000, 3_000, 10_000, 30_000, 100_000)
TOKENS, ACTIVE, SHARD = 261, 5, 250  # tokens per image, active concepts per token, images per shard
LINEAR = 1.15  # largest exponent of a power law that counts as linear


def step_seconds(n_concepts: int, repeats: int = 5) -> float:
    """Return the median seconds of a training step with local W and K = C = n."""
    tokens, candidates = make_tokens(BATCH, n_concepts)
    trainer = make_trainer(n_concepts, "local", candidates)
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        trainer.step(tokens, RATE)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


def synthetic_codes(n_concepts: int, n_images: int, rng: np.random.Generator) -> ShardCodes:
    """Draw codes of images with 60 concepts each; some concepts are frequent, others rare."""
    frequent = (rng.random((n_images, 60)) ** 3 * n_concepts).astype(np.uint32)
    which = rng.integers(0, 12, (n_images, TOKENS, 1)) * 5 + np.arange(ACTIVE)
    indices = np.take_along_axis(frequent[:, None].repeat(TOKENS, axis=1), which, axis=2)
    offsets = np.arange(0, indices.size + 1, ACTIVE)
    return ShardCodes((n_images, TOKENS, n_concepts), offsets, indices.ravel(), rng.random(indices.size).astype(np.float16))


def state_bytes(stats: ConceptStats) -> int:
    arrays = [stats.energy.limbs, stats.squared_energy.limbs, stats.images, stats.firings, stats.top_energies, stats.top_ids,
              stats.together.data, stats.together.indices, stats.together.indptr]  # fmt: skip
    return sum(array.nbytes for array in arrays)


def statistics_cost(n_concepts: int, n_images: int) -> tuple[float, int]:
    """Return the seconds of adding n images shard by shard (without drawing their codes), and the final bytes of the state."""
    rng = np.random.default_rng(0)
    stats, seconds = ConceptStats.empty(n_concepts), 0.0
    for first in range(0, n_images, SHARD):
        codes = synthetic_codes(n_concepts, SHARD, rng)
        begin = time.perf_counter()
        stats.add(codes, np.arange(first, first + SHARD))
        seconds += time.perf_counter() - begin
    return seconds, state_bytes(stats)


def measure_growth() -> dict[str, dict[int, float]]:
    """Return the curves by name; each maps a number of concepts or images to the measurement."""
    by_concepts = {n: statistics_cost(n, 1_000) for n in CONCEPTS}
    by_images = {n: statistics_cost(32_000, n) for n in IMAGES}
    return {
        "training step, local W (s)": {n: step_seconds(n) for n in CONCEPTS},
        "training, peak memory, local W (GB)": {n: peak_of("train_local", n) / 1e9 for n in CONCEPTS},
        "statistics of 1,000 images (s)": {n: cost[0] for n, cost in by_concepts.items()},
        "statistics' state, 1,000 images (GB)": {n: cost[1] / 1e9 for n, cost in by_concepts.items()},
        "statistics, K = 32,000 (s)": {n: cost[0] for n, cost in by_images.items()},
        "statistics' state, K = 32,000 (GB)": {n: cost[1] / 1e9 for n, cost in by_images.items()},
    }


def exponent(curve: dict[int, float]) -> float:
    """Fit the power law n^p to a curve by least squares of the logarithms; return p."""
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0])


def growth_rows(curves: dict[str, dict[int, float]]) -> list[Row]:
    against = "a line: exponent 1"
    return [Row(f"growth of {name}", against, [exponent(curve)], LINEAR, "exponent") for name, curve in curves.items()]


def plot_growth(curves: dict[str, dict[int, float]]) -> Figure:
    """Draw one panel per curve, with linear axes and the straight line that fits best."""
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6), layout="constrained")
    for axis, (name, curve) in zip(axes.T.ravel(), curves.items(), strict=True):
        n, y = np.array(list(curve)) / 1000, np.array(list(curve.values()))
        axis.plot(n, np.polyval(np.polyfit(n, y, 1), n), color="#999999", linewidth=1, linestyle="--", label="straight line")
        axis.plot(n, y, "o", markersize=5, color=INK, label=f"measured (power law {exponent(curve):.2f})")
        by_images = "K = 32" in name
        axis.set_title(name, fontsize=9)
        axis.set(xlabel="images, thousands" if by_images else "concepts K, thousands", ylim=(0, 1.2 * y.max()), xlim=(0, None))
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    return figure
