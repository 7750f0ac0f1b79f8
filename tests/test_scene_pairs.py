import numpy as np
import pytest
from PIL import Image

from blindspots_lib.core.errors import StudyError
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.data.pairs import ImageStore, read_pair_table
from blindspots_lib.data.scene_pairs import are_public, caption_owners, shown_concepts
from blindspots_lib.data.scenes import draw_scene, render_scene, sample_scene, scene_rng
from blindspots_lib.models.perfect import draw_afresh
from blindspots_lib.run.stages import measure

PERFECT = {"name": "perfect", "label": "Perfect generator", "draws": "afresh"}


@pytest.fixture
def study(make_study):
    pairs = {"source": "scenes", "n": 30, "seed": 11, "shard_size": 12, "public": {"seed": 1, "n": 8}, "caption_noise": 0.2}
    return make_study({"pairs": pairs, "models": [PERFECT]})


def test_public_pairs_come_first_and_noise_goes_round_among_the_others(study):
    owners = caption_owners(study.pairs)
    noisy = np.flatnonzero(owners != np.arange(30))
    assert len(noisy) == 6
    assert noisy.min() >= 8
    assert sorted(owners[noisy]) == sorted(noisy)
    pairs = collect_pairs(study.workspace, study.pairs)
    table = read_pair_table(pairs)
    assert table.pair_ids[7:9] == ["scene-1-000007", "scene-11-000000"]
    places = [(1, i) for i in range(8)] + [(11, i) for i in range(22)]
    assert table.captions == [draw_scene(*places[owner])[0].caption for owner in owners]
    images = ImageStore(pairs)
    for position in (3, *noisy[:2]):
        scene, rendering = draw_scene(*places[position])  # noise is in the caption alone
        assert np.array_equal(np.asarray(images[table.pair_ids[position]]), rendering.image)
        assert shown_concepts(study.pairs, int(position)) == {**dict(scene.objects), scene.background: 1}
    assert are_public(study.pairs, np.arange(30)).tolist() == [True] * 8 + [False] * 22


def test_the_perfect_generator_draws_what_the_caption_describes_again(study):
    pairs = collect_pairs(study.workspace, study.pairs)
    made, real = ImageStore(draw_afresh(study.workspace, study.models[0], study.pairs, pairs)), ImageStore(pairs)
    owners = caption_owners(study.pairs)
    position = int(np.flatnonzero(owners != np.arange(30))[0])
    described = sample_scene(scene_rng(11, int(owners[position]) - 8, "content"))
    again = render_scene(described, scene_rng(11, position - 8, "redraw")).image
    pair_id = f"scene-11-{position - 8:06d}"
    assert np.array_equal(np.asarray(made[pair_id]), again)
    assert not any(np.array_equal(np.asarray(made[f"scene-1-{i:06d}"]), np.asarray(real[f"scene-1-{i:06d}"])) for i in range(8))


def test_only_scenes_can_be_drawn_afresh(make_study, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(StudyError, match="models: 'perfect' draws afresh, which only pairs of source scenes allow; remove it"):
        make_study({"pairs": {"source": "folder", "path": str(tmp_path)}, "training_corpus": ..., "models": [PERFECT]})


@pytest.mark.parametrize(("public", "message"), [
    ({"seed": 1, "n": 40}, "pairs.public.n = 40: must not exceed pairs.n = 36"),
    ({"seed": 11, "n": 4}, "pairs.public.seed = 11: must differ from pairs.seed"),
])  # fmt: skip
def test_public_pairs_that_cannot_be_are_refused(make_study, public, message):
    with pytest.raises(StudyError, match=message):
        make_study({"pairs.public": public})


def test_real_images_that_were_trained_on_do_not_set_the_level_of_chance(make_study):
    study = make_study({"pairs.public": {"seed": 1, "n": 8}, "pairs.n": 16, "models": [PERFECT], "sae.n_steps": 5})
    table = measure(study).datapoints
    assert table["training_similarity_real"].isna().tolist() == [True] * 8 + [False] * 8
    assert table["training_similarity"].notna().all()
