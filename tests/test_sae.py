import pytest
import torch

from blindspots_lib.sae import Codes, RelaxedArchetypalDictionary, TopKSAE, decode, load_sae, top_codes
from blindspots_lib.study import StudyError


def test_top_codes_keep_the_largest_and_drop_negatives():
    codes = top_codes(torch.tensor([[0.1, -3.0, 2.0, 0.5], [-1.0, -2.0, -0.5, 4.0]]), k=2)
    assert codes.indices.tolist() == [[2, 3], [3, 2]]
    assert codes.values.tolist() == [[2.0, 0.5], [4.0, 0.0]]


def test_decode_adds_value_times_atom():
    atoms = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    codes = Codes(torch.tensor([[0, 1], [2, 0]]), torch.tensor([[3.0, 0.5], [1.0, 0.0]]))
    assert decode(codes, atoms).tolist() == [[3.0, 1.0], [5.0, 5.0]]


def test_projection_worked_out_by_hand():
    dictionary = RelaxedArchetypalDictionary(n_concepts=3, n_candidates=2, d=2, radius=1.0)
    with torch.no_grad():
        dictionary.weights.copy_(torch.tensor([[3.0, 1.0], [-2.0, 5.0], [-1.0, -1.0]]))
        dictionary.relaxation.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    dictionary.project()
    assert torch.allclose(dictionary.weights, torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]]))
    assert torch.allclose(dictionary.relaxation, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    dictionary.candidates.copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    assert torch.allclose(dictionary.atoms(), torch.tensor([[3.6, 1.8], [0.3, 4.4], [2.0, 2.0]]))


def test_start_puts_atoms_on_candidates_and_codes_are_a_kth_of_the_cosine():
    candidates = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    sae = TopKSAE(d=4, n_concepts=6, k=2, n_candidates=6)
    sae.start_from(candidates, token_length=3.0)
    assert torch.equal(sae.dictionary.atoms(), candidates)
    tokens = 3 * torch.nn.functional.normalize(candidates, dim=1)
    cosines = torch.nn.functional.cosine_similarity(tokens[:, None], candidates[None], dim=-1)
    assert torch.allclose(sae.preactivations(tokens), cosines / 2, atol=1e-6)


def test_gradients_match_dense_autograd():
    torch.manual_seed(1)
    sae = TopKSAE(d=5, n_concepts=9, k=3, n_candidates=7).double()
    sae.start_from(torch.randn(7, 5, dtype=torch.float64), token_length=2.0)
    x = torch.randn(11, 5, dtype=torch.float64)
    sae(x)[0].sub(x).square().mean().backward()
    sparse = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()
    z = sae.preactivations(x)
    kept = torch.zeros_like(z).scatter(1, z.topk(3).indices, 1.0)
    dense = (z.relu() * kept) @ (sae.dictionary.weights @ sae.dictionary.candidates + sae.dictionary.relaxation)
    dense.sub(x).square().mean().backward()
    for name, p in sae.named_parameters():
        assert torch.allclose(sparse[name], p.grad, atol=1e-12), name


def test_width_that_does_not_fit_is_named():
    sae = TopKSAE(d=192, n_concepts=8, k=2, n_candidates=8)
    with pytest.raises(StudyError, match="made for tokens of width 192, got width 768"):
        sae.encode(torch.zeros(3, 768))


def test_saved_and_loaded_gives_the_same_codes(tmp_path):
    sae = TopKSAE(d=4, n_concepts=6, k=2, n_candidates=5, relaxation_radius=0.5)
    sae.start_from(torch.randn(5, 4), token_length=2.0)
    sae.save_pretrained(tmp_path)
    again, x = load_sae(tmp_path), torch.randn(10, 4)
    assert torch.equal(again.encode(x).indices, sae.encode(x).indices)
    assert again.dictionary.radius == 0.5
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(StudyError, match="not a whole SAE"):
        load_sae(tmp_path)
