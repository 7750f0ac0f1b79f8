"""A small world of its own artwork, and two models of it: one with five planted faults, one without any.

    python tests/other_world.py FOLDER [--seed 1]

FOLDER then holds what a user would bring: real/ (images and metadata.csv), generated/faulty, generated/faultless and the
study file world.yaml; and truth.json, which says what was drawn and which faults were planted. No analysis reads that one.
"""

import argparse
import csv
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageDraw

FINE = 4  # pixels drawn per pixel kept and side
MODELS = ("faulty", "faultless")

# Each object: its colours, and strokes (form, colour, coordinates in a unit square, width of lines), later ones on top.
P, E, L = "polygon", "ellipse", "line"
OBJECTS = {
    "house": (["#d9a066", "#a03030", "#604020"], [
        (P, 0, (.15, .45, .85, .45, .85, .95, .15, .95)), (P, 1, (.05, .48, .5, .05, .95, .48)),
        (P, 2, (.42, .65, .6, .65, .6, .95, .42, .95))]),
    "car": (["#2060d0", "#c0e8ff", "#202020"], [
        (P, 0, (.02, .5, .25, .45, .38, .25, .7, .25, .82, .48, .98, .55, .98, .75, .02, .75)),
        (P, 1, (.4, .3, .68, .3, .75, .46, .34, .46)),
        (E, 2, (.14, .63, .36, .87)), (E, 2, (.64, .63, .86, .87))]),
    "fish": (["#ff8c1a", "#ffffff", "#101010"], [
        (E, 0, (.05, .25, .75, .75)), (P, 0, (.65, .5, .98, .2, .98, .8)), (L, 1, (.4, .28, .4, .72), .07),
        (E, 2, (.16, .4, .25, .49))]),
    "tree": (["#7a4a20", "#1f8a3c"], [(P, 0, (.43, .6, .57, .6, .6, .98, .4, .98)), (E, 1, (.15, .02, .85, .68))]),
    "umbrella": (["#8a2be2", "#303030", "#e0c0ff"], [
        (L, 1, (.5, .1, .5, .88), .05), (L, 1, (.5, .88, .66, .92, .7, .8), .05),
        (P, 0, (.04, .55, .1, .32, .3, .13, .5, .08, .7, .13, .9, .32, .96, .55)),
        (P, 2, (.36, .55, .42, .28, .5, .09, .58, .28, .64, .55))]),
    "key": (["#e8c020", "#806000"], [
        (E, 0, (.02, .3, .42, .7)), (E, 1, (.12, .4, .32, .6)), (L, 0, (.4, .5, .98, .5), .11),
        (L, 0, (.78, .5, .78, .72), .09), (L, 0, (.93, .5, .93, .72), .09)]),
    "cup": (["#f4f4f4", "#c03060", "#5a3010"], [
        (E, 1, (.6, .35, .96, .72)), (E, 2, (.68, .43, .86, .64)), (P, 0, (.12, .2, .74, .2, .66, .9, .2, .9)),
        (P, 1, (.15, .42, .71, .42, .69, .56, .17, .56)), (E, 2, (.12, .12, .74, .28))]),
    "star": (["#ffe03a"], [(P, 0, tuple(v for i in range(10) for v in (
        .5 + (.5, .2)[i % 2] * math.sin(math.pi * i / 5), .52 - (.5, .2)[i % 2] * math.cos(math.pi * i / 5))))]),
    "boat": (["#8b3a1a", "#fafafa", "#e04040"], [
        (P, 0, (.03, .68, .97, .68, .8, .93, .2, .93)), (L, 0, (.48, .05, .48, .7), .05),
        (P, 1, (.53, .08, .9, .6, .53, .6)), (P, 2, (.43, .2, .43, .6, .14, .6))]),
    "ladder": (["#b5651d", "#e6a860"], [
        *[(L, 1, (.3, y, .7, y), .06) for y in (.15, .32, .49, .66, .83)], (L, 0, (.3, .02, .3, .98), .08),
        (L, 0, (.7, .02, .7, .98), .08)]),
    "kite": (["#e03090", "#30c0c0", "#404040"], [
        (L, 2, (.5, .68, .42, .8, .54, .88, .46, .99), .035), (P, 0, (.5, .02, .82, .3, .5, .72)),
        (P, 1, (.5, .02, .18, .3, .5, .72))]),
    "mushroom": (["#f5e6c8", "#d02020", "#ffffff"], [
        (P, 0, (.38, .45, .62, .45, .68, .95, .32, .95)),
        (P, 1, (.03, .52, .1, .28, .3, .1, .5, .05, .7, .1, .9, .28, .97, .52)),
        (E, 2, (.2, .26, .36, .42)), (E, 2, (.45, .14, .59, .28)), (E, 2, (.66, .28, .82, .44))]),
    "clock": (["#204080", "#fffbe6", "#101010"], [
        (E, 0, (.04, .04, .96, .96)), (E, 1, (.14, .14, .86, .86)), (L, 2, (.5, .5, .5, .2), .06),
        (L, 2, (.5, .5, .72, .6), .06)]),
    "guitar": (["#c8761e", "#40200a", "#181818"], [
        (L, 1, (.5, .08, .5, .6), .1), (P, 2, (.42, .0, .58, .0, .6, .14, .4, .14)), (E, 0, (.3, .42, .7, .7)),
        (E, 0, (.22, .58, .78, .99)), (E, 2, (.41, .6, .59, .78))]),
    "hammer": (["#909aa8", "#9c5c28"], [(L, 1, (.5, .25, .5, .98), .11),
    (P, 0, (.16, .1, .76, .1, .92, .3, .76, .34, .16, .34))]),
    "flower": (["#ff70b0", "#ffd020", "#209020"], [
        (L, 2, (.5, .45, .5, .99), .06), (E, 2, (.5, .68, .8, .84)),
        *[(E, 0, (.5 + .2 * math.cos(a) - .14, .32 + .2 * math.sin(a) - .14, .5 + .2 * math.cos(a) + .14,
        .32 + .2 * math.sin(a) + .14))
          for a in np.arange(5) * 1.257], (E, 1, (.39, .21, .61, .43))]),
    "book": (["#106050", "#fdf8e8", "#808080"], [
        (P, 0, (.03, .2, .97, .2, .97, .85, .03, .85)), (P, 1, (.08, .16, .48, .22, .48, .78, .08, .74)),
        (P, 1, (.52, .22, .92, .16, .92, .74, .52, .78)),
        *[(L, 2, (x, y, x + .26, y), .03) for x in (.15, .6) for y in (.34, .46, .58)]]),
    "lamp": (["#ffd890", "#505050"], [
        (L, 1, (.5, .4, .5, .9), .06), (P, 0, (.32, .05, .68, .05, .88, .48, .12, .48)),
        (E, 1, (.26, .84, .74, .98))]),
    "rocket": (["#e8e8f0", "#e02828", "#30a0e0", "#ffa010"], [
        (P, 3, (.38, .78, .62, .78, .5, .99)), (P, 1, (.36, .5, .14, .82, .36, .78)),
        (P, 1, (.64, .5, .86, .82, .64, .78)),
        (P, 0, (.5, .02, .64, .25, .66, .8, .34, .8, .36, .25)), (P, 1, (.5, .02, .61, .22, .39, .22)),
        (E, 2, (.41, .34, .59, .52))]),
    "anchor": (["#183048"], [
        (L, 0, (.5, .2, .5, .92), .1), (L, 0, (.28, .34, .72, .34), .09),
        (L, 0, (.08, .6, .2, .84, .5, .93, .8, .84, .92, .6), .1),
        (E, 0, (.38, .02, .62, .26)), (P, 0, (.0, .68, .06, .5, .22, .64)), (P, 0, (1., .68, .94, .5, .78, .64))]),
}  # fmt: skip

BACKGROUNDS = {  # and how captions put objects before them
    "checkered": ("on a checkered background", "checkered", "in front of a checkered wall"),
    "stripes": ("on a striped background", "stripes", "in front of stripes"),
    "dots": ("on a dotted background", "dots", "in front of dots"),
    "sky": ("in the sky", "sky", "in front of a clear sky"),
    "bricks": ("on a brick wall", "bricks", "in front of bricks"),
    "noise": ("on a noisy background", "noise", "in front of noise"),
}
GENERIC = {"on", "in", "a", "the", "front", "of", "clear", "background", "wall"}  # words of several backgrounds
NUMBERS = {1: "a", 2: "two", 3: "three"}
SILENT = 0.1  # fraction of captions that leave the background out
RARELY, ADDED, N_COPIES = 1 / 3, 0.2, 20


class Scene(NamedTuple):
    objects: dict[str, int]  # how many of each
    background: str


class Faults(NamedTuple):
    """What is planted in the faulty model."""

    never: str  # an object that it never draws
    rarely: str  # one that it draws in a third of the pictures that ask for it
    added: str  # one that it adds to a fifth of the pictures that do not
    background: str  # never drawn either: it draws `instead`
    instead: str
    copies: tuple[str, ...]  # pairs whose generated image is the real one, saved again


def make_world(folder: Path, seed: int, n_pairs: int = 600, size: int = 64) -> Path:
    """Write the world and its study; return the study file. Images are size x size; the faults depend on the seed."""
    rng = np.random.default_rng([seed, 0])
    scenes = {f"pair-{i:04d}": sample_scene(rng) for i in range(n_pairs)}
    faults = sample_faults(rng, list(scenes))
    captions = {pair_id: write_caption(scene, rng) for pair_id, scene in scenes.items()}
    real = {pair_id: draw(scene, size, np.random.default_rng([seed, 1, i])) for i, (pair_id, scene) in enumerate(scenes.items())}
    save_images(folder / "real", real)
    with (folder / "real" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *((f"{key}.png", text) for key, (text, _) in captions.items())])
    truth = {"seed": seed, "faults": faults._asdict(), "real": {key: scene._asdict() for key, scene in scenes.items()}}
    for number, model in enumerate(MODELS, start=2):
        images, truth[model] = {}, {}
        for i, (pair_id, scene) in enumerate(scenes.items()):
            rng = np.random.default_rng([seed, number, i])
            if not captions[pair_id][1]:
                scene = scene._replace(background=str(rng.choice(list(BACKGROUNDS))))
            if model == "faulty":
                scene = misunderstood(scene, faults, rng)
            images[pair_id], truth[model][pair_id] = draw(scene, size, rng), scene._asdict()
            if model == "faulty" and pair_id in faults.copies:
                images[pair_id], truth[model][pair_id] = saved_again(real[pair_id], rng), truth["real"][pair_id]
        save_images(folder / "generated" / model, images)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return write_study(folder, size)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw one to three objects of one to three kinds, all kinds and backgrounds equally often."""
    total = int(rng.integers(1, 4))
    kinds = rng.choice(list(OBJECTS), size=int(rng.integers(1, total + 1)), replace=False).tolist()
    counts = dict.fromkeys(kinds, 1)
    counts[kinds[0]] += total - len(kinds)
    return Scene(counts, str(rng.choice(list(BACKGROUNDS))))


def sample_faults(rng: np.random.Generator, pair_ids: list[str]) -> Faults:
    never, rarely, added = rng.choice(list(OBJECTS), size=3, replace=False).tolist()
    background, instead = rng.choice(list(BACKGROUNDS), size=2, replace=False).tolist()
    return Faults(
        never, rarely, added, background, instead, tuple(sorted(rng.choice(pair_ids, N_COPIES, replace=False).tolist()))
    )


def misunderstood(scene: Scene, faults: Faults, rng: np.random.Generator) -> Scene:
    """Return the scene that the faulty model draws when this one is asked for."""
    keep, add = rng.random() < RARELY, rng.random() < ADDED
    left_out = {faults.never} if keep else {faults.never, faults.rarely}
    objects = {name: count for name, count in scene.objects.items() if name not in left_out}
    if add and faults.added not in scene.objects:
        objects[faults.added] = 1
    return Scene(objects, faults.instead if scene.background == faults.background else scene.background)


def write_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    """Return a caption in one of several styles, and whether it says what the background is."""
    things = [
        f"{NUMBERS[count]} {name}" if count == 1 else f"{NUMBERS[count]} {plural(name)}" for name, count in scene.objects.items()
    ]
    things = [f"an{thing[1:]}" if thing[:3] in ("a a", "a u") else thing for thing in things]
    listed = " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))
    longer, short, behind = BACKGROUNDS[scene.background]
    if rng.random() < SILENT:
        return f"a drawing of {listed}", False
    styles = (
        f"{listed} {longer}",
        f"photo of {listed}, {short}",
        f"{listed} {behind}",
        f"{listed.capitalize()}. Background: {short}.",
    )
    return str(rng.choice(styles)), True


def plural(name: str) -> str:
    return name if name == "fish" else f"{name}s"


def is_about(name: str, thing: str) -> bool:
    """Say whether a word or phrase of the captions means an object or a background."""
    own = {thing, plural(thing)} if thing in OBJECTS else {word for phrase in BACKGROUNDS[thing] for word in phrase.split()}
    return not ((own | {thing, thing.removesuffix("s")}) - GENERIC).isdisjoint(name.split())


def draw(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a scene: each object at a place, scale, rotation and in colours of its own, little overlapped."""
    side = size * FINE
    picture = BACKDROPS[scene.background](side, rng)
    centres: list[np.ndarray] = []
    for name, count in scene.objects.items():
        for _ in range(count):
            tries = rng.uniform(0.24, 0.76, size=(30, 2))
            distances = [min((float(np.hypot(*(place - centre))) for centre in centres), default=1.0) for place in tries]
            centres.append(tries[int(np.argmax(np.minimum(distances, 0.45)))])
            tile = drawn_object(name, round(side * rng.uniform(0.36, 0.48)), rng)
            corner = centres[-1] * side - np.array(tile.size) / 2
            picture.paste(tile, tuple(int(v) for v in corner), tile)
    return picture.resize((size, size), Image.Resampling.BOX)


def drawn_object(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    colours, strokes = OBJECTS[name]
    colours = [jittered(colour, rng) for colour in colours]
    tile = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(tile)
    for form, colour, coordinates, *width in strokes:
        points = [side * v for v in coordinates]
        match form:
            case "polygon":
                pen.polygon(points, fill=colours[colour])
            case "ellipse":
                pen.ellipse(points, fill=colours[colour])
            case "line":
                pen.line(points, fill=colours[colour], width=max(1, round(side * width[0])), joint="curve")
    return tile.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)


def jittered(colour: str, rng: np.random.Generator, by: int = 22) -> tuple[int, int, int]:
    values = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return tuple(int(np.clip(value + rng.integers(-by, by + 1), 0, 255)) for value in values)


def tiled(side: int, rng: np.random.Generator, colours: tuple[str, str], second) -> Image.Image:
    """A backdrop of two colours; `second(x, y)` says where the second is, in units of a cell, the origin at random."""
    first, other = (np.array(jittered(colour, rng)) for colour in colours)
    cell = side * rng.uniform(0.1, 0.14)
    y, x = (np.mgrid[:side, :side].astype(float) + rng.uniform(0, side, size=(2, 1, 1))) / cell
    return Image.fromarray(np.where(second(x, y)[..., None], other, first).astype(np.uint8))


def is_stripe(x, y):
    return (x + y) % 2 < 1


def is_dot(x, y):
    return (x % 1.6 - 0.8) ** 2 + (y % 1.6 - 0.8) ** 2 < 0.2


def is_check(x, y):
    return (x.astype(int) + y.astype(int)) % 2 == 0


def is_mortar(x, y):
    return (y % 1 < 0.16) | ((x + (y.astype(int) % 2)) % 2 < 0.16)


def sky(side: int, rng: np.random.Generator) -> Image.Image:
    top, bottom = (np.array(jittered(colour, rng)) for colour in ("#3878d8", "#d0e8ff"))
    rows = np.linspace(0, 1, side)[:, None, None]
    return Image.fromarray(np.broadcast_to(top + rows * (bottom - top), (side, side, 3)).astype(np.uint8))


def noise(side: int, rng: np.random.Generator) -> Image.Image:
    grains = rng.integers(90, 180, size=(side // FINE // 2, side // FINE // 2, 1)) + rng.integers(-12, 13)
    return Image.fromarray(np.repeat(grains, 3, axis=2).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)


BACKDROPS = {
    "checkered": lambda side, rng: tiled(side, rng, ("#f0f0f0", "#383838"), is_check),
    "stripes": lambda side, rng: tiled(side, rng, ("#f8e8a0", "#60a8a0"), is_stripe),
    "dots": lambda side, rng: tiled(side, rng, ("#fff4f8", "#d05080"), is_dot),
    "sky": sky,
    "bricks": lambda side, rng: tiled(side, rng, ("#a84830", "#d8c8b8"), is_mortar),
    "noise": noise,
}


def saved_again(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a copy of a picture: slight noise, then JPEG."""
    pixels = np.asarray(picture) + rng.normal(0, 3, size=(*picture.size[::-1], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return Image.open(buffer).convert("RGB")


def save_images(folder: Path, images: dict[str, Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.png")


def write_study(folder: Path, size: int) -> Path:
    """Write the study file, as a user would from studies/template.yaml, with the embedded backbone."""
    folder = folder.resolve()
    study = {
        "name": "world", "title": "My drawings against two models", "replica": False, "seed": 0,
        "pairs": {"source": "folder", "path": str(folder / "real")},
        "models": [{"name": name, "label": name.capitalize(), "images": str(folder / "generated" / name)} for name in MODELS],
        "backbone": {"path": "miniatures/weights/dinov2", "resize": size, "crop": size},
        "sae": {"n_concepts": 512, "top_k": 5, "n_candidates": 512, "n_steps": 500, "batch_size": 1024, "learning_rate": 1e-3},
        "analysis": {"tokens": "patches"},
    }  # fmt: skip
    (folder / "world.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder / "world.yaml"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(make_world(options.folder, options.seed))
