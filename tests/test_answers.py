import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.core.config import Analysis
from blindspots_lib.trial import answers, calibration
from blindspots_lib.trial.answers import (
    accepted_names,
    answer_table,
    composition_right,
    coverage_of_shown,
    intrusion_precision,
    omission_recall,
    thin,
)
from blindspots_lib.trial.matching import GROUP, NAMES
from blindspots_lib.trial.truth import Known

ANALYSIS = Analysis(n_swaps=100)
THINGS = ["dvd", "cat", "pizza", "cactus", "wood", "night"]


@pytest.mark.parametrize(
    ("truth", "words"),
    [("cactus", {"cactus", "cacti"}), ("palm tree", {"palm tree", "palm trees", "palm", "tree", "trees"}),
     ("wood", {"wood", "wood background"}), (GROUP, {"four"})],
)  # fmt: skip
def test_the_words_that_name_a_ground_truth_concept(truth, words):
    assert accepted_names(truth) == words


def test_thinning_drops_images_of_a_concept_and_leaves_the_others():
    rng, matrix = np.random.default_rng(0), sp.csr_matrix(np.ones((4000, 2)))
    thinned = thin(matrix, np.array([0.25, 1.0]), rng)
    assert matrix.nnz == 8000
    assert thinned[:, 1].nnz == 4000
    assert thinned[:, 0].nnz / 4000 == pytest.approx(0.25, abs=0.03)


def words(**rows):
    columns = ["omission_call", "omission_value", "intrusion_low"]
    table = pd.DataFrame(rows, index=columns).T.rename_axis("word").reset_index()
    return table.assign(gain=0.5, reason="")


def test_an_omission_counts_only_if_it_is_called_and_below_the_threshold():
    table = words(dvd=("omitted", 0.02, 0.1), cat=("omitted", 0.2, 0.1), pizza=("unclear", 0.02, 0.1))
    sides = pd.Series({"dvd": "suppressed", "cat": "suppressed", "pizza": "suppressed", "cactus": "suppressed", "wood": ""})
    change = pd.Series({"dvd": 0.0, "cat": 0.01, "pizza": 0.02, "cactus": 0.2, "wood": 0.0})
    assert omission_recall(table, sides, change, ANALYSIS) == pytest.approx(1 / 3)  # cactus did not vanish


def test_objects_are_ranked_by_the_lower_end_of_their_intrusion():
    table = words(dvd=("", 0.5, 0.9), cat=("", 0.5, 0.7), pizza=("", 0.5, np.nan))
    sides = pd.Series({"dvd": "", "cat": "exaggerated", "pizza": "exaggerated", "cactus": "", "wood": "exaggerated"})
    assert intrusion_precision(table, sides) == pytest.approx((1 / 2 + 2 / 3) / 2)  # cactus is no word: last


def world(rng, n=400):
    """Energies of six things in n images each, captions that name them, a model that never draws the dvd and adds the cactus."""
    present = rng.random((n, len(THINGS))) < 0.25
    fresh = present.copy()
    energies = [sp.csr_matrix(rng.exponential(size=shown.shape) * shown + 0.0) for shown in (present, fresh)]
    drawn = present.copy()
    drawn[:, 0] = False
    drawn[:, 3] |= rng.random(n) < 0.3
    captions = [" and ".join(f"a {thing}" for thing, has in zip(THINGS, row, strict=True) if has) for row in present]
    amounts = {"real": energies[0], "faulty": sp.csr_matrix(rng.exponential(size=drawn.shape) * drawn), "perfect": energies[1]}
    shown = np.zeros((n, len(NAMES)), bool)
    shown[:, [NAMES.index(thing) for thing in THINGS]] = present
    none = pd.Series("", index=NAMES)
    sides = {"faulty": none.where(~none.index.isin(["dvd"]), "suppressed").where(~none.index.isin(["cactus"]), "exaggerated"),
             "perfect": none}  # fmt: skip
    change = {model: pd.Series(np.where(side == "suppressed", 0.0, 0.5), index=NAMES) for model, side in sides.items()}
    seen = {"real": shown, "faulty": shown, "perfect": shown}
    return amounts, Known(captions, shown, sides, change, seen, frozenset({"perfect"}))


def test_a_world_of_pure_concepts_is_answered_without_a_fault():
    amounts, known = world(np.random.default_rng(0))
    table = answer_table(amounts, known, ANALYSIS)
    value = table.set_index(["model", "measure"])["value"]
    assert value["faulty"][["called_recall", "omission_recall", "intrusion_ap", "name_accuracy"]].tolist() == [1, 1, 1, 1]
    false = [name for name in value["perfect"].index if name.endswith("false_share") or name == "false_call_share"]
    assert len(false) == 5
    assert value["perfect"][false].max() <= 0.2  # one of five words at most


def test_a_called_pair_of_words_is_right_if_the_oracle_sees_the_same_change():
    """Real images show cats with dvds half of the time; the model never draws both. Pizzas go with dvds as before."""
    rng = np.random.default_rng(0)
    real = np.zeros((600, len(NAMES)), bool)
    dvd, cat, pizza = (NAMES.index(thing) for thing in ("dvd", "cat", "pizza"))
    real[:, [dvd, cat, pizza]] = rng.random((600, 3)) < 0.5
    generated = real.copy()
    generated[:, cat] &= ~real[:, dvd]
    called = pd.DataFrame(
        {"first": ["cat", "dvd", "cat"], "second": ["dvds", "pizza", "unknown"], "difference": [-2.0, -2.0, -2.0]}
    )
    assert composition_right(called, generated, real) == 0.5


def test_calibration_counts_false_calls_by_frequency(monkeypatch):
    monkeypatch.setattr(calibration, "N_SPLITS", 6)
    monkeypatch.setattr(calibration, "N_ALTERATIONS", 2)
    rng = np.random.default_rng(1)
    rates = np.repeat([0.02, 0.3], 60)
    real, fresh = (sp.csr_matrix(rng.exponential(size=(200, 120)) * (rng.random((200, 120)) < rates)) for _ in range(2))
    table = calibration.calibration_table(fresh, real, ANALYSIS).set_index(["case", "images"])
    perfect = table.loc["perfect generator"]
    assert perfect["n"].sum() <= 120
    assert perfect.index.max() == 80
    assert perfect["false"].max() <= 0.05
    assert table.loc["real against real", "n"].sum() > 6 * 60  # the frequent ones are tested in every split
    assert table.loc["altered on purpose", "false"].isna().all()
    lost = sp.csr_matrix(fresh.multiply(rates < 0.1))  # as if a generator were perfect that never draws the frequent ones
    wrong = calibration.calibration_table(lost, real, ANALYSIS)
    assert wrong.loc[wrong["case"] == "perfect generator", "false"].max() > 0.9


def test_intervals_that_are_too_narrow_cover_too_little(monkeypatch):
    rng = np.random.default_rng(1)
    real, fresh = (sp.csr_matrix(rng.exponential(size=(300, 200)) * (rng.random((300, 200)) < 0.3)) for _ in range(2))
    assert coverage_of_shown(fresh, real, ANALYSIS) > 0.9
    honest = answers.make_calls

    def narrow(*sides, **options):
        calls = honest(*sides, **options)
        return calls._replace(shrunken_low=calls.shrunken - 0.01, shrunken_high=calls.shrunken + 0.01)

    monkeypatch.setattr(answers, "make_calls", narrow)
    assert coverage_of_shown(fresh, real, ANALYSIS) < 0.6
