"""Sheets of pairs that are no blindspots: generations that copy their real image, and captions that do not fit theirs."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from blindspots_lib.analysis.results import Results
from blindspots_lib.figures.galleries import caption_of
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid

PER_ROW = 4  # pairs, or captions, in a row of a sheet
MARGIN = 0.1  # inches on the left of rows without labels


def copies_sheet(results: Results, model: str, n: int = 12) -> Figure:
    """Draw x and x' of at most n pairs that a model copies: the largest template first, then the most similar first."""
    table = results.datapoints[(results.datapoints["model"] == model) & (results.datapoints["copy_call"] == "copy")]
    size = table.groupby("copy_group")["copy_group"].transform("size")
    table = table.assign(size=size).sort_values(["size", "copy_group", "copy_similarity"], ascending=[False, True, False])
    if (size == 1).all():
        table = table.sort_values(["copy_similarity", "pair_id"], ascending=[False, True])
    cells, notes = [], []
    for pair in table.head(n).itertuples():
        cells.append([Cell(results.images[source][pair.pair_id]) for source in ("real", model)])
        times = f"template {pair.copy_group}, {pair.size} pairs" if pair.size > 1 else f"similarity {pair.copy_similarity:.2f}"
        notes.append(f"{caption_of(results, pair.pair_id)} ({times})")
    label = results.study.model(model).label
    nothing = f"no image of {label} is called a copy"
    return draw_grid(in_rows(cells, notes), ["real x", f"x′ {label}"] * PER_ROW, label_width=MARGIN, nothing=nothing)


def misfits_sheet(results: Results, n: int = 12) -> Figure:
    """Draw the n real images whose captions fit worst."""
    table = results.datapoints.drop_duplicates("pair_id").dropna(subset="caption_fit")
    worst = table.sort_values(["caption_fit", "pair_id"]).head(n)
    cells = [[Cell(results.images["real"][pair_id])] for pair_id in worst["pair_id"]]
    notes = [f"better than {pair.caption_fit:.0%} of all: {caption_of(results, pair.pair_id)}" for pair in worst.itertuples()]
    nothing = "no caption has words that go with what images show"
    return draw_grid(in_rows(cells, notes), label_width=MARGIN, cell_size=1.7, nothing=nothing)


def in_rows(cells: Sequence[Sequence[Cell]], notes: Sequence[str]) -> list[Row]:
    """Return rows of `PER_ROW` groups of images, each group with its note; the last row is filled up with empty places."""
    width = len(cells[0]) if cells else 0
    rows = []
    for start in range(0, len(cells), PER_ROW):
        some, said = cells[start : start + PER_ROW], list(notes[start : start + PER_ROW])
        missing = PER_ROW - len(some)
        rows.append(Row("", [*(cell for group in some for cell in group), *[None] * (width * missing)], said + [""] * missing))
    return rows
