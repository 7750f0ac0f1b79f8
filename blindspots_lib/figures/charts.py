"""Charts: one function per figure, all in the style of `style`."""

import itertools
import textwrap
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
from blindspots_lib.core.study import Study
from blindspots_lib.figures.selection import called_in_order, shown_name
from blindspots_lib.figures.style import DELTA_CMAP, INK, QUIET, literal, panels

DELTA_LABELS = {
    "ratio": "energy difference δ(k) = ξ̄′ₖ / (ξ̄ₖ + ξ̄′ₖ)",
    "published": "energy difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / 0.8)",
}

FREQUENCY_LABELS = DELTA_LABELS | {"published": "relative difference, published: σ((ξ̄′ₖ − ξ̄ₖ) / (ξ̄′ₖ + ξ̄ₖ) / 0.4)"}
TOGETHER_CMAP = sns.color_palette("mako_r", as_cmap=True).with_extremes(bad="#e4e0e6")
LABEL_SIZE = (0.16, 0.04)  # width and height of a label on a map, as fractions of the map
N_LABELS = 10  # names on a map or panel, at most
END_BINS = 0.025  # by which the first and the last bin of a histogram are drawn wider
LINES_END = 0.78  # of the height of a panel: above it stands text
CELL = 1.75  # inches per side of a panel of two models
FEW_IMAGES = 20  # a concept on fewer says nothing about what it fires with


def plot_histograms(study: Study, table: pd.DataFrame, shapes: Mapping[str, Shape]) -> Figure:
    """Draw the histogram of delta(k) per model: 99 bins on [0, 1], counts on a log axis, dashed median, skewness as text.

    The first and the last bin, where all concepts of one side stand, are drawn wider and with their count.

    `shapes` holds each model's `distribution.distribution_shape`.
    """
    figure, axes = panels(len(study.models))
    edges, highest = np.linspace(0, 1, 100), 1
    low, high = study.analysis.suppressed_below, study.analysis.exaggerated_above
    drawn = edges + END_BINS * np.isin(edges, (0, 1)) * np.sign(edges - 0.5)
    for axis, model in zip(axes, study.models, strict=True):
        deltas, shape = deltas_of_tested(table, model.name).to_numpy(), shapes[model.name]
        axis.axvline(shape.median, ymax=LINES_END, color=INK, linestyle="--", linewidth=1)
        for threshold in (low, high):
            axis.axvline(threshold, ymax=LINES_END, color=QUIET, linestyle=":", linewidth=1)
        axis.set(xlim=(drawn[0], drawn[-1]), xlabel=DELTA_LABELS[study.analysis.arithmetic], title=literal(model.label))
        text = (f"median {shape.median:.2f} (dashed)\n"
                f"skewness {shape.skewness_raw:+.2f}, without noise {shape.skewness:+.2f} "
                f"[{shape.skewness_low:+.2f}, {shape.skewness_high:+.2f}]\n"
                f"{len(deltas)} concepts, {(deltas < low).sum()} below {low:g}, {(deltas > high).sum()} above {high:g} "
                "(dotted)")  # fmt: skip
        axis.text(0.02, 0.98, dashed(text), transform=axis.transAxes, va="top", fontsize=7.5)
        counts, _ = np.histogram(deltas, bins=edges)
        axis.bar(drawn[:-1], counts, width=np.diff(drawn), align="edge", color=DELTA_CMAP(edges[:-1] + 0.005))
        for at, place, side in ((0, drawn[0], "left"), (-1, drawn[-1], "right")):
            if counts[at]:
                axis.annotate(f"{counts[at]}", (place, counts[at]), (0, 1), textcoords="offset points", fontsize=7, ha=side)
        axis.set_xticks(np.linspace(0, 1, 6))
        highest = max(highest, counts.max())
    axes[0].set(ylim=(0.7, highest**1.35 * 3), yscale="log", ylabel="concepts per bin (log scale)")
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
    """Write the names of rows beside their points, with lines that lead to them."""
    pointer = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
    for (_, row), place in zip(rows.iterrows(), places, strict=True):
        axis.annotate(literal(shown_name(row)), place, (7, 5), fontsize=6.5, textcoords="offset points", arrowprops=pointer,
                      path_effects=[patheffects.withStroke(linewidth=2.2, foreground="white")])  # fmt: skip


def well_apart(concepts: Iterable[int], places: Float[np.ndarray, "k 2"], tall: float = 1) -> list[int]:
    """Return the concepts whose labels, `tall` lines high, cover no label of an earlier one."""
    unit = places / np.maximum(np.ptp(places, axis=0), 1e-12)
    free: list[int] = []
    for concept in concepts:
        if all((np.abs(unit[concept] - unit[other]) > np.array(LABEL_SIZE) * (1, tall)).any() for other in free):
            free.append(concept)
    return free


def plot_cross_model(
    study: Study, table: pd.DataFrame, same: Mapping[str, Correlation], apart: Mapping[str, Apart]
) -> Figure:  # fmt: skip
    """Draw every two models: below the diagonal delta(k) of one against the other, above it their correlations.

    `same` holds the correlations on the same pairs, "first~second" (`agreement.correlate_models`), `apart` those on disjoint
    pairs (`agreement.correlate_apart`), which are shown in large type, corrected for the noise of the halves.
    """
    names = [model.name for model in study.models]
    side = len(names) * CELL + 0.6
    figure, axes = plt.subplots(len(names), len(names), figsize=(side, side), squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    for place, model in enumerate(study.models):
        own = axes[place, place]
        own.text(0.5, 0.5, literal("\n".join(textwrap.wrap(model.label, 14))), ha="center", va="center", weight="bold")
        own.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        own.set_axis_off()
    for first, second in itertools.combinations(range(len(names)), 2):
        draw_two_models(axes[second, first], table, names[first], names[second])
        pair = f"{names[first]}~{names[second]}"
        write_correlations(axes[first, second], same[pair], apart[pair].corrected)
    for model, left, below in zip(study.models, axes[:, 0], axes[-1], strict=True):
        left.set_ylabel(f"δ(k), {literal(model.label)}", fontsize=8)
        below.set_xlabel(f"δ(k), {literal(model.label)}", fontsize=8)
    for axis in axes[:, 1:].flat:
        axis.tick_params(labelleft=False)
    for axis in axes[:-1].flat:
        axis.tick_params(labelbottom=False)
    figure.suptitle("large: r without noise, on disjoint pairs; small: on the same pairs; dotted: equal δ(k)", fontsize=9)
    return figure


def draw_two_models(axis, table: pd.DataFrame, first: str, second: str) -> None:
    """Draw delta(k) of the second model against the first one's, larger where a concept fires more often."""
    both = table[table[f"tested_{first}"] & table[f"tested_{second}"]]
    x, y = energy_ratio(both, first), energy_ratio(both, second)
    sizes = 2 + 2 * np.sqrt(both["firings"] / max(1, both["firings"].median()))
    axis.axline((0, 0), slope=1, color=QUIET, linewidth=0.8, linestyle=":")
    axis.scatter(x, y, s=sizes, c=x, cmap=DELTA_CMAP, vmin=0, vmax=1, alpha=0.5, linewidths=0, rasterized=True)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axis.tick_params(labelsize=7)


def write_correlations(axis, same: Correlation, corrected: Correlation) -> None:
    """Write a correlation on disjoint pairs, and below it the one on the same pairs, on a ground of its colour."""
    ground = plt.get_cmap("PuOr_r")((np.nan_to_num(corrected.r) + 1) / 2)
    ink = "white" if np.dot(ground[:3], (0.3, 0.59, 0.11)) < 0.5 else INK
    axis.set(facecolor=ground, xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    large, small = (dashed(f"{r.r:.2f}{gap}[{r.low:.2f}, {r.high:.2f}]") for r, gap in ((corrected, "\n"), (same, " ")))
    axis.text(0.5, 0.6, large, ha="center", va="center", color=ink, fontsize=11)
    axis.text(0.5, 0.16, small, ha="center", va="center", color=ink, fontsize=6.5)


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


def plot_cooccurrence(labels: list[str], real: Int[np.ndarray, "c c"], generated: Mapping[str, Int[np.ndarray, "c c"]]) -> Figure:
    """Draw the fraction of a concept's images on which another fires too, for real images and each model's, on one scale.

    The scale ends where 99 % of all cells lie. A row is grey where its concept fires on fewer than 20 images.
    """
    figure, axes = panels(1 + len(generated), width=4.2, height=4.2)
    fractions = {title: together(counts) for title, counts in {"Real images": real, **generated}.items()}
    known = np.concatenate([cells[np.isfinite(cells)] for cells in fractions.values()])
    most = float(np.quantile(known, 0.99)) if known.any() else 1.0
    for axis, (title, cells) in zip(axes, fractions.items(), strict=True):
        drawn = axis.imshow(cells, vmin=0, vmax=most, cmap=TOGETHER_CMAP)
        axis.set_title(literal(title))
        axis.set_xticks(range(len(labels)), list(map(literal, labels)), rotation=90)
        axis.set_yticks(range(len(labels)), list(map(literal, labels)))
        axis.tick_params(labelsize=7, length=0)
    label = f"fraction of the row's images with the column too (grey: the row has fewer than {FEW_IMAGES})"
    extend = "max" if known.max(initial=0) > most else "neither"
    figure.colorbar(drawn, ax=list(axes), shrink=0.6, extend=extend, label=label)
    return figure


def together(counts: Int[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    """Return the fraction of the row's images on which the column fires too; nan on the diagonal and for rows of few images."""
    images = np.diag(counts).astype(float)
    fractions = counts / np.where(images < FEW_IMAGES, np.nan, images)[:, None]
    np.fill_diagonal(fractions, np.nan)
    return fractions
