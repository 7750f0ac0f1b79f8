"""What is truly in an image of the embedded study, real or generated: an oracle that only the trial asks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16

from blindspots_lib.artifacts import Artifact, shard_path
from blindspots_lib.features import open_array, save_array
from blindspots_lib.hub import fetch, weights_fingerprint
from blindspots_lib.images import decode_image, stored_bytes
from blindspots_lib.pairs import read_shard, shards_of
from blindspots_lib.study import Study


class Verdicts(NamedTuple):
    """The oracle's probability of each label for each image."""

    probabilities: Float[np.ndarray, "n labels"]
    labels: list[str]

    def of(self, names: list[str]) -> Float[np.ndarray, "n names"]:
        return self.probabilities[:, [self.labels.index(name) for name in names]]


def judge_images(study: Study, source: str, images: Artifact) -> Artifact:
    """The verdicts on all images of a source, one (b, labels) float16 .npy a shard; nan for a lost image."""
    from transformers import ResNetForImageClassification

    weights = study.validation.oracle
    inputs = {"images": images.fingerprint, "oracle": weights_fingerprint(weights)}
    artifact = Artifact(study.folder / "verdicts" / source, study.name, {}, inputs, ("oracle",))
    if artifact.is_complete():
        return artifact
    artifact.begin()
    oracle = ResNetForImageClassification.from_pretrained(fetch(weights), use_safetensors=True).eval()
    for index, path in enumerate(shards_of(images)):
        target = shard_path(artifact.folder, index, "npy")
        if not target.exists():
            save_array(target, judge_shard(oracle, read_shard(path, ["pair_id", "image"])))
    artifact.finish(labels=[oracle.config.id2label[number] for number in range(oracle.config.num_labels)])
    return artifact


def judge_shard(oracle, rows: list[dict]) -> Float16[np.ndarray, "b labels"]:
    import torch

    found = np.full((len(rows), oracle.config.num_labels), np.nan, np.float16)
    present = [position for position, row in enumerate(rows) if row["image"] is not None]
    names = [f"image of pair {rows[i]['pair_id']!r}" for i in present]
    images = [decode_image(stored_bytes(rows[i]["image"], name), name) for i, name in zip(present, names, strict=True)]
    if images:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.inference_mode():
            found[present] = oracle(pixels).logits.sigmoid().numpy()
    return found


def open_verdicts(artifact: Artifact) -> Verdicts:
    parts = [open_array(path) for path in sorted(artifact.folder.glob("shard-*.npy"))]
    return Verdicts(np.concatenate(parts).astype(np.float64), artifact.facts["labels"])
