"""Codes of all tokens and energies of all images, on disk and in memory.

Shape letters: b images, t tokens per image, d features, k concepts, a active concepts per token, n images or tokens.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float16, Int, UInt32

from blindspots_lib.analysis.statistics import ConceptStats, image_energies
from blindspots_lib.core.artifacts import Artifact, Fingerprinted, Stage, Workspace, fingerprint_of, replacing, shard_path
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import fill_shards, open_array, save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.loading import conditions, device_kind
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.model import TopKSAE, load_sae

ENERGIES, STATISTICS = Stage("energies", 1), Stage("statistics", 1)
ENCODED = 16_384  # tokens encoded at a time
CodeArrays = tuple[UInt32[np.ndarray, "b t a"], Float16[np.ndarray, "b t a"]]  # indices and values of codes
Rows = Int[np.ndarray, "n"]  # positions of n images in a source


def energies_artifact(workspace: Workspace, analysis: Analysis, source: str, tokens: Fingerprinted, sae: Artifact) -> Artifact:
    """Return the output folder of `compute_energies`; `source` is "real" or the name of a model."""
    inputs = {"tokens of images": tokens.fingerprint, "sae": sae.fingerprint}
    return Artifact(workspace, f"energies/{source}", ENERGIES, {"tokens": analysis.tokens}, inputs)


def compute_energies(workspace: Workspace, analysis: Analysis, source: str, tokens: TokenSource, sae: Artifact) -> Artifact:
    """Encode all tokens of a source and sum their codes into the energies of each image.

    Per shard the folder holds the indices and the values of the codes, two arrays (b, t, a). `energies.npz` is one SciPy CSR
    matrix (images, k) in float32: one row per pair in the order of the pairs, empty for a lost image. An interrupted call
    continues after the last finished shard.
    """
    artifact = energies_artifact(workspace, analysis, source, tokens, sae)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32"))
    model, shards = load_sae(sae.folder).to(device_kind()), range(len(tokens))
    fill_shards(
        artifact, shards, lambda index: encode_images(model, tokens.shard(index)), save_codes, "values.npy", artifact.path
    )
    chosen = tokens.layout.selection(analysis.tokens)
    parts = ("indices.npy", "values.npy")
    codes = ([open_array(shard_path(artifact.folder, index, part))[:, chosen] for part in parts] for index in shards)
    with replacing(artifact.folder / "energies.npz") as partial, open(partial, "wb") as file:
        sp.save_npz(file, sp.vstack([image_energies(*one, model.n_concepts) for one in codes], format="csr"))
    artifact.finish(layout=tokens.layout._asdict(), n_concepts=model.n_concepts)
    return artifact


def save_codes(values_path: Path, codes: CodeArrays) -> None:
    """Write the indices of a shard's codes, then the values: a shard is complete when its values are there."""
    save_array(values_path.with_name(values_path.name.replace("values", "indices")), codes[0])
    save_array(values_path, codes[1])


def encode_images(sae: TopKSAE, tokens: Float16[np.ndarray, "b t d"]) -> CodeArrays:
    """Encode the tokens of b images; return the indices and the values of their codes, both (b, t, a).

    The tokens of a lost image are NaN; its values are 0.
    """
    present = ~np.isnan(tokens[:, 0, 0])
    rows = torch.from_numpy(tokens[present].reshape(-1, tokens.shape[-1]))
    device = sae.encoder.weight.device
    codes = [sae.encode(part.to(device, torch.float32)) for part in rows.split(ENCODED)]
    width = max((part.indices.shape[1] for part in codes), default=1)
    indices = np.zeros((*tokens.shape[:2], width), np.uint32)
    values = np.zeros((*tokens.shape[:2], width), np.float16)
    for whole, parts in ((indices, [c.indices for c in codes]), (values, [c.values for c in codes])):
        padded = [np.pad(part.cpu().numpy(), ((0, 0), (0, width - part.shape[1]))) for part in parts]
        if padded:
            whole[present] = np.concatenate(padded).reshape(-1, tokens.shape[1], width)
    return indices, values


class Energies(NamedTuple):
    """The energies of one source's images, for the complete pairs only."""

    matrix: sp.csr_matrix  # (pairs, k) float32: xi_k of each image
    stats: ConceptStats  # of k concepts; images are identified by their position among the complete pairs


def load_energies(artifact: Artifact, statistics: Artifact, rows: Rows) -> Energies:
    """Read the energies, (pairs, k), and the statistics of the pairs at `rows`. Raises StudyError if a file is not whole."""
    try:
        matrix = sp.load_npz(artifact.folder / "energies.npz").tocsr()
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise StudyError(f"{artifact.folder}: energies are not whole ({error}); delete the folder and run again") from None
    return Energies(matrix[rows], ConceptStats.load(statistics.folder / "statistics.npz"))


def statistics_artifact(workspace: Workspace, analysis: Analysis, source: str, energies: Artifact, rows: Rows) -> Artifact:
    """Return the output folder of `gather_statistics`."""
    inputs = {"energies": energies.fingerprint, "complete pairs": fingerprint_of(rows.tolist())}
    return Artifact(workspace, f"statistics/{source}", STATISTICS, {"tokens": analysis.tokens}, inputs)


def gather_statistics(workspace: Workspace, analysis: Analysis, source: str, energies: Artifact, rows: Rows) -> Artifact:
    """Count the codes of the images at `rows` (pairs) into `statistics.npz`; an image is identified by its position in `rows`."""
    artifact = statistics_artifact(workspace, analysis, source, energies, rows)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    codes = TokenCodes(energies)
    stats, chosen = ConceptStats.empty(codes.n_concepts), codes.layout.selection(analysis.tokens)
    for first, indices, values in zip(codes.starts, codes.indices, codes.values, strict=False):
        ids = np.flatnonzero((rows >= first) & (rows < first + len(indices)))
        local = rows[ids] - first
        stats.add(indices[local][:, chosen], values[local][:, chosen], ids)
    stats.save(artifact.folder / "statistics.npz")
    artifact.finish(n_images=stats.n_images)
    return artifact


class TokenCodes:
    """The codes of a source, memory-mapped per shard: `indices` and `values` (b, t, a), for heatmaps and comparisons in place."""

    def __init__(self, artifact: Artifact):
        self.layout, self.n_concepts = TokenLayout(**artifact.facts["layout"]), artifact.facts["n_concepts"]
        self.indices = [open_array(path) for path in sorted(artifact.folder.glob("shard-*.indices.npy"))]
        self.values = [open_array(path) for path in sorted(artifact.folder.glob("shard-*.values.npy"))]
        self.starts = np.cumsum([0, *(len(shard) for shard in self.indices)])

    def patch_codes(self, rows: Rows) -> sp.csr_matrix:
        """Return the codes of all patches of the n images at `rows`: sparse (n * patches, k), one image below the other."""
        shards, patches = np.searchsorted(self.starts, rows, side="right") - 1, self.layout.patches
        n_patches = self.layout.patches_per_side**2
        parts = []
        for shard in np.unique(shards):  # shards may differ in a, the active concepts per token
            places = np.flatnonzero(shards == shard)
            local = rows[places] - self.starts[shard]
            indices, values = (codes[shard][local][:, patches] for codes in (self.indices, self.values))
            tokens = places[:, None, None] * n_patches + np.arange(n_patches)[:, None]
            parts.append((values.ravel(), np.broadcast_to(tokens, values.shape).ravel(), indices.ravel()))
        values, tokens, indices = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found = (values.astype(np.float32), (tokens, indices.astype(np.int64)))
        return sp.coo_matrix(found, shape=(len(rows) * n_patches, self.n_concepts)).tocsr()

    def heatmap(self, row: int, concept: int) -> Float[np.ndarray, "side side"]:
        """Return the code of one concept at every patch of the image at `row`, (side, side)."""
        codes = self.patch_codes(np.array([row]))[:, [concept]]
        return codes.toarray().reshape(self.layout.patches_per_side, -1)


def cooccurrence(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Count the images on which two concepts both fire, sparse (k, k), from energies (images, k)."""
    fires = (matrix > 0).astype(np.int64)
    return (fires.T @ fires).tocsr()
