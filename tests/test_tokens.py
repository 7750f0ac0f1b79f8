import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import CONFIG, ListedTokens

from blindspots_lib.core import parallel
from blindspots_lib.core.errors import StudyError
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.data.images import encode_png
from blindspots_lib.models.generate import generation_artifact
from blindspots_lib.models.tokens import ComputedTokens, StoredTokens, extract_tokens, open_tokens, tokens_artifact
from blindspots_lib.run.stages import measure
from blindspots_lib.sae.batches import TrainingTokens


def numbered_shards(sizes: list[int]) -> list[np.ndarray]:
    """Images of three tokens (CLS, a register, a patch); each token holds its own number."""
    tokens = np.arange(3 * sum(sizes), dtype=np.float16).reshape(-1, 3, 1)
    return np.split(tokens, np.cumsum(sizes)[:-1])


def make_tokens(sizes: list[int], **changes) -> TrainingTokens:
    return TrainingTokens(ListedTokens(numbered_shards(sizes)), CONFIG.model_copy(update=changes))


def test_an_epoch_draws_every_token_once_but_for_what_fills_no_batch():
    tokens = make_tokens([5, 3, 7, 2, 4], batch_size=6, buffer_size=20)
    for epoch in range(3):
        windows = tokens.windows(epoch)
        assert sorted(index for window in windows for index in window) == [0, 1, 2, 3, 4]
        sizes = [sum(tokens.sizes[index] for index in window) for window in windows]
        assert all(size >= 6 for size in sizes)
        assert len(windows) > 1
    n_batches = sum(size // 6 for size in sizes_of(tokens, 0))
    batches = tokens.batches()
    first = [next(batches).flatten().tolist() for _ in range(n_batches)]
    drawn = [number for batch in first for number in batch]
    assert len(set(drawn)) == len(drawn) == 6 * n_batches
    assert first != [next(batches).flatten().tolist() for _ in range(n_batches)]


def sizes_of(tokens: TrainingTokens, epoch: int) -> list[int]:
    return [sum(tokens.sizes[index] for index in window) for window in tokens.windows(epoch)]


def test_the_order_resumes_anywhere():
    tokens = make_tokens([5, 3, 7, 2, 4], batch_size=4, buffer_size=12)
    batches = tokens.batches()
    drawn = [next(batches).flatten().tolist() for _ in range(40)]
    for first in (0, 1, 7, 13, 26, 39):
        assert next(tokens.batches(first)).flatten().tolist() == drawn[first]
    other = make_tokens([5, 3, 7, 2, 4], batch_size=4, buffer_size=12, seed=1)
    assert next(other.batches()).flatten().tolist() != drawn[0]


def test_a_batch_larger_than_everything_is_everything():
    tokens = make_tokens([2, 1], batch_size=1000)
    assert sorted(next(tokens.batches()).flatten().tolist()) == list(range(9))


@pytest.mark.parametrize(("selection", "expected"), [("all", [0, 1, 2, 3, 4, 5]), ("patches", [2, 5]), ("cls", [0, 3])])
def test_selected_tokens(selection, expected):
    tokens = make_tokens([1, 1], tokens=selection)
    assert tokens.sample(100, 0).flatten().tolist() == expected


def test_a_sample_is_drawn_over_all_shards_without_replacement():
    tokens = make_tokens([50, 1, 49])
    drawn = tokens.sample(100, 0).flatten().tolist()
    assert len(set(drawn)) == 100
    assert drawn == sorted(drawn)
    assert 20 < sum(value < 150 for value in drawn) < 80
    assert tokens.sample(10**6, 0).flatten().tolist() == list(range(300))


def test_lost_images_are_left_out_and_broken_ones_named():
    shards = numbered_shards([4])
    shards[0][1] = np.nan
    tokens = TrainingTokens(ListedTokens(shards), CONFIG)
    assert tokens.sample(100, 0).flatten().tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    shards[0][3, 2] = np.nan
    with pytest.raises(StudyError, match="shard 0: image 3 has NaN or infinite tokens"):
        tokens.sample(100, 0)


def test_a_process_per_gpu_stores_the_same_tokens(make_study, monkeypatch):
    study = make_study({"pairs.n": 7, "pairs.shard_size": 2})
    images = collect_pairs(study.workspace, study.pairs)
    alone = extract_tokens(study.workspace, study.backbone, "real", images)
    expected = {path.name: path.read_bytes() for path in alone.folder.glob("*.npy")}
    facts = alone.facts
    for number in (0, 2, 3):
        (alone.folder / f"shard-{number:05d}.npy").unlink()
    monkeypatch.setattr(parallel, "n_gpus", lambda: 2)
    together = extract_tokens(study.workspace, study.backbone, "real", images)
    assert {path.name: path.read_bytes() for path in together.folder.glob("*.npy")} == expected
    assert together.facts == facts


def test_what_is_made_of_links_depends_on_what_came(make_study, hub, tmp_path):
    """Pairs keep their fingerprint when they are collected again, though other links are dead by then."""
    pictures = {f"again-{i}": encode_png(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(4)}
    hub.links |= {name: (200, {"Content-Type": "image/png"}, picture) for name, picture in pictures.items()}
    (tmp_path / "set").mkdir()
    links = pd.DataFrame({"url": [f"{hub.url}/link/{name}" for name in pictures], "caption": list(pictures)})
    links.to_parquet(tmp_path / "set" / "train.parquet", index=False)
    links = {"source": "links", "path": str(tmp_path / "set"), "n": 3, "shuffle_buffer": 1}
    study = make_study({"pairs": links, "training_corpus": ...})

    def collected():
        shutil.rmtree(study.folder / "pairs", ignore_errors=True)
        pairs = collect_pairs(study.workspace, study.pairs)
        images = generation_artifact(study.workspace, study.models[0], pairs)
        return pairs.fingerprint, tokens_artifact(study.workspace, study.backbone, "real", pairs).fingerprint, images.fingerprint

    first = collected()
    assert collected() == first
    hub.links["again-1"] = (404, {}, b"")
    second = collected()
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, False]
    scenes = make_study()
    pairs = collect_pairs(scenes.workspace, scenes.pairs)
    assert tokens_artifact(scenes.workspace, scenes.backbone, "real", pairs).inputs["images"] == pairs.fingerprint


def test_tokens_that_are_not_kept_give_the_same_results(make_study):
    changes = {"pairs.n": 6, "pairs.shard_size": 4, "sae.n_steps": 5, "training_corpus.n": 10}
    kept = make_study(changes)
    images = collect_pairs(kept.workspace, kept.pairs)
    with pytest.raises(StudyError, match="tokens/real is not made yet; run `make figures STUDY=smoke`"):
        open_tokens(kept.workspace, kept.backbone, "real", images)
    extract_tokens(kept.workspace, kept.backbone, "real", images)
    stored = open_tokens(kept.workspace, kept.backbone, "real", images)
    other = make_study(changes | {"backbone.keep_tokens": False})
    computed = open_tokens(other.workspace, other.backbone, "real", images)
    assert isinstance(stored, StoredTokens)
    assert isinstance(computed, ComputedTokens)
    assert stored.fingerprint == computed.fingerprint
    assert [stored.n_images(i) for i in range(2)] == [computed.n_images(i) for i in range(2)] == [4, 2]
    for a, b in zip(stored, computed, strict=True):
        np.testing.assert_array_equal(a, b)
    first = measure(make_study(changes | {"name": "stored"})).concepts
    second = measure(make_study(changes | {"name": "computed", "backbone.keep_tokens": False})).concepts
    assert first.equals(second)
    assert torch.isfinite(torch.tensor(first["energy_real"].to_numpy())).all()
