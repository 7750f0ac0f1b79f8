"""An SAE that comes trained: tell which library wrote it, read it, and store it in this project's format."""

from pathlib import Path

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import TrainedSAE, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import naming_full_disk
from blindspots_lib.core.hub import fetch_file, hashes, weights_fingerprint
from blindspots_lib.sae.libraries import read_dictionary_learning, read_lens, read_saev, read_sparsify, sae_of
from blindspots_lib.sae.model import TopKSAE, load_sae
from blindspots_lib.sae.overcomplete import check_layout, from_overcomplete
from blindspots_lib.sae.weight_files import WeightFile, read_weight_file

IMPORT = Stage("import", 3)
OWN_FILE = "model.safetensors"


def library_of(file: WeightFile) -> str:
    """Tell which library wrote an SAE by its tensors and settings. Raises StudyError, with what is in the file, if none did."""
    names, settings = file.tensors.keys(), file.settings
    if "token_length" in names:
        return "blindspots_lib"
    if any(name.startswith(("encoder.final_block", "dictionary.")) for name in names):
        return "overcomplete"
    if "group_sizes" in names or "decoder.weight" in names or "trainer" in settings:
        return "dictionary_learning"
    if {"encoder.weight", "W_dec"} <= names and settings:
        return "sparsify"
    if "W_enc" in names and ("schema" in settings or "d_vit" in settings):
        return "saev"
    if "W_enc" in names and ("architecture" in settings or "activation_fn_str" in settings):
        return "lens"
    found = (", ".join(sorted(names)[:8]) or "nothing") + (
        f"; its settings say {', '.join(sorted(settings)[:8])}" if settings else ""
    )
    if names & {"W_enc", "W_dec"} and not settings:
        raise StudyError(
            f"{file.path}: an SAE of SAELens, ViT-Prisma, sparsify or dictionary_learning ({found}), whose activation is not in "
            "this file; give sae.settings, the JSON file beside it (cfg.json or config.json)"
        )
    raise StudyError(
        f"{file.path}: an SAE of no library that is known; found {found}. Read are blindspots_lib, Overcomplete, saev, SAELens, "
        "ViT-Prisma, dictionary_learning and sparsify"
    )


def read_sae(
    path: Path | str, settings: str | None = None, top_k: int | str | None = "file", threshold: float | None = None,
    radius: float | None = None, normalization: str | None = None,
) -> TopKSAE:  # fmt: skip
    """Read an SAE of any library that is known, with the same codes and reconstructions.

    `settings` is the JSON file beside it, where its library keeps them. top_k is "file" where file and settings say which codes
    are kept; None keeps those above a threshold. The others are for Overcomplete, whose files do not say everything
    (`from_overcomplete`). Raises StudyError, in one line, if the file is not whole, its library is not known, something must be
    given, or what is given contradicts the file.
    """
    path = Path(path)
    file = read_weight_file(path, settings)
    library = library_of(file)
    if library == "overcomplete":
        return from_overcomplete(file, top_k, threshold, radius, normalization)
    if given := [
        name for name, value in (("threshold", threshold), ("radius", radius), ("normalization", normalization)) if value
    ]:
        raise StudyError(f"sae.{given[0]}: is for SAEs of Overcomplete, {path} is none; remove it")
    if library == "blindspots_lib":
        if path.name != OWN_FILE or settings != "config.json":
            raise StudyError(f"{path}: an SAE of this project; give sae.file: {OWN_FILE} and sae.settings: config.json")
        sae = load_sae(path.parent)
    elif library == "dictionary_learning":
        sae = sae_of(read_dictionary_learning(file, top_k), file)
    else:
        sae = sae_of({"saev": read_saev, "lens": read_lens, "sparsify": read_sparsify}[library](file), file)
    if top_k not in ("file", sae.top_k):
        kept = f"{sae.top_k} per token" if sae.top_k else "codes above a threshold (null)"
        raise StudyError(f"sae.top_k = {top_k}: {path} keeps {kept}; correct it, or remove it from the study")
    return sae


def n_concepts_of(file: WeightFile) -> int:
    """Return the number of concepts, by the encoder's weights or their bias."""
    for name, dimension in (("encoder.final_block.0.weight", 0), ("encoder.weight", 0), ("W_enc", -1)):
        if name in file.tensors:
            return file.tensors[name].shape[dimension]
    raise StudyError(f"{file.path}: has no encoder; found {', '.join(sorted(file.tensors)[:8])}")


def imported_artifact(workspace: Workspace, config: TrainedSAE) -> Artifact:
    """Return the output folder of `import_sae`."""
    inputs = {"weights": weights_fingerprint(config)}
    return Artifact(workspace, "saes/imported", IMPORT, contents(config, "path", "seed"), inputs)


def check_trained(config: TrainedSAE) -> Path:
    """Return the file of a trained SAE. Raises StudyError if it cannot be imported; gigabytes of W are not read for that."""
    path = fetch_file(config)
    file = read_weight_file(path, config.settings)
    if library_of(file) == "overcomplete":
        check_layout(file, config.top_k)
    else:
        read_sae(path, config.settings, config.top_k, config.threshold, config.radius, config.normalization)
    if (found := n_concepts_of(file)) != config.n_concepts:
        raise StudyError(f"sae.n_concepts = {config.n_concepts}: {path} has {found}; correct it in the study")
    return path


def import_sae(workspace: Workspace, config: TrainedSAE) -> Artifact:
    """Store a trained SAE in this project's format. Raises StudyError if its size is not what the study says."""
    artifact = imported_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    path = check_trained(config)
    artifact.begin()
    sae = read_sae(path, config.settings, config.top_k, config.threshold, config.radius, config.normalization)
    with naming_full_disk(artifact.folder / OWN_FILE):
        sae.save_pretrained(artifact.folder)
    artifact.finish(n_concepts=sae.n_concepts, d=sae.d, files=hashes(config))
    return artifact
