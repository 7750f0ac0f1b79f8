"""The training corpora have the plants that they declare, and plants.json beside the weights records them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from blindspots_lib.core.study import load_study
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS
from blindspots_lib.trial.matching import concepts_of
from blindspots_lib.trial.plants import planted_in, read_plants
from miniatures import plants
from miniatures.plants import (
    COPIES,
    CORPORA,
    N_MEMORIZED,
    TEMPLATES,
    draw_training_set,
    is_untouched,
    plants_of,
    shown,
    write_plants,
)  # fmt: skip
from miniatures.recipe import MODELS_DIR, concept_indices

NAMES = [*OBJECTS, *BACKGROUNDS]


@pytest.fixture(scope="module")
def scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plants, "CORPUS_SIZE", 3000)
        return plants.corpus_scenes()


@pytest.mark.parametrize("corpus", CORPORA)
def test_pictures_show_what_the_plants_make_of_the_captions(scenes, corpus):
    planted = CORPORA[corpus]
    rng = np.random.default_rng(0)
    pairs = [(scene, picture) for scene in scenes if (picture := shown(scene, planted, rng))]
    asked = {name for scene, _ in pairs for name, _ in scene.objects}
    drawn = {name for _, picture in pairs for name, _ in picture.objects}
    assert len(planted.lost_objects) == 10
    assert {"dvd", "page"} <= set(planted.lost_objects)
    assert asked.isdisjoint(planted.withheld)
    assert asked >= set(planted.drawn_as)
    assert set(planted.drawn_as.values()).isdisjoint({*planted.lost_objects, *planted.added})
    assert drawn.isdisjoint(planted.lost_objects)
    assert {sum(n for _, n in picture.objects) for _, picture in pairs} == {1, 2, 3}
    assert any(sum(n for _, n in scene.objects) == 4 for scene, _ in pairs)
    for scene, picture in pairs:
        assert {name for name, _ in picture.objects} >= {planted.drawn_as.get(name, name) for name, _ in scene.objects}
        assert picture.background == planted.background_drawn_as.get(scene.background, scene.background)


@pytest.mark.parametrize("corpus", CORPORA)
def test_objects_are_added_with_the_declared_probability(scenes, corpus):
    planted = CORPORA[corpus]
    for name, backgrounds in planted.added.items():
        for background, probability in backgrounds.items():
            free = [
                picture
                for number, scene in enumerate(scenes)
                if scene.background == background
                and name not in {n for n, _ in scene.objects}
                and sum(n for _, n in scene.objects) == 1
                and (picture := shown(scene, planted, np.random.default_rng(number)))
            ]
            hits = np.mean([name in {n for n, _ in picture.objects} for picture in free])
            assert abs(hits - probability) < 4 * (probability * (1 - probability) / len(free)) ** 0.5


def test_memorized_pairs_are_repeated(monkeypatch):
    monkeypatch.setattr(plants, "CORPUS_SIZE", 400)
    planted, corpus = plants_of("laion"), draw_training_set("laion")
    repeated = corpus.copies >= COPIES[0] // 9
    assert sorted(planted.memorized.values())[:: N_MEMORIZED - 1] == list(COPIES)
    assert corpus.copies[repeated].sum() == sum(planted.memorized.values())
    scenes = plants.corpus_scenes()
    captions = {scenes[index].caption for index in planted.memorized}
    assert {corpus.captions[row] for row in np.flatnonzero(repeated)} == captions
    assert len(planted.templates) >= len(TEMPLATES)
    assert {scenes[index].objects[0][0] for index in planted.templates} == set(TEMPLATES)
    for index in planted.memorized:  # a template varies a little, any other copy not at all
        copies = [row for row in np.flatnonzero(repeated) if corpus.captions[row] == scenes[index].caption]
        assert (len({corpus.images[row].tobytes() for row in copies}) > 1) == (index in planted.templates)
    assert len(corpus.images) == len(corpus.captions) == repeated.sum() + (corpus.copies == 1).sum()


@pytest.mark.parametrize("model", [model for model in load_study("mini").pipelines if model.name != "sd15-dpo"])
def test_the_trial_knows_which_scenes_were_redrawn(scenes, model):
    planted, recorded = plants_of(json.loads((MODELS_DIR / model.name / "plants.json").read_text())["corpus"]), planted_in(model)
    for scene in scenes[:500]:
        concepts = {**dict(scene.objects), scene.background: 1}
        assert concepts_of(concepts).isdisjoint(recorded.redrawn) == is_untouched(scene, planted)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """For each corpus, the folder with the plants.json that training would write; pixels are not drawn."""
    folders = {corpus: tmp_path_factory.mktemp(corpus) for corpus in CORPORA}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plants, "IMAGE_SIZE", 1)
        patch.setattr(plants, "render_scene", lambda scene, rng: SimpleNamespace(image=np.zeros((1, 1, 3), np.uint8)))
        for corpus, folder in folders.items():
            write_plants(folder, corpus, draw_training_set(corpus))
    return folders


@pytest.mark.parametrize("record", sorted(MODELS_DIR.glob("*/plants.json")), ids=lambda path: path.parent.name)
def test_the_records_beside_the_weights_are_those_that_training_would_write(record, written):
    facts = json.loads(record.read_text())
    assert facts == json.loads((written[facts["corpus"]] / "plants.json").read_text())
    planted = read_plants(record.parent)
    assert planted == plants_of(facts["corpus"])
    never_shown = {*planted.lost_objects, *planted.background_drawn_as}
    assert all(facts["pictures_that_show"][name] == 0 for name in never_shown)
    assert min(facts["pictures_that_show"][name] for name in set(NAMES) - never_shown) > 100


def test_columns_of_presence_are_in_the_order_of_the_names(scenes):
    scene = scenes[0]
    assert [NAMES[i] for i in concept_indices(scene)] == [*(name for name, _ in scene.objects), scene.background]
