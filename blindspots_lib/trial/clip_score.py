"""Agreement of captions and images by CLIP: it separates wrong captions from faults of a model, and is a method of the trial."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float16, Int
from PIL.Image import Image

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import Weights
from blindspots_lib.core.hub import fetch, weights_fingerprint
from blindspots_lib.core.storage import fill_shards, read_arrays, read_shard, save_array, shards_of
from blindspots_lib.data.embed import embed_shards
from blindspots_lib.models.loading import conditions, load_whole

CLIP, BATCH = Stage("CLIP", 1), 100


class ClipEncoder:
    """Turns images and captions into vectors of length 1 in one space."""

    def __init__(self, weights: Weights):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        place = fetch(weights)
        self.clip = load_whole(CLIPModel, "clip", place).eval()
        self.tokenizer, self.processor = CLIPTokenizer.from_pretrained(place), CLIPImageProcessor.from_pretrained(place)

    def images(self, images: Iterable[Image]) -> Float[np.ndarray, "n d"]:
        import torch

        pixels = self.processor(list(images), return_tensors="pt").pixel_values
        with torch.inference_mode():
            return unit(self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output).numpy())

    def captions(self, captions: list[str]) -> Float[np.ndarray, "n d"]:
        import torch

        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return unit(self.clip.text_projection(self.clip.text_model(**tokens).pooler_output).numpy())


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clip_artifact(workspace: Workspace, clip: Weights, source: str, images: Artifact) -> Artifact:
    """Return the output folder of `embed_source` and `embed_captions`; `source` is "images/<source>" or "captions"."""
    inputs = {"images": images.fingerprint, "clip": weights_fingerprint(clip)}
    return Artifact(workspace, f"clip/{source}", CLIP, {}, inputs)


def embed_source(workspace: Workspace, clip: Weights, source: str, images: Artifact) -> Artifact:
    """Store CLIP vectors of all images of a source, one (b, d) float16 .npy per shard; NaN for a lost image."""
    artifact = clip_artifact(workspace, clip, f"images/{source}", images)
    if not artifact.is_complete():
        artifact.begin(conditions("float32", "transformers"))
        encoder = ClipEncoder(clip)
        embed_shards(artifact, images, encoder.images, (encoder.clip.config.projection_dim,), BATCH)
        artifact.finish()
    return artifact


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


def open_vectors(artifact: Artifact) -> Float[np.ndarray, "n d"]:
    return read_arrays(artifact).astype(np.float32)


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
