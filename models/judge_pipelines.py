"""Let the oracle judge the miniature pipelines, and write into their cards how often they draw what was asked.

    python -m models.judge_pipelines

Captions are held out and were used to choose nothing; solver steps and guidance are those of studies/mini.yaml. The
oracle's own verdict on real scenes of the same captions stands beside, as the most that a perfect model could reach.
"""

import time

import numpy as np
import torch

from blindspots_lib.generation import to_pixels
from blindspots_lib.parts import TextToImageModel
from blindspots_lib.pipelines import generate_batch, load_pipeline
from blindspots_lib.scenes import OBJECTS
from blindspots_lib.study import load_study
from models.recipe import JUDGE_SEED, MODELS_DIR, Corpus, add_to_card, draw_corpus, to_unit
from models.train_oracle import LABELS, truth_of

N_CAPTIONS = 600
BATCH = 50


@torch.inference_mode()
def verdicts(oracle, images: np.ndarray) -> np.ndarray:
    """The oracle's probability of every label: (n, labels)."""
    return torch.cat([oracle(to_unit(part)).logits.sigmoid() for part in np.array_split(images, 8)]).numpy()


def shares_right(scores: np.ndarray, truth: np.ndarray) -> dict[str, str]:
    """How often what was asked is there, each with its 95 % interval."""
    objects, number = slice(0, len(OBJECTS)), slice(LABELS.index("one object"), None)
    background = slice(objects.stop, number.start)
    asked = truth[:, objects] > 0.5
    right = {
        "prompted objects that are present": (scores[:, objects] > 0.5)[asked],
        "objects present that were not prompted, per image": ((scores[:, objects] > 0.5) & ~asked).sum(axis=1),
        "backgrounds as prompted": scores[:, background].argmax(axis=1) == truth[:, background].argmax(axis=1),
        "number of objects as prompted": scores[:, number].argmax(axis=1) == truth[:, number].argmax(axis=1),
    }
    return {key: with_interval(hits) for key, hits in right.items()}


def with_interval(hits: np.ndarray) -> str:
    """The mean and its 95 % interval: Wilson's for a share, the normal approximation for a count."""
    from scipy.stats import binomtest

    if hits.dtype == bool:
        low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    else:
        half = 1.96 * hits.std() / len(hits) ** 0.5
        low, high = max(0.0, hits.mean() - half), hits.mean() + half
    return f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]"


def generate_heldout(model: TextToImageModel, corpus: Corpus) -> tuple[np.ndarray, float]:
    """An image for every held-out caption, and the images per second."""
    pipeline = load_pipeline(model)
    generate_batch(pipeline, model, corpus.captions[:BATCH], list(range(BATCH)))  # warm up
    started = time.monotonic()
    images = [
        generate_batch(pipeline, model, corpus.captions[i : i + BATCH], list(range(i, i + BATCH))).images
        for i in range(0, len(corpus.captions), BATCH)
    ]
    return to_pixels(np.concatenate(images)), len(corpus.captions) / (time.monotonic() - started)


def main() -> None:
    from transformers import ResNetForImageClassification

    oracle = ResNetForImageClassification.from_pretrained(MODELS_DIR / "oracle", use_safetensors=True).eval()
    corpus = draw_corpus(JUDGE_SEED, N_CAPTIONS)
    truth = truth_of(corpus)
    ceiling = shares_right(verdicts(oracle, corpus.images), truth)
    for model in load_study("mini").pipelines:
        images, rate = generate_heldout(model, corpus)
        shares = shares_right(verdicts(oracle, images), truth)
        facts = {f"{key}, by the oracle": f"{share}; on real scenes {ceiling[key]}" for key, share in shares.items()}
        solver = f"{model.steps} solver steps, guidance {model.guidance:g}"
        facts |= {"judged on": f"{N_CAPTIONS} captions, seed {JUDGE_SEED}; {solver}",
                  "images per second, CPU": f"{rate:.0f} ({torch.get_num_threads()} threads)"}  # fmt: skip
        add_to_card(MODELS_DIR / model.name, facts)
        print(model.label, facts)


if __name__ == "__main__":
    main()
