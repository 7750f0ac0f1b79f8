"""The paper's figures from its authors' own tables: histograms, map, models against each other, frequency."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.analysis.distribution import frequency_bands
from blindspots_lib.analysis.published import correlation, correlations, difference_values, relative_values, skewness
from blindspots_lib.core.study import TablesStudy
from blindspots_lib.figures.charts import DELTA_LABELS, FREQUENCY_LABELS
from blindspots_lib.figures.style import DELTA_CMAP, INK, QUIET, literal, panels

Tables = Mapping[str, pd.DataFrame]
N_BINS = 99


def plot_published_histograms(study: TablesStudy, tables: Tables) -> Figure:
    """Draw the density of sigma(energy_diff / 0.8) per model: 99 bins, log axis, dashed median, skewness as text."""
    figure, axes = panels(len(study.models))
    edges = np.linspace(0, 1, N_BINS + 1)
    for axis, model in zip(axes, study.models, strict=True):
        values = difference_values(tables[model.name])
        known = values[np.isfinite(values)]
        density, _ = np.histogram(known, bins=edges, density=True)
        axis.bar(edges[:-1], density, width=1 / N_BINS, align="edge", color=DELTA_CMAP(edges[:-1] + 0.5 / N_BINS))
        axis.axvline(np.median(known), color=INK, linestyle="--", linewidth=1)
        text = f"median {np.median(known):.2f} (dashed)\nskewness {skewness(tables[model.name]):+.2f}\n{len(known):,} concepts"
        axis.text(0.02, 0.98, text, transform=axis.transAxes, va="top", fontsize=7.5)
        axis.set(xlim=(0, 1), xlabel=DELTA_LABELS["published"], title=literal(model.label))
    axes[0].set(yscale="log", ylabel="density (log scale)")
    bottom, top = axes[0].get_ylim()
    axes[0].set_ylim(bottom, top**1.3)
    return figure


def plot_published_map(study: TablesStudy, tables: Tables) -> Figure:
    """Draw the authors' UMAP of the dictionary, one panel per model, coloured by sigma(energy_diff / 0.8), in random order."""
    figure, axes = panels(len(study.models), width=5.0, height=4.6)
    for axis, model in zip(axes, study.models, strict=True):
        table = tables[model.name]
        order = np.random.default_rng(0).permutation(len(table))
        drawn = axis.scatter(
            table["umap_x"].to_numpy()[order], table["umap_y"].to_numpy()[order], c=difference_values(table)[order], s=3,
            cmap=DELTA_CMAP, vmin=0, vmax=1, linewidths=0, rasterized=True,
        )  # fmt: skip
        axis.set(title=literal(model.label), xlabel="UMAP 1", xticks=[], yticks=[])
    axes[0].set_ylabel("UMAP 2")
    figure.colorbar(drawn, ax=list(axes), label=DELTA_LABELS["published"], shrink=0.8)
    return figure


def plot_published_models(study: TablesStudy, tables: Tables) -> Figure:
    """Draw the relative differences of the first model against those of each other one, with r, and all correlations."""
    first, *others = study.models
    figure, axes = plt.subplots(1, len(others) + 1, figsize=(3.4 * (len(others) + 1), 3.6), layout="constrained", squeeze=False)
    x = tables[first.name]["relative_energy_diff"]
    for axis, model in zip(axes[0], others, strict=False):
        table = tables[model.name]
        sizes = 1 + 6 * np.sqrt(table["nb_fire"] / max(1.0, table["nb_fire"].max()))
        axis.scatter(x, table["relative_energy_diff"], s=sizes, color="#582949", alpha=0.25, linewidths=0, rasterized=True)
        axis.axline((0, 0), slope=1, color=QUIET, linewidth=0.8, linestyle=":")
        axis.text(0.03, 0.97, f"r = {correlation(tables[first.name], table):.2f}", transform=axis.transAxes, va="top")
        axis.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel=literal(first.label), title=literal(model.label))
    axes[0, 0].set_ylabel("relative difference (ξ̄′ − ξ̄) / (ξ̄′ + ξ̄)")
    matrix, axis = correlations(tables), axes[0, -1]
    axis.imshow(matrix, cmap="PuOr_r", vmin=-1, vmax=1)
    for (row, column), r in np.ndenumerate(matrix):
        axis.text(column, row, f"{r:.2f}", ha="center", va="center", fontsize=9, color="white" if abs(r) > 0.6 else INK)
    labels = [literal(model.label).replace(" ", "\n", 1) for model in study.models]
    axis.set_xticks(range(len(labels)), labels, fontsize=7, rotation=90)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    axis.set_title("Pearson's r")
    return figure


def plot_published_frequency(study: TablesStudy, tables: Tables) -> Figure:
    """Draw sigma(relative_energy_diff / 0.4) against the firings on real images, with the 5 % to 95 % band of concepts."""
    figure, axes = panels(len(study.models))
    for axis, model in zip(axes, study.models, strict=True):
        table = tables[model.name]
        values, firings = relative_values(table), table["nb_fire"].to_numpy()
        known = np.isfinite(values) & np.isfinite(firings)
        bands = frequency_bands(firings[known].astype(np.int64), values[known], n_bins=30)
        axis.scatter(
            firings + 1, values, c=values, cmap=DELTA_CMAP, vmin=0, vmax=1, s=3, alpha=0.5, linewidths=0, rasterized=True
        )
        for edge, style, label in (("low", "--", "5 % and 95 % of concepts"), ("high", "--", None), ("median", "-", "median")):
            axis.plot(bands["firings"] + 1, bands[edge], color=INK, linewidth=1.1, linestyle=style, label=label)
        axis.set(xscale="log", ylim=(-0.02, 1.02), title=literal(model.label), xlabel="firings on real images + 1 (log scale)")
    axes[0].set_ylabel(FREQUENCY_LABELS["published"].replace("published: ", "published\n"))
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2)
    return figure
