import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from blindspots_lib.sae.metrics import coherence, effective_rank, hull_distance, match_atoms, measure_coding, onto_simplex
from blindspots_lib.sae.model import TopKSAE


def test_coding_of_tokens_worked_out_by_hand():
    sae = TopKSAE(d=2, n_concepts=3, top_k=1, n_candidates=1, dictionary="free")
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-9.0, -9.0]]))
        sae.encoder.bias.zero_()
        sae.dictionary.free_atoms.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]))
    coding = measure_coding(sae, torch.tensor([[3.0, 1.0], [0.0, 4.0], [0.0, 0.0], [1.0, 3.0]]))
    assert coding.l0 == 0.75  # the third token fires nothing
    assert coding.code_energy == (9 + 16 + 0 + 9) / 4
    assert coding.fires.tolist() == [True, True, False]
    assert coding.dead_share == pytest.approx(1 / 3)
    assert coding.r2 == pytest.approx(1 - (1 + 1) / (6 + 10))  # variance: 4 + 1 + 1 + 0 and 1 + 4 + 4 + 1


def test_coherence_sees_opposite_and_equal_atoms():
    atoms = torch.tensor([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 4.0], [0.0, 6.0, 8.0]])
    assert coherence(atoms).tolist() == pytest.approx([1.0, 1.0, 0.6, 1.0, 1.0])


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.eye(5)[:3].repeat(4, 1)) == pytest.approx(3)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-3)


def test_simplex_projection_is_the_nearest_point():
    rows = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.9, 0.7, -3.0]], dtype=torch.float64)
    expected = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.4, 0.0]]
    np.testing.assert_allclose(onto_simplex(rows).numpy(), expected, atol=1e-12)


def test_distance_from_the_hull():
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    points = torch.tensor([[1.0, 1.5], [3.0, 1.0], [5.0, 6.0], [2.0, 2.0]])
    np.testing.assert_allclose(hull_distance(points, square).numpy(), [0, 1, 5, 0], atol=1e-3)
    torch.manual_seed(0)
    candidates, point = torch.randn(9, 4) * 3 + 2, torch.randn(4)
    best = minimize(
        lambda w: float(((w @ candidates.numpy() - point.numpy()) ** 2).sum()), np.full(9, 1 / 9), bounds=[(0, 1)] * 9,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, tol=1e-12,
    )  # fmt: skip
    assert hull_distance(point[None], candidates).item() == pytest.approx(best.fun**0.5, rel=1e-3)


def test_matching_is_the_best_of_all_and_ignores_order_and_length():
    torch.manual_seed(0)
    atoms = torch.randn(6, 3)
    shuffled = atoms[torch.randperm(6)] * torch.rand(6, 1)
    np.testing.assert_allclose(match_atoms(atoms, shuffled), 1, rtol=1e-6)
    other = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    cosines = (torch.nn.functional.normalize(atoms, dim=1) @ other.T).numpy()
    best = max(sum(cosines[row, column] for column, row in enumerate(rows)) for rows in itertools.permutations(range(6), 4))
    assert match_atoms(atoms, other).sum() == pytest.approx(best, rel=1e-6)
    assert match_atoms(atoms, other).sum() == pytest.approx(match_atoms(other, atoms).sum())
