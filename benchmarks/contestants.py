"""The contestants of several benchmarks: our SAEs and trainers of a given size, and Overcomplete's SAEs with equal weights."""

import torch

from benchmarks.data import D, make_tokens
from benchmarks.peers import import_overcomplete
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.overcomplete import to_overcomplete
from blindspots_lib.sae.train import Trainer, make_sae

TOP_K = 5  # active concepts per token
BATCH = 1024  # tokens of a training step
RATE = 3e-5  # learning rate that suits encoders without a token length, which the peers do not have
N_ENCODED = 2048  # tokens of an encoding
NEVER = 10**9  # steps until a concept counts as dead: the peers have no term for dead concepts


def make_encoder(n_concepts: int, seed: int = 0) -> tuple[TopKSAE, torch.Tensor]:
    """Return an untrained top-k SAE and tokens like those that its encoder starts from, (N_ENCODED, D)."""
    tokens, candidates = make_tokens(N_ENCODED, n_concepts, seed)
    sae = TopKSAE(D, n_concepts, TOP_K, n_candidates=1, dictionary="free")
    sae.start_from(candidates, token_length=tokens.norm(dim=1).mean().item())
    return sae, tokens


def make_trainer(n_concepts: int, dictionary: str, candidates: torch.Tensor, precision: str = "float32") -> Trainer:
    """Return a trainer before its first step."""
    config = SAEConfig(
        n_concepts=n_concepts, top_k=TOP_K, n_candidates=len(candidates), dictionary=dictionary, n_steps=1, batch_size=BATCH,
        dead_after=NEVER, aux_coeff=0, precision=precision,
    )  # fmt: skip
    trainer = Trainer(make_sae(candidates.shape[1], config), config)
    trainer.sae.start_from(candidates, token_length=candidates.norm(dim=1).mean().item())
    trainer.variance = 1.0
    trainer.sae.dictionary.prepare_training(getattr(torch, precision))
    return trainer


def make_alike(n_concepts: int, dictionary: str, candidates: torch.Tensor, precision: str = "float32") -> Trainer:
    """Return the same trainer with the token length folded into the encoder, so that a step means the same to the peers."""
    trainer = make_trainer(n_concepts, dictionary, candidates, precision)
    with torch.no_grad():
        trainer.sae.encoder.weight.div_(trainer.sae.token_length)
        trainer.sae.token_length.fill_(1.0)
    return trainer


def make_peer(sae: TopKSAE) -> torch.nn.Module:
    """Return Overcomplete's SAE with the weights of ours: TopKSAE where the dictionary is free, else RATopKSAE."""
    overcomplete = import_overcomplete()
    if hasattr(sae.dictionary, "free_atoms"):
        peer = overcomplete.TopKSAE(sae.d, sae.n_concepts, top_k=TOP_K, dictionary_params={"normalization": "identity"})
    else:
        points = torch.zeros_like(sae.dictionary.candidates)
        peer = overcomplete.RATopKSAE(sae.d, sae.n_concepts, points=points, top_k=TOP_K, delta=1.0, use_multiplier=False)
    peer.load_state_dict(to_overcomplete(sae))
    return peer
