"""Generated images x' = g(t): every caption of a study through every text-to-image model, by diffusers."""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, folder_fingerprint, shard_path
from blindspots_lib.pairs import encode_png, generation_schema, read_shard, shards_of, write_shard
from blindspots_lib.study import Study, StudyError, TextToImageModel, resolve


def image_seed(study_seed: int, model: str, pair_id: str) -> int:
    """The seed of one image, in [0, 2^63): depends on nothing but the study's seed, the model and the pair."""
    digest = hashlib.sha256(f"{study_seed}/{model}/{pair_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@cache
def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32."""
    import torch

    if torch.cuda.is_available():
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def quiet_libraries() -> None:
    """Keep the loaders' bars and advice out of notebooks; errors are still raised."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def load_pipeline(model: TextToImageModel):
    """The diffusers pipeline of a model, ready to run. Raises StudyError if its folder is not whole."""
    import torch

    quiet_libraries()
    from diffusers import DiffusionPipeline

    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    folder = resolve(model.path)
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers and safetensors raise many kinds for a folder that is cut short
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"model {model.name!r}: {folder} does not load as a pipeline ({reason})") from None
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(memory_format=torch.channels_last)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def generate_batch(pipeline, model: TextToImageModel, captions: list[str], seeds: list[int]) -> Float[np.ndarray, "b h w 3"]:
    """One image per caption, each from noise of its own seed; RGB in [0, 1]."""
    import torch

    with torch.inference_mode():
        return pipeline(
            captions, num_inference_steps=model.steps, guidance_scale=model.guidance, height=model.image_size,
            width=model.image_size, output_type="np", generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **model.arguments,
        ).images  # fmt: skip


def to_pixels(images: Float[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """RGB in [0, 1] to bytes, rounded."""
    return (images * 255 + 0.5).clip(0, 255).astype(np.uint8)


def cause_of_loss(image: Float[np.ndarray, "h w 3"]) -> str:
    """Why an image does not count as a generation, or "": a safety checker returns plain black."""
    if not np.isfinite(image).all():
        return "not finite"
    return "black" if image.max() <= 0 else ""


def generation_artifact(study: Study, model: TextToImageModel, pairs: Artifact) -> Artifact:
    """The output folder of `generate_images`."""
    config = {**model.model_dump(exclude={"label"}), "seed": study.seed}
    inputs = {"pairs": pairs.fingerprint, "weights": folder_fingerprint(resolve(model.path))}
    return Artifact(study.folder / "generations" / model.name, study.name, config, inputs, ("generation",))


def generate_images(study: Study, model: TextToImageModel, pairs: Artifact) -> Artifact:
    """Generate an image for every pair, shard by shard; finished shards of an interrupted run are kept."""
    artifact = generation_artifact(study, model, pairs)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    pipeline = None
    with tqdm(total=study.pairs.n, desc=f"generating, {model.label}", unit="image") as bar:
        for index, pair_shard in enumerate(shards_of(pairs)):
            rows = read_shard(pair_shard, ["pair_id", "caption"])
            target = shard_path(artifact.folder, index, "parquet")
            if target.exists():
                bar.update(len(rows))
                continue
            pipeline = pipeline or load_pipeline(model)
            write_shard(target, generate_shard(pipeline, study.seed, model, rows, bar), generation_schema())
    artifact.finish(n_images=study.pairs.n)
    return artifact


def generate_shard(pipeline, study_seed: int, model: TextToImageModel, rows: list[dict], bar: tqdm) -> list[dict]:
    """The rows of one shard of generations, in the order of the pairs."""
    generated = []
    for start in range(0, len(rows), model.batch_size):
        batch = rows[start : start + model.batch_size]
        seeds = [image_seed(study_seed, model.name, row["pair_id"]) for row in batch]
        for row, image in zip(batch, generate_batch(pipeline, model, [row["caption"] for row in batch], seeds), strict=True):
            lost = cause_of_loss(image)
            stored = None if lost else {"bytes": encode_png(to_pixels(image)), "path": None}
            generated.append({"pair_id": row["pair_id"], "image": stored, "lost": lost})
        bar.update(len(batch))
    return generated
