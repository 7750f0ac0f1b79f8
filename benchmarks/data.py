"""The tokens of the benchmarks: synthetic ones of the paper's width, and those of the embedded study's backbone."""

import torch
from PIL import Image
from torch import Tensor

from blindspots_lib.core.study import load_study
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.models.backbone import TokenExtractor

D = 768


def make_tokens(n: int, n_directions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw n tokens (n, D), and `n_directions` others that serve as candidates.

    Each token is a common mean plus five of the directions plus noise, which favours no contestant.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n_directions, D, generator=generator), dim=1)
    mean = torch.randn(D, generator=generator)

    def draw(count: int) -> Tensor:
        chosen = torch.randint(0, n_directions, (count, 5), generator=generator)
        strength = torch.rand(count, 5, generator=generator) * 20
        sums = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
        return mean + sums + 0.3 * torch.randn(count, D, generator=generator)

    return draw(n), draw(n_directions)


def backbone_tokens(n: int, seed: int = 6) -> Tensor:
    """Return n tokens (n, 192), in random order, of scenes that no model was trained on."""
    extractor = TokenExtractor(load_study("mini").backbone)
    n_scenes = -(-n // extractor.layout.n_tokens)
    images = [Image.fromarray(draw_scene(seed, index)[1].image) for index in range(n_scenes)]
    tokens = torch.cat([torch.from_numpy(extractor(images[i : i + 128])).flatten(0, 1) for i in range(0, n_scenes, 128)])
    return tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:n]]
