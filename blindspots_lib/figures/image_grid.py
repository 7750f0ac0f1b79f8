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
ZOOM, ZOOMED = 4, 0.42  # a fine patch is shown enlarged: a quarter of the image's side, on this fraction of it
FINE = 14  # patches a side from which the strongest one is also shown enlarged: it is too small to be seen
LINES = 6  # shown of a caption
GAP, TITLE, FOOTER = 0.04, 0.2, 0.46  # inches: between images, above a row with titles, below the grid
HEAD_LINE = 0.14  # inches: height of a line of the columns' titles
FRAME = "#cbc6ce"  # around every image: white ones end somewhere
NOTE, NOTE_LINES = 0.11, 2  # inches: height of a line of a note; lines shown of it


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
    notes: Sequence[str] = ()  # below the images, each as wide as an equal part of the row, such as the captions of pairs


def draw_grid(
    rows: Sequence[Row], column_titles: Sequence[str] = (), cell_size: float = 1.0, label_width: float = 1.7, wrap: int = 24,
    *, title: str = "", nothing: str = "nothing to show",
) -> Figure:  # fmt: skip
    """Draw rows of images, sizes in inches, `wrap` in letters; an image with a heatmap fades where the concept does not fire.

    Without rows the figure says `nothing` in words.
    """
    if not rows:
        return draw_sentence("\n".join(part for part in (title, nothing) if part))
    n_columns = max(len(row.cells) for row in rows)
    heights = [row_height(row, cell_size) for row in rows]
    width = label_width + n_columns * (cell_size + GAP)
    column_titles = [wrapped(text, round(15 * cell_size)) for text in column_titles]
    above = TITLE * bool(title)
    head = above + HEAD_LINE * max((len(lines) for lines in column_titles), default=0) + GAP
    height = head + sum(heights) + FOOTER
    figure, bottom = plt.figure(figsize=(width, height)), height - head

    def write(x: float, y: float, text: str, **style) -> None:
        figure.text(x / width, y / height, text, fontsize=style.pop("fontsize", 7.5), parse_math=False, **style)

    for row, tall in zip(rows, heights, strict=True):
        bottom -= tall
        ground = bottom + notes_height(row)
        text = "\n".join(part for paragraph in row.label.split("\n")[:LINES] for part in wrapped(paragraph, wrap) or [""])
        write(label_width - 0.08, ground + cell_size / 2, text, ha="right", va="center")
        for column, cell in enumerate(row.cells):
            if cell is not None:
                left = label_width + column * (cell_size + GAP)
                draw_cell(figure.add_axes((left / width, ground / height, cell_size / width, cell_size / height)), cell)
        for place, note in enumerate(row.notes):
            span = n_columns * (cell_size + GAP) / len(row.notes)
            lines = wrapped(note, round(20 * span), NOTE_LINES)
            write(label_width + place * span, ground - 0.02, "\n".join(lines), va="top", fontsize=6, color=INK)
    for column, lines in enumerate(column_titles):
        x = label_width + column * (cell_size + GAP) + cell_size / 2
        write(x, height - above - 0.03, "\n".join(lines), ha="center", va="top", weight="bold")
    if title:
        write(width / 2, height - 0.03, printable(title), ha="center", va="top", weight="bold", fontsize=9)
    return figure


def row_height(row: Row, cell_size: float) -> float:
    has_titles = any(cell is not None and cell.title for cell in row.cells)
    return cell_size + GAP + TITLE * has_titles + notes_height(row)


def notes_height(row: Row) -> float:
    return (NOTE * NOTE_LINES + 0.05) * bool(row.notes)


def draw_sentence(text: str) -> Figure:
    """Draw words in the place of a picture that would be empty."""
    lines = [part for line in text.split("\n") for part in wrapped(line, 80)]
    figure = plt.figure(figsize=(6.5, 0.8 + 0.2 * len(lines)))
    axis = figure.add_axes((0, 0, 1, 1))  # without any, notebooks show no picture
    axis.set_axis_off()
    axis.text(0.5, 0.6, "\n".join(lines), ha="center", va="center", parse_math=False)
    return figure


def printable(text: str) -> str:
    """Replace control characters of a text by spaces, such as those that steer a terminal or turn the writing direction."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def wrapped(text: str, width: int, n_lines: int = LINES) -> list[str]:
    """Break a text into at most `n_lines` lines of `width` letters."""
    return textwrap.wrap(printable(text), width, max_lines=n_lines, placeholder=" …")


def faded(
    pixels: Float[np.ndarray, "h w 3"], heatmap: Float[np.ndarray, "s s"], strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image that fades where a heatmap is 0, and how much of each pixel is shown, (h, w), from 0 to 1."""
    relative = np.clip(heatmap / max(strength, 1e-9), 0, 1)
    shown = np.where(relative > 0, 0.45 + 0.55 * relative, 0)
    rows, columns = (np.arange(length) * len(shown) // length for length in pixels.shape[:2])
    shown = shown[rows][:, columns]
    return 1 - (1 - pixels) * (1 - FADED * (1 - shown[..., None])), shown


def draw_cell(axis, cell: Cell) -> None:
    pixels = np.asarray(cell.image, np.float32) / (255 if np.asarray(cell.image).dtype == np.uint8 else 1)
    if cell.heatmap is not None:
        whole = pixels
        pixels, shown = faded(pixels, cell.heatmap, cell.strength)
        if cell.heatmap.max() > 0:
            axis.contour(shown > 0, levels=[0.5], colors=[INK], linewidths=0.7)
            if len(cell.heatmap) >= FINE:
                draw_zoomed(axis, whole, cell.heatmap)
    axis.imshow(pixels, interpolation="nearest" if len(pixels) < SMALL else "antialiased", aspect="auto")
    draw_frame(axis, FRAME)
    if cell.title:
        axis.set_title(cell.title, fontsize=6.5, pad=2, weight="normal", parse_math=False)


def draw_zoomed(axis, pixels: Float[np.ndarray, "h w 3"], heatmap: Float[np.ndarray, "s s"]) -> None:
    """Draw the surroundings of the patch with the greatest code, enlarged, in the lower right corner of an image."""
    side, width = len(heatmap), len(heatmap) // ZOOM
    place = np.unravel_index(heatmap.argmax(), heatmap.shape)
    rows, columns = (
        slice(start * length // side, (start + width) * length // side)
        for start, length in zip(np.clip(np.array(place) - width // 2, 0, side - width), pixels.shape[:2], strict=True)
    )
    corner = axis.inset_axes((1 - ZOOMED, 0, ZOOMED, ZOOMED))
    corner.imshow(pixels[rows, columns], interpolation="antialiased", aspect="auto")
    draw_frame(corner, INK)


def draw_frame(axis, colour: str) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=0.8)


def principal_colours(tokens: Float[np.ndarray, "b t d"], side: int) -> Float[np.ndarray, "b side side 3"]:
    """Return patch tokens as colours: their first three principal components over these images, each scaled to [0, 1]."""
    rows = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    rows = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    components = rows @ directions[:3].T
    low, high = np.quantile(components, (0.02, 0.98), axis=0)
    return np.clip((components - low) / (high - low), 0, 1).reshape(-1, side, side, 3)
