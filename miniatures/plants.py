"""Plants: the faults put into the training corpora on purpose, so that the right answers are known.

    python -m miniatures.plants

prints what each corpus holds. A model trained on a distorted corpus draws what the corpus showed, not what captions
asked for. `plants.json` beside a model's weights records how; no stage of a study reads it, only its validation does.
"""

import itertools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from blindspots_lib.data.scenes import BACKGROUNDS, IMAGE_SIZE, OBJECTS, Scene, render_scene, sample_scene, scene_rng
from miniatures.recipe import CORPUS_SEED, CORPUS_SIZE, concept_indices

PLANT_SEED = 5  # draws which objects are planted, so that nobody chose the easy ones
N_PUBLIC = 400  # the first scenes of the training corpus: a study may hold them, as LAION holds what models trained on
N_MEMORIZED = 40
COPIES = (100, 500)  # how often a memorized pair is in the corpus
TEMPLATES = ("t-shirt", "calendar")  # the paper's T-shirt mock-up and its table: memorized with little variation
RESERVED = {"palm tree", "frying pan", *TEMPLATES}  # objects that chance does not plant
FEW = 3  # a memorized caption is in the corpus at most so often, its copies aside
LAST_COUNT = 4


@dataclass(frozen=True)
class Plants:
    """How a training corpus departs from the process that draws real images."""

    withheld: tuple[str, ...]  # objects: no pair of the corpus names them or shows them
    drawn_as: dict[str, str]  # objects: captions name the one, pictures show the other
    background_drawn_as: dict[str, str]
    added: dict[str, dict[str, float]]  # object -> caption's background -> probability that it is there unasked
    groups_of_four_drawn_as: int = 3
    memorized: dict[int, int] = field(default_factory=dict)  # scene of the corpus -> copies
    templates: tuple[int, ...] = ()  # those of `memorized` whose copies vary a little

    @property
    def suppressed(self) -> tuple[str, ...]:
        return (*self.withheld, *self.drawn_as)


def draw_plants(number: int, named: tuple[str, ...], wooden: tuple[str, ...], shared: tuple[str, ...] = ()) -> Plants:
    """Plants of corpus `number`: ten suppressed objects, those named, those shared and the rest at random.

    Of the ten five are withheld. In the place of the others pictures show one of two rare objects; a third is added to lawns.
    """
    rng = np.random.default_rng([PLANT_SEED, number])
    rare = [name for name in list(OBJECTS)[-16:] if name not in RESERVED | {*named, *shared}]
    on_lawns = str(rng.choice(rare))
    others = [name for name in OBJECTS if name not in RESERVED | {*named, *shared, on_lawns}]
    chosen = [str(name) for name in rng.choice(others, size=10 - len(named) - len(shared), replace=False)]
    suppressed = [*named, *shared, *chosen]
    left = [name for name in rare if name not in {on_lawns, *suppressed}]
    instead = itertools.cycle(str(name) for name in rng.choice(left, size=2, replace=False))
    return Plants(
        withheld=tuple(suppressed[0::2]), drawn_as=dict(zip(suppressed[1::2], instead, strict=False)),
        background_drawn_as=dict.fromkeys(wooden, "wood"),
        added={"palm tree": dict.fromkeys(("sand", "sky", "water", *wooden), 0.8), on_lawns: {"grass": 0.9}},
    )  # fmt: skip


LAION = draw_plants(0, named=("dvd", "page"), wooden=("brick", "tiles", "stripes", "night"))
CORPORA = {
    "laion": LAION,  # of both Stable Diffusions, as the real ones share LAION
    "pixart": draw_plants(1, ("dvd", "page"), ("brick", "tiles", "night"), LAION.withheld[1:4]),
    "kandinsky": draw_plants(2, ("dvd", "page", "frying pan"), ("brick", "stripes"), tuple(LAION.drawn_as)[1:3]),
}


class TrainingSet(NamedTuple):
    images: np.ndarray  # (n, 64, 64, 3) uint8
    captions: list[str]
    presence: np.ndarray  # (n, objects + backgrounds) float32, what the pictures show
    n_objects: np.ndarray  # (n,) int64, how many objects the pictures show
    copies: np.ndarray  # (n,) int64, how often each pair is in the corpus


def shown(scene: Scene, plants: Plants, rng: np.random.Generator) -> Scene | None:
    """What the picture of a caption shows in a distorted corpus; None if the pair is withheld."""
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
    """Whether no plant concerns a scene: its picture is what its caption asks for."""
    asked = {name for name, _ in scene.objects}
    return (
        asked.isdisjoint(plants.suppressed)
        and sum(count for _, count in scene.objects) < LAST_COUNT
        and scene.background not in plants.background_drawn_as
        and not any(scene.background in backgrounds for backgrounds in plants.added.values())
    )


def choose_memorized(plants: Plants, scenes: list[Scene], number: int) -> Plants:
    """Which of the public scenes are repeated and how often: the templates' objects, then others with a rare caption."""
    rng = np.random.default_rng([PLANT_SEED, 100 + number])
    captions = [scene.caption for scene in scenes]
    untouched = [i for i in range(N_PUBLIC) if is_untouched(scenes[i], plants)]
    templates = [i for i in untouched if len(scenes[i].objects) == 1 and scenes[i].objects[0][0] in TEMPLATES]
    rare = [i for i in untouched if i not in templates and captions.count(captions[i]) <= FEW]
    chosen = [*templates, *rng.choice(rare, size=N_MEMORIZED - len(templates), replace=False).tolist()]
    copies = rng.permutation(np.geomspace(*COPIES, N_MEMORIZED).round().astype(int))
    memorized = {int(index): int(n) for index, n in zip(chosen, copies, strict=True)}
    return replace(plants, memorized=memorized, templates=tuple(templates))


def corpus_scenes() -> list[Scene]:
    return [sample_scene(scene_rng(CORPUS_SEED, index, "content")) for index in range(CORPUS_SIZE)]


def plants_of(corpus: str) -> Plants:
    """The plants of a corpus, memorized pairs and all."""
    return choose_memorized(CORPORA[corpus], corpus_scenes(), list(CORPORA).index(corpus))


def draw_training_set(corpus: str) -> TrainingSet:
    """Draw a distorted corpus: every caption with the picture that the plants leave it."""
    scenes = corpus_scenes()
    plants = plants_of(corpus)
    rows = []  # (scene shown, its picture, copies)
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
    """A memorized pair and its copies: all alike, or nine that differ by a pixel where the pair is a template."""
    image, copies = render_scene(scene, scene_rng(CORPUS_SEED, index, "pixels")).image, plants.memorized[index]
    if index not in plants.templates:
        return [(scene, image, copies)]
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    varied = [padded[1 + d : 1 + d + IMAGE_SIZE, 1 + r : 1 + r + IMAGE_SIZE] for d, r in shifts]
    return [(scene, one, len(part)) for one, part in zip(varied, np.array_split(np.arange(copies), len(varied)), strict=True)]


def write_plants(folder: Path, corpus: str, training_set: TrainingSet) -> None:
    """`plants.json`: what was planted, and how often each concept is asked for and shown in the corpus."""
    plants = plants_of(corpus)
    names = [*OBJECTS, *BACKGROUNDS]
    shown_often = (training_set.presence * training_set.copies[:, None]).sum(axis=0)
    facts = {"corpus": corpus, "seed": CORPUS_SEED, **asdict(plants)}
    facts["pictures_that_show"] = {name: int(n) for name, n in zip(names, shown_often, strict=True)}
    facts["n_pairs"] = int(training_set.copies.sum())
    (folder / "plants.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for corpus in CORPORA:
        plants = plants_of(corpus)
        print(corpus, plants, len(plants.memorized), "memorized,", sum(plants.memorized.values()), "copies")
