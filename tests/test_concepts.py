import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ragged

from blindspots_lib.analysis.concepts import concept_table, family_table, name_table
from blindspots_lib.analysis.delta import deltas_of_tested
from blindspots_lib.analysis.energies import Energies
from blindspots_lib.analysis.statistics import ConceptStats
from blindspots_lib.core.config import Analysis

ANALYSIS = Analysis(n_swaps=100)
CAPTIONS = ["a dvd", "a cat"] * 40


def one_token_images(codes) -> Energies:
    """The energies of images of a single token each, by its codes."""
    values = np.array(codes, np.float16)[:, None]
    stats = ConceptStats.empty(values.shape[-1])
    indices = np.broadcast_to(np.arange(values.shape[-1], dtype=np.uint32), values.shape)
    stats.add(ragged(indices, values, values.shape[-1]), np.arange(len(values)))
    return Energies(sp.csr_matrix(np.array(codes, np.float32)), stats)


@pytest.fixture
def energies():
    """Concepts 0 and 2 fire on dvds, 1 on cats, 3 on two images, 4 never; the model draws no dvd."""
    codes = np.zeros((80, 5))
    codes[::2, 0], codes[::2, 2], codes[1::2, 1], codes[:2, 3] = 2, 1, 3, 1
    generated = codes.copy()
    generated[:, [0, 2]] = 0
    return {"real": one_token_images(codes), "one": one_token_images(generated)}


@pytest.fixture
def names(energies):
    return name_table(energies["real"], CAPTIONS, np.eye(5), seed=0)


def test_concepts_of_one_name_are_one_family(names):
    assert names["concept"].tolist() == [0, 1, 2, 3, 4]
    assert names["name"].tolist() == ["dvd", "cat", "dvd", "", ""]
    assert names["family"].tolist() == [0, 1, 0, 2, 3]


def test_the_table_of_concepts(energies, names):
    table = concept_table(energies, names, ANALYSIS)
    assert table["firings"].tolist() == [40, 40, 40, 2, 0]
    assert table["n_images_real"].tolist() == [40, 40, 40, 2, 0]
    assert table["n_images_one"].tolist() == [0, 40, 0, 2, 0]
    np.testing.assert_allclose(table["energy_real"], [1, 1.5, 0.5, 2 / 80, 0])
    np.testing.assert_allclose(table["delta_one"], [0, 0.5, 0, 0.5, np.nan])
    assert table["tested_one"].tolist() == [True, True, True, False, False]
    assert table["call_one"].tolist()[::2] == ["suppressed", "suppressed", "unclear"]
    assert deltas_of_tested(table, "one").to_dict() == {0: 0, 1: 0.5, 2: 0}
    assert list(deltas_of_tested(table, "one").index) == [0, 2, 1]


def test_a_family_is_judged_by_the_sum_of_its_concepts(energies, names):
    matrices = {source: of_source.matrix for source, of_source in energies.items()}
    table = family_table(matrices, CAPTIONS, names, ANALYSIS)
    assert table["name"].tolist() == ["dvd", "cat", "", ""]
    assert table["n_concepts"].tolist() == [2, 1, 1, 1]
    assert table["concept"].tolist() == [0, 1, 3, 4]  # the one with the greatest energy
    np.testing.assert_allclose(table["energy_real"], [1.5, 1.5, 2 / 80, 0])
    assert table["call_one"].tolist()[0] == "suppressed"
    assert table["name_r"][0] == pytest.approx(1)  # its energy is the same in every image with the word, and 0 elsewhere


@pytest.mark.parametrize("captions", [[""] * 80, ["the same"] * 80])
def test_without_telling_captions_nothing_is_named_and_everything_else_stands(energies, captions):
    names = name_table(energies["real"], captions, np.eye(5), seed=0)
    assert set(names["name"]) == {""}
    pd.testing.assert_series_equal(
        concept_table(energies, names, ANALYSIS)["delta_one"], pd.Series([0, 0.5, 0, 0.5, np.nan], name="delta_one")
    )


@pytest.mark.parametrize("n_pairs", [1, 2, 30])
def test_few_pairs_give_a_table(energies, n_pairs):
    few = {source: one_token_images(of_source.matrix[:n_pairs].toarray()) for source, of_source in energies.items()}
    names = name_table(few["real"], CAPTIONS[:n_pairs], np.eye(5), seed=0)
    table = concept_table(few, names, ANALYSIS)
    assert set(table["call_one"]) <= ({"unclear"} if n_pairs < 6 else {"unclear", "suppressed", "aligned"})
    assert len(family_table({s: e.matrix for s, e in few.items()}, CAPTIONS[:n_pairs], names, ANALYSIS))
