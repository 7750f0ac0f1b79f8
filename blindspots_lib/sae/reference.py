"""One training step of the SAE, dense and readable; tests hold the fast one to it.

Training (`gradients`, `dictionaries`, `optimizer`) forms neither dense codes nor dense gradients. Here everything is dense and
autograd finds the gradients, in the dtype of the parameters.

Shape letters: n tokens, d features, k concepts, c candidates.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from blindspots_lib.sae.dictionaries import Dictionary, FreeDictionary, LocalArchetypalDictionary
from blindspots_lib.sae.gradients import FAVOURITES, POORLY_RECONSTRUCTED
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.train import MAX_NORM


def dense_codes(preactivations: Float[Tensor, "n k"], top_k: int) -> Float[Tensor, "n k"]:
    """Return z = TopK(relu(V x / s + v)): the top_k largest of each token, if positive; all other codes are 0."""
    chosen = preactivations.topk(top_k, dim=1).indices
    return preactivations.relu() * torch.zeros_like(preactivations).scatter(1, chosen, 1.0)


def dense_atoms(dictionary: Dictionary) -> Float[Tensor, "k d"]:
    """Return D: the free atoms, or W C + Lambda.

    The rows of W sum to 1 already. Dividing them by their sums changes no atom, only the gradient of W: a step then moves an
    atom along the hull of the candidates, not nearer to the origin or further from it.
    """
    if isinstance(dictionary, FreeDictionary):
        return dictionary.free_atoms
    weights = dictionary.weights / dictionary.weights.sum(dim=1, keepdim=True)
    if isinstance(dictionary, LocalArchetypalDictionary):  # (k, m) weights of the m neighbours, put in their places among c
        all_zero = weights.new_zeros(len(weights), len(dictionary.candidates))
        weights = all_zero.scatter_add(1, dictionary.neighbours, weights)
    return weights @ dictionary.candidates + dictionary.relaxation


def dense_appeal(
    preactivations: Float[Tensor, "n k"], residual: Float[Tensor, "n d"], dead: Bool[Tensor, "k"]
) -> Float[Tensor, ""]:
    """Return the mean preactivation of the dead concepts, each on its favourites among the worst reconstructed tokens.

    A step that raises it draws each dead concept to tokens that need another concept and are near to it already.
    """
    worst = residual.square().sum(dim=1).topk(max(1, round(POORLY_RECONSTRUCTED * len(residual)))).indices
    return preactivations[worst][:, dead].topk(min(FAVOURITES, len(worst)), dim=0).values.mean()


def dense_loss(sae: TopKSAE, x: Float[Tensor, "n d"], dead: Bool[Tensor, "k"], aux_coeff: float) -> Float[Tensor, ""]:
    """Return the mean squared error of the reconstruction, minus `aux_coeff` times the appeal of dead concepts."""
    preactivations = sae.encoder(x / sae.token_length)
    residual = dense_codes(preactivations, sae.top_k) @ dense_atoms(sae.dictionary) - x
    loss = residual.square().mean()
    if aux_coeff and dead.any():
        loss = loss - aux_coeff * dense_appeal(preactivations, residual, dead)
    return loss


@torch.no_grad()
def project(dictionary: Dictionary) -> None:
    """Bring the rows of W back onto the simplex, and shorten the rows of Lambda to the radius; free atoms stay."""
    if isinstance(dictionary, FreeDictionary):
        return
    weights, relaxation = dictionary.weights, dictionary.relaxation
    weights.clamp_(min=0)
    weights[weights.sum(dim=1) == 0] = 1
    weights.div_(weights.sum(dim=1, keepdim=True))
    lengths = relaxation.norm(dim=1, keepdim=True)
    relaxation.copy_(torch.where(lengths > dictionary.radius, relaxation * (dictionary.radius / lengths), relaxation))


def dense_step(
    sae: TopKSAE, optimizer: torch.optim.AdamW, x: Float[Tensor, "n d"], dead: Bool[Tensor, "k"], aux_coeff: float
) -> None:
    """Take one training step, in place: gradients of the loss, clipped together; AdamW; projection."""
    optimizer.zero_grad()
    dense_loss(sae, x, dead, aux_coeff).backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), MAX_NORM)
    optimizer.step()
    project(sae.dictionary)
