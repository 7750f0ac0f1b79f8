"""Sliders over finished results: they choose what is drawn and compute nothing that a table does not hold."""

import io
from collections.abc import Callable, Mapping

import ipywidgets as widgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.analysis.delta import ranked_deltas
from blindspots_lib.analysis.results import Results
from blindspots_lib.core.study import Study
from blindspots_lib.figures import galleries as exhibits
from blindspots_lib.figures.charts import plot_histograms
from blindspots_lib.figures.style import add_footer


def explore(
    study: Study, controls: Mapping[str, widgets.Widget], draw: Callable[..., Figure], height: int, shows_images: bool = True
) -> widgets.Widget:
    """Controls above one picture of fixed height (pixels), drawn anew whenever a control is let go.

    The picture is an image widget, not a captured output: it does not flicker, an error in the first drawing stops the
    notebook instead of vanishing in the widget, and a notebook runner has no second message stream to wait for.
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


def slider(kind, label: str, **limits):
    return kind(description=label, continuous_update=False, style={"description_width": "initial"}, **limits)


def explore_pairs(results: Results) -> widgets.Widget:
    """Any stretch of the pairs: caption, real image, every model's generation."""
    last = max(0, len(results.pair_ids) - 6)
    controls = {"first": slider(widgets.IntSlider, "first pair", min=0, max=last, value=0)}
    return explore(
        results.study, controls, lambda first: exhibits.contact_sheet(results, results.pair_ids[first : first + 6]), 560
    )


def explore_thresholds(results: Results) -> widgets.Widget:
    """The histograms with one's own thresholds for suppressed and exaggerated."""
    analysis = results.study.analysis
    controls = {
        "low": slider(widgets.FloatSlider, "suppressed below", min=0.01, max=0.49, step=0.01, value=analysis.suppressed_below),
        "high": slider(widgets.FloatSlider, "exaggerated above", min=0.51, max=0.99, step=0.01, value=analysis.exaggerated_above),
    }  # fmt: skip

    def draw(low: float, high: float) -> Figure:
        changed = analysis.model_copy(update={"suppressed_below": low, "exaggerated_above": high})
        return plot_histograms(results.study.model_copy(update={"analysis": changed}), results.concepts)[0]

    return explore(results.study, controls, draw, 400, shows_images=False)


def explore_blindspots(results: Results) -> widgets.Widget:
    """The concepts at any rank of a model's delta(k), from the most suppressed to the most exaggerated."""
    n_ranked = min(len(ranked_deltas(results.concepts, model.name)) for model in results.study.models)
    controls = {
        "model": model_choice(results),
        "rank": slider(widgets.IntSlider, "rank (0 = most suppressed)", min=0, max=max(0, n_ranked - 1), value=0),
        "top_n": slider(widgets.IntSlider, "concepts", min=1, max=6, value=3),
    }

    def draw(model: str, rank: int, top_n: int) -> Figure:
        return exhibits.blindspot_gallery(results, model, list(ranked_deltas(results.concepts, model).index[rank : rank + top_n]))

    return explore(results.study, controls, draw, 520)


def explore_concepts(results: Results) -> widgets.Widget:
    """Any one concept: the images with the most of it, real and generated, with heatmaps."""
    controls = {"concept": widgets.BoundedIntText(description="concept", min=0, max=len(results.concepts) - 1, value=0)}
    return explore(results.study, controls, lambda concept: exhibits.concept_everywhere(results, concept), 420)


def explore_extremes(results: Results) -> widgets.Widget:
    """The pairs of a model with the least or the greatest energy distance."""
    controls = {
        "model": model_choice(results),
        "side": widgets.ToggleButtons(options=["least", "greatest"], description="difference"),
        "top_n": slider(widgets.IntSlider, "pairs", min=2, max=8, value=4),
    }
    return explore(
        results.study, controls, lambda model, side, top_n: exhibits.extreme_pairs_sheet(results, model, side, top_n), 640
    )
