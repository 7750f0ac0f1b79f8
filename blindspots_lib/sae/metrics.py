"""How good a dictionary is: what it rebuilds, how its atoms spread, how far they leave the data, whether they come again."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.topk import top_products

ENCODED = 16_384  # tokens encoded at a time
MATCHED = 2_048  # atoms matched at most, drawn at random from more
HULL_STEPS = 300  # of accelerated projected gradient


class Coding(NamedTuple):
    """What an SAE makes of a sample of tokens."""

    r2: float  # share of the tokens' variance that is rebuilt
    l0: float  # concepts that fire on a token, on average
    code_energy: float  # ||z||^2 of a token, on average
    fires: Bool[Tensor, "k"]  # which concepts fire at all

    @property
    def dead_share(self) -> float:
        """Of the concepts, those that fire on no token of the sample."""
        return 1 - self.fires.float().mean().item()


def measure_coding(sae: TopKSAE, tokens: Float[Tensor, "n d"]) -> Coding:
    """Reconstruction and codes of a sample of tokens."""
    residual, energy, firings = 0.0, 0.0, torch.zeros(sae.n_concepts, dtype=torch.int64)
    for part in tokens.split(ENCODED):
        reconstruction, codes = sae(part)
        residual += (reconstruction - part).square().sum().item()
        energy += codes.values.square().sum().item()
        firings += torch.bincount(codes.indices[codes.values > 0], minlength=sae.n_concepts)
    variance = (tokens - tokens.mean(dim=0)).square().sum().item()
    n = len(tokens)
    return Coding(1 - residual / variance, firings.sum().item() / n, energy / n, firings > 0)


def coherence(atoms: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
    """For each atom the cosine, in size, to the atom most like it; the greatest of them is the dictionary's coherence."""
    unit = F.normalize(atoms, dim=1)
    none = torch.zeros(len(unit))
    alike = top_products(unit, unit, none, 2)
    own = torch.arange(len(unit))[:, None]
    nearest = alike.values.masked_fill(alike.indices == own, -1).amax(dim=1)
    opposite = top_products(-unit, unit, none, 1).values[:, 0]
    return torch.maximum(nearest, opposite).clamp(max=1)


def effective_rank(atoms: Float[Tensor, "k d"]) -> float:
    """exp of the entropy of the singular values, normalized to sum 1: in [1, d]. Roy and Vetterli, EUSIPCO 2007."""
    values = torch.linalg.eigvalsh(atoms.double().T @ atoms.double()).clamp(min=0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def onto_simplex(rows: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """The nearest points with entries >= 0 and sum 1 (Held, Wolfe and Crowder, 1974)."""
    falling = torch.from_numpy(np.sort(rows.numpy(), axis=1)).flip(1)  # of values alone: far faster than torch's
    excess = falling.cumsum(dim=1) - 1
    number = torch.arange(1, rows.shape[1] + 1)
    support = (falling * number > excess).sum(dim=1, keepdim=True)
    return (rows - excess.gather(1, support - 1) / support).clamp(min=0)


def hull_distance(points: Float[Tensor, "p d"], candidates: Float[Tensor, "c d"]) -> Float[Tensor, "p"]:
    """How far each point lies from the convex hull of the candidates, by accelerated projected gradient: never too small."""
    step = 1 / torch.linalg.eigvalsh(candidates.T @ candidates).amax()
    weights = F.one_hot(top_products(points, candidates, -candidates.square().sum(dim=1) / 2, 1).indices[:, 0], len(candidates))
    weights = ahead = weights.to(points.dtype)
    momentum = 1.0
    for _ in range(HULL_STEPS):
        moved = onto_simplex(ahead - step * (ahead @ candidates - points) @ candidates.T)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / faster * (moved - weights)
        weights, momentum = moved, faster
    return (weights @ candidates - points).norm(dim=1)


def match_atoms(first: Float[Tensor, "p d"], second: Float[Tensor, "q d"], seed: int = 0) -> Float[np.ndarray, "m"]:
    """Cosines of the best one-to-one matching of two dictionaries (Hungarian), for `MATCHED` atoms of the smaller at most."""
    from scipy.optimize import linear_sum_assignment

    if len(first) > len(second):
        first, second = second, first
    if len(first) > MATCHED:
        first = first[torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))[:MATCHED]]
    cosines = (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T).numpy()
    return cosines[linear_sum_assignment(cosines, maximize=True)]
