import numpy as np
import pytest
import torch

from blindspots_lib.sae import TopKSAE
from blindspots_lib.study import SAEConfig, StudyError
from blindspots_lib.training import dead_appeal, kmeans_candidates, learning_rate, shuffled_batches, train_sae, training_step

CONFIG = SAEConfig(n_concepts=24, k=3, n_candidates=20, n_steps=40, batch_size=128, learning_rate=5e-3, checkpoint_every=8)

# A training that kills itself, by SIGKILL, in the middle of writing its third checkpoint.
KILLED_TRAINING = """
import os, signal
from pathlib import Path
import torch
from blindspots_lib import training
from blindspots_lib.study import SAEConfig

write_bytes, written = Path.write_bytes, []

def write_or_die(path, data):
    written.append(path)
    if len(written) == 3:
        write_bytes(path, bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write_bytes(path, data)

Path.write_bytes = write_or_die
tokens = torch.load(os.environ["TOKENS"], weights_only=True)
training.train_sae(tokens, SAEConfig.model_validate_json(os.environ["CONFIG"]), Path(os.environ["CHECKPOINT"]))
"""


@pytest.fixture
def tokens():
    """Tokens that truly are sums of 3 of 24 directions."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(24, 16))
    codes = np.zeros((1500, 24))
    for row in codes:
        row[rng.choice(24, 3, replace=False)] = rng.uniform(0.5, 2, 3)
    return torch.from_numpy((codes @ atoms).astype(np.float16))


def test_training_explains_tokens_better_than_their_mean_and_than_it_began(tokens, tmp_path):
    sae, history = train_sae(tokens, CONFIG.model_copy(update={"n_steps": 200}), tmp_path / "checkpoint.pt")
    assert history[-1]["r2"] > max(0.5, history[0]["r2"] + 0.1)
    residual = (sae(tokens.float())[0] - tokens.float()).square().sum(1).mean()
    variance = (tokens.float() - tokens.float().mean(0)).square().sum(1).mean()
    assert 1 - (residual / variance).item() == pytest.approx(history[-1]["r2"], abs=0.05)
    weights, relaxation = sae.dictionary.weights, sae.dictionary.relaxation
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(24), atol=1e-5)
    assert relaxation.norm(dim=1).max() <= 1 + 1e-5


def test_killed_training_resumes_to_the_same_bytes(tokens, tmp_path, run_python):
    whole, history = train_sae(tokens, CONFIG, tmp_path / "whole.pt")
    torch.save(tokens, tmp_path / "tokens.pt")
    checkpoint = tmp_path / "killed.pt"
    killed = run_python(
        KILLED_TRAINING, TOKENS=str(tmp_path / "tokens.pt"), CONFIG=CONFIG.model_dump_json(), CHECKPOINT=str(checkpoint)
    )
    assert killed.returncode == -9, killed.stderr
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 16
    resumed, resumed_history = train_sae(tokens, CONFIG, checkpoint)
    assert resumed_history == history
    for name, expected in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], expected), name


def test_batches_cover_every_row_once_an_epoch_and_resume_anywhere():
    batches = shuffled_batches(10, 3, seed=4, first_step=0)
    drawn = [next(batches).tolist() for _ in range(7)]
    first_epoch = [row for batch in drawn[:3] for row in batch]
    assert len(set(first_epoch)) == 9
    assert drawn[:3] != drawn[3:6]
    later = shuffled_batches(10, 3, seed=4, first_step=5)
    assert [next(later).tolist() for _ in range(2)] == drawn[5:7]


def test_learning_rate_warms_up_and_ends_low():
    config = CONFIG.model_copy(update={"n_steps": 100, "warmup": 0.1, "learning_rate": 1.0, "final_learning_rate": 0.01})
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.505)  # half way down the cosine
    assert rates[-1] == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize(("weight", "moves"), [(0.0, False), (1.0, True)])
def test_only_the_auxiliary_term_moves_a_dead_concept(weight, moves):
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"k": 1, "auxiliary_weight": weight, "weight_decay": 0.0})
    sae = TopKSAE(d=16, n_concepts=24, k=1, n_candidates=20)
    sae.start_from(torch.randn(20, 16), token_length=4.0)
    with torch.no_grad():
        sae.encoder.weight[7] = 0
        sae.encoder.bias[7] = 1e-3  # weaker than any living concept's best, but above 0
    silent = torch.zeros(24, dtype=torch.int64)
    silent[7] = 1000
    before = sae.dictionary.relaxation[7].clone(), sae.encoder.weight[7].clone()
    optimizer = torch.optim.AdamW(sae.parameters(), lr=1e-2, weight_decay=0.0)
    row = training_step(sae, optimizer, 3 * torch.randn(64, 16), silent, config)
    assert row["dead"] == 1
    after = sae.dictionary.relaxation[7], sae.encoder.weight[7]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == moves


def test_dead_concepts_are_drawn_to_badly_rebuilt_tokens_they_like():
    preactivations = torch.tensor([[9.0, 0.0], [1.0, 2.0], [3.0, 0.5], [7.0, 8.0]], requires_grad=True)
    residual = torch.tensor([[0.1, 0.0], [5.0, 0.0], [0.2, 0.0], [0.3, 0.0]])  # a quarter of four tokens: the second
    appeal = dead_appeal(preactivations, residual)
    assert appeal.item() == 1.5
    appeal.backward()
    assert preactivations.grad.tolist() == [[0.0, 0.0], [0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]


def test_candidates_are_the_means_of_the_tokens_nearest_to_them():
    blobs = torch.cat([torch.randn(60, 8) * 0.1 + centre for centre in (0.0, 5.0, -5.0)]).half()
    candidates = kmeans_candidates(blobs, 6, seed=0)
    nearest = torch.cdist(blobs.float(), candidates).argmin(dim=1)
    assert set(nearest.tolist()) == set(range(6))
    means = torch.stack([blobs.float()[nearest == candidate].mean(dim=0) for candidate in range(6)])
    assert torch.allclose(candidates, means, atol=1e-2)
    with pytest.raises(StudyError, match="n_candidates = 500: must not exceed the number of tokens, 180"):
        kmeans_candidates(blobs, 500, seed=0)
