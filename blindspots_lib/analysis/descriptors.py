"""Image descriptors for nearest-neighbour search, and the descriptors of the models' training corpus."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import Backbone, Scenes, contents
from blindspots_lib.core.hub import weights_fingerprint
from blindspots_lib.core.storage import fill_shards, save_array
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.models.backbone import TokenExtractor, TokenLayout

DESCRIPTORS = Stage("training corpus", 1)
SHARD = 2000  # scenes per file


def training_corpus_artifact(workspace: Workspace, backbone: Backbone, corpus: Scenes) -> Artifact:
    """Return the output folder of `embed_training_corpus`."""
    config = {"corpus": contents(corpus), "backbone": contents(backbone, "path", "batch_size", "keep_tokens")}
    return Artifact(workspace, "training-corpus", DESCRIPTORS, config, {"backbone": weights_fingerprint(backbone)})


def embed_training_corpus(workspace: Workspace, backbone: Backbone, corpus: Scenes) -> Artifact:
    """Store one `image_descriptor` per scene that the models were trained on, as float16 shards (scenes, 4 d)."""
    artifact = training_corpus_artifact(workspace, backbone, corpus)
    if artifact.is_complete():
        return artifact
    extractor = TokenExtractor(backbone)
    artifact.begin(extractor.conditions)

    def describe(scenes: range) -> Float[np.ndarray, "n d4"]:
        batches = (scenes[start : start + backbone.batch_size] for start in range(0, len(scenes), backbone.batch_size))
        drawn = ([Image.fromarray(draw_scene(corpus.seed, i)[1].image) for i in batch] for batch in batches)
        found = [image_descriptor(extractor(images), extractor.layout) for images in drawn]
        return np.concatenate(found).astype(np.float16)

    parts = [range(start, min(start + SHARD, corpus.n)) for start in range(0, corpus.n, SHARD)]
    fill_shards(artifact, parts, describe, save_array, "npy", "training corpus")
    artifact.finish()
    return artifact


def image_descriptor(tokens: Float[np.ndarray, "b t d"], layout: TokenLayout) -> Float[np.ndarray, "b d4"]:
    """Return one vector of length 1 per image: the mean patch token of each quadrant, concatenated.

    Quadrants keep positions, so a copy of an image is nearer than another image of the same things.
    """
    side, half = layout.patches_per_side, layout.patches_per_side // 2
    grid = np.asarray(tokens, np.float32)[:, layout.patches].reshape(len(tokens), side, side, layout.width)
    halves = slice(half), slice(half, None)
    quadrants = [grid[:, rows, columns].mean(axis=(1, 2)) for rows in halves for columns in halves]
    descriptor = np.concatenate(quadrants, axis=1)
    return descriptor / np.linalg.norm(descriptor, axis=1, keepdims=True)
