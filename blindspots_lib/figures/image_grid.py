"""Grids of images, with labels and heatmaps."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from blindspots_lib.figures.style import INK

FADED = 0.8  # 0: an image stays as it is where the concept of its heatmap does not fire; 1: it is white there
SMALL = 160  # pixels a side below which a picture is drawn pixel by pixel; larger ones are made smaller smoothly
FINE = 14  # patches a side from which the firing ones get an outline: they are too small to be seen without
LINES = 6  # shown of a caption
GAP, TITLE, FOOTER = 0.04, 0.2, 0.46  # inches: between images, above a row with titles, below the grid


class Cell(NamedTuple):
    """One image of a grid."""

    image: Image.Image | Float[np.ndarray, "h w 3"]
    title: str = ""
    heatmap: Float[np.ndarray, "s s"] | None = None  # a concept's codes on the patches of the image
    strength: float = 1.0  # the code from which a patch is drawn at full opacity


class Row(NamedTuple):
    """One row of a grid, with its label on the left."""

    label: str
    cells: Sequence[Cell | None]  # None leaves the place empty


def draw_grid(
    rows: Sequence[Row], column_titles: Sequence[str] = (), cell_size: float = 1.0, label_width: float = 1.7, wrap: int = 24
) -> Figure:
    """Draw rows of images, sizes in inches, `wrap` in letters; an image with a heatmap fades where the concept does not fire."""
    n_columns = max(len(row.cells) for row in rows)
    titled = [any(cell is not None and cell.title for cell in row.cells) for row in rows]
    heights = [cell_size + GAP + TITLE * has_title for has_title in titled]
    width = label_width + n_columns * (cell_size + GAP)
    column_titles = [wrapped(title, round(15 * cell_size)) for title in column_titles]
    head = TITLE * max((len(lines) for lines in column_titles), default=0) + GAP
    height = head + sum(heights) + FOOTER
    figure, bottom = plt.figure(figsize=(width, height)), height - head
    for row, row_height in zip(rows, heights, strict=True):
        bottom -= row_height
        text = "\n".join(part for paragraph in row.label.split("\n")[:LINES] for part in wrapped(paragraph, wrap) or [""])
        middle = (bottom + cell_size / 2) / height
        figure.text((label_width - 0.08) / width, middle, text, ha="right", va="center", fontsize=7.5, parse_math=False)
        for column, cell in enumerate(row.cells):
            if cell is not None:
                left = label_width + column * (cell_size + GAP)
                draw_cell(figure.add_axes((left / width, bottom / height, cell_size / width, cell_size / height)), cell)
    for column, title in enumerate(column_titles):
        x, y = (label_width + column * (cell_size + GAP) + cell_size / 2) / width, 1 - 0.03 / height
        figure.text(x, y, "\n".join(title), ha="center", va="top", fontsize=7.5, weight="bold", parse_math=False)
    return figure


def printable(text: str) -> str:
    """Replace control characters of a text by spaces, such as those that steer a terminal or turn the writing direction."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into at most `LINES` lines of `width` letters."""
    return textwrap.wrap(printable(text), width, max_lines=LINES, placeholder=" …")


def draw_cell(axis, cell: Cell) -> None:
    pixels = np.asarray(cell.image, np.float32) / (255 if np.asarray(cell.image).dtype == np.uint8 else 1)
    if cell.heatmap is not None:
        strength = np.clip(cell.heatmap / max(cell.strength, 1e-9), 0, 1)
        shown = np.where(strength > 0, 0.45 + 0.55 * strength, 0)
        rows, columns = (np.arange(length) * len(shown) // length for length in pixels.shape[:2])
        shown = shown[rows][:, columns, None]
        pixels = 1 - (1 - pixels) * (1 - FADED * (1 - shown))
        if len(cell.heatmap) >= FINE:
            axis.contour(shown[..., 0] > 0, levels=[0.5], colors=[INK], linewidths=0.7)
    axis.imshow(pixels, interpolation="nearest" if len(pixels) < SMALL else "antialiased", aspect="auto")
    axis.set_axis_off()
    if cell.title:
        axis.set_title(cell.title, fontsize=6.5, pad=2, weight="normal", parse_math=False)


def principal_colours(tokens: Float[np.ndarray, "b t d"], side: int) -> Float[np.ndarray, "b side side 3"]:
    """Return patch tokens as colours: their first three principal components over these images, each scaled to [0, 1]."""
    rows = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    rows = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    components = rows @ directions[:3].T
    low, high = np.quantile(components, (0.02, 0.98), axis=0)
    return np.clip((components - low) / (high - low), 0, 1).reshape(-1, side, side, 3)
