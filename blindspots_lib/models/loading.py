"""Load models: choose device and dtype, silence libraries, turn load errors into one line."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from blindspots_lib.core.artifacts import package_versions
from blindspots_lib.core.config import Weights
from blindspots_lib.core.errors import StudyError


@cache
def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def compute_dtype(named: str = "auto"):
    """Return the torch dtype of that name; "auto" is bfloat16 where it is fast, else float16 on a GPU and float32 on a CPU."""
    import torch

    if named != "auto":
        return getattr(torch, named)
    slow = torch.float16 if torch.cuda.is_available() else torch.float32
    return torch.bfloat16 if has_fast_bfloat16() else slow


def device_kind() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def conditions(dtype, *packages: str) -> dict[str, str]:
    """Return what decides the bytes of an output besides its settings: device, dtype, versions of torch and `packages`."""
    return {"device": device_kind(), "dtype": str(dtype).removeprefix("torch."), **package_versions("torch", *packages)}


def quiet(*libraries: str) -> None:
    """Turn off progress bars and warnings of diffusers or transformers; errors are still raised."""
    for library in libraries:
        logging = importlib.import_module(f"{library}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@contextmanager
def naming_load_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever diffusers, transformers and safetensors raise for an incomplete folder into one line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # these libraries raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{what}: {folder} does not load ({reason})") from None


def variant_of(weights: Weights, folder: Path) -> str | None:
    """Return the variant of the weights if the folder has any file of it, else None."""
    return weights.variant if weights.variant and any(folder.rglob(f"*.{weights.variant}*")) else None
