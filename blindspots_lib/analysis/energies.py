"""Codes of all tokens and energies of all images, on disk and in memory.

Shape letters: b images, t tokens per image, d features, k concepts, n images or tokens.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float16, Int

from blindspots_lib.analysis.statistics import ConceptStats, ShardCodes, blocks_of, image_energies
from blindspots_lib.core.artifacts import Artifact, Fingerprinted, Stage, Workspace, shard_path
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import fingerprint_of, replacing
from blindspots_lib.core.storage import fill_shards, open_array, save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.loading import conditions, device_kind, naming_full_gpu
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.model import TopKSAE, load_sae

LARGEST = float(np.finfo(np.float16).max)  # code that is kept
ENERGIES, STATISTICS = Stage("energies", 2), Stage("statistics", 1)
ENCODED = 16_384  # tokens encoded at a time
OPEN = 4  # shards of a source kept open: three files each, and a process may open 1,024 in all
BLOCK = 2**21  # entries and offsets of codes held at a time, of about 64 bytes each while they are compared or counted
PARTS = ("offsets.npy", "indices.npy", "values.npy")
Rows = Int[np.ndarray, "n"]  # positions of n images in a source


def energies_artifact(workspace: Workspace, analysis: Analysis, source: str, tokens: Fingerprinted, sae: Artifact) -> Artifact:
    """Return the output folder of `compute_energies`; `source` is "real" or the name of a model."""
    inputs = {"tokens of images": tokens.fingerprint, "sae": sae.fingerprint}
    return Artifact(workspace, f"energies/{source}", ENERGIES, {"tokens": analysis.tokens}, inputs)


@naming_full_gpu("energies", "; is something else on it?")
def compute_energies(workspace: Workspace, analysis: Analysis, source: str, tokens: TokenSource, sae: Artifact) -> Artifact:
    """Encode all tokens of a source and sum their codes into the energies of each image.

    Per shard the folder holds the arrays of its `ShardCodes`. `energies.npz` is one SciPy CSR matrix (images, k) in float32:
    one row per pair in the order of the pairs, empty for a lost image. An interrupted call continues after the last finished
    shard.
    """
    artifact = energies_artifact(workspace, analysis, source, tokens, sae)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions("float32"))
    model, shards = load_sae(sae.folder).to(device_kind()), range(len(tokens))
    fill_shards(artifact, shards, lambda index: encode_images(model, tokens.shard(index)), save_codes, PARTS[-1], artifact.path)
    layout, shape = tokens.layout, (tokens.layout.n_tokens, model.n_concepts)
    codes = (open_codes(artifact.folder, index, *shape).over(layout.selection(analysis.tokens)) for index in shards)
    with replacing(artifact.folder / "energies.npz") as partial, open(partial, "wb") as file:
        sp.save_npz(file, sp.vstack([image_energies(shard) for shard in codes], format="csr"))
    artifact.finish(layout=layout._asdict(), n_concepts=model.n_concepts)
    return artifact


def save_codes(last: Path, codes: ShardCodes) -> None:
    """Write the arrays of a shard's codes; the shard is complete when the last one is there."""
    for part, array in zip(PARTS, codes[1:], strict=True):
        save_array(last.with_name(last.name.replace(PARTS[-1], part)), array)


def open_codes(folder: Path, index: int, n_tokens: int, n_concepts: int) -> ShardCodes:
    """Open the codes of one shard, memory-mapped. Raises StudyError if they are not whole."""
    offsets, indices, values = (open_array(shard_path(folder, index, part)) for part in PARTS)
    if (len(offsets) - 1) % n_tokens or not offsets[-1] == len(indices) == len(values):
        path = shard_path(folder, index, "*.npy")
        raise StudyError(f"{path}: the codes do not fit together; delete {folder} and run again")
    return ShardCodes((len(offsets) // n_tokens, n_tokens, n_concepts), offsets, indices, values)


def encode_images(sae: TopKSAE, tokens: Float16[np.ndarray, "b t d"]) -> ShardCodes:
    """Encode the tokens of b images. The tokens of a lost image are NaN; it has no codes.

    Codes are kept in half precision. Raises StudyError if one is too large for it.
    """
    present = ~np.isnan(tokens[:, 0, 0])
    rows = torch.from_numpy(tokens[present].reshape(-1, tokens.shape[-1]))
    lengths, indices, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)], [np.zeros(0, np.float16)]
    for part in rows.split(ENCODED) if len(rows) else ():
        codes = sae.encode(part.to(sae.encoder.weight.device, torch.float32))
        if len(codes.values) and codes.values.max() > LARGEST:
            raise StudyError(
                f"SAE: a code of {codes.values.max():.3g} is beyond {LARGEST:,.0f}, the most that half precision holds; divide "
                "the encoder's weights and biases by a number, and multiply the atoms by it"
            )
        strengths = codes.values.cpu().numpy().astype(np.float16)
        lengths.append((strengths > 0).sum(axis=1))
        indices.append(codes.indices.cpu().numpy()[strengths > 0].astype(np.uint32))
        values.append(strengths[strengths > 0])
    per_token = np.zeros(tokens.shape[:2], np.int64)
    per_token[present] = np.concatenate(lengths).reshape(-1, tokens.shape[1])
    offsets = np.concatenate([[0], per_token.cumsum()])
    return ShardCodes((*tokens.shape[:2], sae.n_concepts), offsets, np.concatenate(indices), np.concatenate(values))


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
    for block in blocks_of(codes.sizes(rows), BLOCK):
        stats.add(codes.at(rows[block], chosen), np.arange(len(rows))[block])
    stats.save(artifact.folder / "statistics.npz")
    artifact.finish(n_images=stats.n_images)
    return artifact


class TokenCodes:
    """The codes of a source on disk; a few shards are memory-mapped at a time."""

    def __init__(self, artifact: Artifact):
        self.layout, self.n_concepts = TokenLayout(**artifact.facts["layout"]), artifact.facts["n_concepts"]
        shape, offsets = (self.layout.n_tokens, self.n_concepts), artifact.rows(PARTS[0])
        self.starts = np.cumsum([0, *(n // self.layout.n_tokens for n in offsets)])
        self.shard = lru_cache(OPEN)(lambda index: open_codes(artifact.folder, index, *shape))

    def by_shard(self, rows: Rows) -> Iterator[tuple[Rows, ShardCodes, Rows]]:
        """Yield, per shard that holds any of the images at `rows`, their places in `rows`, the shard, their places in it."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            yield places, self.shard(shard), rows[places] - self.starts[shard]

    def at(self, rows: Rows, tokens: slice) -> ShardCodes:
        """Return the codes of the images at `rows`, in that order, over some of their tokens."""
        places, parts = zip(*((places, shard.at(local, tokens)) for places, shard, local in self.by_shard(rows)), strict=True)
        offsets = np.concatenate([[0], np.concatenate([np.diff(part.offsets) for part in parts]).cumsum()])
        indices, values = (np.concatenate(arrays) for arrays in zip(*(part[2:] for part in parts), strict=True))
        joined = ShardCodes((len(rows), *parts[0].shape[1:]), offsets, indices, values)
        order = np.concatenate(places)
        return joined if (order[1:] > order[:-1]).all() else joined.at(np.argsort(order))

    def sizes(self, rows: Rows) -> Rows:
        """Return the numbers of entries and offsets that the images at `rows` have, to bound the memory of a block of them."""
        found = np.empty(len(rows), np.int64)
        for places, shard, local in self.by_shard(rows):
            found[places] = np.diff(shard.offsets[:: self.layout.n_tokens])[local] + self.layout.n_tokens
        return found

    def patch_codes(self, rows: Rows) -> sp.csr_matrix:
        """Return the codes of all patches of the n images at `rows`: sparse (n * patches, k), one image below the other."""
        codes = self.at(rows, self.layout.patches).matrix(np.float32)
        codes.sort_indices()
        return codes

    def heatmap(self, row: int, concept: int) -> Float[np.ndarray, "side side"]:
        """Return the code of one concept at every patch of the image at `row`, (side, side)."""
        codes = self.patch_codes(np.array([row]))[:, [concept]]
        return codes.toarray().reshape(self.layout.patches_per_side, -1)


def cooccurrence(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Count the images on which two concepts both fire, sparse (k, k), from energies (images, k)."""
    fires = (matrix > 0).astype(np.int64)
    return (fires.T @ fires).tocsr()
