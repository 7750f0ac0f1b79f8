"""How well captions and images agree, by a CLIP: what tells a wrong caption from a model's fault, and a rival of delta."""

from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float16, Int
from PIL.Image import Image

from blindspots_lib.artifacts import Artifact, shard_path
from blindspots_lib.features import open_array, save_array
from blindspots_lib.hub import fetch, weights_fingerprint
from blindspots_lib.images import decode_image, stored_bytes
from blindspots_lib.pairs import read_shard, shards_of
from blindspots_lib.parts import Weights
from blindspots_lib.study import Study

BATCH = 100


class ClipEncoder:
    """Images and captions to unit vectors of one space."""

    def __init__(self, weights: Weights):
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        place = fetch(weights)
        self.clip = CLIPModel.from_pretrained(place, use_safetensors=True).eval()
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


def embed_images(study: Study, source: str, images: Artifact) -> Artifact:
    """CLIP vectors of all images of a source, one (b, d) float16 .npy a shard; nan for a lost image."""
    artifact = clip_artifact(study, source, images)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    encoder = ClipEncoder(study.validation.clip)
    for index, path in enumerate(shards_of(images)):
        target = shard_path(artifact.folder, index, "npy")
        if not target.exists():
            save_array(target, embed_shard(encoder, read_shard(path, ["pair_id", "image"])))
    artifact.finish()
    return artifact


def embed_shard(encoder: ClipEncoder, rows: list[dict]) -> Float16[np.ndarray, "b d"]:
    found = np.full((len(rows), encoder.clip.config.projection_dim), np.nan, np.float16)
    present = np.array([position for position, row in enumerate(rows) if row["image"] is not None], int)
    for part in np.array_split(present, max(1, len(present) // BATCH)):
        names = [f"image of pair {rows[i]['pair_id']!r}" for i in part]
        images = [decode_image(stored_bytes(rows[i]["image"], name), name) for i, name in zip(part, names, strict=True)]
        if images:
            found[part] = encoder.images(images)
    return found


def embed_captions(study: Study, pairs: Artifact) -> Artifact:
    """CLIP vectors of all captions, like those of images."""
    artifact = clip_artifact(study, "captions", pairs)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    encoder = ClipEncoder(study.validation.clip)
    for index, path in enumerate(shards_of(pairs)):
        captions = [row["caption"] for row in read_shard(path, ["caption"])]
        save_array(shard_path(artifact.folder, index, "npy"), encoder.captions(captions).astype(np.float16))
    artifact.finish()
    return artifact


def clip_artifact(study: Study, source: str, images: Artifact) -> Artifact:
    inputs = {"images": images.fingerprint, "clip": weights_fingerprint(study.validation.clip)}
    return Artifact(study.folder / "clip" / source, study.name, {}, inputs, ("agreement",))


def open_vectors(artifact: Artifact) -> Float[np.ndarray, "n d"]:
    return np.concatenate([open_array(path) for path in sorted(artifact.folder.glob("shard-*.npy"))]).astype(np.float32)


def agreement(images: Float[np.ndarray, "n d"], captions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Cosine of each image and its caption: what CLIPScore scales (Hessel et al., 2021)."""
    return (images * captions).sum(axis=1)


def name_concepts(
    energies: sp.csr_matrix, images: Float[np.ndarray, "n d"], words: Float[np.ndarray, "w d"]
) -> Int[np.ndarray, "k"]:
    """The word nearest to each concept: to the mean of its images by energy, images and words each less their mean."""
    means = np.asarray(energies.T @ (images - images.mean(axis=0)))
    return (means @ unit(words - words.mean(axis=0)).T).argmax(axis=1)


def word_scores(
    generated: Float[np.ndarray, "n"], real: Float[np.ndarray, "n"], named: Bool[np.ndarray, "n names"]
) -> Float[np.ndarray, "names"]:
    """(1 + s' - s) / 2 of each word, s and s' the mean agreement over the captions that say it, of real and generated images.

    Like delta, 0.5 where the model's images fit these captions as well as the real ones do; nan where no caption says it.
    """
    n = named.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return (1 + (generated - real) @ named / n) / 2
