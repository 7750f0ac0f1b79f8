"""The style of all figures (colours, panels, footer), and `save_figure`, which records what a figure was made from."""

import math
import platform
import textwrap
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from blindspots_lib.analysis.results import Results
from blindspots_lib.core import artifacts
from blindspots_lib.core.artifacts import Fingerprinted
from blindspots_lib.core.files import file_fingerprint, replacing, write_json
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import Study, StudyFile

GRADIENT = ("#65c7de", "#5776b4", "#582949", "#b16243", "#e8b548")  # suppressed ... aligned ... exaggerated
DELTA_CMAP = LinearSegmentedColormap.from_list("delta", GRADIENT)
INK, QUIET = "#2b2230", "#8d8592"
MODEL_COLOURS = ("#3f7f93", "#b16243", "#582949", "#7f9b3b", "#c7962c", "#6b6f76")  # in the order of the study's models
REAL_COLOUR = QUIET
REPLICA_NOTE = "Controlled replica (miniature models on OpenMoji Scenes): no evidence about the models they are named after."

WORLD = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Emoji", "Symbola",
         "Arial Unicode MS", "Hiragino Sans", "PingFang SC", "Apple Symbols")  # fmt: skip
FONTS = ["DejaVu Sans", *(name for name in WORLD if name in font_manager.get_font_names())]

mpl.rcParams.update({
    "figure.dpi": 100, "savefig.dpi": 160, "figure.facecolor": "white", "savefig.facecolor": "white",
    "font.family": FONTS, "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "axes.titleweight": "bold",
    "axes.edgecolor": QUIET, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "pdf.fonttype": 42, "svg.hashsalt": "blindspots",
})  # fmt: skip

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "faiss-cpu", "umap-learn", "matplotlib")


def add_footer(figure: Figure, study: StudyFile, shows_images: bool) -> None:
    """Write below a figure that it shows a controlled replica, and whose artwork its images are, where that applies."""
    notes = [REPLICA_NOTE] * study.replica + [study.attribution] * shows_images
    lines = [line for note in notes for line in textwrap.wrap(note, int(figure.get_figwidth() * 20))]  # 20 letters per inch
    if lines:
        figure.supxlabel(literal("\n".join(lines)), fontsize=6.5, color=QUIET, x=0.01, ha="left")


def literal(text: str) -> str:
    """Return a text for matplotlib in which dollar signs begin no formula, such as a label that somebody wrote."""
    return text.replace("$", r"\$")


def figure_saver(results: Results, notebook: str, seeds: Mapping[str, int] | None = None, **inputs: Mapping[str, Fingerprinted]):
    """Return `save_figure` for the figures of one notebook; `inputs` are all outputs that they are drawn from, by kind."""
    found, seeds = artifacts.fingerprints(**inputs), results.seeds | dict(seeds or {})
    return partial(save_figure, study=results.study, notebook=notebook, inputs=found, seeds=seeds)


def save_figure(
    figure: Figure, name: str, drawn_by: Callable[..., Any], *, study: StudyFile, notebook: str, inputs: Mapping[str, str],
    seeds: Mapping[str, int], numbers: object = None, shows_images: bool = False,
) -> None:  # fmt: skip
    """Write `name`.png, .pdf and .json (its sidecar) into the study's figures folder.

    The sidecar holds the study, the seeds, the fingerprints of the inputs, the code revision, the package versions and the
    `numbers` that the figure states.
    """
    add_footer(figure, study, shows_images)
    with warnings.catch_warnings():  # a letter that no installed font has becomes a box, once and without 36 lines about it
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.draw_without_rendering()  # the axes choose their ticks here; the layout then makes room for them
        folder = study.figures_folder
        with replacing(folder / f"{name}.png") as partial_file:
            figure.savefig(partial_file, format="png", metadata={"Software": None})
        figure.set_layout_engine(None)  # the PDF keeps the layout of the PNG, and is drawn once
        with replacing(folder / f"{name}.pdf") as partial_file:
            figure.savefig(partial_file, format="pdf", metadata={"CreationDate": None})
    write_json(folder / f"{name}.json", {
        "figure": name, "function": f"{drawn_by.__module__.removeprefix('blindspots_lib.')}.{drawn_by.__name__}",
        "notebook": notebook, "study": study.name, "title": study.title, "replica": study.replica,
        "parameters": study.model_dump(mode="json"), "seeds": dict(seeds), "inputs": dict(inputs),
        "numbers": without_nan(numbers or {}),
        "revision": artifacts.code_revision(), "python": platform.python_version(),
        "packages": artifacts.package_versions(*PACKAGES), "lock": file_fingerprint(PROJECT_ROOT / "requirements.lock"),
    })  # fmt: skip


def without_nan(numbers: Any) -> Any:
    """Return numbers in lists and mappings with null for what is not defined: JSON has no nan."""
    if isinstance(numbers, Mapping):
        return {key: without_nan(value) for key, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [without_nan(value) for value in numbers]
    return None if isinstance(numbers, float) and math.isnan(numbers) else numbers


def model_colour(study: Study, model: str) -> str:
    return MODEL_COLOURS[[m.name for m in study.models].index(model) % len(MODEL_COLOURS)]


def say_start(axis: Axes, which: str) -> None:
    """Write below the label of an axis, "x" or "y", where it starts, if that is above 0: a reader takes 0 for granted."""
    start = getattr(axis, f"get_{which}lim")()[0]
    if start > 0:
        getattr(axis, f"set_{which}label")(f"{getattr(axis, f'get_{which}label')()}\n(axis from {start:.2g})")


def panels(n: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    """Return n panels that share their axes, three or four per row so that few places stay empty; inches, per panel."""
    columns = n if n <= 3 else min((3, 4), key=lambda c: (-n % c, c))
    rows = -(-n // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat[n:]:
        axis.remove()
    for axis in axes.flat[max(0, n - columns) : n]:
        axis.tick_params(labelbottom=True)  # also above an empty place
    return figure, axes.flat[:n]
