"""The oracle: a classifier of what an image of the embedded study shows, real or generated. Only the trial uses it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import Weights
from blindspots_lib.core.hub import fetch, weights_fingerprint
from blindspots_lib.core.storage import read_arrays
from blindspots_lib.data.embed import embed_shards
from blindspots_lib.models.loading import conditions, load_whole

VERDICTS, BATCH = Stage("verdicts", 1), 250


class Verdicts(NamedTuple):
    """The oracle's probability of each label for each image."""

    probabilities: Float[np.ndarray, "n labels"]
    labels: list[str]

    def of(self, names: list[str]) -> Float[np.ndarray, "n names"]:
        return self.probabilities[:, [self.labels.index(name) for name in names]]


def verdicts_artifact(workspace: Workspace, oracle: Weights, source: str, images: Artifact) -> Artifact:
    """Return the output folder of `judge_images`; `source` is "real" or a model's name."""
    inputs = {"images": images.fingerprint, "oracle": weights_fingerprint(oracle)}
    return Artifact(workspace, f"verdicts/{source}", VERDICTS, {}, inputs)


def judge_images(workspace: Workspace, oracle: Weights, source: str, images: Artifact) -> Artifact:
    """Store the verdicts on all images of a source, one (b, labels) float16 .npy per shard; NaN for a lost image."""
    import torch
    from transformers import ResNetForImageClassification

    artifact = verdicts_artifact(workspace, oracle, source, images)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32", "transformers"))
    classifier = load_whole(ResNetForImageClassification, "oracle", fetch(oracle)).eval()

    def judge(images: Sequence[Image]) -> Float[np.ndarray, "b labels"]:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.inference_mode():
            return classifier(pixels).logits.sigmoid().numpy()

    embed_shards(artifact, images, judge, (classifier.config.num_labels,), BATCH)
    artifact.finish(labels=[classifier.config.id2label[number] for number in range(classifier.config.num_labels)])
    return artifact


def open_verdicts(artifact: Artifact) -> Verdicts:
    return Verdicts(read_arrays(artifact).astype(np.float64), artifact.facts["labels"])
