import pytest
import torch

from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.dictionaries import (
    Codes,
    DenseArchetypalDictionary,
    LocalArchetypalDictionary,
    decode,
    nearest_candidates,
)
from blindspots_lib.sae.model import TopKSAE, load_sae


def test_codes_keep_the_largest_and_drop_negatives():
    sae = TopKSAE(d=4, n_concepts=4, top_k=2, n_candidates=1, dictionary="free")
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.eye(4))
        sae.encoder.bias.zero_()
    codes = sae.encode(torch.tensor([[0.1, -3.0, 2.0, 0.5], [-1.0, -2.0, -0.5, 4.0]]))
    assert codes.indices.tolist() == [[2, 3], [3, 2]]
    assert codes.values.tolist() == [[2.0, 0.5], [4.0, 0.0]]


def test_decode_adds_value_times_atom():
    atoms = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    codes = Codes(torch.tensor([[0, 1], [2, 0]]), torch.tensor([[3.0, 0.5], [1.0, 0.0]]))
    assert decode(codes, atoms).tolist() == [[3.0, 1.0], [5.0, 5.0]]


def test_projection_worked_out_by_hand():
    dictionary = DenseArchetypalDictionary(n_concepts=3, n_candidates=2, d=2, radius=1.0)
    with torch.no_grad():
        dictionary.weights.copy_(torch.tensor([[3.0, 1.0], [-2.0, 5.0], [-1.0, -1.0]]))
        dictionary.relaxation.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    dictionary.project()
    assert torch.allclose(dictionary.weights, torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]]))
    assert torch.allclose(dictionary.relaxation, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    dictionary.candidates.copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    assert torch.allclose(dictionary.atoms(), torch.tensor([[3.6, 1.8], [0.3, 4.4], [2.0, 2.0]]))


def test_a_radius_of_zero_keeps_atoms_in_the_hull():
    dictionary = DenseArchetypalDictionary(n_concepts=2, n_candidates=2, d=2, radius=0.0)
    with torch.no_grad():
        dictionary.weights.fill_(1.0)
        dictionary.relaxation.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    dictionary.project()
    assert dictionary.relaxation.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_start_puts_atoms_on_candidates_and_codes_are_a_kth_of_the_cosine():
    candidates = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    sae = TopKSAE(d=4, n_concepts=6, top_k=2, n_candidates=6)
    sae.start_from(candidates, token_length=3.0)
    assert torch.equal(sae.dictionary.atoms(), candidates)
    tokens = 3 * torch.nn.functional.normalize(candidates, dim=1)
    cosines = torch.nn.functional.cosine_similarity(tokens[:, None], candidates[None], dim=-1)
    assert torch.allclose(sae.encoder(sae.scaled(tokens)), cosines / 2, atol=1e-6)


def test_neighbours_are_the_nearest_candidates_oneself_first():
    candidates = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [1.0, 0.0], [0.4, 0.0]])
    assert nearest_candidates(candidates, 3).tolist() == [[0, 4, 1], [1, 3, 4], [2, 1, 3], [3, 1, 4], [4, 0, 1]]


def test_local_dictionary_with_all_candidates_is_the_dense_one():
    torch.manual_seed(0)
    candidates, codes = torch.randn(6, 4), Codes(torch.tensor([[0, 7], [3, 1]]), torch.rand(2, 2))
    dense, local = DenseArchetypalDictionary(8, 6, 4, 0.5), LocalArchetypalDictionary(8, 6, 4, 0.5, n_neighbours=6)
    dense.start_from(candidates)
    local.start_from(candidates)
    assert torch.equal(dense.atoms(), local.atoms())
    with torch.no_grad():
        dense.weights.copy_(torch.rand(8, 6))
        local.weights.copy_(dense.weights.gather(1, local.neighbours))
    dense.project()
    local.project()
    torch.testing.assert_close(dense.atoms(), local.atoms())
    torch.testing.assert_close(decode(codes, dense.atoms()), decode(codes, local.atoms()))


@pytest.mark.parametrize("kind", ["dense", "local", "free"])
def test_forward_decodes_the_active_atoms(kind):
    torch.manual_seed(0)
    sae = TopKSAE(d=4, n_concepts=9, top_k=2, n_candidates=6, dictionary=kind, n_neighbours=3)
    sae.start_from(torch.randn(6, 4), token_length=2.0)
    reconstruction, codes = sae(torch.randn(5, 4))
    torch.testing.assert_close(reconstruction, decode(codes, sae.dictionary.atoms()))


def test_without_k_every_code_at_or_above_the_threshold_is_kept():
    sae = TopKSAE(d=3, n_concepts=3, top_k=None, n_candidates=1, dictionary="free")
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.eye(3))
        sae.encoder.bias.zero_()
        sae.threshold.fill_(0.5)
    codes = sae.encode(torch.tensor([[0.5, 2.0, 0.7], [0.4, -3.0, 0.6], [0.0, 0.0, 0.0]]))
    assert decode(codes, torch.eye(3)).tolist() == [[0.5, 2.0, pytest.approx(0.7)], [0, 0, pytest.approx(0.6)], [0, 0, 0]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"top_k": 9}, "sae.top_k = 9: must not exceed sae.n_concepts = 8"),
        ({"dictionary": "local", "n_neighbours": 7}, "sae.n_neighbours = 7: must not exceed sae.n_candidates = 6"),
    ],
)
def test_sizes_that_do_not_fit_are_named(shape, message):
    with pytest.raises(StudyError, match=message):
        TopKSAE(**{"d": 4, "n_concepts": 8, "top_k": 2, "n_candidates": 6} | shape)


def test_tokens_that_are_not_finite_are_refused():
    sae = TopKSAE(d=2, n_concepts=4, top_k=2, n_candidates=4)
    with pytest.raises(StudyError, match="its tokens hold NaN or infinity"):
        sae.encode(torch.tensor([[1.0, float("nan")]]))


def test_width_that_does_not_fit_is_named():
    sae = TopKSAE(d=192, n_concepts=8, top_k=2, n_candidates=8)
    with pytest.raises(StudyError, match="made for tokens of width 192, got width 768"):
        sae.encode(torch.zeros(3, 768))


@pytest.mark.parametrize("kind", ["dense", "local", "free"])
def test_saved_and_loaded_gives_the_same_codes(tmp_path, kind):
    sae = TopKSAE(d=4, n_concepts=6, top_k=2, n_candidates=5, dictionary=kind, relaxation_radius=0.5, n_neighbours=3)
    sae.start_from(torch.randn(5, 4), token_length=2.0)
    sae.save_pretrained(tmp_path)
    again, x = load_sae(tmp_path), torch.randn(10, 4)
    assert torch.equal(again.encode(x).indices, sae.encode(x).indices)
    assert torch.equal(again(x)[0], sae(x)[0])
    assert kind == "free" or again.dictionary.radius == 0.5
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(StudyError, match="not a whole SAE"):
        load_sae(tmp_path)


def test_tokens_of_half_precision_have_the_codes_of_the_same_numbers():
    """Their sum is beyond half precision, each of them is not."""
    torch.manual_seed(0)
    sae, tokens = TopKSAE(4, 9, 2, 9, dictionary="free"), 3e4 * torch.rand(30, 4).half()
    for half, whole in zip(sae.encode(tokens), sae.encode(tokens.float()), strict=True):
        torch.testing.assert_close(half, whole)
