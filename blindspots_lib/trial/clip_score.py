"""Agreement of captions and images by CLIP: it separates wrong captions from faults of a model, and is a method of the trial."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float16, Int

from blindspots_lib.core.artifacts import Artifact, Workspace
from blindspots_lib.core.config import Weights
from blindspots_lib.core.storage import fill_shards, read_shard, save_array, shards_of
from blindspots_lib.models.clip import ClipEncoder, clip_artifact, unit
from blindspots_lib.models.loading import conditions


def embed_captions(workspace: Workspace, clip: Weights, pairs: Artifact) -> Artifact:
    """Store CLIP vectors of all captions, like those of images."""
    artifact = clip_artifact(workspace, clip, "captions", pairs)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32", "transformers"))
    encoder = ClipEncoder(clip)

    def embed(path: Path) -> Float16[np.ndarray, "b d"]:
        return encoder.captions([row["caption"] for row in read_shard(path, ["caption"])]).astype(np.float16)

    fill_shards(artifact, shards_of(pairs), embed, save_array, "npy", "captions")
    artifact.finish()
    return artifact


def agreement(images: Float[np.ndarray, "n d"], captions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Return the cosine of each image and its caption: CLIPScore without its factor (Hessel et al., 2021)."""
    return (images * captions).sum(axis=1)


def name_concepts(
    energies: sp.csr_matrix, images: Float[np.ndarray, "n d"], words: Float[np.ndarray, "w d"]
) -> Int[np.ndarray, "k"]:
    """Return the word nearest to each concept: to the sum of its images weighted by energy. Both are centred first."""
    means = np.asarray(energies.T @ (images - images.mean(axis=0)))
    return (means @ unit(words - words.mean(axis=0)).T).argmax(axis=1)


def word_scores(
    generated: Float[np.ndarray, "n"], real: Float[np.ndarray, "n"], named: Bool[np.ndarray, "n names"]
) -> Float[np.ndarray, "names"]:
    """Return (1 + s' - s) / 2 per word, with s and s' the mean agreement of real and generated images over its captions.

    Like delta, it is 0.5 if the model's images fit these captions as well as the real ones do; nan if no caption has the word.
    """
    n = named.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return (1 + (generated - real) @ named / n) / 2
