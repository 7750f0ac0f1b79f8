"""One style for all figures: colours, panels, the footer; and `save_figure`, which records what made a figure."""

import platform
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.artifacts import (
    Fingerprinted,
    code_revision,
    file_fingerprint,
    fingerprints,
    package_versions,
    replacing,
    write_json,
)
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import Study

GRADIENT = ("#65c7de", "#5776b4", "#582949", "#b16243", "#e8b548")  # suppressed ... aligned ... exaggerated
DELTA_CMAP = LinearSegmentedColormap.from_list("delta", GRADIENT)
INK, QUIET = "#2b2230", "#8d8592"
MODEL_COLOURS = ("#3f7f93", "#b16243", "#582949", "#7f9b3b", "#c7962c", "#6b6f76")  # in the order of the study's models
REAL_COLOUR = "#8d8592"
PANELS_A_ROW = 3
REPLICA_NOTE = "Controlled replica (miniature models on OpenMoji Scenes): no evidence about the models they are named after."

mpl.rcParams.update({
    "figure.dpi": 100, "savefig.dpi": 160, "figure.facecolor": "white", "savefig.facecolor": "white",
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "axes.titleweight": "bold",
    "axes.edgecolor": QUIET, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "pdf.fonttype": 42, "svg.hashsalt": "blindspots",
})  # fmt: skip

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "faiss-cpu", "umap-learn", "matplotlib")


def add_footer(figure: Figure, study: Study, shows_images: bool) -> None:
    """Say below a figure that it is of a controlled replica, and whose artwork its images show, where that is owed."""
    notes = ([REPLICA_NOTE] if study.replica else []) + ([study.attribution] if shows_images and study.attribution else [])
    if notes:
        characters = int(figure.get_figwidth() * 20)  # of 7 points, in the figure's width
        lines = [line for note in notes for line in textwrap.wrap(note, characters)]
        figure.supxlabel("\n".join(lines), fontsize=6.5, color=QUIET, x=0.01, ha="left")


def figure_saver(results: Results, notebook: str, seeds: Mapping[str, int] | None = None, **inputs: Mapping[str, Fingerprinted]):
    """`save_figure` for the figures of one notebook; `inputs` are all outputs that they are drawn from, by kind."""
    found, seeds = fingerprints(**inputs), results.seeds | dict(seeds or {})
    return partial(save_figure, study=results.study, notebook=notebook, inputs=found, seeds=seeds)


def save_figure(
    figure: Figure, name: str, drawn_by: Callable[..., Any], *, study: Study, notebook: str, inputs: Mapping[str, str],
    seeds: Mapping[str, int], numbers: object = None, shows_images: bool = False,
) -> None:  # fmt: skip
    """Write `name`.png, .pdf and .json (its sidecar) into the study's figures folder.

    The figure gets a footer that says what it is made from. The sidecar holds the study, the seeds, the fingerprints
    of the inputs, the code revision, the package versions and the `numbers` that the figure states.
    """
    add_footer(figure, study, shows_images)
    figure.draw_without_rendering()  # axes that have their size choose their ticks; the layout then makes room for those
    folder = study.figures_folder
    with replacing(folder / f"{name}.png") as partial_file:
        figure.savefig(partial_file, format="png", metadata={"Software": None})
    figure.set_layout_engine("none")  # the PDF keeps what the PNG has found
    with replacing(folder / f"{name}.pdf") as partial_file:
        figure.savefig(partial_file, format="pdf", metadata={"CreationDate": None})
    write_json(folder / f"{name}.json", {
        "figure": name, "function": f"{drawn_by.__module__.removeprefix('blindspots_lib.')}.{drawn_by.__name__}",
        "notebook": notebook, "study": study.name, "title": study.title, "replica": study.replica,
        "parameters": study.model_dump(mode="json"), "seeds": dict(seeds), "inputs": dict(inputs), "numbers": numbers or {},
        "revision": code_revision(), "python": platform.python_version(), "packages": package_versions(*PACKAGES),
        "lock": file_fingerprint(PROJECT_ROOT / "requirements.lock"),
    })  # fmt: skip


def model_colour(study: Study, model: str) -> str:
    return MODEL_COLOURS[[m.name for m in study.models].index(model) % len(MODEL_COLOURS)]


def panels(n: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    """n panels that share their axes, up to three in a row."""
    rows, columns = -(-n // PANELS_A_ROW), min(n, PANELS_A_ROW)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    return figure, used(axes, n)


def used(axes: np.ndarray, n: int) -> np.ndarray:
    """The first n of a grid of axes, the others taken away; what lies above an empty place keeps its tick labels."""
    flat = axes.ravel()
    for axis in flat[n:]:
        axis.remove()
    for axis in flat[max(0, n - axes.shape[1]) : n]:
        axis.tick_params(labelbottom=True)
    return flat[:n]
