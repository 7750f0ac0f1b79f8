import numpy as np
import pytest

from blindspots_lib.trial.baselines import clusters, global_scores, principal_components, random_dictionary, raw_features


@pytest.fixture
def tokens():
    return np.random.default_rng(0).normal(size=(6, 10, 4)).astype(np.float32)


def test_amounts_are_sums_over_tokens_of_each_direction_apart(tokens):
    flat = tokens.reshape(-1, 4)
    amounts = raw_features(flat)(tokens).toarray()
    centred = tokens - flat.mean(axis=0)
    np.testing.assert_allclose(amounts[:, :4] - amounts[:, 4:], centred.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(amounts[:, :4] + amounts[:, 4:], np.abs(centred).sum(axis=1), rtol=1e-5)
    turned = principal_components(flat)(tokens).toarray()
    assert np.all(turned >= 0)
    both = np.square(turned[:, :4] - turned[:, 4:]).sum(axis=1)  # a rotation keeps lengths
    np.testing.assert_allclose(both, np.square(centred.sum(axis=1)).sum(axis=1), rtol=1e-4)


def test_clusters_count_every_token_in_the_nearest_cell():
    centroids = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], np.float32)
    near = centroids + np.float32([[1.0, 2.0], [-4.0, 0.0], [-30.0, 5.0]])
    counts = clusters(centroids)(near[[[0, 0, 1], [2, 2, 2]]]).toarray()
    assert counts.tolist() == [[2, 1, 0], [0, 0, 3]]


def test_the_random_dictionary_keeps_the_k_strongest(tokens):
    amounts = random_dictionary(tokens.reshape(-1, 4), n=20, k=2, seed=0)(tokens[:, :1])
    assert np.all(amounts.getnnz(axis=1) <= 2)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((20, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    products = (tokens[:, 0] - tokens.reshape(-1, 4).mean(axis=0)) @ directions.T
    np.testing.assert_allclose(amounts.max(axis=1).toarray()[:, 0], products.max(axis=1), rtol=1e-4)


def test_global_scores_of_known_sets():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2))
    same = global_scores(real, real.copy())
    assert same.frechet_distance == pytest.approx(0, abs=1e-6)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    away = global_scores(real, real + 100.0)
    assert away.frechet_distance == pytest.approx(20_000, rel=1e-3)  # equal covariances: the squared shift
    assert (away.precision, away.recall, away.density, away.coverage) == (0.0, 0.0, 0.0, 0.0)
