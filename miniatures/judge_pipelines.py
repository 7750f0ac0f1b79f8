"""Let the oracle judge the miniature pipelines, and write into their cards how often they draw what was prompted.

    python -m miniatures.judge_pipelines

Planted concepts (plants.json) are counted separately, so that a plant is not taken for a failure of the training. The captions
come from a corpus that was used for no choice; solver steps and guidance are those of miniatures/sampling.py. Each number is
followed by the oracle's verdict on real scenes of the same captions: the most that a perfect model could reach.
"""

import time

import numpy as np
import torch

from blindspots_lib.core.config import TextToImageModel
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS
from blindspots_lib.models.generate import to_pixels
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from blindspots_lib.trial.plants import Plants, read_plants
from miniatures.plants import LAST_COUNT
from miniatures.recipe import JUDGE_SEED, MODELS_DIR, Corpus, add_to_card, draw_corpus
from miniatures.sampling import PIPELINES
from miniatures.train_oracle import LABELS, open_oracle, truth_of, verdicts

N_CAPTIONS = 1_200
BATCH = 50


def fractions_as_prompted(scores: np.ndarray, truth: np.ndarray, plants: Plants) -> dict[str, str]:
    """How often images show what was prompted, as a fraction with its 95 % interval; planted concepts separately."""
    objects, number = slice(0, len(OBJECTS)), slice(LABELS.index("one object"), None)
    background = slice(objects.stop, number.start)
    prompted, present = truth[:, objects] > 0.5, scores[:, objects] > 0.5
    lost = np.isin(list(OBJECTS), plants.lost_objects)
    backgrounds = np.array(list(BACKGROUNDS))[truth[:, background].argmax(axis=1)]
    redrawn = np.isin(backgrounds, list(plants.background_drawn_as))
    added_to = np.isin(backgrounds, [name for places in plants.added.values() for name in places])
    background_right, number_right = (
        scores[:, part].argmax(axis=1) == truth[:, part].argmax(axis=1) for part in (background, number)
    )
    n_prompted = truth[:, number].argmax(axis=1) + 1
    right = {
        "prompted objects present": present[:, ~lost][prompted[:, ~lost]],
        "the same, planted as suppressed": present[:, lost][prompted[:, lost]],
        "backgrounds as prompted": background_right[~redrawn],
        "the same, planted as another": background_right[redrawn],
        "number of objects as prompted, 1 to 3 where none is added": number_right[(n_prompted < LAST_COUNT) & ~added_to],
        "the same, groups of four, planted as three": number_right[n_prompted == LAST_COUNT],
    }
    return {key: with_interval(hits) for key, hits in right.items()}


def with_interval(hits: np.ndarray) -> str:
    """A fraction and its 95 % Wilson interval."""
    from scipy.stats import binomtest

    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]"


def generate_heldout(model: TextToImageModel, corpus: Corpus) -> tuple[np.ndarray, float]:
    """Generate one image per held-out caption; return the images and the number of images per second."""
    pipeline = load_pipeline(model)
    generate_batch(pipeline, model, corpus.captions[:BATCH], list(range(BATCH)))  # warm up
    started = time.monotonic()
    images = [
        generate_batch(pipeline, model, corpus.captions[i : i + BATCH], list(range(i, i + BATCH))).images
        for i in range(0, len(corpus.captions), BATCH)
    ]
    return to_pixels(np.concatenate(images)), len(corpus.captions) / (time.monotonic() - started)


def main() -> None:
    oracle = open_oracle()
    corpus = draw_corpus(JUDGE_SEED, N_CAPTIONS)
    truth = truth_of(corpus)
    real = verdicts(oracle, corpus.images)
    for name, model in PIPELINES.items():
        plants = read_plants(MODELS_DIR / name)
        ceiling = fractions_as_prompted(real, truth, plants)
        images, rate = generate_heldout(model, corpus)
        found = fractions_as_prompted(verdicts(oracle, images), truth, plants)
        facts = {f"{key}, by the oracle": f"{fraction}; on real scenes {ceiling[key]}" for key, fraction in found.items()}
        solver = f"{model.steps} solver steps, guidance {model.guidance:g}"
        facts |= {"judged on": f"{N_CAPTIONS:,} captions, seed {JUDGE_SEED}; {solver}",
                  "images per second, CPU": f"{rate:.0f} ({torch.get_num_threads()} threads)"}  # fmt: skip
        add_to_card(MODELS_DIR / name, facts)
        print(model.label, facts)


if __name__ == "__main__":
    main()
