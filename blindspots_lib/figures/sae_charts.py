"""Charts of the SAE: its training, and whether trainings agree."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.figures.style import INK, MODEL_COLOURS, REAL_COLOUR, say_start


def plot_sae_training(history: pd.DataFrame, hull: Float[np.ndarray, "k"], radius: float) -> Figure:
    """Draw R2, active concepts per token (L0) and dead concepts over the steps, and the atoms' distances from the hull."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    labels = {"r2": "R² of the reconstruction", "l0": "active concepts per token (L0)", "dead": "dead concepts"}
    for axis, (column, label) in zip(axes, labels.items(), strict=False):
        axis.plot(history[column], color="#582949", linewidth=1)
        axis.set(xlabel="optimizer step", title=label)
    axes[0].set_ylim(min(0, history["r2"].min()), 1)
    axes[1].set_ylim(0, history["l0"].max() * 1.1)
    axes[3].hist(hull, bins=40, color="#5776b4")
    axes[3].axvline(radius, color=INK, linestyle="--", linewidth=1)
    axes[3].set(xlim=(0, None), xlabel="‖Λₖ‖₂ (radius dashed)", ylabel="concepts", title="atoms' distance from the hull")
    return figure


def plot_stability(table: pd.DataFrame) -> tuple[Figure, dict[str, dict[str, float]]]:
    """Draw the mean cosine of matched active atoms, one point per two trainings, of the same start and of independent ones."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    starts = {"same": "same k-means,\nother order of the tokens", "independent": "independent k-means"}
    colours = {"RA-SAE": MODEL_COLOURS[0], "TopK": MODEL_COLOURS[1], "k-means": REAL_COLOUR}
    for offset, (kind, colour) in zip((-0.12, 0.12, 0.3), colours.items(), strict=True):
        for place, start in enumerate(starts):
            values = table.loc[(table["kind"] == kind) & (table["start"] == start), "mean_cosine"]
            if len(values):
                label = f"{kind}, untrained" if kind == "k-means" else kind
                axis.plot([place + offset] * len(values), values, "o", color=colour, markersize=4, label=label if place else None)
                axis.hlines(values.mean(), place + offset - 0.07, place + offset + 0.07, color=colour, linewidth=2)
    axis.set(xlim=(-0.5, 1.6), ylim=(None, 1.005), ylabel="mean cosine of matched atoms")
    axis.set_xticks(range(len(starts)), starts.values())
    axis.legend(frameon=False, loc="lower left")
    say_start(axis, "y")
    means = table.groupby(["kind", "start"])[["mean_cosine", "share_alike"]].agg(["mean", "min", "max"])
    means.columns = map("_".join, means.columns)
    return figure, {", ".join(key): row for key, row in means.to_dict("index").items()}
