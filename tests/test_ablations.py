import numpy as np
import pandas as pd
import pytest
from conftest import ragged

from blindspots_lib.analysis.energy_definitions import largest_code, mean_code
from blindspots_lib.core.study import load_study
from blindspots_lib.trial.ablations import power_rows, retrained


@pytest.mark.parametrize(("reduce", "expected"), [(largest_code, np.max), (mean_code, np.mean)])
def test_reductions_are_those_of_each_concepts_codes(reduce, expected):
    rng = np.random.default_rng(0)
    indices = np.stack([rng.permutation(6)[:2] for _ in range(4 * 5)]).reshape(4, 5, 2).astype(np.uint32)
    values = rng.uniform(0.5, 2.0, (4, 5, 2)).astype(np.float16)
    found = reduce(ragged(indices, values, 6)).toarray()
    for image in range(4):
        for concept in range(6):
            codes = values[image][indices[image] == concept]
            assert found[image, concept] == pytest.approx(expected(codes) if len(codes) else 0.0, rel=1e-3)


def test_each_variant_changes_what_its_name_says():
    own = load_study("mini").sae
    variants = retrained(own)
    assert {value: config.top_k for (varied, value), config in variants.items() if varied == "active concepts"} == {
        "k = 1": 1, "k = 5": 5, "k = 10": 10,
    }  # fmt: skip
    assert {config.n_concepts for (varied, _), config in variants.items() if varied == "concepts"} == {192, 768}
    with pytest.raises(KeyError, match="SAEConfig has no 'k'"):
        own.model_copy(update={"k": 3})


def test_power_counts_what_is_found_and_what_is_not_planted():
    real = np.ones((60, 3))
    faulty = real * [0.0, 4.0, 1.0]  # lost, exaggerated, as it should be
    rows = pd.DataFrame(power_rows(real, faulty, real, np.array(["suppressed", "exaggerated", ""]), seed=0))
    assert set(rows["pairs"]) == {25, 50}
    assert (rows["found"][rows["strength"] > 0.5] == 1).all()
    assert (rows["found"][rows["strength"] == 0] == 0).all()
    assert (rows["others"] == 0).all()
    still = pd.DataFrame(power_rows(real, real, real, np.array(["suppressed", "exaggerated", ""]), seed=0))
    assert (still["found"] == 0).all()
