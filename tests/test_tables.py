import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.trial.matching import NAMES
from blindspots_lib.trial.tables import gains_table, named_table, truth_table, unit_table

AMOUNTS = {
    "real": sp.csr_matrix([[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]),  # the first unit fires on the dvd, the second on wood
    "m": sp.csr_matrix([[0.0, 0.0], [0.0, 3.0], [1.0, 0.0]]),
}


@pytest.fixture
def present():
    shown = np.zeros((3, len(NAMES)), bool)
    shown[[0, 2], NAMES.index("dvd")] = shown[1, NAMES.index("wood")] = True
    return shown


@pytest.fixture
def sides():
    return {"m": pd.Series({name: "suppressed" if name == "dvd" else "" for name in NAMES})}


def test_units_that_fire_too_rarely_are_not_ranked(present, sides, monkeypatch):
    monkeypatch.setattr("blindspots_lib.trial.tables.MIN_IMAGES", 3)
    (row,) = unit_table(AMOUNTS, present, sides).to_dict("records")  # the second fires on two images in all
    assert row == {"model": "m", "unit": 0, "truth": "dvd", "purity": 1.0, "delta": pytest.approx(1 / 5), "planted": "suppressed"}


def test_every_true_concept_is_judged_by_what_stands_for_it(present, sides):
    table = truth_table(AMOUNTS, present, sides).set_index("truth")
    assert list(table.index) == NAMES
    assert table.loc["dvd", ["delta", "match", "purity", "planted"]].tolist() == [pytest.approx(1 / 5), 1.0, 1.0, "suppressed"]
    assert table.loc["wood", ["delta", "match"]].tolist() == [0.75, 1.0]
    assert table["delta"].isna().sum() == len(NAMES) - 2  # no real image shows the others


def test_what_is_told_by_name_keeps_its_order(sides):
    table = named_table({"m": np.arange(0.0, len(NAMES))}, sides, kind="told")
    assert table.loc[table["truth"] == "dvd", ["delta", "planted", "kind"]].to_numpy().tolist() == [
        [NAMES.index("dvd"), "suppressed", "told"]
    ]


def test_the_gain_of_what_nobody_planted_is_traced_to_other_objects(present):
    """The dvd's amount gains 1 + 3 + 0: 3 of the 4 in the one picture of a palm tree, where wood is a background, no object."""
    shown = {"m": present.copy()}
    shown["m"][1, NAMES.index("palm tree")] = True
    held = {name: np.zeros((3, len(NAMES))) for name in ("real", "m")}
    held["real"][:, NAMES.index("dvd")], held["m"][:, NAMES.index("dvd")] = [2, 0, 2], [3, 3, 2]
    sides = {"m": pd.Series({name: "exaggerated" if name == "palm tree" else "" for name in NAMES})}
    truths = named_table({"m": [{"dvd": 2 / 3, "wood": 0.9, "palm tree": 0.6}.get(name, 0.5) for name in NAMES]}, sides)
    (row,) = gains_table(held, truths, shown).to_dict("records")
    assert row == {
        "model": "m", "truth": "dvd", "delta": 2 / 3, "gain": 1.0, "where": "palm tree", "share": 0.75,
        "pictures": pytest.approx(1 / 3),
    }  # fmt: skip
