"""Charts of pairs: how far generations are from their real images, and from training images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blindspots_lib.analysis.memorization import Excess, nearer_than_real
from blindspots_lib.core.study import Study
from blindspots_lib.figures.style import INK, QUIET, REAL_COLOUR, literal, model_colour

N_BINS = 60
TALL = 0.86  # of the distance of two baselines: the highest bar
DISTANCES = {
    "datapoint_delta": "datapoint difference: mean over concepts of σ(ξₖ(x′) − ξₖ(x))",
    "energy_distance": "energy distance ‖ξ(x′) − ξ(x)‖₂",
}


def plot_datapoints(study: Study, table: pd.DataFrame) -> Figure:
    """Draw the distributions over pairs of the datapoint difference and of the energy distance, one row per model."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 1 + 0.62 * len(study.models)), sharey=True, layout="constrained")
    for axis, (column, label), digits in zip(axes, DISTANCES.items(), (4, 1), strict=True):
        values = {model.name: table.loc[table["model"] == model.name, column].to_numpy() for model in study.models}
        edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=N_BINS)
        draw_rows(axis, study, values, edges)
        for place, of_model in enumerate(values.values()):
            write_row(axis, place, f"median {np.median(of_model):.{digits}f}")
        axis.set(xlabel=label)
    axes[0].axvline(0.5, color=QUIET, linestyle=":", linewidth=1)
    return figure


def plot_training_similarity(study: Study, table: pd.DataFrame) -> tuple[Figure, dict[str, Excess]]:
    """Draw the similarity of generations to their nearest training image, one row per model, over that of unseen real images."""
    excess = {model.name: nearer_than_real(table, model.name) for model in study.models}
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.7 * len(study.models)), layout="constrained")
    real = table.drop_duplicates("pair_id")["training_similarity_real"].dropna().to_numpy()
    values = {model.name: table.loc[table["model"] == model.name, "training_similarity"].to_numpy() for model in study.models}
    edges = np.histogram_bin_edges(np.concatenate([*values.values(), real]), bins=N_BINS)
    draw_rows(axis, study, values, edges, real)
    for place, of_model in enumerate(excess.values()):
        write_row(axis, place, f"{100 * of_model.share:.1f} % nearer than\n99 % of real images", left=True)
    axis.set(xlabel="cosine similarity to the nearest training image")
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return figure, excess


def draw_rows(
    axis: Axes, study: Study, values: Mapping[str, Float[np.ndarray, "n"]], edges: Float[np.ndarray, "e"],
    reference: Float[np.ndarray, "m"] | None = None,
) -> None:  # fmt: skip
    """Draw one histogram of equal area per model, each on a baseline of its own, with its median; in grey the reference."""
    heights = [np.histogram(of_model, bins=edges, density=True)[0] for of_model in values.values()]
    behind = [] if reference is None else [np.histogram(reference, bins=edges, density=True)[0]]
    unit = TALL / max(1e-12, *(float(h.max(initial=0)) for h in heights + behind))
    for place, (model, height) in enumerate(zip(study.models, heights, strict=True)):
        colour = model_colour(study, model.name)
        for grey in behind:
            axis.stairs(place - unit * grey, edges, baseline=place, fill=True, color=REAL_COLOUR, alpha=0.35,
                        label=None if place else "grey: unseen real images, the level of chance")  # fmt: skip
        axis.stairs(place - unit * height, edges, baseline=place, fill=not behind, color=colour, linewidth=1.4, alpha=0.85)
        median = float(np.median(values[model.name]))
        axis.vlines(
            median, place - TALL, place, color=INK, linestyle="--", linewidth=1, label=None if place else "dashed: median"
        )
        axis.axhline(place, color=QUIET, linewidth=0.5)
    axis.set_yticks(range(len(heights)), [literal(model.label) for model in study.models])
    axis.set(xlim=(edges[0], edges[-1]), ylim=(len(heights) - 0.95, -TALL - 0.1))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def write_row(axis: Axes, place: int, text: str, left: bool = False) -> None:
    """Write what is known of a row beside its histogram."""
    axis.annotate(text, (0.01 if left else 0.99, place - 0.5), xycoords=("axes fraction", "data"), ha="left" if left else "right",
                  va="center", fontsize=7.5)  # fmt: skip
