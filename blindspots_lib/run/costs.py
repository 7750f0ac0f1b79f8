"""What a study costs: bytes on disk and in memory are counted, seconds come from short runs of each part on this machine."""

import shutil
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from blindspots_lib.core.config import SAEConfig, TextToImageModel, TrainedSAE, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import cached, fetch_config, fetch_file, remembered
from blindspots_lib.core.paths import resolve, runs_folder
from blindspots_lib.core.study import Study
from blindspots_lib.data.images import image_files
from blindspots_lib.data.tables import find_table, read_table
from blindspots_lib.run.remote import files_needed

CALIBRATION_STEPS = (2, 4)  # solver steps of two short runs; the difference is the time of two steps
ACTIVE = 8.0  # codes per token of the published SAE with its threshold, on average
SMALL = 128  # pixels per side up to which a whole batch is tried on a CPU; above it one image


def n_pairs(study: Study) -> int:
    """Return the number of pairs of a study; for a folder without `n`, the number of rows of its table."""
    return study.pairs.n or n_rows(study.pairs.path)


def n_rows(folder: str) -> int:
    return len(read_table(find_table(resolve(folder)), ["file_name"]))


def token_shape(study: Study) -> tuple[int, int]:
    """Return tokens per image and features per token by the backbone's config. Raises StudyError if the crop does not fit."""
    from transformers import CONFIG_MAPPING, AutoConfig

    stated = fetch_config(study.backbone)
    if stated.get("model_type") not in CONFIG_MAPPING:
        kind = stated.get("model_type")
        raise StudyError(
            f"backbone: {study.backbone.title} has model_type {kind!r}, which transformers does not know; use another"
        )
    config = AutoConfig.for_model(**stated)  # with the defaults of its class
    config = getattr(config, "vision_config", config)
    crop, patch = study.backbone.crop, getattr(config, "patch_size", None)
    if not isinstance(patch, int) or crop % patch:
        raise StudyError(f"backbone.crop = {crop}: must be a multiple of the backbone's patch size, {patch}")
    has_cls = not config.model_type.startswith("siglip")
    return has_cls + getattr(config, "num_register_tokens", 0) + (crop // patch) ** 2, config.hidden_size


def is_here(weights: Weights | TrainedSAE) -> bool:
    """Return whether all files of a model are on this machine."""
    if weights.path:
        return (resolve(weights.path) / (weights.subfolder or "")).is_dir()
    files = remembered(weights)
    return bool(files) and all(cached(weights, file) for file in files)


def guessed_active(study: Study) -> float:
    """Return the number of active concepts per token, guessed where a threshold or the SAE's own file decides."""
    return float(study.sae.top_k) if isinstance(study.sae.top_k, int) else min(ACTIVE, study.sae.n_concepts)


def n_corpus(study: Study) -> int:
    """Return the number of images that the SAE learns from, if they are not the real ones."""
    corpus = getattr(study.sae, "corpus", None)
    return (corpus.n or len(image_files(resolve(corpus.path)))) if corpus else 0


def sae_memory(config: SAEConfig, width: int) -> float:
    """Return the bytes that training holds: parameters, two moments of each, candidates, tokens of k-means and of the buffer."""
    candidates = config.n_candidates * width * (1 + config.points_per_candidate)
    return 4.0 * (3 * n_parameters(config, width) + candidates) + 2.0 * config.buffer_size * width


def import_memory(config: TrainedSAE, width: int) -> int:
    """Return the bytes that importing a trained SAE holds: its file, mapped, and seven arrays of a concept's width."""
    size = fetch_file(config).stat().st_size if config.path else sum(file.size for file in files_needed(config))
    return size + 7 * 4 * config.n_concepts * width  # measured: 5.6 to 6.4 arrays


def memory_of_sae(study: Study, width: int) -> tuple[str, int | float]:
    """Return what the SAE's memory is for, and the bytes at its peak."""
    if isinstance(study.sae, TrainedSAE):
        return "import", import_memory(study.sae, width)
    return "training", sae_memory(study.sae, width)


def n_parameters(config: SAEConfig, width: int) -> int:
    mixing = {"dense": config.n_candidates, "local": config.n_neighbours, "free": 0}[config.dictionary]
    return config.n_concepts * (2 * width + 1 + mixing)


def trained_again(study: Study) -> set[SAEConfig]:
    """Return the SAEs that are trained besides the study's own: for stability, and for the trial."""
    from blindspots_lib.sae.stability import run_configs
    from blindspots_lib.trial.ablations import judged_configs

    compared = run_configs(study.sae, study.stability).values() if study.stability else ()
    return {*compared, *(judged_configs(study) if study.validation else ())} - {study.sae}


def seconds_of(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def seconds_per_image(model: TextToImageModel) -> float:
    """Return the time of one image of a model, from two short runs of one batch."""
    import torch

    from blindspots_lib.models.pipelines import generate_batch, load_pipeline

    pipeline = load_pipeline(model)
    batch = model.batch_size if torch.cuda.is_available() or model.image_size <= SMALL else 1

    def run(steps: int) -> float:
        short = model.model_copy(update={"steps": steps})
        return seconds_of(lambda: generate_batch(pipeline, short, ["a photo"] * batch, list(range(batch))))

    if batch > 1:
        run(CALIBRATION_STEPS[0])  # the first call is slow, which matters if calls are short
    few, more = (run(steps) for steps in CALIBRATION_STEPS)
    step = max(0.0, more - few) / (CALIBRATION_STEPS[1] - CALIBRATION_STEPS[0])
    return (few + step * (model.steps - CALIBRATION_STEPS[0])) / batch


def seconds_of_tokens(study: Study) -> float:
    """Return the time of one image's tokens, from one batch."""
    from PIL import Image

    from blindspots_lib.models.backbone import TokenExtractor

    extractor, size = TokenExtractor(study.backbone), study.backbone.resize
    pictures = [Image.fromarray(np.full((size, size, 3), i % 256, np.uint8)) for i in range(min(study.backbone.batch_size, 16))]
    extractor(pictures[:2])
    return seconds_of(lambda: extractor(pictures)) / len(pictures)


def seconds_of_codes(study: Study, width: int) -> float:
    """Return the time of one image's codes, by encoding random tokens with an SAE of the study's size."""
    import torch

    from blindspots_lib.sae.model import TopKSAE

    n_tokens = token_shape(study)[0]
    sae = TopKSAE(width, study.sae.n_concepts, round(guessed_active(study)), n_candidates=1, dictionary="free").eval()
    sae.to("cuda" if torch.cuda.is_available() else "cpu")
    tokens = torch.randn(4 * n_tokens, width, device=sae.encoder.weight.device)
    sae.encode(tokens[:n_tokens])
    return seconds_of(lambda: sae.encode(tokens)) / 4


def seconds_of_training(config: SAEConfig, width: int) -> float:
    """Return the time of an SAE's training, without k-means."""
    alike = {"seed": 0, "kmeans_seed": 0, "n_steps": 1, "points_per_candidate": 1, "corpus": None, "tokens": "all"}
    return config.n_steps * seconds_per_step(config.model_copy(update=alike), width)


@cache
def seconds_per_step(config: SAEConfig, width: int) -> float:
    """Return the time of one training step of the SAE at its full size, on random tokens."""
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


def in_units(size: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}"
        size /= 1000


def duration(seconds: int | float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def free_disk() -> int:
    folder = runs_folder()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def total_memory() -> int:
    import psutil

    return psutil.virtual_memory().total
