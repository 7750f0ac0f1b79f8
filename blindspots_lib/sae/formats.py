"""SAEs of other libraries: read the state dicts of Overcomplete (RA-SAE, TopK, BatchTopK), and write one that it can read.

No code in a file is executed: files are read by safetensors or by `torch.load(weights_only=True)`. Of a pickled module, such as
the published RA-SAE, only the tensors are read, with inert stand-ins for its classes. Layout (Overcomplete 0.3):

    encoder.final_block.0.weight (k, d), .bias (k)                     the encoder
    encoder.final_block.1.weight, .bias [, .running_mean, .running_var]  a layer norm [batch norm] after it, optional
    dictionary.W (k, c), .C (c, d), .Relax (k, d), .multiplier ()      RA-SAE: D = (W C + Relax) exp(multiplier)
    dictionary._weights (k, d), .multiplier ()                         TopK, BatchTopK: rows, normalized, times exp(multiplier)
    running_threshold ()                                               BatchTopK; a plain attribute there, so often missing

matybohacek/RA-SAE-DINOv2-32k is a pickled DataParallel(BatchTopKSAE) with a layer norm over its 32,000 concepts. Only its
config.json gives its threshold, 0.829.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import TrainedSAE, contents
from blindspots_lib.core.errors import StudyError, first_line
from blindspots_lib.core.files import naming_full_disk
from blindspots_lib.core.hub import fetch_file, hashes, weights_fingerprint
from blindspots_lib.sae.model import TopKSAE

ENCODER = "encoder.final_block.0"
NORM = "encoder.final_block.1"
ARCHETYPAL = ("dictionary.W", "dictionary.C", "dictionary.Relax")
FREE = "dictionary._weights"
IMPORT = Stage("import", 3)
NEARLY = 0.05  # by which lengths of 1 may be off after the last step of a training
NORMALIZATIONS = {
    "l2": lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-8), "max_l2": lambda x: x / x.norm(dim=1).max(),
    "l1": lambda x: x / (x.norm(p=1, dim=1, keepdim=True) + 1e-8), "max_l1": lambda x: x / x.norm(p=1, dim=1).max(),
    "identity": lambda x: x,
}  # fmt: skip
ROWS = 256  # rows of W that are multiplied at a time
BATCH_NORM_EPS = 1e-5  # torch's default, which Overcomplete keeps


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pt file. Raises StudyError if loading it could run code, or it is not whole."""
    if not path.exists():
        raise StudyError(f"{path}: no such file; give the path of an SAE's weights (.safetensors or .pt)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = load_inert(path)
    except StudyError:
        raise
    except Exception as error:  # safetensors, zip and torch raise many kinds
        raise StudyError(f"{path}: not readable as tensors ({first_line(error)}); is the file whole?") from None
    if isinstance(content, Inert):
        return tensors_of(content.__dict__.get("_modules", {}).get("module", content))  # DataParallel holds one module
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        is_mapping = isinstance(content, Mapping)
        found = f"a mapping with {', '.join(sorted(map(str, content))[:8])}" if is_mapping else f"a {type(content).__name__}"
        raise StudyError(f"{path}: expected a state dict of tensors, found {found}; save the SAE's state_dict()")
    return state


class Inert:
    """Stand-in for a class of a pickled module: it keeps the attributes and does nothing."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state)


def load_inert(path: Path) -> object:
    """Read a .pt file by torch's restricted reader; classes of torch.nn and overcomplete become `Inert`, others are refused."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    foreign = sorted(name for name in names if not name.startswith(("torch.nn.", "overcomplete.")))
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


def read_overcomplete(
    path: Path, top_k: int | None, threshold: float | None = None, radius: float | None = None, normalization: str | None = None
) -> TopKSAE:
    """Read an SAE of Overcomplete from its state dict; codes, reconstructions and atoms stay the same, W is multiplied out.

    With top_k None, codes at or above BatchTopK's running threshold are kept; it is read from the file, unless `threshold` gives
    it. A state dict does not hold `radius`, the bound of the relaxation in training (Overcomplete's delta), nor `normalization`,
    what is done to the atoms of TopK and BatchTopK; without them they must be plain: rows of Relax no longer than 1, atoms of
    unit length. Its encoder must end in a ReLU. Raises StudyError, with what was expected and found, if the state dict has
    another layout, its shapes do not fit, something must be given, or a number is not finite.
    """
    state = read_weights(path)
    check_layout(state, str(path))
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


def check_layout(state: Mapping[str, Tensor], name: str) -> None:
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


def check_finite(numbers: Tensor, name: str, path: Path) -> None:
    bad = ~torch.isfinite(numbers).reshape(len(numbers), -1).all(dim=1)
    if bad.any():
        raise StudyError(f"{path}: {name} of concept {int(bad.nonzero()[0])} are not finite; is the file whole?")


def imported_artifact(workspace: Workspace, config: TrainedSAE) -> Artifact:
    """Return the output folder of `import_sae`."""
    inputs = {"weights": weights_fingerprint(config)}
    return Artifact(workspace, "saes/imported", IMPORT, contents(config, "path", "seed"), inputs)


def check_trained(config: TrainedSAE) -> Path:
    """Return the file of a trained SAE. Raises StudyError if it cannot be imported; its tensors are not read for that."""
    path = fetch_file(config)
    state = read_weights(path)
    check_layout(state, str(path))
    if (found := len(state[f"{ENCODER}.weight"])) != config.n_concepts:
        raise StudyError(f"sae.n_concepts = {config.n_concepts}: {path} has {found}; correct it in the study")
    return path


def import_sae(workspace: Workspace, config: TrainedSAE) -> Artifact:
    """Store a trained SAE in this project's format. Raises StudyError if its size is not what the study says."""
    artifact = imported_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    path = check_trained(config)
    artifact.begin()
    sae = read_overcomplete(path, config.top_k, config.threshold, config.radius, config.normalization)
    with naming_full_disk(artifact.folder / "model.safetensors"):
        sae.save_pretrained(artifact.folder)
    artifact.finish(n_concepts=sae.n_concepts, d=sae.d, files=hashes(config))
    return artifact


def to_overcomplete(sae: TopKSAE) -> dict[str, Tensor]:
    """Return the state dict with which Overcomplete gives the same codes and reconstructions.

    It fits RATopKSAE, with W over all candidates (zeros filled in for a local dictionary). That of a free dictionary fits
    TopKSAE with dictionary_params={"normalization": "identity"}, since the atoms keep their lengths. Raises StudyError if the
    SAE has a norm over its concepts.
    """
    if sae.norm:
        raise StudyError("SAE: its norm over the concepts is folded in and cannot be written back; keep the file it came from")
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
