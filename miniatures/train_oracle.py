"""Train the oracle: a small ResNet that classifies which concepts are in an image of a scene, real or generated.

    python -m miniatures.train_oracle

Its labels are the objects, the backgrounds and the total number of objects; their names are in its config. It judges the
miniature pipelines, and it is part of the trial of a study; nothing else in a study uses it.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS
from miniatures.recipe import (
    CORPUS_SEED,
    CORPUS_SIZE,
    HELDOUT_SEED,
    MODELS_DIR,
    Corpus,
    Schedule,
    draw_corpus,
    fit,
    to_unit,
    write_card,
)  # fmt: skip

LABELS = [*OBJECTS, *BACKGROUNDS, "one object", "two objects", "three objects", "four objects"]
SCHEDULE = Schedule(n_steps=2_400, batch_size=128, learning_rate=3e-3, weight_decay=0.02)


def truth_of(corpus: Corpus) -> np.ndarray:
    """Return the ground truth of each image: (n, labels), 1 where the label is true."""
    return np.concatenate([corpus.presence, np.eye(4, dtype=np.float32)[corpus.n_objects - 1]], axis=1)


def open_oracle():
    from transformers import ResNetForImageClassification

    return ResNetForImageClassification.from_pretrained(MODELS_DIR / "oracle", use_safetensors=True).eval()


@torch.inference_mode()
def verdicts(oracle, images: np.ndarray) -> np.ndarray:
    """Return the oracle's probability of every label: (n, labels)."""
    return torch.cat([oracle(to_unit(part)).logits.sigmoid() for part in np.array_split(images, 16)]).numpy()


def main() -> None:
    from sklearn.metrics import average_precision_score
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(SCHEDULE.seed)
    corpus = draw_corpus(CORPUS_SEED, CORPUS_SIZE)
    targets = torch.from_numpy(truth_of(corpus))
    oracle = ResNetForImageClassification(ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], layer_type="basic",
        problem_type="multi_label_classification",
        id2label=dict(enumerate(LABELS)), label2id={label: k for k, label in enumerate(LABELS)},
    ))  # fmt: skip

    def loss_of_step(step, rng):
        chosen = rng.integers(len(targets), size=SCHEDULE.batch_size)
        images = corpus.images[chosen]
        flip = rng.random(len(images)) < 0.5
        images[flip] = images[flip, :, ::-1]
        pixels = to_unit(images)
        blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")  # generations are less sharp
        mix = torch.rand(len(images), 1, 1, 1) * (torch.rand(len(images), 1, 1, 1) < 0.5)
        pixels = torch.lerp(pixels, blurred, mix) + 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(pixels)
        logits = oracle(pixels.to(memory_format=torch.channels_last)).logits.float()
        return {"bce": F.binary_cross_entropy_with_logits(logits, targets[chosen], reduction="sum") / len(images)}

    seconds = fit("oracle", nn.ModuleDict({"oracle": oracle}), SCHEDULE, loss_of_step)

    heldout = draw_corpus(HELDOUT_SEED, 3_000)
    truth, scores = truth_of(heldout), verdicts(oracle, heldout.images)
    concepts = slice(0, len(OBJECTS) + len(BACKGROUNDS))
    folder = MODELS_DIR / "oracle"
    oracle.save_pretrained(folder)
    recall = scores[truth > 0.5] > 0.5
    write_card(folder, "Oracle of the scenes' concepts (ResNetForImageClassification)", {
        "data": f"{CORPUS_SIZE:,} scenes, corpus seed {CORPUS_SEED}, flipped, blurred, with noise",
        "steps": SCHEDULE.summary(),
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "mean average precision, objects and backgrounds, 3,000 held-out scenes":
            f"{average_precision_score(truth[:, concepts], scores[:, concepts], average='macro'):.4f}",
        "mean average precision, number of objects":
            f"{average_precision_score(truth[:, concepts.stop :], scores[:, concepts.stop :], average='macro'):.4f}",
        "recall at 0.5": f"{recall.mean():.3f}",
        "false positive rate at 0.5": f"{(scores[truth < 0.5] > 0.5).mean():.5f}",
    }, "judge anything except OpenMoji Scenes, or count the objects of each kind in a scene of several kinds.")  # fmt: skip


if __name__ == "__main__":
    main()
