"""Generated images x' = g(t): every caption of a study through every text-to-image model, batch by batch, kept as it comes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import filterfalse
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, shard_path
from blindspots_lib.core.config import TextToImageModel, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import hashes, weights_fingerprint
from blindspots_lib.core.parallel import on_every_gpu, side_by_side
from blindspots_lib.core.storage import read_shard, shards_of
from blindspots_lib.data.collect import identity_of
from blindspots_lib.data.images import encode_png
from blindspots_lib.data.pairs import save_generations
from blindspots_lib.models.loading import compute_dtype, conditions
from blindspots_lib.models.pipelines import generate_batch, load_pipelines

GENERATE = Stage("generate", 1)
Job = tuple[Path, Path]  # a shard of pairs, and that of their generations
FIRST = 50  # images of a model; if all of them are lost, the rest would be too


def image_seed(study_seed: int, model: str, pair_id: str) -> int:
    """The seed of one image, in [0, 2^63): depends on nothing but the study's seed, the model and the pair."""
    digest = hashlib.sha256(f"{study_seed}/{model}/{pair_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def to_pixels(images: Float[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """RGB in [0, 1] to bytes, rounded."""
    return (images * 255 + 0.5).clip(0, 255).astype(np.uint8)


def cause_of_loss(image: Float[np.ndarray, "h w 3"], refused: bool) -> str:
    """Why an image does not count as a generation, or ""."""
    if refused:
        return "safety checker"
    if not np.isfinite(image).all():
        return "not finite"
    return "black" if image.max() <= 0 else ""


def generation_artifact(workspace: Workspace, model: TextToImageModel, pairs: Artifact) -> Artifact:
    """The output folder of `generate_images`. Its label, place, batch_size and offload are not part of the fingerprint."""
    config = {**contents(model, "label", "path", "batch_size", "offload", "prior", "unet", "lora"), "seed": workspace.seed}
    inputs = {name: weights_fingerprint(part) for name, part in model.parts.items()}
    if model.lora:
        config["lora"] = contents(model.lora, "path")
    return Artifact(workspace, f"generations/{model.name}", GENERATE, config, {"pairs": identity_of(pairs), **inputs})


def generate_images(workspace: Workspace, model: TextToImageModel, pairs: Artifact) -> Artifact:
    """Generate an image for every pair, on every GPU. A finished batch is on disk at once; an interrupted run goes on after it.

    Where only the pairs have changed since the last run (there are more of them), its images of the same captions are kept.
    Raises StudyError, with the causes, if the first images are all lost.
    """
    artifact = generation_artifact(workspace, model, pairs)
    if artifact.is_complete():
        return artifact
    superseded = artifact.begin(generation_conditions(model))
    earlier = superseded.folder if superseded and set(superseded.changed) == {"pairs"} else None
    jobs = [(shard, shard_path(artifact.folder, index, "parquet")) for index, shard in enumerate(shards_of(pairs))]
    n_pairs, causes = pairs.facts["n_pairs"], Counter()
    with tqdm(total=n_pairs, desc=f"generating, {model.label}", unit="image") as bar:

        def count(lost: list[str]) -> None:
            bar.update(len(lost))
            check_losses(model, causes, lost, n_pairs)

        for _, target in filter(is_done, jobs):
            count([row["lost"] for row in read_shard(target, ["lost"])])
        on_every_gpu(partial(make_shards, workspace.seed, model, earlier), list(filterfalse(is_done, jobs)), count)
    for _, target in jobs:
        for path in batches_on_disk(target):
            path.unlink()
    files = {name: hashes(part) for name, part in model.parts.items()}
    artifact.finish(n_images=n_pairs, files=files)
    return artifact


def is_done(job: Job) -> bool:
    return job[1].exists()


def make_shards(
    study_seed: int, model: TextToImageModel, earlier: Path | None, jobs: Sequence[Job], report: Callable[[list[str]], object]
) -> None:
    """Generate the images of some shards, batch by batch; report of each image why it is lost, or "".

    Batches are cut from one shard each, so that who makes a shard, and what else, changes no pixel.
    """
    wanted = {key_of(row) for shard, _ in jobs for row in read_shard(shard, ["pair_id", "caption"])} if earlier else set()
    kept = rows_by_caption(earlier, wanted) if earlier else {}
    generate, pipelines = partial(generate_rows, study_seed, model), []
    for pair_shard, target in jobs:
        rows = read_shard(pair_shard, ["pair_id", "caption"])
        finished = {row["pair_id"]: row for row in map(kept.get, map(key_of, rows)) if row} | finished_rows(target)
        report([row["lost"] for row in finished.values()])
        missing = batches_of([row for row in rows if row["pair_id"] not in finished], model.batch_size)
        pipelines = pipelines or (load_pipelines(model) if missing else [])
        with made_by(pipelines, missing, generate) as batches:
            for made in batches:
                save_generations(batch_path(target, made[0]["pair_id"]), made)
                finished |= {row["pair_id"]: row for row in made}
                report([row["lost"] for row in made])
        save_generations(target, [finished[row["pair_id"]] for row in rows])
        for path in batches_on_disk(target):
            path.unlink()


def check_losses(model: TextToImageModel, causes: Counter, lost: Iterable[str], n_pairs: int) -> None:
    """Count why images were lost. Raises StudyError if there are `FIRST` images, or all, and none of them is whole."""
    causes.update(lost)
    if not causes[""] and causes.total() >= min(FIRST, n_pairs):
        counts = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()) if count)
        raise StudyError(
            f"model {model.name!r}: its first {causes.total()} images are all lost ({counts}); set dtype: float32 or correct "
            "the model in the study"
        )


def generation_conditions(model: TextToImageModel) -> dict[str, str | int]:
    """What decides the pixels besides settings and weights; the batch size only where one by one is not the rule."""
    found = conditions(compute_dtype(model.dtype, model), "diffusers", "transformers")
    alone = (found["device"], found["dtype"]) == ("cpu", "float32")
    return found if alone else {**found, "batch_size": model.batch_size}


def key_of(row: dict) -> tuple[str, str]:
    return row["pair_id"], row["caption"]


def rows_by_caption(folder: Path, wanted: Container[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """The generations of an earlier run that has finished, by pair id and caption, as far as they are wanted."""
    rows = (row for path in sorted(folder.glob("shard-*.parquet")) for row in read_shard(path))
    return {key_of(row): row for row in rows if key_of(row) in wanted}


def batch_path(shard: Path, first_id: str) -> Path:
    """Where one finished batch of a shard waits until the shard is whole."""
    return shard.with_name(f"batch-{shard.stem}-{hashlib.sha256(first_id.encode()).hexdigest()[:16]}.parquet")


def batches_on_disk(shard: Path) -> list[Path]:
    return sorted(shard.parent.glob(f"batch-{shard.stem}-*.parquet"))


def finished_rows(shard: Path) -> dict[str, dict]:
    """What an interrupted run left of a shard, by pair id."""
    return {row["pair_id"]: row for path in batches_on_disk(shard) for row in read_shard(path)}


def batches_of(rows: list[dict], size: int) -> list[list[dict]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def made_by(pipelines: list, batches: list[list[dict]], generate: Callable) -> AbstractContextManager[Iterator[list[dict]]]:
    """`generate(pipeline, batch)` of every batch, in their order, by whichever pipeline is idle."""
    idle: SimpleQueue = SimpleQueue()
    for pipeline in pipelines:
        idle.put(pipeline)

    def by_an_idle_one(batch: list[dict]) -> list[dict]:
        pipeline = idle.get()
        try:
            return generate(pipeline, batch)
        finally:
            idle.put(pipeline)

    return side_by_side(by_an_idle_one, batches, len(pipelines))


def generate_rows(study_seed: int, model: TextToImageModel, pipeline, batch: list[dict]) -> list[dict]:
    """The rows of one batch of generations, in the order of the pairs."""
    seeds = [image_seed(study_seed, model.name, row["pair_id"]) for row in batch]
    generated = generate_batch(pipeline, model, [row["caption"] for row in batch], seeds)
    rows = []
    for row, image, refused in zip(batch, generated.images, generated.refused, strict=True):
        lost = cause_of_loss(image, refused)
        stored = None if lost else {"bytes": encode_png(to_pixels(image)), "path": None}
        rows.append({**row, "image": stored, "lost": lost})
    return rows
