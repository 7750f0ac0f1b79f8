"""What a study costs: bytes on disk and in memory by counting, seconds by short runs of each part on this machine."""

import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from blindspots_lib.core.config import ExternalImages, PerfectGenerator, SAEConfig, ScenePairs, TextToImageModel, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import cached, fetch_config, remembered
from blindspots_lib.core.paths import resolve, runs_folder
from blindspots_lib.core.study import Study
from blindspots_lib.data.images import SUFFIXES

PHOTO_BYTES = 120_000  # of a photograph with a short side of 512 pixels, as JPEG; an average
SCENE_BYTES = 8_000  # of a PNG of a scene
PNG_BYTES_A_PIXEL = 1.6  # of a generated image; an average
CODE_BYTES = 6  # of one active concept of a token: its index and its value
CALIBRATION_STEPS = (2, 4)  # solver steps of two short runs, whose difference is the time of two steps
SMALL = 128  # pixels a side up to which a whole batch is tried on a CPU; above it one image


def n_pairs(study: Study) -> int:
    """How many pairs the study has; of a folder without a number, those of its table."""
    if study.pairs.n is not None:
        return study.pairs.n
    from blindspots_lib.data.tables import find_table, read_table

    return len(read_table(find_table(resolve(study.pairs.path)), ["file_name"]))


def token_shape(study: Study) -> tuple[int, int]:
    """Tokens of an image and features of a token, from the backbone's config. Raises StudyError if the crop does not fit."""
    from transformers import AutoConfig

    said = fetch_config(study.backbone)
    config = AutoConfig.for_model(**said)  # fills in what the file leaves to the defaults of its class
    config = getattr(config, "vision_config", config)
    crop, patch = study.backbone.crop, getattr(config, "patch_size", None)
    if not isinstance(patch, int) or crop % patch:
        raise StudyError(f"backbone.crop = {crop}: must be a multiple of the backbone's patch size, {patch}")
    has_cls = not config.model_type.startswith("siglip")
    return has_cls + getattr(config, "num_register_tokens", 0) + (crop // patch) ** 2, config.hidden_size


def local_folder(weights: Weights) -> Path | None:
    """Where a model's files are on this machine, or None if any of them is missing."""
    if weights.path:
        folder = resolve(weights.path) / (weights.subfolder or "")
        return folder if folder.is_dir() else None
    files = remembered(weights)
    places = [cached(weights, file) for file in files or []]
    if not places or None in places:
        return None
    return places[0].parents[files[0].path.count("/")] / (weights.subfolder or "")


def n_corpus(study: Study) -> int:
    """How many images the SAE learns from, if not the real ones."""
    corpus = getattr(study.sae, "corpus", None)
    if corpus is None or corpus.n is not None:
        return corpus.n if corpus else 0
    return sum(file.suffix.lower() in SUFFIXES for file in resolve(corpus.path).rglob("*"))


# -- sizes ---------------------------------------------------------------------------------------------------------------


def disk_rows(study: Study, tokens: int, width: int) -> list[tuple[str, float]]:
    """Bytes on disk of each kind of output."""
    n, sources = n_pairs(study), 1 + len(study.models)
    pair = SCENE_BYTES if isinstance(study.pairs, ScenePairs) else PHOTO_BYTES
    active, parameters = study.sae.top_k or 16, study.sae.n_concepts * 2 * width
    if isinstance(study.sae, SAEConfig):  # its candidates are kept twice: for others to start from, and in it
        parameters = n_parameters(study.sae, width) + 2 * study.sae.n_candidates * width
    made = sum(PNG_BYTES_A_PIXEL * model.image_size**2 for model in study.pipelines)
    made += sum(PHOTO_BYTES for model in study.models if isinstance(model, ExternalImages))
    made += sum(SCENE_BYTES for model in study.models if isinstance(model, PerfectGenerator))
    n_kept = (n * sources + n_corpus(study)) if study.backbone.keep_tokens else 0
    kept = 2.0 * n_kept * tokens * width
    return [
        ("pairs", float(n * pair)), ("generations", n * made), ("tokens", kept),
        ("codes", float(n * sources * tokens * active * CODE_BYTES)), ("SAE", 4.0 * parameters),
    ]  # fmt: skip


def sae_memory(config: SAEConfig, width: int) -> float:
    """Bytes that training holds: parameters, two moments of each, the candidates, a buffer and a window of tokens."""
    candidates = config.n_candidates * width * (1 + config.points_per_candidate)
    return 4.0 * (3 * n_parameters(config, width) + candidates) + 2.0 * config.buffer_size * width


def n_parameters(config: SAEConfig, width: int) -> int:
    mixing = {"dense": config.n_candidates, "local": config.n_neighbours, "free": 0}[config.dictionary]
    return config.n_concepts * (2 * width + 1 + mixing)


# -- times ---------------------------------------------------------------------------------------------------------------


def seconds_of(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def seconds_an_image(model: TextToImageModel) -> float:
    """The time of one image of a model, from two short runs of one batch."""
    import torch

    from blindspots_lib.models.pipelines import generate_batch, load_pipeline

    pipeline = load_pipeline(model)
    batch = model.batch_size if torch.cuda.is_available() or model.image_size <= SMALL else 1

    def run(steps: int) -> float:
        short = model.model_copy(update={"steps": steps})
        return seconds_of(lambda: generate_batch(pipeline, short, ["a photo"] * batch, list(range(batch))))

    if batch > 1:
        run(CALIBRATION_STEPS[0])  # the first call is slow, which matters where calls are short
    few, more = (run(steps) for steps in CALIBRATION_STEPS)
    step = max(0.0, more - few) / (CALIBRATION_STEPS[1] - CALIBRATION_STEPS[0])
    return (few + step * (model.steps - CALIBRATION_STEPS[0])) / batch


def seconds_of_tokens(study: Study) -> float:
    """The time of one image's tokens, from one batch."""
    from PIL import Image

    from blindspots_lib.models.backbone import TokenExtractor

    extractor = TokenExtractor(study.backbone)
    size = study.backbone.resize
    pictures = [Image.fromarray(np.full((size, size, 3), i % 256, np.uint8)) for i in range(min(study.backbone.batch_size, 16))]
    extractor(pictures[:2])
    return seconds_of(lambda: extractor(pictures)) / len(pictures)


def seconds_of_training(config: SAEConfig, width: int) -> float:
    """The time of an SAE's training, its candidates not counted."""
    alike = {"seed": 0, "kmeans_seed": 0, "n_steps": 1, "points_per_candidate": 1, "corpus": None, "tokens": "all"}
    return config.n_steps * seconds_a_step(config.model_copy(update=alike), width)


@cache
def seconds_a_step(config: SAEConfig, width: int) -> float:
    """The time of one training step of the SAE at its full size, on made-up tokens."""
    import torch

    from blindspots_lib.sae.train import Trainer, make_sae

    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(make_sae(width, config).to(device), config)
    trainer.sae.start_from(torch.randn(config.n_candidates, width, device=device), token_length=width**0.5)
    trainer.variance = float(width)
    trainer.sae.dictionary.prepare_training(getattr(torch, config.precision))
    batch = torch.randn(config.batch_size, width, device=device)
    trainer.step(batch, config.learning_rate)
    return seconds_of(lambda: trainer.step(batch, config.learning_rate))


# -- this machine --------------------------------------------------------------------------------------------------------


def in_units(size: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def duration(seconds: int | float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def free_disk() -> int:
    folder = runs_folder()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def total_memory() -> int:
    import psutil

    return psutil.virtual_memory().total
