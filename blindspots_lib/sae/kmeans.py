"""The candidates C that atoms are made of: k-means centroids of a sample of tokens, found once for all SAEs that share them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blindspots_lib.core.artifacts import Artifact, Fingerprinted, Stage, Workspace
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import replacing
from blindspots_lib.models.loading import conditions
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.batches import TrainingTokens

CANDIDATES = Stage("candidates", 1)


class Start(NamedTuple):
    """What a training starts from."""

    candidates: Float[Tensor, "c d"]
    token_length: Float[Tensor, ""]  # mean length of a token
    variance: Float[Tensor, ""]  # mean squared distance of a token from the mean token


def kmeans_candidates(sample: Float[Tensor, "n d"], n: int, seed: int) -> Float[Tensor, "c d"]:
    """Return n k-means centroids of a sample of tokens. Raises StudyError if there are fewer than n tokens."""
    import faiss

    if len(sample) < n:
        raise StudyError(f"sae.n_candidates = {n}: must not exceed the number of tokens, {len(sample)}")
    kmeans = faiss.Kmeans(sample.shape[1], n, niter=15, seed=seed, max_points_per_centroid=2**30, min_points_per_centroid=1)
    kmeans.train(sample.numpy())
    return torch.from_numpy(kmeans.centroids)


def find_start(tokens: TrainingTokens, config: SAEConfig) -> Start:
    """Find the candidates and the mean length and variance of the tokens, from a sample of tokens."""
    sample = tokens.sample(config.points_per_candidate * config.n_candidates, config.kmeans_seed)
    variance = (sample - sample.mean(dim=0)).square().sum(dim=1).mean()
    return Start(kmeans_candidates(sample, config.n_candidates, config.kmeans_seed), sample.norm(dim=1).mean(), variance)


def start_artifact(workspace: Workspace, tokens: Fingerprinted, config: SAEConfig) -> Artifact:
    """Return the output folder of `keep_start`, one per sample and number of candidates."""
    content = {name: getattr(config, name) for name in ("n_candidates", "points_per_candidate", "kmeans_seed", "tokens")}
    path = f"candidates/{'-'.join(map(str, content.values()))}"
    return Artifact(workspace, path, CANDIDATES, content, {"tokens": tokens.fingerprint})


def keep_start(workspace: Workspace, tokens: TokenSource, config: SAEConfig) -> Start:
    """Return `find_start`, stored for the next SAE. Raises StudyError if the stored file is not whole."""
    artifact = start_artifact(workspace, tokens, config)
    path = artifact.folder / "start.safetensors"
    if not artifact.is_complete():
        artifact.begin(conditions("float32", "faiss-cpu"))
        with replacing(path) as partial:
            save_file(find_start(TrainingTokens(tokens, config), config)._asdict(), partial)
        artifact.finish()
    try:
        return Start(**load_file(path))
    except (SafetensorError, OSError, TypeError) as error:
        raise StudyError(f"{artifact.folder}: not whole candidates ({error}); delete the folder and run again") from None
