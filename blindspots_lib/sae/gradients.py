"""Exact gradients of an SAE's loss, for the parameters of active concepts only.

The loss is the mean squared error of the reconstruction, minus the appeal of dead concepts. As in autograd, the choice of the
top_k concepts is held fixed. `reference` says the same densely; tests/test_gradients.py compares the two in float64.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blindspots_lib.sae.dictionaries import Codes, RowGradient, firings_of, group_by_concept, row_gradient
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.topk import top_products

POORLY_RECONSTRUCTED = 0.25  # fraction of a batch's tokens, the worst reconstructed, that dead concepts are drawn to
FAVOURITES = 16  # tokens among those that each dead concept is drawn to


class Pass(NamedTuple):
    """One pass over a batch: codes, error, and the gradient of every parameter that it touched."""

    codes: Codes
    mse: float  # over tokens and features
    gradients: list[RowGradient]  # named as in the SAE's `named_parameters`


class Pulls(NamedTuple):
    """Gradients of single preactivations: entry e pulls on one concept for one token."""

    concepts: Int[Tensor, "e"]
    tokens: Int[Tensor, "e"]
    weights: Float[Tensor, "e"]


@torch.no_grad()
def sae_gradients(sae: TopKSAE, x: Float[Tensor, "n d"], dead: Bool[Tensor, "k"], appeal: float) -> Pass:
    """Return codes, error and gradients for a batch; `appeal` weighs the term that revives the dead concepts (`dead_pulls`)."""
    codes = sae.encode(x)
    firings = firings_of(codes)
    decoding = sae.dictionary.decoding(codes, firings)
    residual = decoding.reconstruction - x
    error = residual * (2 / residual.numel())
    scaled = x / sae.token_length
    of_codes = decoding.code_gradient(error).flatten()[firings.places]
    pulls = Pulls(codes.indices.flatten()[firings.places], firings.tokens, of_codes)
    if appeal and dead.any():
        drawn = dead_pulls(sae, scaled, residual, dead.nonzero()[:, 0], appeal)
        pulls = Pulls(*(torch.cat(both) for both in zip(pulls, drawn, strict=True)))
    of_dictionary = [g._replace(name=f"dictionary.{g.name}") for g in decoding.gradients(error)]
    return Pass(codes, residual.square().mean().item(), [*encoder_gradients(pulls, scaled), *of_dictionary])


def encoder_gradients(pulls: Pulls, scaled: Float[Tensor, "n d"]) -> list[RowGradient]:
    """dV_k = sum over the pulls on k of weight times the scaled token; dv_k = sum of the weights."""
    order = torch.arange(len(pulls.concepts), device=scaled.device)
    grouped = group_by_concept(pulls.concepts, pulls.tokens, order)
    weights = pulls.weights[grouped.places]
    of_weight = grouped.sums(weights, scaled)
    of_bias = grouped.sums(weights, scaled.new_ones(len(scaled), 1))[:, 0]
    return [row_gradient("encoder.weight", grouped.concepts, of_weight), row_gradient("encoder.bias", grouped.concepts, of_bias)]


def dead_pulls(
    sae: TopKSAE, scaled: Float[Tensor, "n d"], residual: Float[Tensor, "n d"], dead: Int[Tensor, "u"], appeal: float
) -> Pulls:
    """Draw each dead concept to its favourites among the worst reconstructed tokens.

    The term is minus `appeal` times the mean preactivation there. An atom is bound to the hull of the data, so a dead atom
    cannot be made to explain the residual itself. Once its concept fires on those tokens, the reconstruction shapes it.
    """
    poor = residual.square().sum(dim=1).topk(max(1, round(POORLY_RECONSTRUCTED * len(residual)))).indices
    n_favourites = min(FAVOURITES, len(poor))
    favourites = top_products(sae.encoder.weight.detach()[dead], scaled[poor], scaled.new_zeros(len(poor)), n_favourites).indices
    weights = scaled.new_full((favourites.numel(),), -appeal / favourites.numel())
    return Pulls(dead.repeat_interleave(n_favourites), poor[favourites].flatten(), weights)
