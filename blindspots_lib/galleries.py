"""Figures made of images: contact sheets, concepts with heatmaps, real beside generated."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

HEAT_CMAP = "magma"


class Cell(NamedTuple):
    """One picture of a grid."""

    image: Image.Image | Float[np.ndarray, "h w 3"]
    title: str = ""
    heatmap: Float[np.ndarray, "s s"] | None = None  # where a concept fires, on the patches of the image
    strength: float = 1.0  # the heatmap's value that is drawn at full opacity


class Row(NamedTuple):
    """One row of a grid with the words that stand before it."""

    label: str
    cells: Sequence[Cell | None]  # None leaves the place empty


def draw_grid(
    rows: Sequence[Row], column_titles: Sequence[str] = (), cell_size: float = 1.05, label_width: float = 1.7, wrap: int = 24
) -> Figure:
    """Rows of pictures, each behind its label; heatmaps are laid over their pictures, bright where a concept fires."""
    n_columns = max(len(row.cells) for row in rows)
    size = (label_width + cell_size * n_columns, cell_size * len(rows) * 1.12 + 0.5)
    figure, axes = plt.subplots(
        len(rows), n_columns + 1, figsize=size, squeeze=False, width_ratios=[label_width / cell_size] + [1] * n_columns
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, line in zip(rows, axes, strict=True):
        text = "\n".join(part for paragraph in row.label.split("\n") for part in textwrap.wrap(paragraph, wrap) or [""])
        line[0].text(1, 0.5, text, ha="right", va="center", fontsize=7.5, transform=line[0].transAxes)
        for cell, axis in zip(row.cells, line[1:], strict=False):
            if cell is not None:
                draw_cell(axis, cell)
    for title, axis in zip(column_titles, axes[0, 1:], strict=False):
        axis.set_title(title, fontsize=8)
    return figure


def draw_cell(axis, cell: Cell) -> None:
    pixels = np.asarray(cell.image)
    height, width = pixels.shape[:2]
    axis.imshow(pixels, interpolation="nearest")
    if cell.heatmap is not None:
        opacity = np.clip(cell.heatmap / max(cell.strength, 1e-9), 0, 1)
        axis.imshow(
            cell.heatmap, cmap=HEAT_CMAP, vmin=0, vmax=max(cell.strength, 1e-9), alpha=0.65 * (opacity > 0),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest",
        )  # fmt: skip
    if cell.title:
        axis.set_title(cell.title, fontsize=6.5, pad=2)


def principal_colours(tokens: Float[np.ndarray, "b t d"], side: int) -> Float[np.ndarray, "b side side 3"]:
    """Patch tokens as colours: their first three principal components over these images, each scaled to [0, 1]."""
    rows = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    rows = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    components = rows @ directions[:3].T
    low, high = np.quantile(components, (0.02, 0.98), axis=0)
    return np.clip((components - low) / (high - low), 0, 1).reshape(-1, side, side, 3)
