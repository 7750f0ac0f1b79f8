"""What loading a model needs, whatever the model: device, dtype, quiet libraries, errors in one line."""

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
    """The torch dtype of that name; "auto" is bfloat16 where it is fast, else float16 on a GPU and float32 on a CPU."""
    import torch

    if named != "auto":
        return getattr(torch, named)
    if has_fast_bfloat16():
        return torch.bfloat16
    return torch.float16 if torch.cuda.is_available() else torch.float32


def device_kind() -> str:
    """ "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def conditions(dtype, *packages: str) -> dict[str, str]:
    """What decides the bytes of an output besides its settings: device, dtype and package versions, torch's included."""
    return {"device": device_kind(), "dtype": str(dtype).removeprefix("torch."), **package_versions("torch", *packages)}


def quiet(*libraries: str) -> None:
    """Keep bars and advice of diffusers or transformers out of notebooks; errors are still raised."""
    for library in libraries:
        logging = importlib.import_module(f"{library}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@contextmanager
def naming_load_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever diffusers, transformers and safetensors raise for a folder that is not whole into one line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # these libraries raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{what}: {folder} does not load ({reason})") from None


def variant_of(weights: Weights, folder: Path) -> str | None:
    """The variant of the weights, if the folder has any file of it."""
    return weights.variant if weights.variant and any(folder.rglob(f"*.{weights.variant}*")) else None
