"""The sparse gradients against dense autograd, in float64."""

import pytest
import torch

from blindspots_lib.sae import gradients
from blindspots_lib.sae.dictionaries import MixtureDecoding
from blindspots_lib.sae.gradients import dead_pulls, sae_gradients
from blindspots_lib.sae.model import TopKSAE

D, K, C, TOKENS = 5, 40, 7, 11


def make_sae(kind: str, n_concepts: int = K, k: int = 3, n_neighbours: int = 4) -> TopKSAE:
    """An SAE away from its start, in float64, with candidates of very different lengths."""
    torch.manual_seed(1)
    sae = TopKSAE(D, n_concepts, k, C, dictionary=kind, n_neighbours=n_neighbours).double()
    sae.start_from(torch.randn(C, D, dtype=torch.float64) * torch.arange(1, C + 1)[:, None], token_length=2.0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    if kind != "free":
        sae.dictionary.project()
    sae.dictionary.prepare_training(torch.float64)
    return sae


def dense_loss(sae: TopKSAE, x: torch.Tensor) -> torch.Tensor:
    """What anyone would write: dense codes, dense W with rows divided by their sums, autograd."""
    preactivations = sae.encoder(x / sae.token_length)
    kept = torch.zeros_like(preactivations).scatter(1, preactivations.topk(sae.top_k).indices, 1.0)
    dictionary = sae.dictionary
    if hasattr(dictionary, "free_atoms"):
        atoms = dictionary.free_atoms
    else:
        weights = dictionary.weights / dictionary.weights.sum(dim=1, keepdim=True)
        if hasattr(dictionary, "neighbours"):
            weights = torch.zeros(len(weights), C, dtype=weights.dtype).scatter_add(1, dictionary.neighbours, weights)
        atoms = weights @ dictionary.candidates + dictionary.relaxation
    return ((preactivations.relu() * kept) @ atoms - x).square().mean()


@pytest.mark.parametrize(("kind", "n_concepts"), [("free", K), ("local", K), ("dense", K), ("dense", 8)])
def test_gradients_match_dense_autograd(kind, n_concepts):
    sae = make_sae(kind, n_concepts)
    x = torch.randn(TOKENS, D, dtype=torch.float64)
    loss = dense_loss(sae, x)
    loss.backward()
    found = sae_gradients(sae, x, torch.zeros(n_concepts, dtype=torch.bool), appeal=0.0)
    assert found.mse == pytest.approx(loss.item())
    assert {gradient.name for gradient in found.gradients} == {name for name, _ in sae.named_parameters()}
    for name, rows, squared_norm, part in found.gradients:
        expected = sae.get_parameter(name).grad
        sparse = torch.zeros_like(expected)
        sparse[rows] = torch.cat([part(0, 3), part(3, len(rows))])
        torch.testing.assert_close(sparse, expected, msg=name)
        torch.testing.assert_close(squared_norm, expected.square().sum(), msg=f"norm of {name}")


def test_dense_weights_are_reassociated_only_when_more_concepts_fire_than_there_are_tokens():
    from blindspots_lib.sae.dictionaries import firings_of

    x = torch.randn(TOKENS, D, dtype=torch.float64)
    for n_concepts, expected in ((K, True), (8, False)):
        sae = make_sae("dense", n_concepts)
        codes = sae.encode(x)
        assert isinstance(sae.dictionary.decoding(codes, firings_of(codes)), MixtureDecoding) == expected


def test_a_batch_that_fires_nothing_has_no_gradient():
    sae = make_sae("dense")
    with torch.no_grad():
        sae.encoder.bias.fill_(-1000)
    found = sae_gradients(sae, torch.randn(TOKENS, D, dtype=torch.float64), torch.zeros(K, dtype=torch.bool), appeal=0.0)
    assert [len(gradient.rows) for gradient in found.gradients] == [0, 0, 0, 0]


def test_dead_concepts_are_drawn_to_badly_rebuilt_tokens_they_like(monkeypatch):
    monkeypatch.setattr(gradients, "FAVOURITES", 1)
    sae = TopKSAE(d=2, n_concepts=3, top_k=1, n_candidates=3)
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]))
    tokens = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 0.5], [8.0, 8.0], [2.0, 0.0], [7.0, 7.0], [6.0, 6.0], [4.0, 4.0]])
    residual = torch.tensor([0.1, 5.0, 0.2, 0.3, 4.0, 0.0, 0.0, 0.0])[:, None].expand(-1, 2)  # the worst quarter: 1 and 4
    pulls = dead_pulls(sae, tokens, residual, torch.tensor([0, 1]), appeal=3.0)
    assert list(zip(pulls.concepts.tolist(), pulls.tokens.tolist(), strict=True)) == [(0, 4), (1, 1)]
    assert pulls.weights.tolist() == [-1.5, -1.5]  # of minus 3 times the mean of two preactivations


def test_the_appeal_adds_its_gradient_to_the_encoder():
    sae = make_sae("dense")
    x = torch.randn(TOKENS, D, dtype=torch.float64)
    dead = torch.zeros(K, dtype=torch.bool)
    dead[:4] = True
    plain = {g.name: g for g in sae_gradients(sae, x, dead, appeal=0.0).gradients}
    drawn = {g.name: g for g in sae_gradients(sae, x, dead, appeal=0.5).gradients}
    assert set(range(4)) <= set(drawn["encoder.weight"].rows.tolist())
    pulled = torch.zeros(K, dtype=torch.float64).index_add(0, drawn["encoder.bias"].rows, drawn["encoder.bias"].part(0, K))
    alone = torch.zeros(K, dtype=torch.float64).index_add(0, plain["encoder.bias"].rows, plain["encoder.bias"].part(0, K))
    torch.testing.assert_close((pulled - alone)[:4], torch.full((4,), -0.5 / 4, dtype=torch.float64))
    torch.testing.assert_close(pulled[4:], alone[4:])
    torch.testing.assert_close(plain["dictionary.weights"].part(0, K), drawn["dictionary.weights"].part(0, K))
