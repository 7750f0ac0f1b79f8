"""Charts: one function per figure, all in the style of `style`."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.analysis import distribution
from blindspots_lib.analysis.agreement import Apart
from blindspots_lib.analysis.delta import deltas_of_tested
from blindspots_lib.analysis.distribution import FrequencyCorrelation, Shape, energy_ratio
from blindspots_lib.analysis.jackknife import Correlation
from blindspots_lib.analysis.memorization import Excess, nearer_than_real
from blindspots_lib.core.study import Study
from blindspots_lib.figures.selection import called_in_order, shown_name
from blindspots_lib.figures.style import DELTA_CMAP, INK, MODEL_COLOURS, QUIET, REAL_COLOUR, literal, model_colour, panels

DELTA_LABELS = {
    "ratio": "energy difference δ(k) = ξ̄′ₖ / (ξ̄ₖ + ξ̄′ₖ)",
    "published": "energy difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / 0.8)",
}

FREQUENCY_LABELS = DELTA_LABELS | {"published": "relative difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / (ξ̄′ₖ + ξ̄ₖ) / 0.4)"}
LABEL_SIZE = (0.16, 0.04)  # width and height of a label on a map, as fractions of the map
N_LABELS = 10  # names on a map or panel, at most


def plot_histograms(study: Study, table: pd.DataFrame, shapes: Mapping[str, Shape]) -> Figure:
    """Draw the histogram of delta(k) per model: 99 bins on [0, 1], density on a log axis, dashed median, skewness as text.

    `shapes` holds each model's `distribution.distribution_shape`.
    """
    figure, axes = panels(len(study.models))
    edges, highest = np.linspace(0, 1, 100), []
    low, high = study.analysis.suppressed_below, study.analysis.exaggerated_above
    for axis, model in zip(axes, study.models, strict=True):
        deltas, shape = deltas_of_tested(table, model.name).to_numpy(), shapes[model.name]
        axis.axvline(shape.median, color=INK, linestyle="--", linewidth=1)
        for threshold in (low, high):
            axis.axvline(threshold, color=QUIET, linestyle=":", linewidth=1)
        axis.set(xlim=(0, 1), xlabel=DELTA_LABELS[study.analysis.arithmetic], title=literal(model.label))
        text = (f"median {shape.median:.2f} (dashed)\n"
                f"skewness {shape.skewness_raw:+.2f}, without noise {shape.skewness:+.2f} "
                f"[{shape.skewness_low:+.2f}, {shape.skewness_high:+.2f}]\n"
                f"{len(deltas)} concepts, {(deltas < low).sum()} below, {(deltas > high).sum()} above")  # fmt: skip
        axis.text(0.02, 0.98, dashed(text), transform=axis.transAxes, va="top", fontsize=7.5,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1})  # fmt: skip
        if len(deltas):
            density, _ = np.histogram(deltas, bins=edges, density=True)
            axis.bar(edges[:-1], density, width=np.diff(edges), align="edge", color=DELTA_CMAP(edges[:-1] + 0.005))
            highest.append(density.max())
            axis.set_yscale("log")
    if highest:  # once for all panels: a limit that is set ends the autoscaling of axes that are shared
        axes[0].set_ylim(top=max(highest) * 12)
    axes[0].set_ylabel("density of concepts (log scale)")
    return figure


def dashed(text: str) -> str:
    """Write a dash for every number that is not defined."""
    return text.replace("+nan", "–").replace("nan", "–")


def plot_concept_map(study: Study, table: pd.DataFrame, places: Float[np.ndarray, "k 2"]) -> Figure:
    """Draw the UMAP of the dictionary, one panel per model, coloured by delta(k); concepts that are not tested stay grey.

    Ten concepts at most get their name: called ones, of shrunken delta furthest from 0.5. The order of drawing is random, so that
    no side covers the other.
    """
    figure, axes = panels(len(study.models), width=5.0, height=4.6)
    order = np.random.default_rng(study.analysis.seed).permutation(len(table))
    for axis, model in zip(axes, study.models, strict=True):
        deltas = deltas_of_tested(table, model.name)
        drawn_last = order[np.isin(order, deltas.index)]
        axis.scatter(*places.T, s=4, color="#e3e0e5", linewidths=0, rasterized=True)
        drawn = axis.scatter(*places[drawn_last].T, c=deltas[drawn_last], cmap=DELTA_CMAP, vmin=0, vmax=1, s=13, linewidths=0,
                             rasterized=True)  # fmt: skip
        named = most_extreme(table, model.name).drop_duplicates("name")
        chosen = well_apart(named.index, places)[:N_LABELS]
        label_points(axis, named.loc[chosen], places[chosen])
        axis.set(title=literal(model.label), xlabel="UMAP 1 of the atoms (cosine)", xticks=[], yticks=[])
    axes[0].set_ylabel("UMAP 2")
    figure.colorbar(drawn, ax=axes, label=DELTA_LABELS[study.analysis.arithmetic], shrink=0.8)
    return figure


def most_extreme(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the named rows that are called for a model, those of shrunken delta furthest from 0.5 first."""
    rows = called_in_order(table[table["name"] != ""], model)
    return rows.loc[(rows[f"shrunken_{model}"] - 0.5).abs().sort_values(ascending=False, kind="stable").index]


def label_points(axis, rows: pd.DataFrame, places: Float[np.ndarray, "n 2"]) -> None:
    """Write the names of rows beside their points."""
    for (_, row), place in zip(rows.iterrows(), places, strict=True):
        axis.annotate(literal(shown_name(row)), place, fontsize=6.5, xytext=(3, 3), textcoords="offset points",
                      path_effects=[patheffects.withStroke(linewidth=2.2, foreground="white")])  # fmt: skip


def well_apart(concepts: Iterable[int], places: Float[np.ndarray, "k 2"]) -> list[int]:
    """Return the concepts whose labels cover no label of an earlier one."""
    unit = places / np.maximum(np.ptp(places, axis=0), 1e-12)
    free: list[int] = []
    for concept in concepts:
        if all((np.abs(unit[concept] - unit[other]) > LABEL_SIZE).any() for other in free):
            free.append(concept)
    return free


def plot_cross_model(
    study: Study, table: pd.DataFrame, same: Mapping[str, Correlation], apart: Mapping[str, Apart]
) -> Figure:  # fmt: skip
    """Draw delta(k) of the first model against each other model, and the matrix of all correlations.

    `same` holds the correlations on the same pairs, "first~second" (`agreement.correlate_models`), `apart` those on disjoint
    pairs (`agreement.correlate_apart`), which are shown corrected for the noise of the halves.
    """
    first, others = study.models[0], study.models[1:]
    names, labels = [model.name for model in study.models], [literal(model.label) for model in study.models]
    figure, axes = panels(len(names), width=4.4, height=3.9, shared=False)
    for axis, other in zip(axes, others, strict=False):
        both = table[table[f"tested_{first.name}"] & table[f"tested_{other.name}"]]
        x, y = energy_ratio(both, first.name), energy_ratio(both, other.name)
        sizes = 5 + 5 * np.sqrt(both["firings"] / max(1, both["firings"].median()))
        axis.axline((0, 0), slope=1, color=QUIET, linewidth=0.8, linestyle=":")
        axis.scatter(x, y, s=sizes, c=x, cmap=DELTA_CMAP, vmin=0, vmax=1, alpha=0.5, linewidths=0, rasterized=True)
        c, d = same[f"{first.name}~{other.name}"], apart[f"{first.name}~{other.name}"].corrected
        axis.set(xlabel=f"δ(k), {literal(first.label)}", ylabel=f"δ(k), {literal(other.label)}")
        title = f"same pairs: r = {c.r:.2f} [{c.low:.2f}, {c.high:.2f}]\ndisjoint: r = {d.r:.2f} [{d.low:.2f}, {d.high:.2f}]"
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=dashed(title))
    matrix = np.eye(len(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        pair = f"{names[i]}~{names[j]}"
        matrix[i, j], matrix[j, i] = apart[pair].corrected.r, same[pair].r
    sns.heatmap(matrix, ax=axes[-1], vmin=-1, vmax=1, cmap="PuOr_r", annot=True, fmt=".2f", square=True,
                xticklabels=labels, yticklabels=labels, cbar_kws={"label": "Pearson r of δ(k)", "shrink": 0.7})  # fmt: skip
    axes[-1].set_title("below the diagonal: same pairs\nabove: disjoint pairs, without noise")
    axes[-1].tick_params(axis="y", rotation=0)
    plt.setp(axes[-1].get_xticklabels(), rotation=25, ha="right")
    return figure


def plot_frequency(
    study: Study, table: pd.DataFrame, funnels: Mapping[str, pd.DataFrame], correlations: Mapping[str, FrequencyCorrelation]
) -> Figure:  # fmt: skip
    """Draw delta(k) against the number of firings on real images, with its 5 % to 95 % band, and the funnel of chance.

    `funnels` holds, per model, the band in which delta lies by chance alone, over the firings (`distribution.null_funnel`), and
    `correlations` its `distribution.correlate_error_with_frequency`.
    """
    figure, axes = panels(len(study.models))
    for axis, model in zip(axes, study.models, strict=True):
        tested = table.loc[deltas_of_tested(table, model.name).index]
        deltas = distribution.frequency_values(tested, model.name, study.analysis).dropna()
        firings = table["firings"].to_numpy()[deltas.index]
        bands = distribution.frequency_bands(firings, deltas.to_numpy())
        axis.fill_between(bands["firings"] + 1, bands["low"], bands["high"], color="#582949", alpha=0.15, linewidth=0,
                          label="5 % to 95 % of concepts")  # fmt: skip
        axis.scatter(
            firings + 1, deltas, c=deltas, cmap=DELTA_CMAP, vmin=0, vmax=1, s=7, alpha=0.8, linewidths=0, rasterized=True
        )
        axis.plot(bands["firings"] + 1, bands["median"], color=INK, linewidth=1.2, label="median")
        draw_funnel(axis, funnels[model.name], offset=1)
        axis.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
        axis.set(xscale="log" if len(deltas) else axis.get_xscale(), ylim=(-0.02, 1.18), title=literal(model.label),
                 xlabel="firings on real images + 1 (tokens, log scale)")  # fmt: skip
        c = correlations[model.name]
        text = (f"firings with |δ − ½|: Spearman {c.r:.2f} [{c.low:.2f}, {c.high:.2f}]\n"
                f"by chance alone {c.chance_low:.2f} to {c.chance_high:.2f}")  # fmt: skip
        axis.text(0.98, 0.98, dashed(text), ha="right", va="top", transform=axis.transAxes, fontsize=7.5)
    axes[0].set_ylabel(FREQUENCY_LABELS[study.analysis.arithmetic].replace(" = ", "\n= ").replace("published: ", "published\n"))
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3)
    return figure


def draw_funnel(axis, funnel: pd.DataFrame, offset: int = 0) -> None:
    """Draw the edges between which 95 % of the concepts of a faultless model lie; `offset` moves x on a log axis of x + 1."""
    for edge, label in ((funnel["low"], "95 % by chance alone"), (funnel["high"], None)):
        axis.plot(funnel["x"] + offset, edge, color=INK, linewidth=0.9, linestyle="--", label=label)


def plot_sae_training(history: pd.DataFrame, hull: Float[np.ndarray, "k"], radius: float) -> Figure:
    """Draw R2, active concepts per token (L0) and dead concepts over the steps, and the atoms' distances from the hull."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    labels = {"r2": "R² of the reconstruction", "l0": "active concepts per token (L0)", "dead": "dead concepts"}
    for axis, (column, label) in zip(axes, labels.items(), strict=False):
        axis.plot(history[column], color="#582949", linewidth=1)
        axis.set(xlabel="optimizer step", title=label)
    axes[0].set_ylim(max(0, history["r2"].min()), 1)
    axes[1].set_ylim(0, history["l0"].max() * 1.1)
    axes[3].hist(hull, bins=40, color="#5776b4")
    axes[3].axvline(radius, color=INK, linestyle="--", linewidth=1)
    axes[3].set(xlabel="‖Λₖ‖₂ (radius dashed)", ylabel="concepts", title="atoms' distance from the hull")
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
    means = table.groupby(["kind", "start"])[["mean_cosine", "share_alike"]].agg(["mean", "min", "max"])
    means.columns = map("_".join, means.columns)
    return figure, {", ".join(key): row for key, row in means.to_dict("index").items()}


def plot_datapoints(study: Study, table: pd.DataFrame) -> Figure:
    """Draw the distributions over pairs of the datapoint difference and of the energy distance."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    labels = {"datapoint_delta": "datapoint difference: mean over concepts of σ(ξₖ(x′) − ξₖ(x))",
              "energy_distance": "energy distance ‖ξ(x′) − ξ(x)‖₂"}  # fmt: skip
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        edges = np.histogram_bin_edges(table[column], bins=60)
        for model in study.models:
            values, colour = table.loc[table["model"] == model.name, column], model_colour(study, model.name)
            axis.hist(values, bins=edges, density=True, histtype="step", linewidth=1.4, color=colour, label=literal(model.label))
            axis.axvline(values.median(), color=colour, linestyle="--", linewidth=1)
        axis.set(xlabel=label, ylabel="density of pairs")
    axes[0].axvline(0.5, color=QUIET, linestyle=":", linewidth=1)
    axes[1].legend(fontsize=8, title="median dashed", title_fontsize=7)
    return figure


def plot_cooccurrence(labels: list[str], real: Int[np.ndarray, "c c"], generated: Mapping[str, Int[np.ndarray, "c c"]]) -> Figure:
    """Draw the fraction of a concept's images on which another fires too, for real images and each model's, on one scale."""
    figure, axes = panels(1 + len(generated), width=4.6, height=4.6)
    for axis, (title, counts) in zip(axes, {"Real images": real, **generated}.items(), strict=True):
        both = counts / np.maximum(np.diag(counts), 1)[:, None]
        np.fill_diagonal(both, np.nan)
        sns.heatmap(both, ax=axis, vmin=0, vmax=1, cmap="mako_r", square=True, cbar=False,
                    xticklabels=list(map(literal, labels)), yticklabels=list(map(literal, labels)))  # fmt: skip
        axis.set_title(literal(title))
        axis.tick_params(labelsize=7, length=0)
        axis.tick_params(axis="x", labelrotation=90)
    figure.colorbar(axes[0].collections[0], ax=list(axes), shrink=0.6, label="fraction of the row's images with the column too")
    return figure


def plot_training_similarity(study: Study, table: pd.DataFrame) -> tuple[Figure, dict[str, Excess]]:
    """Draw the similarity of generations to their nearest training image, beside that of unseen real images."""
    excess = {model.name: nearer_than_real(table, model.name) for model in study.models}
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    real = table.drop_duplicates("pair_id")["training_similarity_real"].dropna()
    edges = np.histogram_bin_edges(pd.concat([table["training_similarity"], real]), bins=60)
    axis.hist(real, bins=edges, density=True, color=REAL_COLOUR, alpha=0.35, label="unseen real images (the level of chance)")
    for model in study.models:
        values = table.loc[table["model"] == model.name, "training_similarity"]
        axis.hist(values, bins=edges, density=True, histtype="step", linewidth=1.4, color=model_colour(study, model.name),
                  label=f"{literal(model.label)}: {excess[model.name].share:.1%} nearer than 99 % of real images")  # fmt: skip
    axis.set(xlabel="cosine similarity to the nearest training image", ylabel="density of images")
    axis.legend(fontsize=7.5, loc="upper left")
    return figure, excess
