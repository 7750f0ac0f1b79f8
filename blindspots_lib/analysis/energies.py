"""Codes of all tokens, energies of all images, and what they say of single concepts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float16, Int, UInt32

from blindspots_lib.analysis.statistics import ConceptStats, image_energies
from blindspots_lib.core.artifacts import Artifact, Fingerprinted, Stage, Workspace, fingerprint_of, replacing, shard_path
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import fill_shards, open_array, save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.loading import conditions, device_kind
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.model import load_sae

ENERGIES, STATISTICS = Stage("energies", 1), Stage("statistics", 1)
ENCODED = 16_384  # tokens encoded at a time


def energies_artifact(workspace: Workspace, analysis: Analysis, source: str, tokens: Fingerprinted, sae: Artifact) -> Artifact:
    """The output folder of `compute_energies`; `source` is "real" or a model's name."""
    inputs = {"tokens of images": tokens.fingerprint, "sae": sae.fingerprint}
    return Artifact(workspace, f"energies/{source}", ENERGIES, {"tokens": analysis.tokens}, inputs)


def compute_energies(
    workspace: Workspace, analysis: Analysis, source: str, tokens: TokenSource, sae: Artifact, search: str = "float32"
) -> Artifact:
    """Codes of all tokens of a source, and from them the images x concepts matrix of energies.

    In the folder: `energies.npz` (SciPy CSR, rows in the order of the pairs, empty for a lost image) and per shard the
    codes' indices and values, (b, t, a). A shard that is there is not encoded again.
    """
    import torch

    artifact = energies_artifact(workspace, analysis, source, tokens, sae)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32"))
    model, dtype = load_sae(sae.folder).to(device_kind()), getattr(torch, search)
    shards = range(len(tokens))
    fill_shards(
        artifact, shards, lambda index: encode_images(model, tokens.shard(index), dtype), save_codes, "values.npy", artifact.path
    )
    chosen = tokens.layout.selection(analysis.tokens)
    codes = [(open_array(path)[:, chosen] for path in code_paths(artifact, index)) for index in shards]
    with replacing(artifact.folder / "energies.npz") as partial, open(partial, "wb") as file:
        sp.save_npz(file, sp.vstack([image_energies(*one, model.n_concepts) for one in codes], format="csr"))
    artifact.finish(layout=tokens.layout._asdict(), n_concepts=model.n_concepts)
    return artifact


def code_paths(artifact: Artifact, index: int) -> tuple[Path, Path]:
    """Where the indices and the values of a shard's codes are."""
    return shard_path(artifact.folder, index, "indices.npy"), shard_path(artifact.folder, index, "values.npy")


def save_codes(values_path: Path, codes: tuple[UInt32[np.ndarray, "b t a"], Float16[np.ndarray, "b t a"]]) -> None:
    """Write the indices of a shard's codes, then the values: a shard is there when its values are."""
    save_array(values_path.with_name(values_path.name.replace("values", "indices")), codes[0])
    save_array(values_path, codes[1])


def encode_images(
    sae, tokens: Float16[np.ndarray, "b t d"], search=None
) -> tuple[UInt32[np.ndarray, "b t a"], Float16[np.ndarray, "b t a"]]:
    """Indices and values of the codes of all tokens; values are 0 for lost images, whose tokens are NaN."""
    import torch

    present = ~np.isnan(tokens[:, 0, 0])
    rows = torch.from_numpy(tokens[present].reshape(-1, tokens.shape[-1]))
    device = sae.encoder.weight.device
    codes = [sae.encode(part.to(device, torch.float32), search) for part in rows.split(ENCODED)]
    width = max((part.indices.shape[1] for part in codes), default=1)
    indices = np.zeros((*tokens.shape[:2], width), np.uint32)
    values = np.zeros((*tokens.shape[:2], width), np.float16)
    for whole, parts in ((indices, [c.indices for c in codes]), (values, [c.values for c in codes])):
        padded = [np.pad(part.cpu().numpy(), ((0, 0), (0, width - part.shape[1]))) for part in parts]
        if padded:
            whole[present] = np.concatenate(padded).reshape(-1, tokens.shape[1], width)
    return indices, values


class Energies(NamedTuple):
    """What a source's images say of every concept, for the complete pairs only."""

    matrix: sp.csr_matrix  # (pairs, k) float32
    stats: ConceptStats  # images go by their position among the complete pairs


def load_energies(artifact: Artifact, statistics: Artifact, rows: Int[np.ndarray, "pairs"]) -> Energies:
    """The energies of the pairs at `rows`. Raises StudyError if a file is not whole."""
    try:
        matrix = sp.load_npz(artifact.folder / "energies.npz").tocsr()
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise StudyError(f"{artifact.folder}: energies are not whole ({error}); delete the folder and run again") from None
    return Energies(matrix[rows], ConceptStats.load(statistics.folder / "statistics.npz"))


def statistics_artifact(
    workspace: Workspace, analysis: Analysis, source: str, energies: Artifact, rows: Int[np.ndarray, "pairs"]
) -> Artifact:
    """The output folder of `gather_statistics`."""
    inputs = {"energies": energies.fingerprint, "complete pairs": fingerprint_of(rows.tolist())}
    return Artifact(workspace, f"statistics/{source}", STATISTICS, {"tokens": analysis.tokens}, inputs)


def gather_statistics(
    workspace: Workspace, analysis: Analysis, source: str, energies: Artifact, rows: Int[np.ndarray, "pairs"]
) -> Artifact:
    """Statistics of the images at `rows`, which are identified by their position among them, kept as `statistics.npz`."""
    artifact = statistics_artifact(workspace, analysis, source, energies, rows)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    codes = TokenCodes(energies)
    stats = ConceptStats.empty(codes.n_concepts)
    chosen = codes.layout.selection(analysis.tokens)
    for first, indices, values in zip(codes.starts, codes.indices, codes.values, strict=False):
        ids = np.flatnonzero((rows >= first) & (rows < first + len(indices)))
        local = rows[ids] - first
        stats.add(indices[local][:, chosen], values[local][:, chosen], ids)
    stats.save(artifact.folder / "statistics.npz")
    artifact.finish(n_images=stats.n_images)
    return artifact


class TokenCodes:
    """Codes of the tokens of single images, memory-mapped: for heatmaps, and to compare two images place by place."""

    def __init__(self, artifact: Artifact):
        self.layout, self.n_concepts = TokenLayout(**artifact.facts["layout"]), artifact.facts["n_concepts"]
        self.indices = [open_array(path) for path in sorted(artifact.folder.glob("shard-*.indices.npy"))]
        self.values = [open_array(path) for path in sorted(artifact.folder.glob("shard-*.values.npy"))]
        self.starts = np.cumsum([0, *(len(shard) for shard in self.indices)])

    def patch_codes(self, rows: Int[np.ndarray, "n"]) -> sp.csr_matrix:
        """The codes of all patches of the images at `rows`, one below the other: (n * patches, k)."""
        shards, patches = np.searchsorted(self.starts, rows, side="right") - 1, self.layout.patches
        n_patches = self.layout.patches_per_side**2
        parts = []
        for shard in np.unique(shards):  # one may be wider than another
            places = np.flatnonzero(shards == shard)
            local = rows[places] - self.starts[shard]
            indices, values = (codes[shard][local][:, patches] for codes in (self.indices, self.values))
            tokens = places[:, None, None] * n_patches + np.arange(n_patches)[:, None]
            parts.append((values.ravel(), np.broadcast_to(tokens, values.shape).ravel(), indices.ravel()))
        values, tokens, indices = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found = (values.astype(np.float32), (tokens, indices.astype(np.int64)))
        return sp.coo_matrix(found, shape=(len(rows) * n_patches, self.n_concepts)).tocsr()

    def heatmap(self, row: int, concept: int) -> Float[np.ndarray, "side side"]:
        """Where one concept fires in the image at `row`: its code at every patch."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        local = row - self.starts[shard]
        patches = self.layout.patches
        fires = self.indices[shard][local, patches] == concept
        values = np.where(fires, self.values[shard][local, patches].astype(np.float32), 0).sum(axis=-1)
        return values.reshape(self.layout.patches_per_side, -1)


def cooccurrence(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """How many images two concepts both fire on, sparse (k, k); the diagonal is each concept's number of images."""
    fires = sp.csr_matrix((np.ones(matrix.nnz, np.int64), matrix.indices, matrix.indptr), shape=matrix.shape)
    fires.data[matrix.data <= 0] = 0
    return (fires.T @ fires).tocsr()
