"""Synthetic tokens of the paper's width: a common mean, a few of many directions, noise. Nothing about them favours anyone."""

import torch
from torch import Tensor

D = 768


def make_tokens(n: int, n_directions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n tokens that are sums of five directions, and `n_directions` other tokens to serve as candidates."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n_directions, D, generator=generator), dim=1)
    mean = torch.randn(D, generator=generator)

    def draw(count: int) -> Tensor:
        chosen = torch.randint(0, n_directions, (count, 5), generator=generator)
        strength = torch.rand(count, 5, generator=generator) * 20
        sums = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
        return mean + sums + 0.3 * torch.randn(count, D, generator=generator)

    return draw(n), draw(n_directions)
