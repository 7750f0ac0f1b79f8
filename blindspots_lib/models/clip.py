"""CLIP: images, captions and words as vectors of length 1 in one space."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float16
from PIL.Image import Image

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import Naming, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import fingerprint_of
from blindspots_lib.core.hub import fetch, weights_fingerprint
from blindspots_lib.core.paths import resolve
from blindspots_lib.core.storage import fill_shards, read_arrays, save_array
from blindspots_lib.data.embed import embed_shards
from blindspots_lib.models.loading import conditions, load_whole

CLIP, BATCH = Stage("CLIP", 1), 100


class ClipEncoder:
    """Turns images and captions into vectors of length 1 in one space."""

    def __init__(self, weights: Weights):
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        place = fetch(weights)
        self.clip = load_whole(CLIPModel, "clip", place).eval()
        self.tokenizer, self.processor = CLIPTokenizer.from_pretrained(place), CLIPImageProcessorPil.from_pretrained(place)

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
    """Return the output folder of CLIP vectors of images, or of their captions; `source` names it."""
    inputs = {"images": images.fingerprint, "clip": weights_fingerprint(clip)}
    return Artifact(workspace, f"clip/{source}", CLIP, {}, inputs)


def embed_images(workspace: Workspace, clip: Weights, source: str, images: Artifact) -> Artifact:
    """Store CLIP vectors of all images of a source, one (b, d) float16 .npy per shard; NaN for a lost image."""
    artifact = clip_artifact(workspace, clip, source, images)
    if not artifact.is_complete():
        artifact.begin(conditions("float32", "transformers"))
        encoder = ClipEncoder(clip)
        embed_shards(artifact, images, encoder.images, (encoder.clip.config.projection_dim,), BATCH)
        artifact.finish()
    return artifact


def words_artifact(workspace: Workspace, naming: Naming) -> Artifact:
    """Return the output folder of `embed_words`. Raises StudyError if the file of words cannot be read."""
    inputs = {"words": fingerprint_of(read_words(naming)), "clip": weights_fingerprint(naming.clip)}
    return Artifact(workspace, "clip/naming/words", CLIP, {}, inputs)


def embed_words(workspace: Workspace, naming: Naming) -> Artifact:
    """Store CLIP vectors of the words that may become names, one (b, d) float16 .npy per `BATCH` of them."""
    artifact = words_artifact(workspace, naming)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32", "transformers"))
    encoder, words = ClipEncoder(naming.clip), read_words(naming)

    def embed(some: list[str]) -> Float16[np.ndarray, "b d"]:
        return encoder.captions(some).astype(np.float16)

    batches = [words[start : start + BATCH] for start in range(0, len(words), BATCH)]
    fill_shards(artifact, batches, embed, save_array, "npy", "words")
    artifact.finish()
    return artifact


def open_vectors(artifact: Artifact) -> Float[np.ndarray, "n d"]:
    return read_arrays(artifact).astype(np.float32)


def read_words(naming: Naming) -> list[str]:
    """Return the words that may become names, in lower case, each once. Raises StudyError if their file has none."""
    lines = read_lines(naming.words) if isinstance(naming.words, str) else naming.words
    words = list(dict.fromkeys(" ".join(line.casefold().split()) for line in lines if line.strip()))
    if not words:
        raise StudyError(f"naming.words = {naming.words!r}: holds no words; write one word or phrase per line")
    return words


def read_lines(path: str) -> list[str]:
    file = resolve(path)
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        reason = f"not text in UTF-8 (byte {error.start}); save it as UTF-8"
    except FileNotFoundError:
        reason = "no such file; correct naming.words, or write the file with one word or phrase per line"
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); correct naming.words"
    raise StudyError(f"{file}: {reason}")
