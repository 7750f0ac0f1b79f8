import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis.claims import FAILS, HOLDS, OPEN, by_sign, claims_table, copy_claims, verdict_line

PERFECT = {"models.2": {"name": "perfect", "label": "Perfect generator", "draws": "afresh"}}


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [(-0.4, -0.5, -0.3, HOLDS), (0.4, 0.3, 0.5, FAILS), (-0.4, -0.7, -0.1, OPEN), (np.nan, np.nan, np.nan, OPEN)],
)  # -0.4 with an error of 0.15: a second measurement differs by 0.21, so it may well not be below 0 again
def test_a_sign_holds_only_if_a_second_measurement_would_show_it(value, low, high, verdict):
    assert by_sign(value, low, high, -1) == verdict


def pairs(copied, distance):
    return pd.DataFrame({
        "pair_id": [f"p{i}" for i in range(len(copied))], "model": "sd15", "energy_distance": distance,
        "copy_call": np.where(copied, "copy", ""), "caption_fit": 0.9,
    })  # fmt: skip


def test_copies_among_the_nearest_pairs():
    copied = np.arange(400) < 15  # of the 20 nearest
    (claim,) = copy_claims(pairs(copied, np.arange(400.0)), {"sd15": "Mini"})
    assert (claim.value, claim.verdict) == (0.75, HOLDS)
    assert "of the others 0.0 %" in claim.claim
    (claim,) = copy_claims(pairs(~copied & (np.arange(400) > 19), np.arange(400.0)), {"sd15": "Mini"})
    assert (claim.value, claim.verdict) == (0.0, FAILS)


def test_every_model_with_faults_has_its_claims_and_the_perfect_generator_none(make_study):
    study, rng = make_study(PERFECT), np.random.default_rng(0)
    models = [model.name for model in study.models]
    energies = {
        source: sp.csr_matrix(rng.exponential(size=(60, 40)) * (rng.random((60, 40)) < 0.4)) for source in ("real", *models)
    }
    concepts = pd.DataFrame({"firings": np.arange(40) + 1, **{f"tested_{model}": True for model in models}})
    datapoints = pd.concat([pairs(np.arange(60) < 2, rng.random(60)).assign(model=model) for model in models])
    table = claims_table(study, energies, concepts, datapoints)
    labels = [model.label for model in study.models]
    assert not table["claim"].str.contains(labels[2]).any()
    assert all(table["claim"].str.contains(label, regex=False).sum() == 5 for label in labels[:2])
    assert table["verdict"].isin([HOLDS, FAILS, OPEN]).all()
    assert set(table["about"]) == {"skewness", "sharing", "rarity", "copies", "captions"}


def test_verdicts_on_a_claim_are_told_in_a_line():
    claims = pd.DataFrame({"about": "rarity", "models": ["A", "B", "C"], "verdict": [OPEN, HOLDS, OPEN]})
    assert verdict_line(claims, "rarity") == "holds for B; not shown for A, C"
    assert verdict_line(claims, "skewness") == "no model of this study makes this claim"
