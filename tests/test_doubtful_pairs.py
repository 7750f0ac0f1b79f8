import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.data.pairs import PairTable
from blindspots_lib.figures.doubtful_pairs import copies_sheet, misfits_sheet

N = 6


@pytest.fixture
def results(make_study):
    study = make_study()
    model, pair_ids = study.models[0].name, [f"p{i}" for i in range(N)]
    datapoints = pd.DataFrame({
        "pair_id": pair_ids, "model": model, "copy_call": ["copy"] * 4 + [""] * 2, "copy_group": [2, 1, 1, 1, 0, 0],
        "copy_p": 0.01, "copy_similarity": 0.9, "caption_fit": [0.9, 0.1, np.nan, 0.8, 0.2, 0.7],
    })  # fmt: skip
    pictures = {pair_id: Image.new("RGB", (8, 8)) for pair_id in pair_ids}
    opened = {"pairs": PairTable(pair_ids, [f"caption {i} $x_$" for i in range(N)]), "datapoints": datapoints,
              "images": {"real": pictures, model: pictures}}  # fmt: skip
    made = Artifact(study.workspace, f"generations/{model}", Stage("test", 1), {}, {})
    yield type("Finished", (Results,), opened)(study, {"real": made, model: made}, made, {})
    plt.close("all")


def labels(figure):
    return [text.get_text().replace("\n", " ") for text in figure.texts if "caption " in text.get_text()]


def test_templates_are_drawn_with_the_most_frequent_first(results):
    figure = copies_sheet(results, results.study.models[0].name)
    template = "(template 1, 3 pairs)"
    assert labels(figure) == [*(f"caption {i} $x_$ {template}" for i in (1, 2, 3)), "caption 0 $x_$ (similarity 0.90)"]
    assert len(figure.axes) == 8


def test_captions_that_fit_worst_come_first(results):
    assert labels(misfits_sheet(results, n=2)) == [
        f"better than {fit}% of all: caption {i} $x_$" for fit, i in ((10, 1), (20, 4))
    ]


def test_where_nothing_is_found_the_sheet_says_so(results):
    results.datapoints["copy_call"], results.datapoints["caption_fit"] = "", np.nan
    model = results.study.models[0]
    sheets = copies_sheet(results, model.name), misfits_sheet(results)
    said = [sheet.axes[0].texts[0].get_text().replace("\n", " ") for sheet in sheets]
    assert said == [f"no image of {model.label} is called a copy", "no caption has words that go with what images show"]
