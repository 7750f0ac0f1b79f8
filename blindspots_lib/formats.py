"""SAEs of other libraries: read the state dicts of Overcomplete (RA-SAE, TopK, BatchTopK), and write one that it reads.

Nothing is unpickled: safetensors, or what `torch.load(weights_only=True)` accepts. Layout (Overcomplete 0.3):

    encoder.final_block.0.weight (k, d), .bias (k)                     the encoder
    encoder.final_block.1.weight, .bias, .running_mean, .running_var   a batch norm after it, optional
    dictionary.W (k, c), .C (c, d), .Relax (k, d), .multiplier ()      RA-SAE: D = (W C + Relax) exp(multiplier)
    dictionary._weights (k, d), .multiplier ()                         TopK, BatchTopK: rows of unit length, times exp(multiplier)
    running_threshold ()                                               BatchTopK; a plain attribute there, so often missing

The card of matybohacek/RA-SAE-DINOv2-32k names the same parts (an encoder, W, C, a relaxation) and k = 5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blindspots_lib.sae import TopKSAE
from blindspots_lib.study import StudyError

ENCODER = "encoder.final_block.0"
NORM = "encoder.final_block.1"
ARCHETYPAL = ("dictionary.W", "dictionary.C", "dictionary.Relax")
FREE = "dictionary._weights"
Selection = Literal["top-k", "threshold"]
BATCH_NORM_EPS = 1e-5  # torch's default, which Overcomplete keeps


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file. Raises StudyError if it holds anything but tensors, or is not whole."""
    if not path.exists():
        raise StudyError(f"{path}: no such file; give the path of an SAE's weights (.safetensors or .pt)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # safetensors, zip and torch raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(
            f"{path}: not readable as plain tensors ({reason}); a pickled module is refused since loading it runs its code: "
            "where you trust it, save its state_dict() with safetensors and give that file"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StudyError(f"{path}: expected a state dict of tensors, found {describe(content)}; save the SAE's state_dict()")
    return state


def describe(content: object) -> str:
    if isinstance(content, Mapping):
        return "a mapping with " + ", ".join(sorted(str(key) for key in content)[:8])
    return f"a {type(content).__name__}"


def read_overcomplete(
    path: Path, k: int | None, selection: Selection = "top-k", threshold: float | None = None, radius: float = 1.0
) -> TopKSAE:
    """An SAE of Overcomplete with the same codes, reconstructions and dictionary, from the file of its state dict.

    `selection` "top-k" keeps the k largest codes; "threshold" keeps those at or above BatchTopK's running threshold, which
    is read from the file or given here. `radius` is the bound that the relaxation was trained under (Overcomplete's delta).
    Raises StudyError, with what was expected and found, if the state dict has another layout or its shapes do not fit.
    """
    return from_overcomplete(read_weights(path), k, selection, threshold, radius, name=str(path))


def from_overcomplete(
    state: Mapping[str, Tensor], k: int | None, selection: Selection = "top-k", threshold: float | None = None,
    radius: float = 1.0, name: str = "state dict",
) -> TopKSAE:  # fmt: skip
    """See `read_overcomplete`; `name` is what errors call the state dict."""
    state = {key: value.float() for key, value in state.items()}
    check_layout(state, name)
    weight, bias = folded_encoder(state)
    scale = state.get("dictionary.multiplier", torch.zeros(())).exp()
    n_concepts, d = weight.shape
    k = None if selection == "threshold" else k
    if FREE in state:
        sae = TopKSAE(d, n_concepts, k, n_candidates=1, dictionary="free")
        dictionary = {"free_atoms": scale * F.normalize(state[FREE], dim=1)}
    else:
        n_candidates = len(state["dictionary.C"])
        sae = TopKSAE(d, n_concepts, k, n_candidates, "dense", relaxation_radius=radius * scale.item())
        dictionary = {
            "weights": state["dictionary.W"], "candidates": scale * state["dictionary.C"],
            "relaxation": scale * state["dictionary.Relax"],
        }  # fmt: skip
    sae.load_state_dict({
        "encoder.weight": weight, "encoder.bias": bias, "token_length": torch.ones(()),
        "threshold": running_threshold(state, threshold, name) if selection == "threshold" else torch.zeros(()),
        **{f"dictionary.{key}": value for key, value in dictionary.items()},
    })  # fmt: skip
    if FREE not in state:
        sae.dictionary.project()  # Overcomplete projects when it builds the dictionary, not when it saves
    return sae.eval()


def check_layout(state: Mapping[str, Tensor], name: str) -> None:
    expected = [f"{ENCODER}.weight", f"{ENCODER}.bias", *([FREE] if FREE in state else ARCHETYPAL)]
    missing = [key for key in expected if key not in state]
    known = (ENCODER, NORM, "dictionary.", "running_threshold")
    other = [key for key in state if not key.startswith(known)]
    if missing or other:
        lacks = f"it lacks {', '.join(missing)}" if missing else f"{other[0]} is of no encoder that is known"
        raise StudyError(
            f"{name}: not an Overcomplete SAE with a linear encoder; {lacks}. Expected {ENCODER}.weight and .bias, with "
            f"dictionary.W, .C and .Relax (RA-SAE) or {FREE} (TopK, BatchTopK); found {', '.join(sorted(state)[:8])}"
        )
    n_concepts, d = state[f"{ENCODER}.weight"].shape
    c = len(state["dictionary.C"]) if FREE not in state else 0
    shapes = {f"{ENCODER}.bias": (n_concepts,), FREE: (n_concepts, d), "dictionary.W": (n_concepts, c),
              "dictionary.C": (c, d), "dictionary.Relax": (n_concepts, d)}  # fmt: skip
    for key, shape in shapes.items():
        if key in state and tuple(state[key].shape) != shape:
            raise StudyError(
                f"{name}: {key} has shape {tuple(state[key].shape)} where {shape} fits the encoder's ({n_concepts}, {d})"
            )


def folded_encoder(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the encoder, a batch norm after it (in evaluation mode) folded in."""
    weight, bias = state[f"{ENCODER}.weight"], state[f"{ENCODER}.bias"]
    if f"{NORM}.running_var" not in state:
        return weight, bias
    gain = state[f"{NORM}.weight"] / (state[f"{NORM}.running_var"] + BATCH_NORM_EPS).sqrt()
    return weight * gain[:, None], (bias - state[f"{NORM}.running_mean"]) * gain + state[f"{NORM}.bias"]


def running_threshold(state: Mapping[str, Tensor], given: float | None, name: str) -> Tensor:
    if given is None and "running_threshold" not in state:
        raise StudyError(f"{name}: holds no running_threshold; give it, as Overcomplete keeps it outside of the state dict")
    return torch.tensor(given) if given is not None else state["running_threshold"]


def to_overcomplete(sae: TopKSAE) -> dict[str, Tensor]:
    """The state dict with which Overcomplete gives the same codes and reconstructions.

    For RATopKSAE, with W over all candidates (a local dictionary's zeros filled in), or for TopKSAE with
    dictionary_params={"normalization": "identity"}, since these atoms keep their lengths.
    """
    state = {
        f"{ENCODER}.weight": sae.encoder.weight.detach() / sae.token_length,
        f"{ENCODER}.bias": sae.encoder.bias.detach().clone(), "dictionary.multiplier": torch.zeros(()),
    }  # fmt: skip
    dictionary = sae.dictionary
    if hasattr(dictionary, "free_atoms"):
        return state | {FREE: dictionary.free_atoms.detach().clone()}
    weights = dictionary.weights.detach().clone()
    if hasattr(dictionary, "neighbours"):
        weights = torch.zeros(len(weights), len(dictionary.candidates)).scatter_add(1, dictionary.neighbours, weights)
    relaxation = dictionary.relaxation.detach().clone()
    return state | {"dictionary.W": weights, "dictionary.C": dictionary.candidates.clone(), "dictionary.Relax": relaxation}
