"""Draw a study of result tables: the paper's figures from its authors' own files, and the published numbers beside those here."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from blindspots_lib.analysis.published import findings
from blindspots_lib.core.files import file_fingerprint, replacing
from blindspots_lib.core.paths import resolve
from blindspots_lib.core.study import TablesStudy
from blindspots_lib.data.result_tables import read_result_tables
from blindspots_lib.figures.published_charts import (
    plot_published_frequency,
    plot_published_histograms,
    plot_published_map,
    plot_published_models,
)
from blindspots_lib.figures.style import save_figure

FIGURES = {
    "histograms": plot_published_histograms, "concept_map": plot_published_map, "cross_model": plot_published_models,
    "frequency": plot_published_frequency,
}  # fmt: skip


def draw_tables(study: TablesStudy) -> Path:
    """Write all figures of a study of result tables, and a page with its numbers; return the page."""
    tables = read_result_tables(study)
    inputs = {model.name: file_fingerprint(resolve(study.tables) / model.file) for model in study.models}
    found = findings(study, tables)
    for name, draw in FIGURES.items():
        figure = draw(study, tables)
        save_figure(figure, name, draw, study=study, notebook="", inputs=inputs, seeds={}, numbers=found.to_dict("records"))
        plt.close(figure)
    page = study.folder / "published.md"
    with replacing(page) as partial_file:
        partial_file.write_text(page_of(study, found), encoding="utf-8")
    return page


def page_of(study: TablesStudy, found: pd.DataFrame) -> str:
    """Return the published numbers beside those of the tables, as Markdown."""
    rows = [
        f"| {row.number} | {shown(row.published)} | {shown(row.here)} | {shown(row.difference)} |" for row in found.itertuples()
    ]
    return "\n".join([
        f"# {study.title}", "",
        "By the published formulas: the skewness of σ(energy_diff / 0.8) over all concepts, and Pearson's r of the relative",
        "differences.", "", "| number | published | here | difference |", "|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def shown(number: float) -> str:
    return f"{number:+.2f}" if np.isfinite(number) else "–"
