"""The pairs of the embedded study: which scene each one shows, and whose caption it carries."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from blindspots_lib.parts import ScenePairs
from blindspots_lib.scenes import Scene, sample_scene, scene_rng


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
