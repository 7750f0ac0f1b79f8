"""Files with the weights of an SAE, as libraries write them: tensors by name, and the settings that go with them.

No code in a file is executed: files are read by safetensors or by `torch.load(weights_only=True)`. Of a pickled module or
configuration, such as the published RA-SAE, only tensors and plain values are read, with inert stand-ins for its classes.
Settings come from a JSON file beside the weights, or from the file itself: saev writes a line of JSON before the tensors,
ViT-Prisma pickles its configuration with them.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blindspots_lib.core.errors import StudyError, first_line

LIBRARIES = ("torch.nn.", "overcomplete.", "vit_prisma.")  # whose classes in a pickle become `Inert`


class WeightFile(NamedTuple):
    """What a file of weights and the settings with it say."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def read_weight_file(path: Path, settings: str | None = None) -> WeightFile:
    """Read a .safetensors or .pt file, and the JSON file `settings` in the same folder.

    Raises StudyError if a file is missing or not whole, if loading it could run code, or if it holds no state dict.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file; give the path of an SAE's weights (.safetensors or .pt)")
    beside = read_settings(path.parent / settings) if settings else {}
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return WeightFile(path, load_file(path), beside)
        header, content = load_with_header(path) if begins_with_json(path) else ({}, load_inert(path))
    except StudyError:
        raise
    except Exception as error:  # safetensors, zip and torch raise many kinds
        raise StudyError(f"{path}: not readable as tensors ({first_line(error)}); is the file whole?") from None
    if isinstance(content, Inert):  # DataParallel holds one module
        return WeightFile(path, tensors_of(content.__dict__.get("_modules", {}).get("module", content)), beside)
    if isinstance(content, dict) and isinstance(content.get("cfg"), Inert):
        header = vars(content["cfg"])
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        is_mapping = isinstance(content, Mapping)
        found = f"a mapping with {', '.join(sorted(map(str, content))[:8])}" if is_mapping else f"a {type(content).__name__}"
        raise StudyError(f"{path}: expected a state dict of tensors, found {found}; save the SAE's state_dict()")
    return WeightFile(path, dict(state), header | beside)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises StudyError if there is no such file, or it holds anything else."""
    if not path.is_file():
        raise StudyError(f"{path}: no such file; correct sae.settings in the study")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: holds no object {{...}} in JSON; correct sae.settings in the study")
    return content


def begins_with_json(path: Path) -> bool:
    with open(path, "rb") as opened:
        return opened.read(1) == b"{"


def load_with_header(path: Path) -> tuple[dict[str, Any], object]:
    """Read a file of saev: one line of JSON, then what `torch.save` wrote."""
    with open(path, "rb") as opened:
        header = json.loads(opened.readline())
        return header, torch.load(io.BytesIO(opened.read()), weights_only=True, map_location="cpu")


class Inert:
    """Stand-in for a class of a pickle: it keeps the attributes and does nothing."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state)


def load_inert(path: Path) -> object:
    """Read a .pt file by torch's restricted reader; classes of `LIBRARIES` become `Inert`, others are refused."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    foreign = sorted(name for name in names if not name.startswith(LIBRARIES))
    if foreign:
        raise StudyError(
            f"{path}: names {foreign[0]}, which loading it would run, so it is refused; where you trust it, save its "
            "state_dict() with safetensors and give that file"
        )
    with torch.serialization.safe_globals([(Inert, name) for name in names]):
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)


def tensors_of(module: Inert, prefix: str = "") -> dict[str, Tensor]:
    """Return the parameters and buffers of a pickled module and its parts, under the names of a state dict."""
    own = {**module.__dict__.get("_parameters", {}), **module.__dict__.get("_buffers", {})}
    threshold = module.__dict__.get("running_threshold")
    if threshold is not None:
        own["running_threshold"] = torch.as_tensor(threshold)
    state = {prefix + name: value.detach() for name, value in own.items() if value is not None}
    for name, part in (module.__dict__.get("_modules") or {}).items():
        if isinstance(part, Inert):
            state |= tensors_of(part, f"{prefix}{name}.")
    return state


def check_finite(numbers: Tensor, name: str, path: Path) -> None:
    bad = ~torch.isfinite(numbers).reshape(len(numbers), -1).all(dim=1)
    if bad.any():
        raise StudyError(f"{path}: {name} of concept {int(bad.nonzero()[0])} are not finite; is the file whole?")
