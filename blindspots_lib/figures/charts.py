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
from blindspots_lib.analysis.delta import ranked_deltas
from blindspots_lib.analysis.distribution import Correlation, Shape, energy_ratio
from blindspots_lib.analysis.memorization import Excess, nearer_than_real
from blindspots_lib.core.study import Study
from blindspots_lib.figures.style import DELTA_CMAP, INK, MODEL_COLOURS, QUIET, REAL_COLOUR, literal, model_colour, panels

DELTA_LABELS = {
    "ratio": "energy difference δ(k) = ξ̄′ₖ / (ξ̄ₖ + ξ̄′ₖ)",
    "published": "energy difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / 0.8)",
}

FREQUENCY_LABELS = DELTA_LABELS | {"published": "relative difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / (ξ̄′ₖ + ξ̄ₖ) / 0.4)"}
LABEL_SIZE = (0.16, 0.04)  # width and height of a label on a map, as fractions of the map
NAMED_FROM = 0.8  # least area under the ROC curve at which a concept gets the name of a ground-truth concept


def plot_histograms(study: Study, table: pd.DataFrame) -> tuple[Figure, dict[str, Shape]]:
    """Draw the histogram of delta(k) per model: 99 bins on [0, 1], density on a log axis, dashed median, skewness as text."""
    figure, axes = panels(len(study.models))
    shapes, edges, highest = {}, np.linspace(0, 1, 100), []
    for axis, model in zip(axes, study.models, strict=True):
        deltas = ranked_deltas(table, model.name).to_numpy()
        shape = shapes[model.name] = distribution.distribution_shape(deltas, study.analysis)
        axis.axvline(shape.median, color=INK, linestyle="--", linewidth=1)
        for threshold in (study.analysis.suppressed_below, study.analysis.exaggerated_above):
            axis.axvline(threshold, color=QUIET, linestyle=":", linewidth=1)
        axis.set(xlim=(0, 1), xlabel=DELTA_LABELS[study.analysis.arithmetic], title=literal(model.label))
        text = (f"median {shape.median:.2f} (dashed)\n"
                f"skewness {shape.skewness:+.2f} [{shape.skewness_low:+.2f}, {shape.skewness_high:+.2f}]\n"
                f"{shape.n_ranked} concepts, {shape.n_suppressed} below, {shape.n_exaggerated} above")  # fmt: skip
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
    return figure, shapes


def dashed(text: str) -> str:
    """Write a dash for every number that is not defined."""
    return text.replace("+nan", "–").replace("nan", "–")


def plot_concept_map(study: Study, table: pd.DataFrame, places: Float[np.ndarray, "k 2"]) -> Figure:
    """Draw the UMAP of the dictionary, one panel per model, coloured by delta(k); concepts that are not ranked stay grey.

    Ten concepts at most get the name of the ground-truth concept that they match well: those of delta furthest from 0.5.
    """
    figure, axes = panels(len(study.models), width=5.0, height=4.6)
    for axis, model in zip(axes, study.models, strict=True):
        deltas = ranked_deltas(table, model.name)
        axis.scatter(*places.T, s=4, color="#e3e0e5", linewidths=0)
        drawn = axis.scatter(*places[deltas.index].T, c=deltas, cmap=DELTA_CMAP, vmin=0, vmax=1, s=13, linewidths=0)
        furthest = table.loc[(deltas - 0.5).abs().sort_values(ascending=False, kind="stable").index]
        matched = furthest[furthest["goes_with_auc"] >= NAMED_FROM].drop_duplicates("goes_with")
        for concept in well_apart(matched.index, places)[:10]:
            axis.annotate(matched.loc[concept, "goes_with"], places[concept], fontsize=6.5, xytext=(3, 3),
                          textcoords="offset points",
                          path_effects=[patheffects.withStroke(linewidth=2.2, foreground="white")])  # fmt: skip
        axis.set(title=literal(model.label), xlabel="UMAP 1 of the atoms (cosine)", xticks=[], yticks=[])
    axes[0].set_ylabel("UMAP 2")
    figure.colorbar(drawn, ax=axes, label=DELTA_LABELS[study.analysis.arithmetic], shrink=0.8)
    return figure


def well_apart(concepts: Iterable[int], places: Float[np.ndarray, "k 2"]) -> list[int]:
    """Return the concepts whose labels cover no label of an earlier one."""
    unit = places / np.ptp(places, axis=0)
    free: list[int] = []
    for concept in concepts:
        if all((np.abs(unit[concept] - unit[other]) > LABEL_SIZE).any() for other in free):
            free.append(concept)
    return free


def plot_cross_model(
    study: Study, table: pd.DataFrame, apart: Mapping[str, Correlation]
) -> tuple[Figure, dict[str, Correlation]]:
    """Draw delta(k) of the first model against each other model, and the matrix of all correlations.

    `apart` holds the correlations on disjoint pairs, "first~second" (`distribution.correlate_apart`).
    """
    first, others = study.models[0], study.models[1:]
    names, labels = [model.name for model in study.models], [literal(model.label) for model in study.models]
    same = {f"{a}~{b}": distribution.correlate_models(table, a, b) for a, b in itertools.combinations(names, 2)}
    figure, axes = panels(len(names), width=4.4, height=3.9, shared=False)
    for axis, other in zip(axes, others, strict=False):
        both = table[table[f"ranked_{first.name}"] & table[f"ranked_{other.name}"]]
        x, y = energy_ratio(both, first.name), energy_ratio(both, other.name)
        sizes = 5 + 5 * np.sqrt(both["firings"] / max(1, both["firings"].median()))
        axis.axline((0, 0), slope=1, color=QUIET, linewidth=0.8, linestyle=":")
        axis.scatter(x, y, s=sizes, c=x, cmap=DELTA_CMAP, vmin=0, vmax=1, alpha=0.5, linewidths=0)
        c, d = (of[f"{first.name}~{other.name}"] for of in (same, apart))
        axis.set(xlabel=f"δ(k), {literal(first.label)}", ylabel=f"δ(k), {literal(other.label)}")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal",
                 title=f"same pairs: r = {c.r:.2f} [{c.low:.2f}, {c.high:.2f}]\n"
                       f"disjoint: r = {d.r:.2f} [{d.low:.2f}, {d.high:.2f}]")  # fmt: skip
    matrix = np.eye(len(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        matrix[i, j], matrix[j, i] = (of[f"{names[i]}~{names[j]}"].r for of in (apart, same))
    sns.heatmap(matrix, ax=axes[-1], vmin=-1, vmax=1, cmap="PuOr_r", annot=True, fmt=".2f", square=True,
                xticklabels=labels, yticklabels=labels, cbar_kws={"label": "Pearson r of δ(k)", "shrink": 0.7})  # fmt: skip
    axes[-1].set_title("below the diagonal: same pairs\nabove: disjoint pairs")
    axes[-1].tick_params(axis="y", rotation=0)
    plt.setp(axes[-1].get_xticklabels(), rotation=25, ha="right")
    return figure, same | {f"{pair}, disjoint pairs": c for pair, c in apart.items()}


def plot_frequency(study: Study, table: pd.DataFrame) -> tuple[Figure, dict[str, Correlation]]:
    """Draw delta(k) against the number of firings on real images, with the 5 % to 95 % band and the median."""
    figure, axes = panels(len(study.models))
    correlations = {}
    for axis, model in zip(axes, study.models, strict=True):
        ranked = table.loc[ranked_deltas(table, model.name).index]
        deltas = distribution.frequency_values(ranked, model.name, study.analysis).dropna()
        firings = table["firings"].to_numpy()[deltas.index]
        bands = distribution.frequency_bands(firings, deltas.to_numpy())
        c = correlations[model.name] = distribution.correlate_error_with_frequency(firings, deltas.to_numpy())
        axis.fill_between(bands["firings"] + 1, bands["low"], bands["high"], color="#582949", alpha=0.15, linewidth=0,
                          label="5 % to 95 %")  # fmt: skip
        axis.scatter(firings + 1, deltas, c=deltas, cmap=DELTA_CMAP, vmin=0, vmax=1, s=7, alpha=0.8, linewidths=0)
        axis.plot(bands["firings"] + 1, bands["median"], color=INK, linewidth=1.2, label="median")
        axis.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
        axis.set(xscale="log" if len(deltas) else axis.get_xscale(), ylim=(-0.02, 1.02), title=literal(model.label),
                 xlabel="firings on real images + 1 (tokens, log scale)")  # fmt: skip
        text = dashed(f"firings with |δ − ½|: Spearman {c.r:.2f} [{c.low:.2f}, {c.high:.2f}]")
        axis.text(0.98, 0.98, text, ha="right", va="top", transform=axis.transAxes, fontsize=7.5)
    axes[0].set_ylabel(FREQUENCY_LABELS[study.analysis.arithmetic].replace(" = ", "\n= ").replace("published: ", "published\n"))
    axes[0].legend(fontsize=7.5, loc="lower right")
    return figure, correlations


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
        sns.heatmap(both, ax=axis, vmin=0, vmax=1, cmap="mako_r", square=True, xticklabels=labels, yticklabels=labels,
                    cbar=False)  # fmt: skip
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
