"""A study of result tables, in the layout that the authors' explorer reads; numbers worked out by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from blindspots_lib.analysis.published import correlations, difference_values, findings, relative_values, skewness
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.study import load_study, load_tables_study, reads_tables
from blindspots_lib.data.result_tables import read_result_tables
from blindspots_lib.run.published import draw_tables

# energy_diff = 0.8 log 3, 0, 0.8 log 3, 0.8 log 3 becomes 3/4, 1/2, 3/4, 3/4: mean 11/16, m2 = 3/256, m3 = -3/2048
STEP = 0.8 * math.log(3)
FIRST = {"umap_x": [0.0, 1, 2, 3], "umap_y": [0.0, 1, 0, 1], "nb_fire": [1, 10, 100, 1000], "energy": [1.0, 1, 1, 1],
         "energy_diff": [STEP, 0, STEP, STEP], "relative_energy_diff": [0.4 * math.log(4), 0, -0.5, 0.5],
         "connections_idx": [[1], [2], [3], [0]]}  # fmt: skip
SECOND = FIRST | {"energy_diff": [0, 0, 0, -STEP], "relative_energy_diff": [None, 0, 0.5, -0.5]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Write a study of two tables and return its path; its outputs go to the test's own folder."""
    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BLINDSPOTS_FIGURES", str(tmp_path / "figures"))
    for name, table in (("a", FIRST), ("b", SECOND)):
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    path = tmp_path / "theirs.yaml"
    path.write_text(json.dumps({
        "name": "theirs", "title": "Their tables", "tables": str(tmp_path), "models": [
            {"name": "a", "label": "Model A", "file": "a.json", "published_skewness": -1.0},
            {"name": "b", "label": "Model B", "file": "b.json", "published_correlation": -1.0}],
    }))  # fmt: skip
    return path


def test_the_published_formulas_by_hand(study):
    tables = read_result_tables(load_tables_study(str(study)))
    np.testing.assert_allclose(difference_values(tables["a"]), [0.75, 0.5, 0.75, 0.75])
    np.testing.assert_allclose(relative_values(tables["a"])[:2], [0.8, 0.5])
    assert skewness(tables["a"]) == pytest.approx((-3 / 2048) / (3 / 256) ** 1.5)  # -1.155
    np.testing.assert_allclose(correlations(tables), [[1, -1], [-1, 1]], atol=1e-12)  # over the concepts that both have
    found = findings(load_tables_study(str(study)), tables).set_index("number")
    assert found.loc["r, Model A with Model B", ["published", "here", "difference"]].tolist() == pytest.approx([-1, -1, 0])
    assert found.loc["skewness, Model A", "difference"] == pytest.approx(-0.1547, abs=1e-4)
    assert np.isnan(found.loc["skewness, Model B", "published"])


def test_all_figures_are_drawn_and_the_page_has_the_numbers(study, tmp_path):
    page = draw_tables(load_tables_study(str(study))).read_text(encoding="utf-8")
    assert "| skewness, Model A | -1.00 | -1.15 | -0.15 |" in page
    assert "| skewness, Model B | – | -1.15 | – |" in page
    drawn = sorted(path.name for path in (tmp_path / "figures" / "theirs").glob("*.png"))
    assert drawn == ["concept_map.png", "cross_model.png", "frequency.png", "histograms.png"]
    sidecar = json.loads((tmp_path / "figures" / "theirs" / "cross_model.json").read_text())
    assert sidecar["numbers"][2]["here"] == pytest.approx(-1)
    assert sidecar["inputs"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "b.json: no such file; put the table there, correct `tables`, or remove the model"),
        ("{", "b.json: not readable as JSON; is the file whole?"),
        ([1], "b.json: expected an object of columns, found a list"),
        ({**SECOND, "energy_diff": "x"}, "b.json: the column 'energy_diff' is not a list of numbers"),
        ({**SECOND, "energy_diff": [[1], [2]]}, "the column 'energy_diff' is not a list of numbers"),
        ({**SECOND, "nb_fire": [1, 2]}, "b.json: its columns differ in length: umap_x 4, umap_y 4, nb_fire 2"),
        ({name: SECOND[name] for name in SECOND if name != "umap_y"}, "b.json: no column 'umap_y'; it has umap_x, nb_fire"),
        ({name: column[:3] for name, column in SECOND.items()}, "'b' has 3 concepts, 'a' has 4; give tables of one dictionary"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_named(study, tmp_path, content, message):
    file = tmp_path / "b.json"
    file.unlink() if content is None else file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(StudyError, match=message):
        read_result_tables(load_tables_study(str(study)))


def test_only_figures_are_asked_of_such_a_study(study):
    assert reads_tables(str(study))
    assert not reads_tables("mini")
    with pytest.raises(StudyError, match="theirs.yaml: only draws result tables; `make figures` is all that it can be asked for"):
        load_study(str(study))


def test_the_study_in_the_folder_has_the_published_numbers():
    study = load_tables_study("published")
    table = pd.DataFrame([model.model_dump() for model in study.models]).set_index("name")
    assert table["published_skewness"].to_dict() == {"sd15": -0.40, "sd21": -0.54, "pixart": -0.40, "kandinsky": -0.23}
    assert table["published_correlation"].dropna().to_dict() == {"sd21": 0.82, "pixart": 0.41, "kandinsky": 0.46}
