"""Quality of an SAE: reconstruction, sparsity, spread of its atoms, their distance from the data, match between two SAEs."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.topk import top_products

ENCODED = 16_384  # tokens encoded at a time
MATCHED = 2_048  # greatest number of atoms that are matched; of more, a random sample
HULL_STEPS = 300  # steps of accelerated projected gradient


class Coding(NamedTuple):
    """Reconstruction and codes of a sample of tokens."""

    r2: float  # fraction of the tokens' variance that is reconstructed
    l0: float  # mean number of concepts that fire on a token
    code_energy: float  # mean ||z||^2 of a token
    fires: Bool[Tensor, "k"]  # which concepts fire on any token

    @property
    def dead_share(self) -> float:
        """Fraction of concepts that fire on no token of the sample."""
        return 1 - self.fires.float().mean().item()


def measure_coding(sae: TopKSAE, tokens: Float[Tensor, "n d"]) -> Coding:
    """Encode and decode a sample of tokens and summarize the result."""
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
    """Return, for each atom, the largest |cosine| to any other atom; the maximum over atoms is the dictionary's coherence."""
    unit, none = F.normalize(atoms, dim=1), torch.zeros(len(atoms))
    alike = top_products(unit, unit, none, 2)
    own = torch.arange(len(unit))[:, None]
    nearest = alike.values.masked_fill(alike.indices == own, -1).amax(dim=1)
    opposite = top_products(-unit, unit, none, 1).values[:, 0]
    return torch.maximum(nearest, opposite).clamp(max=1)


def effective_rank(atoms: Float[Tensor, "k d"]) -> float:
    """Return exp of the entropy of the singular values, scaled to sum 1: in [1, d]. Source: Roy and Vetterli, EUSIPCO 2007."""
    values = torch.linalg.eigvalsh(atoms.double().T @ atoms.double()).clamp(min=0).sqrt()
    return float(torch.special.entr(values / values.sum()).sum().exp())


def onto_simplex(rows: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """Return the nearest points with entries >= 0 and sum 1. Source: Held, Wolfe and Crowder, 1974."""
    falling = torch.from_numpy(np.sort(rows.numpy(), axis=1)).flip(1)  # NumPy sorts values only: far faster than torch
    excess = falling.cumsum(dim=1) - 1
    number = torch.arange(1, rows.shape[1] + 1)
    support = (falling * number > excess).sum(dim=1, keepdim=True)
    return (rows - excess.gather(1, support - 1) / support).clamp(min=0)


def hull_distance(points: Float[Tensor, "p d"], candidates: Float[Tensor, "c d"]) -> Float[Tensor, "p"]:
    """Return each point's distance from the convex hull of the candidates: an upper bound, by accelerated projected gradient."""
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


def match_atoms(first: Float[Tensor, "p d"], second: Float[Tensor, "q d"]) -> Float[np.ndarray, "m"]:
    """Return the cosines of the best one-to-one matching of two sets of atoms, for at most `MATCHED` atoms of the smaller set."""
    from scipy.optimize import linear_sum_assignment

    if len(first) > len(second):
        first, second = second, first
    if len(first) > MATCHED:
        first = first[torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:MATCHED]]
    cosines = (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T).numpy()
    return cosines[linear_sum_assignment(cosines, maximize=True)]
