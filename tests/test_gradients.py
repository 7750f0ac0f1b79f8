"""The sparse gradients and steps against the dense reference, in float64."""

import pytest
import torch

from blindspots_lib.core.config import SAEConfig
from blindspots_lib.sae import gradients
from blindspots_lib.sae.dictionaries import MixtureDecoding, firings_of
from blindspots_lib.sae.gradients import dead_pulls, sae_gradients
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.reference import dense_loss, dense_step
from blindspots_lib.sae.train import Trainer

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


@pytest.mark.parametrize("appeal", [0.0, 0.5])
@pytest.mark.parametrize(("kind", "n_concepts"), [("free", K), ("local", K), ("dense", K), ("dense", 8)])
def test_gradients_match_dense_autograd(kind, n_concepts, appeal):
    sae = make_sae(kind, n_concepts)
    x, dead = torch.randn(TOKENS, D, dtype=torch.float64), torch.arange(n_concepts) < 3
    dense_loss(sae, x, dead, appeal).backward()
    found = sae_gradients(sae, x, dead, appeal)
    assert found.mse == pytest.approx(dense_loss(sae, x, dead, 0.0).item())
    assert {gradient.name for gradient in found.gradients} == {name for name, _ in sae.named_parameters()}
    for name, rows, squared_norm, part in found.gradients:
        expected = sae.get_parameter(name).grad
        sparse = torch.zeros_like(expected)
        sparse[rows] = torch.cat([part(0, 3), part(3, len(rows))])
        torch.testing.assert_close(sparse, expected, msg=name)
        torch.testing.assert_close(squared_norm, expected.square().sum(), msg=f"norm of {name}")


@pytest.mark.parametrize("kind", ["free", "local", "dense"])
def test_training_steps_match_dense_steps(kind):
    """Codes, gradients, clipping, AdamW and projection, while some concepts are dead."""
    config = SAEConfig(n_concepts=K, top_k=3, n_candidates=C, n_steps=4, dead_after=2, aux_coeff=0.5, weight_decay=0.1)
    sae, reference = make_sae(kind), make_sae(kind)
    trainer, optimizer = Trainer(sae, config), torch.optim.AdamW(reference.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(config.n_steps):
        x, dead = 5 * torch.randn(TOKENS, D, dtype=torch.float64), trainer.steps_since_fired >= config.dead_after
        assert trainer.step(x, rate=0.05)["dead"] == dead.sum()
        dense_step(reference, optimizer, x, dead, config.aux_coeff)
        for name, expected in reference.named_parameters():
            torch.testing.assert_close(sae.get_parameter(name), expected, msg=name)
    assert 0 < dead.sum() < K


def test_dense_weights_are_reassociated_only_when_more_concepts_fire_than_there_are_tokens():
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


def test_dead_concepts_are_drawn_to_badly_reconstructed_tokens_they_like(monkeypatch):
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
