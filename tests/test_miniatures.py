"""The training scripts of the miniature models: what they share, their tokenizers, and how the models are sampled."""

import numpy as np
import pytest
import torch
from torch import nn

from blindspots_lib.core.study import load_study
from miniatures import recipe
from miniatures.sampling import PIPELINES
from miniatures.text import clip_tokenizer, t5_tokenizer


@pytest.fixture(scope="module")
def corpus():
    return recipe.draw_corpus(seed=3, n=800)


def train(folder, monkeypatch, fail_at=None, slope=1.0, **changes):
    monkeypatch.setattr(recipe, "CHECKPOINTS_DIR", folder)
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(3, 1)})

    def loss_of_step(step, rng):
        if step == fail_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.normal(size=(8, 3))).float() + torch.rand(8, 3)
        return {"mse": (slope * modules["line"](x).float() - x.sum(dim=1, keepdim=True)).square().mean()}

    schedule = recipe.Schedule(n_steps=12, batch_size=8, learning_rate=0.05, warmup_steps=2, **changes)
    recipe.fit("line", modules, schedule, loss_of_step)
    return modules["line"].weight.detach()


def test_a_resumed_training_ends_with_the_same_weights_as_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halted", monkeypatch, fail_at=7)
    with pytest.raises(SystemExit, match="checkpoint of another schedule"):
        train(tmp_path / "halted", monkeypatch, seed=1)
    assert torch.equal(train(tmp_path / "halted", monkeypatch), whole)


def test_weights_without_a_gradient_stop_a_training(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"line: 2 tensors have a gradient of 0 and learn nothing, first line\.weight"):
        train(tmp_path, monkeypatch, slope=0.0)


def test_the_rate_of_a_prolonged_training_falls_to_each_end():
    once, longer = (recipe.Schedule(n_steps=12, batch_size=8, learning_rate=1, warmup_steps=2, ends=ends) for ends in ((), (7,)))
    short = recipe.Schedule(n_steps=7, batch_size=8, learning_rate=1, warmup_steps=2)
    rates = [longer.factor(step) for step in range(12)]
    assert rates == [short.factor(step) for step in range(7)] + [once.factor(step) for step in range(7, 12)]
    assert longer.summary() == "12 of 8 images, seed 0, prolonged at 7"


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_tokenizer_numbers_the_words_the_same_way_every_time(corpus, make):
    first, second = make(corpus.captions), make(corpus.captions)
    assert first.get_vocab() == second.get_vocab()
    assert first.unk_token_id not in {number for caption in corpus.captions for number in first(caption).input_ids[1:-1]}


def test_corpus_states_what_is_in_its_images(corpus):
    assert corpus.presence.sum(axis=1).min() == 2  # one kind of object and the background
    assert set(corpus.n_objects) == {1, 2, 3, 4}
    covered = np.array([len(set(owner[owner >= 0])) for owner in corpus.owners])
    assert (covered == corpus.presence[:, :48].sum(axis=1)).mean() > 0.98


def test_the_study_samples_the_miniatures_with_their_own_settings():
    assert {model.name: model for model in load_study("mini").pipelines} == PIPELINES
