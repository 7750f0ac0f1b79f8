"""Widgets for notebooks: sliders and menus that choose what is drawn from finished results."""

import io
from collections.abc import Callable, Mapping
from functools import partial

import ipywidgets as widgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.analysis.distribution import distribution_shape
from blindspots_lib.analysis.results import Results
from blindspots_lib.core.study import Study
from blindspots_lib.figures import galleries
from blindspots_lib.figures.charts import plot_histograms
from blindspots_lib.figures.selection import called_in_order, shown_name
from blindspots_lib.figures.style import add_footer


def explore(
    study: Study, controls: Mapping[str, widgets.Widget], draw: Callable[..., Figure], height: int, shows_images: bool = True
) -> widgets.Widget:
    """Return controls above one picture of fixed height (pixels), which is drawn again after every change of a control.

    The picture is an image widget, not a captured output, so that it does not flicker and an error in the first drawing
    stops the notebook.
    """
    picture = widgets.Image(format="png", layout=widgets.Layout(height=f"{height}px", object_fit="contain"))

    def redraw(_change=None) -> None:
        figure = draw(**{name: control.value for name, control in controls.items()})
        add_footer(figure, study, shows_images)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        picture.value = buffer.getvalue()

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.HBox(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap")), picture])


def model_choice(results: Results) -> widgets.Dropdown:
    return widgets.Dropdown(options=[(model.label, model.name) for model in results.study.models], description="model")


def slider(label: str, low: int | float, high: int | float, value: int | float) -> widgets.Widget:
    """Return a slider, of integers or of hundredths, that acts when it is let go."""
    kind, step = (widgets.IntSlider, 1) if isinstance(value, int) else (widgets.FloatSlider, 0.01)
    return kind(value=value, min=low, max=high, step=step, description=label, continuous_update=False,
                style={"description_width": "initial"})  # fmt: skip


def explore_pairs(results: Results) -> widgets.Widget:
    """Show six successive pairs: caption, real image, every model's generation."""

    def draw(first: int) -> Figure:
        return galleries.contact_sheet(results, results.pair_ids[first : first + 6])

    return explore(results.study, {"first": slider("first pair", 0, max(0, len(results.pair_ids) - 6), 0)}, draw, 560)


def explore_thresholds(results: Results) -> widgets.Widget:
    """Show the histograms with other thresholds for suppressed and exaggerated."""
    analysis, energies, concepts = results.study.analysis, results.energies, results.concepts
    shapes = {
        model.name: distribution_shape(energies[model.name].matrix, energies["real"].matrix,
                                       concepts[f"tested_{model.name}"].to_numpy(bool), analysis)
        for model in results.study.models
    }  # fmt: skip

    def draw(low: float, high: float) -> Figure:
        changed = analysis.model_copy(update={"suppressed_below": low, "exaggerated_above": high})
        return plot_histograms(results.study.model_copy(update={"analysis": changed}), concepts, shapes)

    controls = {"low": slider("suppressed below", 0.01, 0.49, analysis.suppressed_below),
                "high": slider("exaggerated above", 0.51, 0.99, analysis.exaggerated_above)}  # fmt: skip
    return explore(results.study, controls, draw, 400, shows_images=False)


def explore_blindspots(results: Results) -> widgets.Widget:
    """Show the called families from any rank of a model's shrunken delta on, from the most suppressed to the most exaggerated."""
    in_order = {model.name: called_in_order(results.families, model.name)["family"].tolist() for model in results.study.models}
    most = max(map(len, in_order.values()))

    def draw(model: str, rank: int, top_n: int) -> Figure:
        first = min(rank, max(0, len(in_order[model]) - top_n))  # models differ in how many families are called
        return galleries.blindspot_gallery(results, model, in_order[model][first : first + top_n])

    controls = {"model": model_choice(results), "rank": slider("rank (0 = most suppressed)", 0, max(0, most - 1), 0),
                "top_n": slider("families", 1, 6, 3)}  # fmt: skip
    return explore(results.study, controls, draw, 560)


def explore_concepts(results: Results) -> widgets.Widget:
    """Show the top images of any concept, real and generated, with heatmaps; a named family brings its leading concept."""
    concept = widgets.BoundedIntText(description="concept", min=0, max=len(results.concepts) - 1, value=0)
    named = results.families[results.families["name"] != ""].sort_values(["name", "concept"])
    options = [("by number", None), *((shown_name(row), int(row["concept"])) for _, row in named.iterrows())]
    name = widgets.Dropdown(options=options, description="name")
    name.observe(lambda change: change["new"] is None or setattr(concept, "value", change["new"]), names="value")
    box = explore(results.study, {"concept": concept}, partial(galleries.concept_everywhere, results), 420)
    box.children[0].children += (name,)
    return box


def explore_extremes(results: Results) -> widgets.Widget:
    """Show the pairs of a model with the least or the greatest energy distance."""
    side = widgets.ToggleButtons(options=["least", "greatest"], description="difference")
    controls = {"model": model_choice(results), "side": side, "n": slider("pairs", 2, 8, 4)}
    return explore(results.study, controls, partial(galleries.extreme_pairs_sheet, results), 640)
