"""Text-to-image pipelines of diffusers: load their parts, place them on the device, generate images."""

import gc
import inspect
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from blindspots_lib.core.config import LoRA, Scheduler, TextToImageModel, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import read_json
from blindspots_lib.core.hub import fetch
from blindspots_lib.core.parallel import n_side_by_side
from blindspots_lib.models.loading import compute_dtype, load_whole, naming_full_gpu, naming_load_errors, quiet

SET_BY_STUDY = {
    "prompt", "num_inference_steps", "guidance_scale", "height", "width", "generator", "output_type", "num_images_per_prompt",
    "return_dict",
}  # fmt: skip

SMALL = 2**28  # bytes of weights; the solver steps of a smaller model gain nothing from several threads
ROOM = 1.3  # times the weights that a GPU must hold at once is the free memory it must have


def load_pipeline(model: TextToImageModel):
    """Return the pipeline of a model, ready to run. Raises StudyError if a part is out of reach or not whole."""
    import diffusers

    quiet("diffusers", "transformers")
    what, dtype, parts = f"model {model.name!r}", compute_dtype(model.dtype, model), {}
    if model.unet:
        kind, folder = diffusers.UNet2DConditionModel, fetch(model.unet)
        parts["unet"] = load_whole(kind, f"{what}, unet", folder, model.unet.variant, dtype=dtype)
    pipeline = load_parts(what, model, dtype, **parts)
    if model.unet and "unet" not in pipeline.components:
        raise StudyError(f"{what}: {type(pipeline).__name__} has no unet to replace; remove unet from the study")
    if model.prior:
        pipeline = with_prior(what, pipeline, load_parts(f"{what}, prior", model.prior, dtype))
    if model.lora:
        add_lora(what, pipeline, model.lora)
    if model.scheduler:
        scheduler = other_scheduler(what, pipeline.scheduler, model.scheduler)
        for part in filter(None, (pipeline, getattr(pipeline, "decoder_pipe", None))):  # of a two-stage pipeline
            part.scheduler = scheduler
    check_arguments(what, pipeline, model.arguments)
    pipeline.set_progress_bar_config(disable=True)
    need = need_of_parts(pipeline)
    sizes = f"its weights take {need.whole / 1e9:.1f} GB, the largest part {need.largest / 1e9:.1f} GB"
    with naming_full_gpu(what, f" while it loads ({sizes}); set offload: sequential, or take a smaller one of studies/models.md"):
        return place(pipeline, model)


def load_pipelines(model: TextToImageModel) -> list:
    """Return pipelines of a model to run in parallel: several of a small model on a CPU, else one."""
    first = load_pipeline(model)
    return [first, *(load_pipeline(model) for _ in range(1, n_side_by_side() if need_of_parts(first).whole <= SMALL else 1))]


def load_parts(what: str, weights: Weights, dtype, **parts):
    """Return the pipeline of a folder, with these parts in place of its own."""
    import diffusers

    folder = fetch(weights)
    parts |= load_whole_parts(what, folder, dtype, weights.variant, parts)
    with naming_load_errors(what, folder):
        return diffusers.DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **parts
        )


def load_whole_parts(what: str, folder: Path, dtype, variant: str | None, given: Container[str]) -> dict[str, Any]:
    """Load the networks that a pipeline's index names one by one, which tells tensors that are missing; without those `given`."""
    import diffusers
    import transformers

    parts = {}
    with naming_load_errors(what, folder):
        named = {name: kind for name, kind in read_json(folder / "model_index.json").items() if isinstance(kind, list)}
        for name, (library, kind) in named.items():
            module = {"diffusers": diffusers, "transformers": transformers}.get(library)
            found = getattr(module or getattr(diffusers.pipelines, str(library), None), str(kind), None)
            is_network = isinstance(found, type) and issubclass(found, diffusers.ModelMixin | transformers.PreTrainedModel)
            if is_network and name not in given and (folder / name).is_dir():
                parts[name] = load_whole(found, f"{what}, {name}", folder / name, variant, dtype=dtype)
    return parts


def with_prior(what: str, decoder, prior):
    """Make the two-stage pipeline of a decoder and its prior; each comes at its own revision."""
    from diffusers import AutoPipelineForText2Image

    with naming_load_errors(f"{what}, prior", Path(prior.config.get("_name_or_path", ""))):
        return AutoPipelineForText2Image.from_pipe(decoder, **{f"prior_{name}": part for name, part in prior.components.items()})


def add_lora(what: str, pipeline, lora: LoRA) -> None:
    folder = fetch(lora)
    with naming_load_errors(f"{what}, lora", folder):
        pipeline.load_lora_weights(
            str(folder), weight_name=lora.file, adapter_name="study", use_safetensors=True, local_files_only=True
        )
        pipeline.set_adapters(["study"], [lora.scale])


def other_scheduler(what: str, current, wanted: Scheduler):
    """Make a scheduler of another class with the noise schedule that the model was trained with."""
    import diffusers

    kind = getattr(diffusers, wanted.name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise StudyError(f"{what}: scheduler {wanted.name!r} is no scheduler of diffusers; try DPMSolverMultistepScheduler")
    if unknown := sorted(set(wanted.arguments) - set(inspect.signature(kind.__init__).parameters)):
        raise StudyError(f"{what}: {wanted.name} takes no argument {unknown[0]!r}; correct the scheduler's arguments")
    return kind.from_config(current.config, **wanted.arguments)


def check_arguments(what: str, pipeline, arguments: Mapping[str, Any]) -> None:
    """Raise StudyError for an argument that the pipeline's call does not name; some calls take any and ignore it."""
    named = [p.name for p in inspect.signature(type(pipeline).__call__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    if taken := sorted(set(arguments) & SET_BY_STUDY):
        raise StudyError(f"{what}: the argument {taken[0]!r} is set by the study itself; use steps, guidance or image_size")
    if unknown := sorted(set(arguments) - set(named)):
        raise StudyError(f"{what}: {type(pipeline).__name__} takes no argument {unknown[0]!r}; it takes {', '.join(named[1:])}")


def place(pipeline, model: TextToImageModel):
    """Move a pipeline to the GPU, as a whole or, if it does not fit, part by part as each is needed.

    channels_last on the GPU only: faster convolutions there, but GroupNorm is 4x slower on a CPU.
    """
    import torch

    if not torch.cuda.is_available():
        return pipeline
    for part in modules_of(pipeline):
        part.to(memory_format=torch.channels_last)
    offload = model.offload
    if offload == "auto":
        gc.collect()  # frees what an earlier model held
        torch.cuda.empty_cache()
        offload = offload_for(need_of_parts(pipeline), torch.cuda.mem_get_info()[0])
    if offload == "never":
        return pipeline.to("cuda")
    {"model": pipeline.enable_model_cpu_offload, "sequential": pipeline.enable_sequential_cpu_offload}[offload]()
    return pipeline


class Need(NamedTuple):
    """Bytes of a pipeline's weights."""

    whole: int
    largest: int  # of its parts


def need_of_parts(pipeline) -> Need:
    sizes = [sum(weight.numel() * weight.element_size() for weight in module.parameters()) for module in modules_of(pipeline)]
    return Need(sum(sizes), max(sizes, default=0))


def offload_for(need: Need, free: int) -> str:
    """Return what a GPU with `free` bytes has room for: all parts ("never"), one at a time ("model"), or one layer at a time."""
    fits = {"never": need.whole, "model": need.largest}
    return next((way for way, size in fits.items() if ROOM * size < free), "sequential")


def modules_of(pipeline) -> list:
    """The parts of a pipeline that have weights."""
    import torch

    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


class Generated(NamedTuple):
    images: Float[np.ndarray, "b h w 3"]  # RGB in [0, 1]
    refused: list[bool]  # by the pipeline's safety checker, which returns a black image


def generate_batch(pipeline, model: TextToImageModel, captions: list[str], seeds: list[int]) -> Generated:
    """Generate one image per caption, from noise of that image's seed. Raises StudyError if the device's memory is full.

    In float32 on a CPU images are generated one by one: matrix products of another shape round differently, and the batch
    size must not change a pixel. In bfloat16 nearly all of these differences vanish by rounding; the others are accepted.
    """
    import torch

    if pipeline.dtype == torch.float32 and pipeline.device.type == "cpu" and len(captions) > 1:
        made = [generate_batch(pipeline, model, [caption], [seed]) for caption, seed in zip(captions, seeds, strict=True)]
        return Generated(np.concatenate([one.images for one in made]), [flag for one in made for flag in one.refused])
    full = f" at batch_size = {model.batch_size}; lower it, or set offload: sequential"
    with naming_full_gpu(f"model {model.name!r}", full), torch.inference_mode():
        output = pipeline(
            prompt=list(captions), num_inference_steps=model.steps, guidance_scale=model.guidance, output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], height=model.image_size,
            width=model.image_size, **model.arguments,
        )  # fmt: skip
    refused = getattr(output, "nsfw_content_detected", None) or [False] * len(captions)
    return Generated(output.images, [bool(flag) for flag in refused])
