"""Text-to-image pipelines of diffusers: parts fetched, put together, placed on the device, asked for images."""

import gc
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from blindspots_lib.core.config import LoRA, Scheduler, TextToImageModel, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import fetch
from blindspots_lib.core.parallel import n_side_by_side
from blindspots_lib.models.loading import compute_dtype, naming_load_errors, quiet, variant_of

SET_BY_STUDY = {
    "prompt", "num_inference_steps", "guidance_scale", "height", "width", "generator", "output_type", "num_images_per_prompt",
    "return_dict",
}  # fmt: skip

SMALL = 2**28  # bytes of weights below which a model's steps are too short for several cores to share
ROOM = 1.3  # memory of the device over the size of the weights, below which parts wait in main memory


def load_pipeline(model: TextToImageModel):
    """The pipeline of a model, ready to run. Raises StudyError if a part is out of reach or not whole."""
    quiet("diffusers", "transformers")
    what = f"model {model.name!r}"
    parts = {"unet": load_unet(model)} if model.unet else {}
    pipeline = load_folder(what, model, compute_dtype(model.dtype), **parts)
    if model.unet and "unet" not in pipeline.components:
        raise StudyError(f"{what}: {type(pipeline).__name__} has no unet to replace; remove unet from the study")
    if model.prior:
        pipeline = with_prior(what, pipeline, load_folder(f"{what}, prior", model.prior, compute_dtype(model.dtype)))
    if model.lora:
        add_lora(what, pipeline, model.lora)
    if model.scheduler:
        scheduler = other_scheduler(what, pipeline.scheduler, model.scheduler)
        for part in filter(None, (pipeline, getattr(pipeline, "decoder_pipe", None))):  # two-stage pipelines hold a second
            part.scheduler = scheduler
    check_arguments(what, pipeline, model.arguments)
    pipeline.set_progress_bar_config(disable=True)
    return place(pipeline, model)


def load_pipelines(model: TextToImageModel) -> list:
    """Pipelines of a model that can run side by side: of a small one on a CPU one for each share of the cores."""
    first = load_pipeline(model)
    return [first, *(load_pipeline(model) for _ in range(1, n_side_by_side() if weights_size(first) <= SMALL else 1))]


def load_folder(what: str, weights: Weights, dtype, **parts):
    from diffusers import DiffusionPipeline

    folder = fetch(weights)
    with naming_load_errors(what, folder):
        return DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, variant=variant_of(weights, folder), **parts
        )


def load_unet(model: TextToImageModel):
    from diffusers import UNet2DConditionModel

    folder = fetch(model.unet)
    with naming_load_errors(f"model {model.name!r}, unet", folder):
        return UNet2DConditionModel.from_pretrained(
            str(folder), torch_dtype=compute_dtype(model.dtype), use_safetensors=True, local_files_only=True,
            variant=variant_of(model.unet, folder),
        )  # fmt: skip


def with_prior(what: str, decoder, prior):
    """The two-stage pipeline of a decoder and its prior, each loaded at a revision of its own."""
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
    """A scheduler of another class, on the noise schedule that the model was trained with."""
    import diffusers

    kind = getattr(diffusers, wanted.name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise StudyError(
            f"{what}: scheduler {wanted.name!r} is no scheduler of diffusers; an example: DPMSolverMultistepScheduler"
        )
    unknown = sorted(set(wanted.arguments) - set(inspect.signature(kind.__init__).parameters))
    if unknown:
        raise StudyError(f"{what}: {wanted.name} takes no argument {unknown[0]!r}; correct the scheduler's arguments")
    return kind.from_config(current.config, **wanted.arguments)


def check_arguments(what: str, pipeline, arguments: Mapping[str, Any]) -> None:
    """Raise StudyError for an argument that the pipeline's call does not name; some take any and ignore it."""
    named = [p.name for p in inspect.signature(type(pipeline).__call__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = sorted(set(arguments) & SET_BY_STUDY)
    if taken:
        raise StudyError(f"{what}: the argument {taken[0]!r} is set by the study itself; use steps, guidance or image_size")
    unknown = sorted(set(arguments) - set(named))
    if unknown:
        raise StudyError(f"{what}: {type(pipeline).__name__} takes no argument {unknown[0]!r}; it takes {', '.join(named[1:])}")


def place(pipeline, model: TextToImageModel):
    """Move a pipeline to the GPU, whole or, where it does not fit, part by part as each is needed.

    There channels come last in memory, as its convolutions like it; a CPU normalizes groups four times slower so.
    """
    import torch

    if not torch.cuda.is_available():
        return pipeline
    for part in modules_of(pipeline):
        part.to(memory_format=torch.channels_last)
    offload = model.offload
    if offload == "auto":
        gc.collect()  # what an earlier model held is not room taken
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        offload = "never" if ROOM * weights_size(pipeline) < free else "model"
    if offload == "never":
        return pipeline.to("cuda")
    {"model": pipeline.enable_model_cpu_offload, "sequential": pipeline.enable_sequential_cpu_offload}[offload]()
    return pipeline


def weights_size(pipeline) -> int:
    """Bytes of all parameters."""
    return sum(
        parameter.numel() * parameter.element_size() for module in modules_of(pipeline) for parameter in module.parameters()
    )


def modules_of(pipeline) -> list:
    """The parts of a pipeline that have weights."""
    import torch

    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


class Generated(NamedTuple):
    images: Float[np.ndarray, "b h w 3"]  # RGB in [0, 1]
    refused: list[bool]  # by the pipeline's safety checker, which returns black in its place


def generate_batch(pipeline, model: TextToImageModel, captions: list[str], seeds: list[int]) -> Generated:
    """One image per caption, each from noise of its own seed. Raises StudyError if the device's memory is full.

    In float32 on a CPU they are made one by one: products of another shape round differently there, and the size of a
    batch is not to decide a pixel. In bfloat16 nearly all such differences are rounded away, and the others are left.
    """
    import torch

    alone = pipeline.dtype == torch.float32 and pipeline.device.type == "cpu" and len(captions) > 1
    if alone:
        made = [generate_batch(pipeline, model, [caption], [seed]) for caption, seed in zip(captions, seeds, strict=True)]
        return Generated(np.concatenate([one.images for one in made]), [flag for one in made for flag in one.refused])
    sizes: dict[str, Any] = {"height": model.image_size, "width": model.image_size}
    try:
        with torch.inference_mode():
            output = pipeline(
                captions, num_inference_steps=model.steps, guidance_scale=model.guidance, output_type="np",
                generator=[torch.Generator().manual_seed(seed) for seed in seeds], **sizes, **model.arguments,
            )  # fmt: skip
    except torch.OutOfMemoryError:
        raise StudyError(
            f"model {model.name!r}: the GPU's memory is full at batch_size = {model.batch_size}; lower it, or set "
            "offload: sequential; finished images are kept"
        ) from None
    refused = getattr(output, "nsfw_content_detected", None) or [False] * len(captions)
    return Generated(output.images, [bool(flag) for flag in refused])
