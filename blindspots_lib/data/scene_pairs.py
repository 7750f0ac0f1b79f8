"""The pairs of the embedded study: which scene each one shows, and whose caption it carries."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scenes import Scene, patch_owners, sample_scene, scene_rng


class Place(NamedTuple):
    """Where a scene stands: a corpus and a place in it."""

    seed: int
    index: int

    @property
    def pair_id(self) -> str:
        return f"scene-{self.seed}-{self.index:06d}"


def place_of(config: ScenePairs, position: int) -> Place:
    """The scene of a pair by its position: first the public ones, then those of the study's own corpus."""
    n_public = config.public.n if config.public else 0
    if position < n_public:
        return Place(config.public.seed, position)
    return Place(config.seed, position - n_public)


def caption_owners(config: ScenePairs) -> Int[np.ndarray, "n"]:
    """For each pair, the position of the pair whose scene its caption describes: its own, but where captions are noise.

    Noise goes round among pairs that were drawn at random, so that each of them carries the caption of another. Public
    pairs keep theirs: models were trained on them as they are.
    """
    owners = np.arange(config.n)
    n_public = config.public.n if config.public else 0
    rng = np.random.default_rng([config.seed, 5])
    noisy = rng.choice(np.arange(n_public, config.n), size=round(config.caption_noise * config.n), replace=False)
    owners[noisy] = np.roll(noisy, 1)
    return owners


def described_scene(config: ScenePairs, owner: int) -> Scene:
    """The scene that the caption of the pair at `owner` describes."""
    place = place_of(config, owner)
    return sample_scene(scene_rng(place.seed, place.index, "content"))


def are_public(config: ScenePairs, positions: Int[np.ndarray, "pairs"]) -> Bool[np.ndarray, "pairs"]:
    """Which of the pairs at these positions models may have been trained on."""
    return positions < (config.public.n if config.public else 0)


def shown_concepts(config: ScenePairs, position: int) -> dict[str, int]:
    """What the real image of a pair shows: objects with their counts, and the background."""
    scene = described_scene(config, position)
    return {**dict(scene.objects), scene.background: 1}


def owners_of_patches(config: ScenePairs, positions: Iterable[int], patches_per_side: int) -> Int[np.ndarray, "pairs patches"]:
    """For each patch of the real images of these pairs the object that covers it (index into OBJECTS), or -1."""
    return np.stack([patch_owners(*place_of(config, int(position)), patches_per_side) for position in positions])
