"""The top-k sparse autoencoder (SAE) that turns tokens into codes; with an archetypal dictionary it is an RA-SAE.

Sources: Gao et al., "Scaling and evaluating sparse autoencoders", 2024 (arXiv 2406.04093); Fel et al., "Archetypal SAE",
ICML 2025 (arXiv 2502.12892).

Shape letters of the project: b images, t tokens, d features, k concepts, n tokens of any images, c candidates,
a active concepts per token.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional as F

from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.dictionaries import (
    Codes,
    DenseArchetypalDictionary,
    FreeDictionary,
    LocalArchetypalDictionary,
    firings_of,
)
from blindspots_lib.sae.topk import products_above, top_products

DictionaryKind = Literal["dense", "local", "free"]
InputNorm = Literal["layer_norm", "constant_norm_rescale"]  # in SAELens' words
LAYER_NORM_EPS = 1e-5  # SAELens' and ViT-Prisma's, added to the standard deviation


class ConceptNorm(nn.Module):
    """A layer norm over the K preactivations of a token, without forming them; the published RA-SAE has one.

    With V and v centred over the concepts, a_k = V_k x + v_k has mean 0, and its variance over the concepts is
    x^T (V^T V / K) x + 2 x . (V^T v / K) + |v|^2 / K. So g_k a_k / sqrt(variance + eps) + s_k is one linear map of the token
    (x, 1) divided by that root, and the largest codes are found as without a norm.
    """

    def __init__(self, d: int, n_concepts: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("gram", torch.zeros(d, d))
        self.register_buffer("cross", torch.zeros(d))
        self.register_buffer("square", torch.ones(()))
        self.register_buffer("offset", torch.zeros(n_concepts))  # g_k v_k

    @torch.no_grad()
    def fold(self, weight: Float[Tensor, "k d"], bias: Float[Tensor, "k"], gain: Float[Tensor, "k"]) -> Float[Tensor, "k d"]:
        """Take in V, v and g; return the weights g_k V_k, which the encoder then has."""
        weight, bias = weight - weight.mean(dim=0), bias - bias.mean()
        self.gram.copy_(weight.T @ weight / len(weight))
        self.cross.copy_(weight.T @ bias / len(weight))
        self.square.copy_(bias.square().mean())
        self.offset.copy_(gain * bias)
        return gain[:, None] * weight

    def widened(self, x: Float[Tensor, "n d"], weight: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "n e"], Float[Tensor, "k e"]]:
        """Return (x, 1) divided by the root of the variance, and the weights for it; e = d + 1."""
        variance = ((x @ self.gram) * x).sum(dim=1) + 2 * x @ self.cross + self.square
        tokens = F.pad(x, (0, 1), value=1.0) / (variance.clamp(min=0) + self.eps).sqrt()[:, None]
        return tokens, torch.cat([weight, self.offset[:, None]], dim=1)


class TokenScale(NamedTuple):
    """How tokens are brought to one scale before they are encoded, (x - shift) / divisor, and back: x^ scale + shift."""

    shift: Float[Tensor, "n 1"]
    divisor: Float[Tensor, "n 1"]
    scale: Float[Tensor, "n 1"]


def token_scale(x: Float[Tensor, "n d"], kind: InputNorm) -> TokenScale:
    """Return the mean and the standard deviation over the features of each token, or 0 and its length divided by sqrt(d)."""
    if kind == "layer_norm":
        deviation = x.std(dim=1, keepdim=True)
        return TokenScale(x.mean(dim=1, keepdim=True), deviation + LAYER_NORM_EPS, deviation)
    length = (x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5).clamp(min=torch.finfo(x.dtype).tiny)
    return TokenScale(torch.zeros_like(length), length, length)


class TopKSAE(nn.Module, PyTorchModelHubMixin):
    """Tokens to codes of `n_concepts` concepts: the `top_k` largest are kept, negative ones dropped.

    Codes z = TopK(relu(V x / s + v)), reconstruction x^ = z D. Dividing by s, the mean length of a token, keeps the encoder's
    weights in a range that suits the optimizer, whatever the backbone. With top_k = None all codes at or above `threshold` are
    kept instead, as in an SAE trained by batch top-k (arXiv 2412.06410). `dictionary` is "dense" or "local" (archetypal: atoms
    mix all candidates, or the nearest `n_neighbours`) or "free". Raises StudyError if the sizes do not fit.

    Only imported SAEs have the last four: a norm over the concepts, a norm of each token over its features, a bias that is added
    to the reconstruction, one threshold per concept (JumpReLU, arXiv 2407.14435).
    """

    def __init__(
        self, d: int, n_concepts: int, top_k: int | None, n_candidates: int, dictionary: DictionaryKind = "dense",
        relaxation_radius: float = 1.0, n_neighbours: int = 32, concept_norm: bool = False, input_norm: InputNorm | None = None,
        decoder_bias: bool = False, concept_thresholds: bool = False,
    ):  # fmt: skip
        super().__init__()
        if top_k is not None and top_k > n_concepts:
            raise StudyError(f"sae.top_k = {top_k}: must not exceed sae.n_concepts = {n_concepts}")
        self.d, self.n_concepts, self.top_k, self.input_norm = d, n_concepts, top_k, input_norm
        self.register_buffer("token_length", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(n_concepts if concept_thresholds else ()))
        self.register_buffer("decoder_bias", torch.zeros(d) if decoder_bias else None)
        self.encoder = nn.Linear(d, n_concepts)
        self.norm = ConceptNorm(d, n_concepts) if concept_norm else None
        if dictionary == "free":
            self.dictionary = FreeDictionary(n_concepts, d)
        elif dictionary == "dense":
            self.dictionary = DenseArchetypalDictionary(n_concepts, n_candidates, d, relaxation_radius)
        elif n_neighbours > n_candidates:
            raise StudyError(f"sae.n_neighbours = {n_neighbours}: must not exceed sae.n_candidates = {n_candidates}")
        else:
            self.dictionary = LocalArchetypalDictionary(n_concepts, n_candidates, d, relaxation_radius, n_neighbours)

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"], token_length: float) -> None:
        """Start atoms at the candidates, and codes at the cosine of token and atom divided by top_k.

        So every atom is chosen for the tokens around its candidate, and the top_k atoms near a token together reconstruct it
        about once, not top_k times. Without this most concepts die in the first steps.
        """
        self.dictionary.start_from(candidates)
        self.token_length.fill_(token_length)
        starts = candidates[torch.arange(self.n_concepts) % len(candidates)]
        self.encoder.weight.copy_(F.normalize(starts, dim=1) / (self.top_k or 1))
        self.encoder.bias.zero_()

    def scaled(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return tokens / s, in the SAE's dtype. Raises StudyError if their width is not the SAE's or any is not finite."""
        if tokens.shape[-1] != self.d:
            raise StudyError(
                f"SAE: made for tokens of width {self.d}, got width {tokens.shape[-1]}; "
                "use the backbone it was trained on, or train it again"
            )
        tokens = tokens.to(self.encoder.weight.dtype)
        if not torch.isfinite(tokens.sum()):  # one NaN or infinity makes it so
            raise StudyError("SAE: its tokens hold NaN or infinity; are the features whole?")
        if self.input_norm:
            shift, divisor, _ = token_scale(tokens, self.input_norm)
            tokens = (tokens - shift) / divisor
        return tokens / self.token_length

    @torch.no_grad()
    def encode(self, tokens: Float[Tensor, "n d"]) -> Codes:
        """Return the `top_k` strongest concepts of each token, without dense codes. Raises StudyError as `scaled` does."""
        scaled, weight, bias = self.scaled(tokens), self.encoder.weight.detach(), self.encoder.bias.detach()
        if self.norm:
            scaled, weight = self.norm.widened(scaled, weight)
        if self.top_k is None:
            found = products_above(scaled, weight, bias, self.threshold)
        else:
            found = top_products(scaled, weight, bias, self.top_k)
        return Codes(found.indices, F.relu(found.values))

    @torch.no_grad()
    def forward(self, tokens: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Codes]:
        """Return reconstruction and codes."""
        codes = self.encode(tokens)
        reconstruction = self.dictionary.decoding(codes, firings_of(codes)).reconstruction
        if self.decoder_bias is not None:
            reconstruction = reconstruction + self.decoder_bias
        if self.input_norm:
            shift, _, scale = token_scale(tokens.to(reconstruction.dtype), self.input_norm)
            reconstruction = reconstruction * scale + shift
        return reconstruction, codes


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE saved by `save_pretrained`. Raises StudyError if the folder is not whole."""
    try:
        sae = TopKSAE(**json.loads((folder / "config.json").read_text()))
        load_model(sae, folder / "model.safetensors")  # all tensors; the hub mixin's from_pretrained lets some be missing
        return sae.eval()
    except Exception as error:  # safetensors and torch raise many kinds for a folder that is cut short
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{folder}: not a whole SAE ({reason}); delete the folder and run again") from None
