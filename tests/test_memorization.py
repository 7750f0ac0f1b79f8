import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ragged

from blindspots_lib.analysis import memorization
from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import TokenCodes, save_codes
from blindspots_lib.analysis.memorization import (
    datapoint_delta,
    distance_in_place,
    energy_distance,
    extreme_pairs,
    nearer_than_real,
    nearest_training_images,
)
from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.storage import save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.tokens import StoredTokens


@pytest.fixture
def energies():
    rng = np.random.default_rng(0)
    dense = [rng.exponential(2.0, (6, 9)) * (rng.random((6, 9)) < 0.3) for _ in range(2)]
    dense[1][2] = dense[0][2]
    return dense


def test_datapoint_delta_is_the_mean_of_sigmoids_over_all_concepts(energies):
    generated, real = energies
    expected = (1 / (1 + np.exp(-(generated - real)))).mean(axis=1)
    actual = datapoint_delta(sp.csr_matrix(generated), sp.csr_matrix(real))
    np.testing.assert_allclose(actual, expected)
    assert actual[2] == 0.5


def test_energy_distance_is_euclidean_and_zero_for_equal_energies(energies):
    generated, real = energies
    actual = energy_distance(sp.csr_matrix(generated), sp.csr_matrix(real))
    np.testing.assert_allclose(actual, np.linalg.norm(generated - real, axis=1), rtol=1e-6)
    assert actual[2] == 0


def stored_codes(folder, dense):
    """TokenCodes of a CLS token and patches, (images, 1 + patches, k) dense codes."""
    artifact = Artifact(Workspace("test", folder.parent, 0), folder.name, Stage("test", 1), {}, {})
    artifact.begin()
    for shard, part in enumerate(np.array_split(np.arange(len(dense)), 2)):
        indices = np.broadcast_to(np.arange(dense.shape[-1], dtype=np.uint32), dense[part].shape)
        save_codes(folder / f"shard-{shard:05d}.values.npy", ragged(indices, dense[part].astype(np.float16), dense.shape[-1]))
    artifact.finish(layout=TokenLayout(n_registers=0, patches_per_side=2, width=4)._asdict(), n_concepts=dense.shape[-1])
    return TokenCodes(artifact)


def test_distance_in_place_is_that_of_dense_codes_and_sees_what_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "BLOCK", 20)
    rng = np.random.default_rng(0)
    real = np.round(rng.exponential(2.0, (5, 5, 7)) * (rng.random((5, 5, 7)) < 0.25), 1)
    real[np.cumsum(real > 0, axis=-1) > 2] = 0
    generated = real[[1, 0, 2, 3, 4]].copy()
    generated[4, 1:] = real[4, [2, 1, 4, 3]]  # the same patches elsewhere: the same energies
    rows = np.array([1, 0, 2, 4])
    found = distance_in_place(stored_codes(tmp_path / "g", generated), stored_codes(tmp_path / "r", real), rows, rows)
    expected = np.sqrt(np.square(generated[rows, 1:] - real[rows, 1:]).sum(axis=(1, 2)))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found[2] == 0
    assert found[3] > 0


def test_extreme_pairs_are_ordered_from_the_ends():
    table = pd.DataFrame({"pair_id": list("abcd"), "model": ["m", "m", "m", "n"], "energy_distance": [2.0, 1.0, 3.0, 0.0]})
    least, greatest = extreme_pairs(table, "m", 2)
    assert least["pair_id"].tolist() == ["b", "a"]
    assert greatest["pair_id"].tolist() == ["c", "a"]


def test_excess_is_the_share_above_the_real_images_quantile():
    real = np.arange(100) / 100
    rows = [("m", generated) for generated in [0.2] * 90 + [0.995] * 10]
    table = pd.DataFrame(rows, columns=["model", "training_similarity"])
    table["pair_id"], table["training_similarity_real"] = [str(i) for i in range(100)], real
    excess = nearer_than_real(table, "m")
    assert excess.share == 0.1
    assert excess.low < 0.1 < excess.high < 0.19


def test_nearest_training_image_matches_a_full_search(tmp_path):
    layout = TokenLayout(n_registers=1, patches_per_side=2, width=3)
    rng = np.random.default_rng(0)
    corpus_tokens, tokens = rng.normal(size=(20, 6, 3)), rng.normal(size=(5, 6, 3))
    tokens[3] = corpus_tokens[11]

    def store(name, arrays, dtype):
        artifact = Artifact(Workspace("study", tmp_path, 0), name, Stage("test", 1), {}, {})
        artifact.begin()
        for index, array in enumerate(arrays):
            save_array(artifact.folder / f"shard-{index:05d}.npy", array.astype(dtype))
        artifact.finish(layout=layout._asdict())
        return artifact

    known = image_descriptor(corpus_tokens, layout)
    features = store("features", [tokens[:3], tokens[3:]], np.float16)
    corpus = store("corpus", [known[:8], known[8:]], np.float32)
    found = nearest_training_images(StoredTokens(features), corpus, np.array([1, 3, 4]))
    similarity = image_descriptor(tokens.astype(np.float16), layout)[[1, 3, 4]] @ known.T
    np.testing.assert_array_equal(found.index, similarity.argmax(axis=1))
    np.testing.assert_allclose(found.similarity, similarity.max(axis=1), rtol=1e-5)
    assert found.index[1] == 11
    assert found.similarity[1] == pytest.approx(1, abs=1e-5)
