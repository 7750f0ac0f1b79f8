"""Pairs of the embedded study: the scene that each pair shows, and the pair whose caption it has."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from blindspots_lib.core.config import ScenePairs
from blindspots_lib.data.scenes import Scene, sample_scene, scene_rng


class Place(NamedTuple):
    """A scene's corpus, identified by its seed, and its index there."""

    seed: int
    index: int

    @property
    def pair_id(self) -> str:
        return f"scene-{self.seed}-{self.index:06d}"


def place_of(config: ScenePairs, position: int) -> Place:
    """Return the scene of the pair at a position: first the public pairs, then those of the study's own corpus."""
    n_public = count_public(config)
    return Place(config.public.seed, position) if position < n_public else Place(config.seed, position - n_public)


def count_public(config: ScenePairs) -> int:
    return config.public.n if config.public else 0


def caption_owners(config: ScenePairs) -> Int[np.ndarray, "n"]:
    """Return, for each pair, the position of the pair whose scene its caption describes: its own, except for noisy captions.

    Pairs drawn at random pass their captions on in a circle. Public pairs keep theirs, since models were trained on them.
    """
    owners, rng = np.arange(config.n), np.random.default_rng([config.seed, 5])
    private = np.arange(count_public(config), config.n)
    noisy = rng.choice(private, size=round(config.caption_noise * config.n), replace=False)
    owners[noisy] = np.roll(noisy, 1)
    return owners


def described_scene(config: ScenePairs, owner: int) -> Scene:
    """Return the scene that the caption of the pair at `owner` describes."""
    return sample_scene(scene_rng(*place_of(config, owner), "content"))


def are_public(config: ScenePairs, positions: Int[np.ndarray, "pairs"]) -> Bool[np.ndarray, "pairs"]:
    """Whether models may have been trained on each of the pairs at these positions."""
    return positions < count_public(config)


def shown_concepts(config: ScenePairs, position: int) -> dict[str, int]:
    """Return what the real image of a pair shows: objects with their counts, and the background."""
    scene = described_scene(config, position)
    return {**dict(scene.objects), scene.background: 1}
