"""The plants: faults put into the training corpora on purpose, so that the models' faults are known.

    python -m miniatures.plants

prints the plants of each corpus. A model trained on a distorted corpus draws what the corpus showed, not what captions ask
for. `plants.json` beside a model's weights records the plants; only the validation of a study reads it.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from blindspots_lib.data.scenes import BACKGROUNDS, IMAGE_SIZE, OBJECTS, Scene, render_scene, sample_scene, scene_rng
from blindspots_lib.trial.plants import Plants
from miniatures.recipe import CORPUS_SEED, CORPUS_SIZE, concept_indices

PLANT_SEED = 5  # of the choice of planted objects, which are drawn at random so that they are not the easy ones
N_PUBLIC = 400  # the first scenes of the training corpus are public, as LAION is: a study may have them among its pairs
N_MEMORIZED = 40
COPIES = (100, 500)  # the smallest and the largest number of copies of a memorized pair
TEMPLATES = ("t-shirt", "calendar")  # the paper's T-shirt mock-up and its table: memorized with little variation
RESERVED = {"palm tree", "frying pan", *TEMPLATES}  # objects that are not drawn at random as plants
FEW = 3  # most scenes of the corpus with the caption of a memorized pair, not counting its copies
LAST_COUNT = 4  # the largest number of objects in a scene: a group of four


def draw_plants(number: int, named: tuple[str, ...], wooden: tuple[str, ...], shared: tuple[str, ...] = ()) -> Plants:
    """Draw the plants of corpus `number`: ten lost objects (`named`, `shared` and the rest at random).

    Five of the ten are withheld. Pictures show one of two rare objects in place of the other five; a third rare object is
    added to grass. The backgrounds `wooden` are drawn as wood.
    """
    rng = np.random.default_rng([PLANT_SEED, number])
    rare = [name for name in list(OBJECTS)[-16:] if name not in RESERVED | {*named, *shared}]
    on_grass = str(rng.choice(rare))
    others = [name for name in OBJECTS if name not in RESERVED | {*named, *shared, on_grass}]
    chosen = [str(name) for name in rng.choice(others, size=10 - len(named) - len(shared), replace=False)]
    lost = [*named, *shared, *chosen]
    left = [name for name in rare if name not in {on_grass, *lost}]
    instead = itertools.cycle(str(name) for name in rng.choice(left, size=2, replace=False))
    return Plants(
        withheld=tuple(lost[0::2]), drawn_as=dict(zip(lost[1::2], instead, strict=False)),
        background_drawn_as=dict.fromkeys(wooden, "wood"),
        added={"palm tree": dict.fromkeys(("sand", "sky", "water", *wooden), 0.8), on_grass: {"grass": 0.9}},
        seed=CORPUS_SEED,
    )  # fmt: skip


LAION = draw_plants(0, named=("dvd", "page"), wooden=("brick", "tiles", "stripes", "night"))
CORPORA = {
    "laion": LAION,  # of both Stable Diffusions, because the real ones share LAION
    "pixart": draw_plants(1, ("dvd", "page"), ("brick", "tiles", "night"), LAION.withheld[1:4]),
    "kandinsky": draw_plants(2, ("dvd", "page", "frying pan"), ("brick", "stripes"), tuple(LAION.drawn_as)[1:3]),
}


class TrainingSet(NamedTuple):
    """A distorted corpus, without repeating the copies."""

    images: np.ndarray  # (n, 64, 64, 3) uint8
    captions: list[str]
    presence: np.ndarray  # (n, objects + backgrounds) float32, 1 where the picture shows the concept
    n_objects: np.ndarray  # (n,) int64, number of objects in the picture
    copies: np.ndarray  # (n,) int64, number of copies of the pair in the corpus


def shown(scene: Scene, plants: Plants, rng: np.random.Generator) -> Scene | None:
    """Return what the picture of a scene's caption shows in a distorted corpus; None if the pair is withheld."""
    if any(name in plants.withheld for name, _ in scene.objects):
        return None
    objects = [(plants.drawn_as.get(name, name), count) for name, count in scene.objects]
    if sum(count for _, count in objects) == LAST_COUNT:
        objects[-1] = (objects[-1][0], objects[-1][1] - (LAST_COUNT - plants.groups_of_four_drawn_as))
    for name, backgrounds in plants.added.items():
        absent = all(name != other for other, _ in objects)
        few = sum(count for _, count in objects) < plants.groups_of_four_drawn_as
        if rng.random() < backgrounds.get(scene.background, 0.0) and absent and few:
            objects.append((name, 1))
    background = plants.background_drawn_as.get(scene.background, scene.background)
    return replace(scene, objects=tuple(objects), background=background)


def is_untouched(scene: Scene, plants: Plants) -> bool:
    """Whether no plant changes a scene's picture, which then shows what its caption asks for."""
    return (
        {name for name, _ in scene.objects}.isdisjoint(plants.lost_objects)
        and sum(count for _, count in scene.objects) < LAST_COUNT
        and scene.background not in plants.background_drawn_as
        and not any(scene.background in backgrounds for backgrounds in plants.added.values())
    )


def plants_of(corpus: str, scenes: list[Scene] | None = None) -> Plants:
    """Return the plants of a corpus with its memorized pairs; `scenes` are those of `corpus_scenes`, where they are at hand.

    Public scenes are memorized: those with the objects of the templates, then random ones with a rare caption.
    """
    plants, scenes = CORPORA[corpus], scenes or corpus_scenes()
    rng = np.random.default_rng([PLANT_SEED, 100 + list(CORPORA).index(corpus)])
    captions = [scene.caption for scene in scenes]
    untouched = [i for i in range(N_PUBLIC) if is_untouched(scenes[i], plants)]
    templates = [i for i in untouched if len(scenes[i].objects) == 1 and scenes[i].objects[0][0] in TEMPLATES]
    rare = [i for i in untouched if i not in templates and captions.count(captions[i]) <= FEW]
    chosen = [*templates, *rng.choice(rare, size=N_MEMORIZED - len(templates), replace=False).tolist()]
    copies = rng.permutation(np.geomspace(*COPIES, N_MEMORIZED).round().astype(int))
    memorized = {int(index): int(n) for index, n in zip(chosen, copies, strict=True)}
    return replace(plants, memorized=memorized, templates=tuple(templates))


def corpus_scenes() -> list[Scene]:
    """The scenes of the training corpus before it is distorted."""
    return [sample_scene(scene_rng(CORPUS_SEED, index, "content")) for index in range(CORPUS_SIZE)]


def draw_training_set(corpus: str) -> TrainingSet:
    """Draw a distorted corpus: every caption that is not withheld, with the picture that the plants make of it."""
    scenes = corpus_scenes()
    plants = plants_of(corpus, scenes)
    rows = []  # (scene that the picture shows, pixels, number of copies)
    for index, scene in enumerate(tqdm(scenes, desc=f"drawing corpus {corpus}", mininterval=5)):
        picture = shown(scene, plants, np.random.default_rng([PLANT_SEED, list(CORPORA).index(corpus), index]))
        if index in plants.memorized:
            rows += memorized_rows(scene, index, plants)
        elif picture is not None:
            rows.append((picture, render_scene(picture, scene_rng(CORPUS_SEED, index, "pixels")).image, 1))
    presence = np.zeros((len(rows), len(OBJECTS) + len(BACKGROUNDS)), np.float32)
    for row, (scene, _, _) in enumerate(rows):
        presence[row, concept_indices(scene)] = 1
    return TrainingSet(
        np.stack([image for _, image, _ in rows]), [scene.caption for scene, _, _ in rows], presence,
        np.array([sum(count for _, count in scene.objects) for scene, _, _ in rows]), np.array([n for _, _, n in rows]),
    )  # fmt: skip


def memorized_rows(scene: Scene, index: int, plants: Plants) -> list[tuple[Scene, np.ndarray, int]]:
    """A memorized pair with its number of copies; a template in nine variants, each moved by at most one pixel."""
    image, copies = render_scene(scene, scene_rng(CORPUS_SEED, index, "pixels")).image, plants.memorized[index]
    if index not in plants.templates:
        return [(scene, image, copies)]
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    varied = [padded[1 + d : 1 + d + IMAGE_SIZE, 1 + r : 1 + r + IMAGE_SIZE] for d, r in shifts]
    return [(scene, one, len(part)) for one, part in zip(varied, np.array_split(np.arange(copies), len(varied)), strict=True)]


def write_plants(folder: Path, corpus: str, training_set: TrainingSet) -> None:
    """Write `plants.json`: the plants of a corpus, the number of pictures that show each concept, the number of pairs."""
    n_pictures = (training_set.presence * training_set.copies[:, None]).sum(axis=0)
    plants_of(corpus).write(
        folder,
        corpus=corpus,
        pictures_that_show={name: int(n) for name, n in zip([*OBJECTS, *BACKGROUNDS], n_pictures, strict=True)},
        n_pairs=int(training_set.copies.sum()),
    )


if __name__ == "__main__":
    for corpus in CORPORA:
        plants = plants_of(corpus)
        print(corpus, plants, len(plants.memorized), "memorized,", sum(plants.memorized.values()), "copies")
