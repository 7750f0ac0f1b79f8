import json

import numpy as np
import pandas as pd
import pytest
from fake_answers import asked_rows, fake_table
from matplotlib import pyplot as plt
from matplotlib.cbook import is_math_text

from blindspots_lib.analysis.agreement import Apart
from blindspots_lib.analysis.distribution import FrequencyCorrelation, Shape
from blindspots_lib.analysis.jackknife import Correlation
from blindspots_lib.figures import answer_charts, charts, pair_charts
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, principal_colours, printable
from blindspots_lib.figures.style import add_footer, panels, save_figure, say_start


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def every(study, value):
    return {model.name: value for model in study.models}


def funnels(study):
    return every(study, pd.DataFrame({"x": [1e-3, 1.0, 1e4], "low": [0.0, 0.3, 0.45], "high": [1.0, 0.7, 0.55]}))


def shapes(study, **changes):
    shape = dict(median=0.5, median_low=0.4, median_high=0.6, skewness=-0.3, skewness_low=-0.5, skewness_high=-0.1,
                 skewness_raw=-0.2, n_suppressed=0, n_exaggerated=0, n_tested=0)  # fmt: skip
    return every(study, Shape(**(shape | changes)))


def histograms(study, table, **changes):
    return charts.plot_histograms(study, table, shapes(study, **changes))


def frequency(study, table):
    return charts.plot_frequency(
        study, table, funnels(study), every(study, FrequencyCorrelation(-0.2, -0.3, -0.1, 9, -0.25, -0.15))
    )


def cross_model(study, table):
    r = Correlation(0.5, 0.4, 0.6, 9)
    first, second = (model.name for model in study.models)
    return charts.plot_cross_model(study, table, {f"{first}~{second}": r}, {f"{first}~{second}": Apart(r, r, 0.9, 0.9)})


def save(study, figure=None, **changes):
    arguments = dict(study=study, notebook="00_test", inputs={"energies/real": "abc"}, seeds={"sae": 3})
    save_figure(figure or plt.figure(), "example", charts.plot_histograms, **(arguments | changes))
    return study.figures_folder / "example.png"


def test_figure_has_a_sidecar_that_leads_back(make_study):
    study = make_study()
    path = save(study, numbers={"median": 0.5, "skewness": [float("nan")]}, shows_images=True)
    assert path.exists()
    assert path.with_suffix(".pdf").exists()
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["study"] == "smoke"
    assert sidecar["parameters"]["sae"]["top_k"] == study.sae.top_k
    assert sidecar["inputs"] == {"energies/real": "abc"}
    assert sidecar["seeds"] == {"sae": 3}
    assert sidecar["function"] == "figures.charts.plot_histograms"
    assert sidecar["numbers"] == {"median": 0.5, "skewness": [None]}
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
    models = [model.name for model in study.models]
    table = fake_table(models, np.linspace(0.01, 0.99, 40), [f"{label} {number}" for number in range(40)])
    asked = pd.DataFrame([row for model in models for row in asked_rows(model, {f"{label} b": (9, 0.02, 0.9)})])
    families, both = table.assign(n_concepts=1), np.eye(2, dtype=int)
    figures = (
        histograms(study, table), frequency(study, table),
        charts.plot_cooccurrence([f"{label} a", "b"], both, {label: both, "other": both}),
        charts.plot_concept_map(study, table, rng.random((40, 2))), answer_charts.plot_ma(study, table, families, funnels(study)),
        answer_charts.plot_surest(study, families), answer_charts.plot_asked(study, asked),
        answer_charts.plot_asked_matrix(study, asked), cross_model(study, table),
        draw_grid([Row("a", [Cell(np.zeros((4, 4, 3)))])], [label]),
    )  # fmt: skip
    save(study, figures[0], shows_images=True)
    for figure in figures:
        add_footer(figure, study, shows_images=True)
        shown = [text for text in figure.findobj(plt.Text) if "$" in text.get_text() and "mathdefault" not in text.get_text()]
        assert not any(text.get_parse_math() and is_math_text(text.get_text()) for text in shown)
        words = [text.get_text().replace("\\$", "$").replace("\n", " ") for text in shown]
        assert any(owed in text for text in words)
        assert any(label in text for text in words)


def test_histogram_bars_count_the_concepts_and_take_the_gradient(make_study):
    study = make_study()
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"concept": np.arange(400)})
    for model in study.models:
        table[f"delta_{model.name}"], table[f"tested_{model.name}"] = np.append(np.zeros(13), rng.uniform(0.1, 1, 387)), True
    figure = histograms(study, table)
    bars = figure.axes[0].patches
    assert len(bars) == 99
    assert sum(bar.get_height() for bar in bars) == 400
    assert np.allclose(bars[0].get_facecolor(), charts.DELTA_CMAP(0.005))
    assert figure.axes[0].get_yscale() == "log"
    assert "400 concepts" in figure.axes[0].texts[0].get_text()
    assert bars[0].get_width() > 3 * bars[1].get_width()  # the concepts at 0 are seen
    assert bars[0].get_x() + bars[0].get_width() == pytest.approx(1 / 99)
    assert "13" in [text.get_text() for text in figure.axes[0].texts]  # and counted


def test_lines_of_a_histogram_end_below_its_text(make_study):
    figure = histograms(make_study(), fake_table(["sd15", "pixart"], np.linspace(0, 1, 50), [""] * 50))
    figure.draw_without_rendering()
    axis = figure.axes[0]
    text = axis.texts[0].get_window_extent().transformed(axis.transAxes.inverted())
    assert all(line.get_ydata()[1] <= text.y0 for line in axis.lines)
    assert all(bar.get_window_extent().transformed(axis.transAxes.inverted()).y1 <= text.y0 for bar in axis.patches)


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 3, 2), (6, 3, 2), (7, 4, 2), (8, 4, 2), (9, 3, 3)])
def test_panels_leave_few_places_empty(n, columns, rows):
    figure, axes = panels(n, width=2.0, height=1.0)
    assert (len(axes), *figure.get_size_inches()) == (n, 2 * columns, rows)


def test_fractions_of_few_images_are_not_shown():
    counts = np.array([[40, 10, 4], [10, 20, 0], [4, 0, 19]])
    found = charts.together(counts)
    np.testing.assert_array_equal(found, [[np.nan, 0.25, 0.1], [0.5, np.nan, 0.0], [np.nan] * 3])


def test_every_two_models_have_a_panel_and_a_correlation(make_study):
    study = make_study({"models.2": {"name": "perfect", "label": "Perfect generator", "draws": "afresh"}})
    table = fake_table(["sd15", "pixart", "perfect"], np.linspace(0.05, 0.95, 30), [""] * 30)
    pairs = {"sd15~pixart": 0.9, "sd15~perfect": 0.1, "pixart~perfect": np.nan}
    same = {pair: Correlation(0.7, 0.6, 0.8, 30) for pair in pairs}
    apart = {pair: Apart(same[pair], Correlation(r, r, r, 30), 0.9, 0.9) for pair, r in pairs.items()}
    axes = np.array(charts.plot_cross_model(study, table, same, apart).axes).reshape(3, 3)
    drawn = axes[2, 1].collections[0].get_offsets()  # the perfect generator against PixArt
    np.testing.assert_allclose(drawn[:, 0], table["energy_pixart"] / (table["energy_pixart"] + table["energy_real"]))
    assert axes[0, 2].texts[0].get_text() == "0.10\n[0.10, 0.10]"
    assert axes[1, 2].texts[0].get_text() == "–\n[–, –]"
    assert [axes[i, i].texts[0].get_text() for i in range(3)] == ["Mini SD 1.5", "Mini PixArt", "Perfect\ngenerator"]


def test_an_axis_that_does_not_start_at_zero_says_so():
    _, axis = plt.subplots()
    axis.set(xlim=(0.25, 1), ylim=(-1, 1), xlabel="cosine", ylabel="y")
    say_start(axis, "x")
    say_start(axis, "y")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("cosine\n(axis from 0.25)", "y")


def test_rows_of_distances_have_equal_areas_on_their_own_baselines(make_study):
    study, rng = make_study(), np.random.default_rng(0)
    values = [(model.name, rng.normal(0.5, 0.01 * (i + 1), 300)) for i, model in enumerate(study.models)]
    table = pd.concat([pd.DataFrame({"model": name, "datapoint_delta": x, "energy_distance": 9 * x}) for name, x in values])
    axis = pair_charts.plot_datapoints(study, table).axes[0]
    areas = []
    for place, patch in enumerate(axis.patches):
        values, edges, baseline = patch.get_data()
        assert baseline == place
        assert values.max() <= place
        areas.append(((place - values) * np.diff(edges)).sum())
    assert areas[0] == pytest.approx(areas[1])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Mini SD 1.5", "Mini PixArt"]


@pytest.mark.parametrize("n_tested", [0, 1])
def test_a_model_without_tested_concepts_gets_an_empty_panel(make_study, n_tested):
    study, rng = make_study(), np.random.default_rng(0)
    models = [model.name for model in study.models]
    table = fake_table(models, rng.random(9), ["dvd"] * 9)
    for model in models:
        table[f"tested_{model}"] = np.arange(9) < n_tested
        table[f"call_{model}"] = "unclear"
    nan = np.nan
    figure = histograms(study, table, median=nan, skewness=nan, skewness_low=nan, skewness_high=nan, skewness_raw=nan)
    assert f"{n_tested} concepts" in figure.axes[0].texts[0].get_text()
    assert "skewness –, without noise – [–, –]" in figure.axes[0].texts[0].get_text()
    figures = [figure, frequency(study, table),
               charts.plot_concept_map(study, table, rng.random((9, 2))),
               answer_charts.plot_ma(study, table, table.assign(n_concepts=1), funnels(study))]  # fmt: skip
    for figure in figures:
        figure.draw_without_rendering()
        assert len(figure.axes) >= len(study.models)


def words_of(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def test_where_nothing_is_called_or_named_charts_say_it_in_words(make_study):
    study = make_study()
    table = fake_table([model.name for model in study.models], [0.5, 0.01], ["dvd", ""]).assign(n_concepts=1)
    asked = pd.DataFrame(asked_rows("sd15", {"dvd": (3, 0.5, 0.5)}))
    assert words_of(answer_charts.plot_surest(study, table)) == ["no named family is called suppressed or exaggerated"]
    for plot in (answer_charts.plot_asked, answer_charts.plot_asked_matrix):
        assert words_of(plot(study, asked[:0])) == ["no name can be held to what captions ask for"]
        assert "dvd" in words_of(plot(study, asked.assign(intrusion_value=np.nan)))


def test_the_surest_families_are_called_named_and_furthest_from_half(make_study):
    study = make_study()
    table = fake_table(["sd15", "pixart"], [0.3, 0.9, 0.02, 0.5, 0.01, 0.1], ["dog", "cat", "dvd", "tree", "", "hat"])
    table = table.assign(n_concepts=1, call_sd15="unclear")
    assert answer_charts.surest_families(study, table, n=3)["name"].tolist() == [
        "dvd",
        "hat",
        "cat",
    ]  # of the sure, by shrunken delta
    figure = answer_charts.plot_surest(study, table, n=3)
    filled = {tuple(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_ydata()) == 3
              and line.get_markerfacecolor() != "white"}  # fmt: skip
    (lane,) = filled  # the second model's: the first calls nothing
    assert lane == pytest.approx((0.19, 1.19, 2.19))


def test_called_omissions_are_marked_where_they_stand(make_study):
    study = make_study()
    asked = pd.DataFrame(asked_rows("sd15", {"dvd": (9, 0.02, 0.5), "cat": (9, 0.5, 0.9)})
                         + asked_rows("pixart", {"dvd": (9, 0.5, 0.5), "cat": (9, 0.2, 0.5)}))  # fmt: skip
    assert answer_charts.telling_words(asked, "omission", 5) == ["dvd", "cat"]
    assert answer_charts.telling_words(asked, "intrusion", 1) == ["cat"]
    left = answer_charts.plot_asked_matrix(study, asked).axes[0]
    assert left.images[0].get_array().tolist() == [[0.02, 0.5], [0.5, 0.2]]
    (marks,) = left.lines
    assert sorted(zip(*marks.get_data(), strict=True)) == [(0, 0), (1, 1)]  # dvd of the first model, cat of the second


def test_planted_words_are_shown_and_marked_called_or_not(make_study):
    study = make_study()
    asked = pd.DataFrame(asked_rows("sd15", {"dvd": (9, 0.02, 0.5), "cat": (9, 0.5, 0.5)})
                         + asked_rows("pixart", {"dvd": (9, 0.5, 0.5), "cat": (9, 0.5, 0.5)}))  # fmt: skip
    planted = {"sd15": {"dvd": "suppressed", "palm tree": "exaggerated"}, "pixart": {"cat": "suppressed"}}
    omission, intrusion, _ = answer_charts.plot_asked_matrix(study, asked, planted=planted).axes
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in (omission, intrusion)] == [
        ["dvd", "cat"], ["cat", "dvd", "palm tree"]
    ]  # fmt: skip
    called, squares = omission.lines
    assert sorted(zip(*called.get_data(), strict=True)) == [(0, 0)]
    assert sorted(zip(*squares.get_data(), strict=True)) == [(0, 0), (1, 1)]  # cat of the second model is missed
    assert np.ma.getmaskarray(intrusion.images[0].get_array())[2].all()  # no caption has the word: grey


def test_ma_plot_colours_what_is_called_and_names_families(make_study):
    study = make_study()
    table = fake_table(["sd15", "pixart"], [0.02, 0.98, 0.5, 0.4], ["dog", "cat", "", ""])
    axis = answer_charts.plot_ma(study, table, table.assign(n_concepts=1), funnels(study)).axes[0]
    assert axis.get_title().split("\n") == ["Mini SD 1.5", "1 exaggerated, 1 suppressed, 0 aligned, 2 unclear"]
    assert {text.get_text() for text in axis.texts} == {"dog", "cat"}
    assert [line.get_ydata().tolist() for line in axis.lines[:2]] == [[0.0, 0.3, 0.45], [1.0, 0.7, 0.55]]


def test_points_of_the_map_are_drawn_in_an_order_that_favours_no_side(make_study):
    study = make_study()
    table = fake_table(["sd15", "pixart"], np.linspace(0.01, 0.99, 200), [""] * 200)
    drawn = charts.plot_concept_map(study, table, np.random.default_rng(0).random((200, 2))).axes[0].collections[1]
    assert abs(np.corrcoef(np.arange(200), drawn.get_array())[0, 1]) < 0.25


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


def test_an_empty_grid_says_so_and_notes_stand_below_their_pairs():
    assert words_of(draw_grid([], nothing="nothing is called suppressed")) == ["nothing is called suppressed"]
    picture = np.zeros((4, 4, 3))
    figure = draw_grid([Row("one", [Cell(picture)] * 4, ["first pair", "second pair"]), Row("two", [Cell(picture)] * 4)])
    first, second = (next(text for text in figure.texts if text.get_text() == f"{which} pair") for which in ("first", "second"))
    boxes = [axis.get_position() for axis in figure.axes]
    assert boxes[4].y1 < first.get_position()[1] <= boxes[0].y0
    assert first.get_position()[0] == pytest.approx(boxes[0].x0)
    assert second.get_position()[0] == pytest.approx(boxes[2].x0)


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
        table[f"delta_{model.name}"], table[f"tested_{model.name}"] = rng.beta(60, 60, 4000), np.arange(4000) < n_ranked
    figure = histograms(study, table)
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
    (zoomed,) = fired.child_axes  # and its surroundings, enlarged
    assert zoomed.images[0].get_array().shape[0] == len(fired.images[0].get_array()) // 4
    assert not plain.collections
