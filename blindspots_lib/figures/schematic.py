"""The method in one picture, drawn from one pair and one concept of a finished study."""

import textwrap

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from blindspots_lib.analysis.results import Results
from blindspots_lib.figures.galleries import caption_of, concept_label, heatmap, heatmap_strength, on_one_line, telling_pairs
from blindspots_lib.figures.image_grid import faded, printable
from blindspots_lib.figures.selection import number
from blindspots_lib.figures.style import DELTA_CMAP, INK, QUIET, literal

WIDTH, HEIGHT, SIDE = 122, 49, 15  # of the picture, and of an image in it
UPPER, LOWER, MIDDLE = 27, 6, 24  # where the row of the real image stands, that of the generated one, and what both share
X_IMAGE, X_BACKBONE, X_SAE, X_HEAT, X_ENERGY, X_DELTA = 24, 44, 60, 75, 94, 107


def plot_method(results: Results, model: str, concept: int) -> Figure:
    """Draw how delta of one concept comes about, for the pair in which it changes most, from the caption to the number."""
    row, label = results.concepts.loc[concept], results.study.model(model).label
    position = int(telling_pairs(results, model, [concept], bool(row[f"delta_{model}"] > 0.5), 1)[0])
    pair_id, strength = results.pair_ids[position], heatmap_strength(results, ("real", model), [concept])
    figure = plt.figure(figsize=(11, 11 * HEIGHT / WIDTH))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axis.set_axis_off()
    write(
        axis,
        1,
        UPPER + SIDE / 2,
        "caption t\n" + "\n".join(textwrap.wrap(printable(caption_of(results, pair_id)), 18)),
        ha="left",
    )
    box(axis, 9, LOWER + SIDE / 2, f"model g\n{label}", 17)
    arrow(axis, (9, UPPER + 2), (9, LOWER + SIDE / 2 + 4.5))
    arrow(axis, (17.6, LOWER + SIDE / 2), (X_IMAGE - 0.6, LOWER + SIDE / 2))
    energies = {}
    for source, bottom, name in (("real", UPPER, "real image x"), (model, LOWER, "generated image x′")):
        middle = bottom + SIDE / 2
        image = np.asarray(results.images[source][pair_id].convert("RGB"), np.float32) / 255
        lit, _ = faded(image, heatmap(results, source, position, [concept]), strength)
        picture(axis, image, X_IMAGE, bottom, name)
        picture(axis, lit, X_HEAT, bottom, "where the concept fires")
        energies[source] = float(results.energies[source].matrix[position, concept])
        for left, right in ((X_IMAGE + SIDE, X_HEAT), (X_HEAT + SIDE, X_ENERGY)):
            arrow(axis, (left + 0.6, middle), (right - 0.6, middle))
        write(axis, X_ENERGY + 1, middle, ("ξₖ(x)" if source == "real" else "ξₖ(x′)") + f"\n= {energies[source]:.2g}", ha="left")
    for x, text in ((X_BACKBONE + 4, "DINOv2\nimage to\ntokens"), (X_SAE + 5, "RA-SAE\ntokens to\nconcepts")):
        box(axis, x, MIDDLE, text, 12, tall=2 * SIDE + 6)
    for bottom in (UPPER, LOWER):
        arrow(axis, (X_ENERGY + 9, bottom + SIDE / 2), (X_DELTA - 0.6, MIDDLE + (4 if bottom == UPPER else -4)))
    delta = float(row[f"delta_{model}"])
    box(axis, X_DELTA + 7, MIDDLE, f"over all pairs\nδ(k) = ξ̄′ₖ / (ξ̄ₖ + ξ̄′ₖ)\n= {number(delta)}\n{row[f'call_{model}']}",
        14, tall=13, colour=DELTA_CMAP(delta))  # fmt: skip
    name = on_one_line(concept_label(results, concept))
    title = f"Does {label} draw k ({name}) as often as real images show it?"
    write(axis, WIDTH / 2, HEIGHT - 1.8, title, weight="bold", size=10)
    return figure


def write(axis: Axes, x: float, y: float, text: str, ha: str = "center", size: float = 8, **style) -> None:
    axis.text(x, y, literal(text), ha=ha, va="center", fontsize=size, **style)


def picture(axis: Axes, image: np.ndarray, x: float, y: float, title: str) -> None:
    axis.imshow(image, extent=(x, x + SIDE, y, y + SIDE), interpolation="nearest", zorder=2)
    axis.add_patch(plt.Rectangle((x, y), SIDE, SIDE, fill=False, edgecolor=QUIET, linewidth=0.8, zorder=3))
    write(axis, x + SIDE / 2, y + SIDE + 1.1, title, size=7)


def box(axis: Axes, x: float, y: float, text: str, wide: float, tall: float = 9, colour: object = QUIET) -> None:
    style, corner = "round,pad=0,rounding_size=1.2", (x - wide / 2, y - tall / 2)
    axis.add_patch(FancyBboxPatch(corner, wide, tall, style, facecolor="#f6f4f7", edgecolor=colour, linewidth=1.6, zorder=4))
    write(axis, x, y, text, size=7.5, zorder=5)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK, linewidth=1, zorder=1))
