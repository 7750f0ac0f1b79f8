"""Load models: choose device and dtype, silence libraries, turn load errors, missing tensors and full GPUs into one line."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from blindspots_lib.core.artifacts import package_versions
from blindspots_lib.core.config import Weights
from blindspots_lib.core.errors import StudyError, first_line
from blindspots_lib.core.hub import WEIGHTS, fetch


@cache
def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def compute_dtype(named: str = "auto", weights: Weights | None = None):
    """Return the torch dtype of that name; "auto" is that of the weights on a GPU, since rounding them changes the images.

    On a CPU, or without weights, "auto" is bfloat16 where it is fast, else float16 on a GPU and float32 on a CPU.
    """
    import torch

    if named != "auto":
        return getattr(torch, named)
    if weights and torch.cuda.is_available() and (stored := stored_dtype(weights)):
        return stored
    slow = torch.float16 if torch.cuda.is_available() else torch.float32
    return torch.bfloat16 if has_fast_bfloat16() else slow


def stored_dtype(weights: Weights):
    """Return the torch dtype of the first tensor of a model's weights, or None if it is none to compute in."""
    import torch
    from safetensors import safe_open

    folder = fetch(weights)
    variant = variant_of(weights.variant, folder)
    files = [file for file in sorted(folder.rglob("*.safetensors")) if (name := WEIGHTS.fullmatch(file.name))
             and name["variant"] == variant]  # fmt: skip
    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    with naming_load_errors("weights", folder):
        for file in files[:1]:
            with safe_open(file, "pt") as opened:
                return kinds.get(opened.get_slice(next(iter(opened.keys()))).get_dtype())


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
        raise StudyError(f"{what}: {folder} does not load ({first_line(error)})") from None


@contextmanager
def naming_full_gpu(what: str, mend: str) -> Iterator[None]:
    """Turn a full GPU into one line that says what to change in the study."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise StudyError(f"{what}: the GPU's memory is full{mend}; finished work is kept") from None


def load_whole(kind: type, what: str, folder: Path, variant: str | None = None, **settings):
    """Return `kind.from_pretrained` of a folder. Raises StudyError if its files lack tensors: the libraries draw those at random.

    What the libraries report is asked, since they rename tensors of older files; tensors that the model does not have are fine.
    """
    quiet("transformers")
    with naming_load_errors(what, folder):
        model, report = kind.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, variant=variant_of(variant, folder),
            output_loading_info=True, **settings,
        )  # fmt: skip
    missing = sorted(report["missing_keys"])
    if missing := [name for name in missing if not name.startswith("pooler.")]:  # of a backbone; tokens do not come through it
        tensors = f"{len(missing)} tensors, such as {missing[0]}" if len(missing) > 1 else f"1 tensor, {missing[0]}"
        raise StudyError(f"{what}: {folder} lacks {tensors}, which would be random; get its weights again")
    return model


def variant_of(variant: str | None, folder: Path) -> str | None:
    """Return the variant of weights if the folder has any file of it, else None."""
    return variant if variant and any(folder.rglob(f"*.{variant}*")) else None
