"""Let the oracle judge the miniature pipelines, and write into their cards how often they draw what was asked.

    python -m miniatures.judge_pipelines

What was planted (plants.json) is counted apart, so that a plant is not taken for a failure. Captions are held out and were
used to choose nothing; solver steps and guidance are those of studies/mini.yaml. The oracle's own verdict on real scenes of
the same captions stands beside, as the most that a perfect model could reach.
"""

import time
from collections.abc import Mapping

import numpy as np
import torch

from blindspots_lib.core.artifacts import read_json
from blindspots_lib.core.config import TextToImageModel
from blindspots_lib.core.study import load_study
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS
from blindspots_lib.models.generate import to_pixels
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from miniatures.plants import LAST_COUNT
from miniatures.recipe import JUDGE_SEED, MODELS_DIR, Corpus, add_to_card, draw_corpus, to_unit
from miniatures.train_oracle import LABELS, truth_of

N_CAPTIONS = 1_200
BATCH = 50


@torch.inference_mode()
def verdicts(oracle, images: np.ndarray) -> np.ndarray:
    """The oracle's probability of every label: (n, labels)."""
    return torch.cat([oracle(to_unit(part)).logits.sigmoid() for part in np.array_split(images, 16)]).numpy()


def shares_right(scores: np.ndarray, truth: np.ndarray, planted: Mapping) -> dict[str, str]:
    """How often what was asked is there, each with its 95 % interval, what was planted apart."""
    objects, number = slice(0, len(OBJECTS)), slice(LABELS.index("one object"), None)
    background = slice(objects.stop, number.start)
    asked, there = truth[:, objects] > 0.5, scores[:, objects] > 0.5
    suppressed = np.isin(list(OBJECTS), [*planted["withheld"], *planted["drawn_as"]])
    backgrounds = np.array(list(BACKGROUNDS))[truth[:, background].argmax(axis=1)]
    redrawn = np.isin(backgrounds, list(planted["background_drawn_as"]))
    crowded = np.isin(backgrounds, [name for places in planted["added"].values() for name in places])
    background_right, number_right = (
        scores[:, part].argmax(axis=1) == truth[:, part].argmax(axis=1) for part in (background, number)
    )
    n_asked = truth[:, number].argmax(axis=1) + 1
    right = {
        "prompted objects present": there[:, ~suppressed][asked[:, ~suppressed]],
        "the same, planted as suppressed": there[:, suppressed][asked[:, suppressed]],
        "backgrounds as prompted": background_right[~redrawn],
        "the same, planted as another": background_right[redrawn],
        "number of objects as prompted, 1 to 3 where none is added": number_right[(n_asked < LAST_COUNT) & ~crowded],
        "the same, groups of four, planted as three": number_right[n_asked == LAST_COUNT],
    }
    return {key: with_interval(hits) for key, hits in right.items()}


def with_interval(hits: np.ndarray) -> str:
    """A share and its 95 % interval, Wilson's."""
    from scipy.stats import binomtest

    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
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
    real = verdicts(oracle, corpus.images)
    for model in load_study("mini").pipelines:
        planted = read_json(MODELS_DIR / model.name / "plants.json")
        ceiling = shares_right(real, truth, planted)
        images, rate = generate_heldout(model, corpus)
        shares = shares_right(verdicts(oracle, images), truth, planted)
        facts = {f"{key}, by the oracle": f"{share}; on real scenes {ceiling[key]}" for key, share in shares.items()}
        solver = f"{model.steps} solver steps, guidance {model.guidance:g}"
        facts |= {"judged on": f"{N_CAPTIONS:,} captions, seed {JUDGE_SEED}; {solver}",
                  "images per second, CPU": f"{rate:.0f} ({torch.get_num_threads()} threads)"}  # fmt: skip
        add_to_card(MODELS_DIR / model.name, facts)
        print(model.label, facts)


if __name__ == "__main__":
    main()
