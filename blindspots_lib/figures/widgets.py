"""A slider through the pairs of a study, for the notebook that has no concepts yet; `live.ConceptExplorer` shows all else."""

import io

import ipywidgets as widgets
from matplotlib import pyplot as plt

from blindspots_lib.analysis.results import Results
from blindspots_lib.figures import galleries
from blindspots_lib.figures.style import add_footer

SHOWN, HEIGHT = 5, 480  # pairs at a time; pixels


def explore_pairs(results: Results) -> widgets.Widget:
    """Show five successive pairs: caption, real image, every model's generation.

    The picture is an image widget, not a captured output, so that it does not flicker. An error in the first drawing stops the
    notebook, a later one is shown above the picture.
    """
    picture = widgets.Image(format="webp", layout=widgets.Layout(height=f"{HEIGHT}px", object_fit="contain"))
    failure, last = widgets.Label(), max(0, len(results.pair_ids) - SHOWN)
    first = widgets.IntSlider(value=0, min=0, max=last, description="first pair", continuous_update=False)

    def redraw(change=None) -> None:
        try:
            picture.value, failure.value = drawn(results, first.value), ""
        except Exception as error:  # in a callback nobody else would show it
            if change is None:
                raise
            failure.value = f"{type(error).__name__}: {error}"

    first.observe(redraw, names="value")
    redraw()
    return widgets.VBox([first, failure, picture])


def drawn(results: Results, first: int) -> bytes:
    figure = galleries.contact_sheet(results, results.pair_ids[first : first + SHOWN])
    add_footer(figure, results.study, shows_images=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=75, pil_kwargs={"quality": 40})  # a notebook keeps it: 30 KB, a PNG 400
    plt.close(figure)
    return buffer.getvalue()
