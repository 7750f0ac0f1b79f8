"""The energy model's second half: a top-k sparse autoencoder with a relaxed archetypal dictionary (RA-SAE).

Source: Fel et al., "Archetypal SAE", ICML 2025 (arXiv 2502.12892).

Shape letters of the project: b images, t tokens, d features, k concepts, n tokens of any images, c candidates,
a active concepts of a token.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from blindspots_lib.study import StudyError


class Codes(NamedTuple):
    """Sparse codes of n tokens: the active concepts and how strongly each fires (>= 0; 0 if it does not)."""

    indices: Int[Tensor, "n a"]
    values: Float[Tensor, "n a"]


class RelaxedArchetypalDictionary(nn.Module):
    """D = W C + Lambda: atoms near the convex hull of the candidates.

    C (c, d) holds the candidates and is fixed. The rows of W (k, c) lie on the simplex (>= 0, sum 1), the rows of
    Lambda (k, d) are no longer than `radius`. Gradient steps leave those sets; `project` brings the parameters back.
    """

    def __init__(self, n_concepts: int, n_candidates: int, d: int, radius: float):
        super().__init__()
        self.radius = radius
        self.register_buffer("candidates", torch.zeros(n_candidates, d))
        self.weights = nn.Parameter(torch.zeros(n_concepts, n_candidates))
        self.relaxation = nn.Parameter(torch.zeros(n_concepts, d))

    def atoms(self) -> Float[Tensor, "k d"]:
        return self.hull_points() + self.relaxation

    def hull_points(self) -> Float[Tensor, "k d"]:
        """W C, the atoms without their relaxation."""
        return self.weights @ self.candidates

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Take these candidates; atom i starts at candidate i mod c."""
        self.candidates.copy_(candidates)
        rows = torch.arange(len(self.weights))
        self.weights.zero_()[rows, rows % len(candidates)] = 1.0

    @torch.no_grad()
    def project(self) -> None:
        """Rows of W onto the simplex (clip at 0, divide by the sum), rows of Lambda into the ball of `radius`."""
        self.weights.clamp_(min=0)
        total = self.weights.sum(dim=1, keepdim=True)
        self.weights.copy_(torch.where(total > 0, self.weights / total, torch.full_like(self.weights, 1 / self.weights.shape[1])))
        norms = self.relaxation.norm(dim=1, keepdim=True)
        self.relaxation.mul_(torch.where(norms > self.radius, self.radius / norms, torch.ones_like(norms)))


class TopKSAE(nn.Module, PyTorchModelHubMixin):
    """xi: tokens to codes of `n_concepts`, of which the `k` largest are kept and negative ones dropped.

    codes z = TopK(relu(V x / s + v)), reconstruction x^ = z D, with D a `RelaxedArchetypalDictionary` and s the mean
    length of a token, which keeps the encoder's weights of a size that suits the optimizer whatever the backbone.
    """

    def __init__(self, d: int, n_concepts: int, k: int, n_candidates: int, relaxation_radius: float = 1.0):
        super().__init__()
        self.d, self.n_concepts, self.k = d, n_concepts, k
        self.register_buffer("token_length", torch.ones(()))
        self.encoder = nn.Linear(d, n_concepts)
        self.dictionary = RelaxedArchetypalDictionary(n_concepts, n_candidates, d, relaxation_radius)

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"], token_length: float) -> None:
        """Atoms at the candidates; a concept's code is a k-th of the cosine between token and atom.

        So every atom wins the tokens around its candidate, and k atoms near a token rebuild it about once, instead of
        k times over. Either, left out, silences most concepts in the first steps.
        """
        self.dictionary.start_from(candidates)
        self.token_length.fill_(token_length)
        atoms = self.dictionary.atoms()
        self.encoder.weight.copy_(F.normalize(atoms, dim=1) / self.k)
        self.encoder.bias.zero_()

    def preactivations(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        if tokens.shape[-1] != self.d:
            raise StudyError(
                f"SAE: made for tokens of width {self.d}, got width {tokens.shape[-1]}; "
                "use the backbone it was trained on, or train it again"
            )
        return self.encoder(tokens / self.token_length)

    def encode(self, tokens: Float[Tensor, "n d"]) -> Codes:
        """The k strongest concepts of each token. Raises StudyError if the width is not the SAE's."""
        return top_codes(self.preactivations(tokens), self.k)

    def forward(self, tokens: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Codes]:
        """Reconstruction and codes."""
        codes = self.encode(tokens)
        return decode(codes, self.dictionary.atoms()), codes


def top_codes(preactivations: Float[Tensor, "n k"], k: int) -> Codes:
    values, indices = preactivations.topk(k, dim=-1)
    return Codes(indices, F.relu(values))


def decode(codes: Codes, atoms: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
    """x^ = sum over the active concepts of value times atom; touches nothing but the active atoms."""
    return F.embedding_bag(codes.indices, atoms, per_sample_weights=codes.values.to(atoms.dtype), mode="sum")


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE saved by `save_pretrained`. Raises StudyError if the folder is not whole."""
    try:
        return TopKSAE.from_pretrained(folder).eval()
    except Exception as error:  # the hub mixin and safetensors raise many kinds for a folder that is cut short
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{folder}: not a whole SAE ({reason}); delete the folder and run again") from None
