import shutil
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.batches import TrainingTokens
from blindspots_lib.sae.kmeans import find_start, keep_start, kmeans_candidates
from blindspots_lib.sae.model import load_sae
from blindspots_lib.sae.train import Trainer, fit_sae, fit_saes, learning_rate, make_sae, train_sae

CONFIG = SAEConfig(n_concepts=24, top_k=3, n_candidates=20, n_steps=40, batch_size=128, learning_rate=5e-3, checkpoint_every=8)


class ListedTokens(TokenSource):
    """Token shards from a list; images of four tokens."""

    def __init__(self, shards: list[np.ndarray]):
        super().__init__("fingerprint", [Path(f"shard {index}") for index in range(len(shards))])
        self.shards = shards
        self.layout = TokenLayout(n_registers=1, patches_per_side=1, width=shards[0].shape[-1])

    def shard(self, index: int) -> np.ndarray:
        return self.shards[index]

    def n_images(self, index: int) -> int:
        return int((~np.isnan(self.shards[index][:, 0, 0])).sum())


# A training that kills itself, by SIGKILL, in the middle of writing its third checkpoint.
KILLED_TRAINING = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, "tests")
from test_train import ListedTokens, TrainingTokens
from blindspots_lib.sae import train as training
from blindspots_lib.sae.kmeans import find_start
from blindspots_lib.core.config import SAEConfig

save_file, written = training.save_file, []

def save_or_die(tensors, path, metadata):
    written.append(path)
    if len(written) == 3:
        Path(path).write_bytes(b"half a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)
    return save_file(tensors, path, metadata)

training.save_file = save_or_die
shards = torch.load(os.environ["TOKENS"], weights_only=True)
config = SAEConfig.model_validate_json(os.environ["CONFIG"])
tokens = TrainingTokens(ListedTokens([shard.numpy() for shard in shards]), config)
training.train_sae(tokens, config, find_start(tokens, config), Path(os.environ["CHECKPOINT"]))
"""


@pytest.fixture(scope="module")
def shards():
    """Tokens that truly are sums of 3 of 24 directions, in shards of different sizes."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(24, 16))
    codes = np.zeros((1500, 24))
    for row in codes:
        row[rng.choice(24, 3, replace=False)] = rng.uniform(0.5, 2, 3)
    return np.array_split((codes @ atoms).astype(np.float16).reshape(500, 3, 16), [100, 250, 300])


@pytest.mark.parametrize("kind", ["dense", "local", "free"])
def test_training_explains_tokens_better_than_their_mean_and_than_it_began(shards, tmp_path, kind):
    config = CONFIG.model_copy(update={"n_steps": 200, "dictionary": kind, "n_neighbours": 8})
    tokens = TrainingTokens(ListedTokens(shards), config)
    sae, history = train_sae(tokens, config, find_start(tokens, config), tmp_path / "checkpoint.safetensors")
    assert history[-1]["r2"] > max(0.5, history[0]["r2"] + 0.1)
    rows = torch.from_numpy(np.concatenate(shards).reshape(-1, 16)).float()
    residual = (sae(rows)[0] - rows).square().sum(1).mean()
    variance = (rows - rows.mean(0)).square().sum(1).mean()
    assert 1 - (residual / variance).item() == pytest.approx(history[-1]["r2"], abs=0.05)
    if kind != "free":
        weights, relaxation = sae.dictionary.weights, sae.dictionary.relaxation
        assert (weights >= 0).all()
        assert torch.allclose(weights.sum(1), torch.ones(24), atol=1e-5)
        assert relaxation.norm(dim=1).max() <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["dense", "local"])
def test_killed_training_resumes_to_the_same_bytes(shards, tmp_path, run_python, kind):
    config = CONFIG.model_copy(update={"dictionary": kind, "n_neighbours": 8, "buffer_size": 600})  # several windows an epoch
    tokens = TrainingTokens(ListedTokens(shards), config)
    start = find_start(tokens, config)
    whole, history = train_sae(tokens, config, start, tmp_path / "whole.safetensors")
    torch.save([torch.from_numpy(shard) for shard in shards], tmp_path / "tokens.pt")
    checkpoint = tmp_path / "killed.safetensors"
    killed = run_python(
        KILLED_TRAINING, TOKENS=str(tmp_path / "tokens.pt"), CONFIG=config.model_dump_json(), CHECKPOINT=str(checkpoint)
    )
    assert killed.returncode == -9, killed.stderr
    trainer = Trainer(make_sae(16, config), config)
    trainer.load(checkpoint)
    assert len(trainer.history) == trainer.optimizer.n_steps == 16
    resumed, resumed_history = train_sae(tokens, config, start, checkpoint)
    assert resumed_history == history
    for name, expected in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], expected), name
    content = bytearray(checkpoint.read_bytes())
    content[-1000] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(StudyError, match="killed.safetensors: has other content than when it was written"):
        train_sae(tokens, config, start, checkpoint)
    checkpoint.write_bytes(content[:1000])
    with pytest.raises(StudyError, match="not a whole checkpoint"):
        train_sae(tokens, config, start, checkpoint)


def test_a_full_gpu_is_named_with_what_to_do(shards, tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    tokens = TrainingTokens(ListedTokens(shards), CONFIG)
    start = find_start(tokens, CONFIG)
    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(StudyError, match=r"^SAE: the GPU's memory is full; lower sae.batch_size or set dictionary: local;"):
        train_sae(tokens, CONFIG, start, tmp_path / "checkpoint.safetensors")


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
    config = CONFIG.model_copy(update={"top_k": 1, "aux_coeff": weight, "weight_decay": 0.0})
    trainer = Trainer(make_sae(16, config), config)
    sae = trainer.sae
    sae.start_from(torch.randn(20, 16), token_length=4.0)
    with torch.no_grad():
        sae.encoder.weight[7] = 0
        sae.encoder.bias[7] = -1
    sae.dictionary.prepare_training(torch.float32)
    trainer.steps_since_fired[7] = 1000
    before = sae.dictionary.relaxation[7].clone(), sae.encoder.weight[7].clone()
    row = trainer.step(3 * torch.randn(64, 16), rate=1e-2)
    assert row["dead"] == 1
    after = sae.dictionary.relaxation[7], sae.encoder.weight[7]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == moves


def test_bfloat16_products_train_nearly_as_well(shards, tmp_path):
    last = {}
    for precision in ("float32", "bfloat16"):
        config = CONFIG.model_copy(update={"n_steps": 150, "precision": precision})
        tokens = TrainingTokens(ListedTokens(shards), config)
        _, history = train_sae(tokens, config, find_start(tokens, config), tmp_path / f"{precision}.safetensors")
        last[precision] = np.mean([row["r2"] for row in history[-20:]])
    assert last["bfloat16"] == pytest.approx(last["float32"], abs=0.02)
    assert last["bfloat16"] != last["float32"]


def test_a_training_is_halted_from_another_thread_and_goes_on(shards, tmp_path):
    tokens, halt = TrainingTokens(ListedTokens(shards), CONFIG), Event()
    start, checkpoint = find_start(tokens, CONFIG), tmp_path / "checkpoint.safetensors"
    halt.set()
    with pytest.raises(KeyboardInterrupt):
        train_sae(tokens, CONFIG, start, checkpoint, halt)
    trainer = Trainer(make_sae(16, CONFIG), CONFIG)
    trainer.load(checkpoint)
    assert len(trainer.history) == 1
    _, history = train_sae(tokens, CONFIG, start, checkpoint)
    assert len(history) == CONFIG.n_steps


def test_candidates_are_the_means_of_the_tokens_nearest_to_them():
    blobs = torch.cat([torch.randn(60, 8) * 0.1 + centre for centre in (0.0, 5.0, -5.0)]).half()
    candidates = kmeans_candidates(blobs.float(), 6, seed=0)
    nearest = torch.cdist(blobs.float(), candidates).argmin(dim=1)
    assert set(nearest.tolist()) == set(range(6))
    means = torch.stack([blobs.float()[nearest == candidate].mean(dim=0) for candidate in range(6)])
    assert torch.allclose(candidates, means, atol=1e-2)
    with pytest.raises(StudyError, match="n_candidates = 500: must not exceed the number of tokens, 180"):
        kmeans_candidates(blobs.float(), 500, seed=0)


def test_candidates_are_found_once_for_all_saes_that_start_there(shards, make_study, monkeypatch):
    study, tokens, found = make_study(), ListedTokens(shards), []
    monkeypatch.setattr("blindspots_lib.sae.kmeans.find_start", lambda *args: found.append(args) or find_start(*args))
    first = keep_start(study.workspace, tokens, CONFIG)
    for same in (CONFIG, CONFIG.model_copy(update={"seed": 5, "top_k": 1, "dictionary": "free"})):
        for kept, expected in zip(keep_start(study.workspace, tokens, same), first, strict=True):
            assert torch.equal(kept, expected)
    assert len(found) == 1
    other = keep_start(study.workspace, tokens, CONFIG.model_copy(update={"kmeans_seed": 5}))
    assert len(found) == 2
    assert not torch.equal(other.candidates, first.candidates)
    (path,) = (study.folder / "candidates").glob("20-128-0-*/start.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StudyError, match="start.safetensors: has 100 bytes, and had"):
        keep_start(study.workspace, tokens, CONFIG)


def test_saes_trained_side_by_side_are_those_trained_alone(shards, make_study):
    study, tokens = make_study(), ListedTokens(shards)
    configs = [CONFIG.model_copy(update={"seed": seed, "top_k": seed + 1}) for seed in range(3)]
    together = {
        config: load_sae(artifact.folder).state_dict() for config, artifact in fit_saes(study.workspace, tokens, configs).items()
    }
    shutil.rmtree(study.folder / "saes")
    for config in configs:
        alone = load_sae(fit_sae(study.workspace, tokens, config).folder).state_dict()
        for key, expected in alone.items():
            assert torch.allclose(together[config][key], expected, rtol=1e-3, atol=1e-4), key


def test_an_sae_is_trained_once_whoever_asks_for_it(shards, make_study, monkeypatch):
    study, tokens, trained = make_study({"sae": CONFIG.model_dump(exclude={"corpus"})}), ListedTokens(shards), []
    monkeypatch.setattr("blindspots_lib.sae.train.train_sae", lambda *given: trained.append(given) or train_sae(*given))
    own = fit_sae(study.workspace, tokens, study.sae)
    other = study.sae.model_copy(update={"kmeans_seed": 1})
    artifacts = fit_saes(study.workspace, tokens, [study.sae, other, other])
    assert artifacts[study.sae].folder == own.folder == study.folder / "saes" / own.folder.name
    assert artifacts[other].folder == fit_sae(study.workspace, tokens, other).folder != own.folder
    assert len(trained) == 2
