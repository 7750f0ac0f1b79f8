import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.artifacts import Artifact, Stage
from blindspots_lib.core.errors import StudyError
from blindspots_lib.data.pairs import PairTable
from blindspots_lib.figures.review import LABELS, review, review_agreement, review_share

N = 40


@pytest.fixture
def results(make_study):
    study = make_study()
    model = study.models[0].name
    pair_ids = [f"p{i}" for i in range(N)]

    pairs = PairTable(pair_ids, [f"<script>alert({i})</script> $x_{i}$" for i in range(N)])
    datapoints = pd.DataFrame(
        {"pair_id": pair_ids * 2, "model": [model] * N + ["other"] * N, "energy_distance": [*range(N), *range(N)[::-1]]}
    )
    pictures = {pair_id: Image.new("RGB", (64, 64), (i, 0, 0)) for i, pair_id in enumerate(pair_ids)}
    opened = {"pairs": pairs, "datapoints": datapoints, "images": {"real": pictures, model: pictures}}
    made = Artifact(study.workspace, f"generations/{model}", Stage("test", 1), {}, {})
    return type("Finished", (Results,), opened)(study, {"real": made, model: made}, made, {})


def buttons(sheet):
    return {button.description: button for button in sheet.children[-1].children}


def shown(sheet):
    return sheet.children[1].value


def saved(results, reviewer="anna"):
    return pd.read_csv(results.study.folder / "review" / f"{reviewer}.csv")


def test_clicks_are_kept_and_the_sheet_goes_on_where_it_stopped(results):
    model = results.study.models[0].name
    sheet = review(results, model, "anna")
    assert isinstance(sheet, widgets.VBox)
    first = shown(sheet)
    assert first.startswith("<b>&lt;script&gt;")
    assert "<script" not in first
    assert not (results.study.folder / "review").exists()
    assert buttons(sheet)["back"].disabled

    buttons(sheet)["bad caption"].click()
    second = shown(sheet)
    assert second != first
    assert saved(results)["label"].tolist() == ["bad caption"]

    again = review(results, model, "anna")
    assert shown(again) == second
    buttons(again)["back"].click()
    assert shown(again) == first
    assert buttons(again)["bad caption"].button_style == "info"
    buttons(again)["blindspot"].click()
    assert saved(results)["label"].tolist() == ["blindspot"]
    buttons(again)["cannot say"].click()

    table = saved(results)
    assert set(table["pair_id"]) == {"p38", "p39"}  # the 5 % of greatest distance
    assert "finished" in again.children[0].value
    assert all(buttons(again)[label].disabled for label in LABELS)
    assert not buttons(again)["back"].disabled
    assert shown(review(results, model, "anna")) == ""
    share = review_share(results, model, "anna")
    assert (share.share, share.n, share.cannot_say) == (1.0, 1, 1)


def write_labels(results, reviewer, labels, images=None):
    model = results.study.models[0].name
    rows = [[model, images or results.sources[model].fingerprint, f"p{i}", label] for i, label in enumerate(labels)]
    path = results.study.folder / "review" / f"{reviewer}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["model", "images", "pair_id", "label"]).to_csv(path, index=False)


def test_share_and_kappa_are_those_worked_out_by_hand(results):
    model = results.study.models[0].name
    write_labels(results, "anna", ["blindspot"] * 6 + ["bad caption"] * 4 + ["cannot say"])
    write_labels(results, "ben", ["blindspot"] * 5 + ["bad caption"] * 5)
    share = review_share(results, model, "anna")
    assert (share.share, share.n, share.cannot_say) == (0.6, 10, 1)
    z = 1.959964
    middle, half = (0.6 + z**2 / 20) / (1 + z**2 / 10), z / (1 + z**2 / 10) * np.sqrt(0.6 * 0.4 / 10 + z**2 / 400)
    assert (share.low, share.high) == pytest.approx((middle - half, middle + half), abs=1e-5)
    agreement = review_agreement(results, model, "anna", "ben")
    assert agreement.n == 10
    assert agreement.same == 0.9
    assert agreement.kappa == pytest.approx((0.9 - 0.5) / 0.5)  # chance: 0.6 * 0.5 + 0.4 * 0.5


def test_labels_of_other_images_do_not_count(results):
    write_labels(results, "anna", ["blindspot"], images="of an earlier run")
    with pytest.raises(StudyError, match="no labels"):
        review_share(results, results.study.models[0].name, "anna")


@pytest.mark.parametrize("reviewer", ["", "../anna", "a b", "a" * 70])
def test_a_name_that_is_no_file_name_is_refused(results, reviewer):
    with pytest.raises(StudyError, match="names a file"):
        review(results, results.study.models[0].name, reviewer)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "model,images,pair_id,label\nm,i,p,great\n", '"'])
def test_a_damaged_table_is_one_line(results, content):
    write_labels(results, "anna", [])
    (results.study.folder / "review" / "anna.csv").write_text(content)
    with pytest.raises(StudyError, match="anna.csv"):
        review(results, results.study.models[0].name, "anna")
