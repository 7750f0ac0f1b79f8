import json

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.cbook import is_math_text

from blindspots_lib.figures import charts
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, principal_colours, printable
from blindspots_lib.figures.style import save_figure


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def save(study, figure=None, **changes):
    arguments = dict(study=study, notebook="00_test", inputs={"energies/real": "abc"}, seeds={"sae": 3})
    save_figure(figure or plt.figure(), "example", charts.plot_histograms, **(arguments | changes))
    return study.figures_folder / "example.png"


def test_figure_has_a_sidecar_that_leads_back(make_study):
    study = make_study()
    path = save(study, numbers={"median": 0.5}, shows_images=True)
    assert path.exists()
    assert path.with_suffix(".pdf").exists()
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["study"] == "smoke"
    assert sidecar["parameters"]["sae"]["top_k"] == study.sae.top_k
    assert sidecar["inputs"] == {"energies/real": "abc"}
    assert sidecar["seeds"] == {"sae": 3}
    assert sidecar["function"] == "figures.charts.plot_histograms"
    assert sidecar["numbers"] == {"median": 0.5}
    assert sidecar["packages"]["torch"]
    assert len(sidecar["revision"]) >= 7


def test_same_figure_gives_the_same_bytes(make_study):
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 2, 3])
        path = save(make_study(), figure)
        contents.append((path.read_bytes(), path.with_suffix(".pdf").read_bytes()))
        plt.close(figure)
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("replica", "shows_images"), [(True, True), (True, False), (False, True)])
def test_footer_says_replica_and_attribution_where_owed(make_study, replica, shows_images):
    figure = plt.figure()
    save(make_study({"replica": replica}), figure, shows_images=shows_images)
    footer = figure._supxlabel.get_text()
    assert ("Controlled replica" in footer.replace("\n", " ")) == replica
    assert ("Artwork: OpenMoji" in footer.replace("\n", " ")) == shows_images


def test_labels_and_attributions_of_strangers_are_text(make_study):
    """A dollar sign in them begins no formula."""
    label, owed = "Costs $5$ or $\\frac$", "by $a_b^c$ and $\\x$"
    study = make_study({"models.0.label": label, "models.1.label": label, "attribution": owed})
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"concept": np.arange(40), "firings": 10 ** np.arange(0, 4, 0.1).astype(int), "goes_with": ""})
    for model in study.models:
        table[f"delta_{model.name}"], table[f"ranked_{model.name}"] = rng.random(40), True
    both = np.eye(2, dtype=int)
    figures = (
        charts.plot_histograms(study, table)[0], charts.plot_frequency(study, table)[0],
        charts.plot_cooccurrence(["a", "b"], both, {label: both, "other": both}),
        draw_grid([Row("a", [Cell(np.zeros((4, 4, 3)))])], [label]),
    )  # fmt: skip
    for figure in figures:
        save(study, figure, shows_images=True)
        shown = [text for text in figure.findobj(plt.Text) if "$" in text.get_text() and "mathdefault" not in text.get_text()]
        assert not any(text.get_parse_math() and is_math_text(text.get_text()) for text in shown)
        words = [text.get_text().replace("\\$", "$").replace("\n", " ") for text in shown]
        assert any(owed in text for text in words)
        assert any(label in text for text in words)


def test_histogram_bars_integrate_to_one_and_take_the_gradient(make_study):
    study = make_study()
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"concept": np.arange(400)})
    for model in study.models:
        table[f"delta_{model.name}"], table[f"ranked_{model.name}"] = rng.random(400), True
    figure, shapes = charts.plot_histograms(study, table)
    bars = figure.axes[0].patches
    assert len(bars) == 99
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)
    assert np.allclose(bars[0].get_facecolor(), charts.DELTA_CMAP(0.005))
    assert figure.axes[0].get_yscale() == "log"
    assert shapes["sd15"].n_ranked == 400


@pytest.mark.parametrize("n_ranked", [0, 1])
def test_a_model_without_ranked_concepts_gets_an_empty_panel(make_study, n_ranked):
    study = make_study()
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"concept": np.arange(9), "firings": np.arange(9), "goes_with": "dvd", "goes_with_auc": 0.9})
    for model in study.models:
        table[f"delta_{model.name}"], table[f"ranked_{model.name}"] = rng.random(9), np.arange(9) < n_ranked
    figure, shapes = charts.plot_histograms(study, table)
    assert f"skewness – [–, –]\n{n_ranked} concepts" in figure.axes[0].texts[0].get_text()
    assert shapes["sd15"].n_ranked == n_ranked
    figures = [figure, charts.plot_frequency(study, table)[0], charts.plot_concept_map(study, table, rng.random((9, 2)))]
    for figure in figures:
        figure.draw_without_rendering()
        assert len(figure.axes) >= len(study.models)


def test_labels_that_would_cover_an_earlier_one_are_left_out():
    places = np.array([[0.0, 0.0], [10.0, 0.1], [10.0, 50.0], [100.0, 100.0], [50.0, 100.0]])  # of a map of 100 x 100
    assert charts.well_apart([3, 1, 0, 2, 4], places) == [3, 1, 2, 4]


def test_grid_puts_every_picture_in_its_place():
    picture = np.zeros((4, 4, 3))
    figure = draw_grid([Row("one", [Cell(picture), None]), Row("two", [Cell(picture, heatmap=np.eye(2)), Cell(picture)])])
    boxes = [axis.get_position() for axis in figure.axes]
    assert len(boxes) == 3  # the empty place has none
    one, below, right = boxes
    assert one.x0 == below.x0 < right.x0
    assert below.y0 == right.y0 < one.y0
    lit, faded = figure.axes[1].images[0].get_array()[[0, 0], [0, 3], 0]
    assert (lit, faded) == (0.0, pytest.approx(0.8))


def test_principal_colours_tell_two_kinds_of_token_apart():
    rng = np.random.default_rng(0)
    tokens = rng.normal(scale=0.01, size=(2, 4, 5))
    tokens[0] += 3
    colours = principal_colours(tokens, side=2)
    assert colours.shape == (2, 2, 2, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert abs(colours[0, ..., 0].mean() - colours[1, ..., 0].mean()) > 0.9


def test_a_strangers_caption_is_text_and_nothing_else(tmp_path):
    caption = "costs $5 or $\\frac{1}$ \x1b[31mred\u202e\x00 <b>" + "long " * 200
    figure = draw_grid([Row(caption, [Cell(np.zeros((4, 4, 3), np.uint8), title="$x")])])
    figure.savefig(tmp_path / "page.png")  # mathematics that does not parse would raise
    (label,) = [text.get_text() for text in figure.texts]
    assert label.startswith("costs $5 or $\\frac{1}$")
    assert label.count("\n") == 5
    assert label.endswith("…")
    assert printable("a\x1b[31m\u202eb\n") == "a [31m b "


def test_no_panel_of_the_histograms_is_lost_where_models_have_few_concepts_or_many(make_study):
    study, rng = make_study(), np.random.default_rng(0)
    table = pd.DataFrame({"concept": np.arange(4000)})
    for model, n_ranked in zip(study.models, (20, 4000), strict=True):
        table[f"delta_{model.name}"], table[f"ranked_{model.name}"] = rng.beta(60, 60, 4000), np.arange(4000) < n_ranked
    figure, _ = charts.plot_histograms(study, table)
    low, high = figure.axes[1].get_ylim()
    heights = [bar.get_height() for bar in figure.axes[1].patches if bar.get_height() > 0]
    assert low < min(heights)
    assert max(heights) < high


def test_letters_that_no_font_has_and_fine_patches_are_drawn(make_study):
    photograph = np.full((300, 300, 3), 250, np.uint8)
    heatmap = np.zeros((16, 16))
    heatmap[3, 4] = 1
    figure = draw_grid([Row("\U00016a38 \U0001f9ff 中文", [Cell(photograph, heatmap=heatmap), Cell(photograph)])])
    save(make_study(), figure)
    fired, plain = figure.axes
    assert fired.images[0].get_interpolation() == "antialiased"
    assert len(fired.collections) == 1  # the outline of the patch
    assert not plain.collections
