"""Train the oracle: a small ResNet that says which concepts are in a scene, real or generated.

    python -m miniatures.train_oracle

Its labels are the objects, the backgrounds and the number of objects in all; their names are in its config. The
study never sees it: it judges the miniature models and, later, the instrument.
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
    """What the oracle should say of each image: (n, labels), 1 where the label holds."""
    return np.concatenate([corpus.presence, np.eye(4, dtype=np.float32)[corpus.n_objects - 1]], axis=1)


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
    truth = truth_of(heldout)
    with torch.inference_mode():
        batches = np.array_split(heldout.images, 20)
        scores = torch.cat([oracle(to_unit(batch)).logits for batch in batches]).sigmoid().numpy()
    concepts = slice(0, len(OBJECTS) + len(BACKGROUNDS))
    folder = MODELS_DIR / "oracle"
    oracle.save_pretrained(folder)
    recall = scores[truth > 0.5] > 0.5
    write_card(folder, "Oracle of the scenes' concepts (ResNetForImageClassification)", {
        "data": f"{CORPUS_SIZE:,} scenes, corpus seed {CORPUS_SEED}, flipped, blurred, with noise",
        "steps": SCHEDULE.told(),
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "mean average precision, objects and backgrounds, 3,000 held-out scenes":
            f"{average_precision_score(truth[:, concepts], scores[:, concepts], average='macro'):.4f}",
        "mean average precision, number of objects":
            f"{average_precision_score(truth[:, concepts.stop :], scores[:, concepts.stop :], average='macro'):.4f}",
        "recall at 0.5": f"{recall.mean():.3f}",
        "false positive rate at 0.5": f"{(scores[truth < 0.5] > 0.5).mean():.5f}",
    }, "judge anything but OpenMoji Scenes, nor tell which of two kinds stands there how often.")  # fmt: skip


if __name__ == "__main__":
    main()
