import numpy as np
import pytest
from conftest import ragged

from blindspots_lib.analysis import statistics
from blindspots_lib.analysis.statistics import ConceptStats, ExactSum, blocks_of, image_energies
from blindspots_lib.core.errors import StudyError

# Two images of two tokens with two active concepts each, of five concepts.
INDICES = np.array([[[0, 3], [3, 1]], [[4, 0], [2, 0]]], np.uint32)
VALUES = np.array([[[1.0, 2.0], [0.5, 0.0]], [[3.0, 0.25], [0.0, 1.0]]], np.float16)
K = 30


def random_codes(n_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of very different sizes, some 0, distinct concepts on a token."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n_images, 7, K)), axis=2)[..., :3].astype(np.uint32)
    values = (10 ** rng.uniform(-6, 3, indices.shape) * (rng.random(indices.shape) < 0.8)).astype(np.float16)
    return indices, values


def stats_of(indices: np.ndarray, values: np.ndarray, ids: np.ndarray) -> ConceptStats:
    stats = ConceptStats.empty(K, n_top=4)
    stats.add(ragged(indices, values, K), ids)
    return stats


def same(a: ConceptStats, b: ConceptStats) -> bool:
    arrays = ("images", "firings", "top_energies", "top_ids")
    return (
        (a.n_images, a.n_tokens) == (b.n_images, b.n_tokens)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and np.array_equal(a.mean_energy(), b.mean_energy())
        and np.array_equal(a.energy_deviation(), b.energy_deviation())
        and (a.together != b.together).nnz == 0
    )


def test_worked_out_by_hand():
    stats = ConceptStats.empty(5, n_top=2)
    stats.add(ragged(INDICES, VALUES, 5), np.array([7, 3]))
    energies = image_energies(ragged(INDICES, VALUES, 5))
    assert energies.toarray().tolist() == [[1.0, 0.0, 0.0, 2.5, 0.0], [1.25, 0.0, 0.0, 0.0, 3.0]]
    assert (stats.n_images, stats.n_tokens) == (2, 4)
    assert stats.firings.tolist() == [3, 0, 0, 2, 1]
    assert stats.images.tolist() == [2, 0, 0, 1, 1]
    assert stats.mean_energy().tolist() == [1.125, 0, 0, 1.25, 1.5]
    np.testing.assert_allclose(stats.energy_deviation(), [0.125, 0, 0, 1.25, 1.5])
    assert stats.top_ids.tolist() == [[3, 7], [-1, -1], [-1, -1], [7, -1], [3, -1]]
    assert stats.top_energies[0].tolist() == [1.25, 1.0]
    together = stats.together.toarray()
    assert np.diag(together).tolist() == stats.firings.tolist()
    assert (together[0, 3], together[3, 0], together[0, 4], together[3, 4]) == (1, 1, 1, 0)
    assert stats.overlap()[0, 3] == pytest.approx(1 / 4)  # one token of the 3 + 2 - 1 that either fires on


def test_brute_force(monkeypatch):
    monkeypatch.setattr(statistics, "PRODUCTS", 50)  # so that tokens are counted in many blocks
    indices, values = random_codes(40)
    stats = stats_of(indices, values, np.arange(40))
    codes = np.zeros((40, 7, K))
    np.put_along_axis(codes, indices.astype(int), values.astype(float), axis=2)
    energies = codes.sum(axis=1)
    np.testing.assert_allclose(stats.mean_energy(), energies.mean(axis=0), rtol=1e-6)  # energies are float32
    np.testing.assert_allclose(stats.energy_deviation(), energies.std(axis=0), rtol=1e-5)
    fires = codes.reshape(-1, K) > 0
    assert np.array_equal(stats.together.toarray(), fires.T.astype(int) @ fires)
    for concept in range(K):
        order = [image for image in np.argsort(-energies[:, concept], kind="stable")[:4] if energies[image, concept] > 0]
        assert stats.top_ids[concept][stats.top_ids[concept] >= 0].tolist() == order


def test_order_and_merging_change_nothing_to_the_last_bit():
    indices, values = random_codes(60)
    whole = stats_of(indices, values, np.arange(60))
    rng = np.random.default_rng(1)
    for _ in range(5):
        parts = np.array_split(rng.permutation(60), [1, 20, 21, 50])
        states = [stats_of(indices[part], values[part], part) for part in parts]
        merged = ConceptStats.empty(K, n_top=4)
        for number in rng.permutation(len(states)):
            merged.merge(states[number])
        assert same(merged, whole)


def test_equal_energies_are_ranked_by_id_whatever_the_order():
    indices, values = np.zeros((6, 1, 1), np.uint32), np.ones((6, 1, 1), np.float16)
    stats = ConceptStats.empty(1, n_top=3)
    for image in (4, 0, 5, 2, 1, 3):
        stats.add(ragged(indices[:1], values[:1], 1), np.array([image]))
    assert stats.top_ids.tolist() == [[0, 1, 2]]


def test_sums_are_exact_where_floats_are_not():
    total = ExactSum.zeros(2)
    total.add(np.array([0, 0, 0, 1]), np.array([2.0**53, 2.0**-48, 1.0, 0.5]))
    total.add(np.array([0]), np.array([1.0 - 2.0**-48]))
    assert total.value().tolist() == [2.0**53 + 2.0, 0.5]


def test_saved_and_loaded(tmp_path):
    stats = stats_of(*random_codes(9), np.arange(9))
    stats.save(tmp_path / "statistics.npz")
    assert same(ConceptStats.load(tmp_path / "statistics.npz"), stats)
    (tmp_path / "statistics.npz").write_bytes((tmp_path / "statistics.npz").read_bytes()[:-40])
    with pytest.raises(StudyError, match="concept statistics are not whole"):
        ConceptStats.load(tmp_path / "statistics.npz")


def test_states_of_different_concepts_do_not_mix():
    stats = ConceptStats.empty(5)
    with pytest.raises(StudyError, match="5 concepts .* do not merge with 6"):
        stats.merge(ConceptStats.empty(6))
    with pytest.raises(StudyError, match="made for 3 concepts, got codes of 5"):
        ConceptStats.empty(3).add(ragged(INDICES, VALUES, 5), np.array([0, 1]))


def test_ragged_codes_of_some_images_and_tokens_are_those_of_the_padded_tables():
    indices, values = random_codes(12)
    images, tokens = np.array([7, 0, 7, 3]), slice(2, 6)
    some = ragged(indices, values, K).at(images, tokens)
    expected = ragged(indices[images][:, tokens], values[images][:, tokens], K)
    assert some.shape == expected.shape == (4, 4, K)
    assert all(np.array_equal(one, other) for one, other in zip(some[1:], expected[1:], strict=True))


def test_blocks_hold_everything_in_order_and_are_bounded():
    sizes = np.array([3, 1, 4, 1, 50, 9, 2, 6])
    blocks = blocks_of(sizes, 8)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(8))
    assert all(sizes[block][1:].sum() < 8 for block in blocks)
    assert len(blocks) > 3
