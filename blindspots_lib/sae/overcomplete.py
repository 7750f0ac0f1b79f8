"""SAEs of Overcomplete: read its state dicts (RA-SAE, TopK, BatchTopK), and write one that it can read.

Layout (Overcomplete 0.3):

    encoder.final_block.0.weight (k, d), .bias (k)                     the encoder
    encoder.final_block.1.weight, .bias [, .running_mean, .running_var]  a layer norm [batch norm] after it, optional
    dictionary.W (k, c), .C (c, d), .Relax (k, d), .multiplier ()      RA-SAE: D = (W C + Relax) exp(multiplier)
    dictionary._weights (k, d), .multiplier ()                         TopK, BatchTopK: rows, normalized, times exp(multiplier)
    running_threshold ()                                               BatchTopK; a plain attribute there, so often missing

matybohacek/RA-SAE-DINOv2-32k is a pickled DataParallel(BatchTopKSAE) with a layer norm over its 32,000 concepts. Only its
config.json gives its threshold, 0.829.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.weight_files import WeightFile, check_finite

ENCODER = "encoder.final_block.0"
NORM = "encoder.final_block.1"
ARCHETYPAL = ("dictionary.W", "dictionary.C", "dictionary.Relax")
FREE = "dictionary._weights"
NEARLY = 0.05  # by which lengths of 1 may be off after the last step of a training
NORMALIZATIONS = {
    "l2": lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-8), "max_l2": lambda x: x / x.norm(dim=1).max(),
    "l1": lambda x: x / (x.norm(p=1, dim=1, keepdim=True) + 1e-8), "max_l1": lambda x: x / x.norm(p=1, dim=1).max(),
    "identity": lambda x: x,
}  # fmt: skip
ROWS = 256  # rows of W that are multiplied at a time
BATCH_NORM_EPS = 1e-5  # torch's default, which Overcomplete keeps


def from_overcomplete(
    file: WeightFile, top_k: int | str | None, threshold: float | None = None, radius: float | None = None,
    normalization: str | None = None,
) -> TopKSAE:  # fmt: skip
    """Return the SAE of a state dict of Overcomplete; codes, reconstructions and atoms stay the same, W is multiplied out.

    With top_k None, codes at or above BatchTopK's running threshold are kept; it is read from the file, unless `threshold` gives
    it. A state dict does not hold `radius`, the bound of the relaxation in training (Overcomplete's delta), nor `normalization`,
    what is done to the atoms of TopK and BatchTopK; without them they must be plain: rows of Relax no longer than 1, atoms of
    unit length. Its encoder must end in a ReLU. Raises StudyError, with what was expected and found, if the state dict has
    another layout, its shapes do not fit, something must be given, or a number is not finite.
    """
    check_layout(file, top_k)
    path, state = file.path, file.tensors
    norm = {key: state.get(f"{NORM}.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
    layer_norm = norm["weight"] is not None and norm["running_var"] is None
    if top_k is None and threshold is None:
        if "running_threshold" not in state:
            raise StudyError(f"{path}: holds no running_threshold; give it, as Overcomplete keeps it outside of the state dict")
        threshold = state["running_threshold"].float()
    n_concepts, d = state[f"{ENCODER}.weight"].shape
    scale = state.get("dictionary.multiplier", torch.zeros(())).float().exp()
    if FREE in state:
        atoms = scale * normalized(state[FREE].float(), normalization, path)
    else:
        w, c, relaxation = (state[name] for name in ARCHETYPAL)
        atoms = scale * archetypal_atoms(w, c.float(), bounded(relaxation.float(), radius, path))
    sae = TopKSAE(d, n_concepts, top_k, n_candidates=1, dictionary="free", concept_norm=layer_norm)
    weight, bias = state[f"{ENCODER}.weight"].float(), state[f"{ENCODER}.bias"].float()
    normed = {}
    if layer_norm:
        weight, bias = sae.norm.fold(weight, bias, norm["weight"].float()), norm["bias"].float()
        normed = {f"norm.{key}": value for key, value in sae.norm.state_dict().items()}
    elif norm["weight"] is not None:  # a batch norm in evaluation mode is a linear map
        gain = norm["weight"] / (norm["running_var"] + BATCH_NORM_EPS).sqrt()
        weight, bias = weight * gain[:, None], (bias - norm["running_mean"]) * gain + norm["bias"]
    for name, numbers in (("the encoder's weights", weight), ("the encoder's biases", bias), ("the dictionary", atoms)):
        check_finite(numbers, name, path)
    sae.load_state_dict({
        "encoder.weight": weight, "encoder.bias": bias, "token_length": torch.ones(()),
        "threshold": torch.as_tensor(0.0 if top_k else threshold), "dictionary.free_atoms": atoms, **normed,
    })  # fmt: skip
    return sae.eval()


def check_layout(file: WeightFile, top_k: int | str | None) -> None:
    """Raise StudyError if the names or shapes of the tensors are not Overcomplete's, or it is not said how many are active."""
    name, state = file.path, file.tensors
    archetypal = FREE not in state
    expected = [f"{ENCODER}.weight", f"{ENCODER}.bias", *(ARCHETYPAL if archetypal else [FREE])]
    missing = [key for key in expected if key not in state]
    other = [key for key in state if not key.startswith((ENCODER, NORM, "dictionary.", "running_threshold"))]
    if missing or other:
        lacks = f"it lacks {', '.join(missing)}" if missing else f"{other[0]} is of no encoder that is known"
        raise StudyError(
            f"{name}: not an Overcomplete SAE with a linear encoder; {lacks}. Expected {ENCODER}.weight and .bias, with "
            f"dictionary.W, .C and .Relax (RA-SAE) or {FREE} (TopK, BatchTopK); found {', '.join(sorted(state)[:8])}"
        )
    if top_k == "file":
        raise StudyError(
            f"{name}: an SAE of Overcomplete, whose file does not say how many concepts are active per token; give sae.top_k "
            "(null: codes at or above its running threshold)"
        )
    n_concepts, d = state[f"{ENCODER}.weight"].shape
    c = len(state["dictionary.C"]) if archetypal else 0
    shapes = {f"{ENCODER}.bias": (n_concepts,), FREE: (n_concepts, d), "dictionary.W": (n_concepts, c),
              "dictionary.C": (c, d), "dictionary.Relax": (n_concepts, d)}  # fmt: skip
    for key, shape in shapes.items():
        if key in state and tuple(state[key].shape) != shape:
            raise StudyError(
                f"{name}: {key} has shape {tuple(state[key].shape)} where {shape} fits the encoder's ({n_concepts}, {d})"
            )


def normalized(weights: Float[Tensor, "k d"], normalization: str | None, path: Path) -> Float[Tensor, "k d"]:
    """Return atoms as Overcomplete normalizes them when it builds the dictionary. Raises StudyError if that cannot be told."""
    if normalization is None:
        lengths = weights.norm(dim=1)
        if ((lengths - 1).abs() > NEARLY).any():
            raise StudyError(
                f"{path}: its atoms have lengths from {lengths.min():.3g} to {lengths.max():.3g}, and a state dict does not say "
                f"what Overcomplete made of them; give normalization: {', '.join(NORMALIZATIONS)}"
            )
        normalization = "l2"
    return NORMALIZATIONS[normalization](weights)


def bounded(relaxation: Float[Tensor, "k d"], radius: float | None, path: Path) -> Float[Tensor, "k d"]:
    """Return the relaxation, rows no longer than `radius`. Raises StudyError if it is not given and rows are longer than 1."""
    lengths = relaxation.norm(dim=1, keepdim=True)
    if radius is None and lengths.max() > 1 + NEARLY:
        raise StudyError(
            f"{path}: rows of dictionary.Relax are up to {lengths.max():.3g} long; give radius, Overcomplete's delta"
        )
    return relaxation * ((radius or 1.0) / lengths.clamp(min=1e-12)).clamp(max=1)


def archetypal_atoms(w: Tensor, c: Float[Tensor, "c d"], relaxation: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Return W C + Lambda, from a few rows of W at a time: W has gigabytes, and is read from the file here.

    Overcomplete makes W positive and its rows sum to 1 when it builds the dictionary, not when it saves. A row without a positive
    weight stays 0 there, as with more concepts than candidates, and so it does here.
    """
    atoms = relaxation.clone()
    for start in range(0, len(w), ROWS):
        rows = w[start : start + ROWS].float().relu()
        atoms[start : start + ROWS] += (rows / (rows.sum(dim=1, keepdim=True) + 1e-8)) @ c
    return atoms


def to_overcomplete(sae: TopKSAE) -> dict[str, Tensor]:
    """Return the state dict with which Overcomplete gives the same codes and reconstructions.

    It fits RATopKSAE, with W over all candidates (zeros filled in for a local dictionary). That of a free dictionary fits
    TopKSAE with dictionary_params={"normalization": "identity"}, since the atoms keep their lengths. Raises StudyError if the
    SAE has what Overcomplete has not, or a norm over its concepts.
    """
    if sae.norm or sae.input_norm or sae.decoder_bias is not None or sae.threshold.ndim:
        raise StudyError(
            "SAE: Overcomplete has no norm over the tokens, bias of the decoder or threshold per concept, and a norm over the "
            "concepts is folded in; keep the file it came from"
        )
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
