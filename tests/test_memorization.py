import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ragged

from blindspots_lib.analysis import memorization
from blindspots_lib.analysis.captions import caption_vectors, nearest_captions
from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.analysis.energies import TokenCodes, save_codes
from blindspots_lib.analysis.memorization import (
    datapoint_delta,
    datapoint_table,
    distance_in_place,
    energy_distance,
    extreme_pairs,
    find_copies,
    nearer_than_real,
    nearest_training_images,
    plainness,
    similar_captions_null,
    similarities_in_place,
    similarity_in_place,
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


def random_codes(rng, n):
    dense = np.round(rng.exponential(2.0, (n, 5, 7)) * (rng.random((n, 5, 7)) < 0.3), 1)
    return dense.astype(np.float16).astype(float)


def cosine(a, b):
    return (a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)


def test_similarities_in_place_are_cosines_of_dense_patch_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "BLOCK", 30)
    rng = np.random.default_rng(0)
    first, second = random_codes(rng, 6), random_codes(rng, 6)
    second[1], second[2] = first[1] * 2, 0
    a, b, rows = stored_codes(tmp_path / "a", first), stored_codes(tmp_path / "b", second), np.array([1, 4, 2, 0])
    expected = [cosine(first[i, 1:], second[i, 1:]) for i in rows]
    np.testing.assert_allclose(similarity_in_place(a, b, rows, rows), expected, atol=1e-6)
    assert expected[0] == pytest.approx(1)
    orders = list(itertools.permutations(range(4)))
    shuffled = [np.mean([cosine(first[i, 1:], first[i, 1:][list(order)]) for order in orders]) for i in rows]
    np.testing.assert_allclose(plainness(a, rows), shuffled, atol=1e-6)
    everyone = [[cosine(first[i, 1:], first[j, 1:]) for j in rows] for i in rows]
    np.testing.assert_allclose(similarities_in_place(a, rows), everyone, atol=1e-6)


def test_null_is_the_most_similar_image_of_the_nearest_captions_as_if_they_were_worded_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "NEAREST", 2)
    rng = np.random.default_rng(0)
    dense, rows = random_codes(rng, 7), np.array([5, 1, 0, 3, 6, 2])
    captions = caption_vectors(sp.csr_matrix(rng.random((6, 5)) < 0.5))
    cosines = (captions @ captions.T).toarray()
    nearest = nearest_captions(captions, 2)
    x, y = (np.array([[of(i, j) for j in nearest[i]] for i in range(6)]) for of in
            (lambda i, j: cosines[i, j], lambda i, j: cosine(dense[rows[i], 1:], dense[rows[j], 1:])))  # fmt: skip
    within = x - x.mean(axis=1, keepdims=True)
    slope = max(0, (within * (y - y.mean(axis=1, keepdims=True))).sum() / (within**2).sum())
    found = similar_captions_null(stored_codes(tmp_path / "r", dense), rows, captions)
    np.testing.assert_allclose(found, (y + slope * (1 - x)).max(axis=1), atol=1e-6)


def test_copies_are_called_and_copies_of_one_template_share_a_group(tmp_path):
    rng = np.random.default_rng(0)
    real, generated = random_codes(rng, 300), random_codes(rng, 300)
    real[10:13] = real[10]  # one template under three captions
    copied = [3, 10, 11, 12]
    generated[copied] = real[copied]
    real[50:60] = generated[50:60] = real[50, :1]  # plain images: every patch is the same
    r, g, rows = stored_codes(tmp_path / "r", real), stored_codes(tmp_path / "g", generated), np.arange(300)
    kinds = np.arange(300) % 20
    kinds[10:13] = 21
    captions = caption_vectors(sp.csr_matrix(kinds[:, None] == np.arange(25)))
    np.testing.assert_allclose(plainness(r, np.array([50, 3]))[0], 1)
    found = find_copies(g, r, rows, rows, similar_captions_null(r, rows, captions), false_positive_rate=0.05)
    assert set(np.flatnonzero(found.call == "copy")) >= set(copied)
    assert not (found.call[50:60] == "copy").any()
    assert (found.call == "copy").sum() <= len(copied) + 0.05 * 300
    assert found.group[10:13].tolist() == [1, 1, 1]
    assert found.group[3] > 1
    assert (found.group[found.call == ""] == 0).all()


@pytest.mark.parametrize("n", [1, 2, 30])
def test_few_pairs_and_images_without_codes_are_not_called(tmp_path, n):
    dense = random_codes(np.random.default_rng(0), n)
    dense[0] = 0
    codes, rows = stored_codes(tmp_path / "r", np.concatenate([dense, dense])), np.arange(n)
    null = similar_captions_null(codes, rows, caption_vectors(sp.csr_matrix((n, 0))))
    found = find_copies(codes, codes, rows, rows, null)
    assert (found.call == "").all()
    assert ((found.p > 0.01) & (found.p <= 1)).all()
    table = datapoint_table(
        [str(i) for i in rows], {"real": sp.csr_matrix(dense.sum(1)), "m": sp.csr_matrix(dense.sum(1))}, {"m": np.zeros(n)}, {},
        {"m": found}, np.full(n, np.nan),
    )  # fmt: skip
    assert {"copy_similarity", "copy_null", "copy_p", "copy_call", "copy_group", "caption_fit"} <= set(table.columns)
