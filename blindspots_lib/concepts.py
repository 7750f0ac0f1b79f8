"""Codes of all tokens, energies of all images, and what they say of single concepts."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float16, Int, UInt32
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, Fingerprinted, fingerprint_of, replacing, shard_path
from blindspots_lib.features import TokenLayout, open_array, save_array
from blindspots_lib.pairs import PairTable
from blindspots_lib.statistics import ConceptStats, image_energies
from blindspots_lib.study import Study, StudyError
from blindspots_lib.tokens import TokenSource

ENCODED = 16_384  # tokens encoded at a time


def energies_artifact(study: Study, source: str, tokens: Fingerprinted, sae: Artifact) -> Artifact:
    """The output folder of `compute_energies`; `source` is "real" or a model's name."""
    inputs = {"features": tokens.fingerprint, "sae": sae.fingerprint}
    config = {"tokens": study.analysis.tokens}
    code = ("concepts", "sae", "topk", "statistics")
    return Artifact(study.folder / "energies" / source, study.name, config, inputs, code)


def compute_energies(study: Study, source: str, tokens: TokenSource, sae: Artifact) -> Artifact:
    """Codes of all tokens of a source, and from them the images x concepts matrix of energies.

    In the folder: `energies.npz` (SciPy CSR, rows in the order of the pairs, empty for a lost image) and per shard the
    codes' indices and values, (b, t, a). A shard that is there is not encoded again.
    """
    import torch

    from blindspots_lib.sae import load_sae

    artifact = energies_artifact(study, source, tokens, sae)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    model = load_sae(sae.folder).to("cuda" if torch.cuda.is_available() else "cpu")
    search, chosen = getattr(torch, study.sae.search), tokens.layout.selection(study.analysis.tokens)
    blocks = []
    for index in tqdm(range(len(tokens)), desc=f"energies, {source}", unit="shard"):
        paths = code_paths(artifact, index)
        if not all(path.exists() for path in paths):
            for path, array in zip(paths, encode_images(model, tokens.shard(index), search), strict=True):
                save_array(path, array)
        indices, values = (open_array(path)[:, chosen] for path in paths)
        blocks.append(image_energies(indices, values, model.n_concepts))
    with replacing(artifact.folder / "energies.npz") as partial, open(partial, "wb") as file:
        sp.save_npz(file, sp.vstack(blocks, format="csr"))
    artifact.finish(layout=tokens.layout._asdict(), n_concepts=model.n_concepts)
    return artifact


def code_paths(artifact: Artifact, index: int):
    """Where the indices and the values of a shard's codes are."""
    return shard_path(artifact.folder, index, "indices.npy"), shard_path(artifact.folder, index, "values.npy")


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


def load_energies(study: Study, artifact: Artifact, rows: Int[np.ndarray, "pairs"]) -> Energies:
    """The energies of the pairs at `rows`. Raises StudyError if a file is not whole."""
    try:
        matrix = sp.load_npz(artifact.folder / "energies.npz").tocsr()
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise StudyError(f"{artifact.folder}: energies are not whole ({error}); delete the folder and run again") from None
    return Energies(matrix[rows], ConceptStats.load(gather_statistics(study, artifact, rows).folder / "statistics.npz"))


def gather_statistics(study: Study, energies: Artifact, rows: Int[np.ndarray, "pairs"]) -> Artifact:
    """Statistics of the images at `rows`, which go by their position among them, kept as `statistics.npz`."""
    inputs = {"energies": energies.fingerprint, "rows": fingerprint_of(rows.tolist())}
    folder = study.folder / "statistics" / energies.folder.name
    artifact = Artifact(folder, study.name, {"tokens": study.analysis.tokens}, inputs, ("concepts", "statistics"))
    if artifact.is_complete():
        return artifact
    artifact.begin()
    codes = TokenCodes(energies)
    stats = ConceptStats.empty(energies.facts["n_concepts"])
    chosen = codes.layout.selection(study.analysis.tokens)
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


def association_names(matrix: sp.csr_matrix, pairs: PairTable, rows: Int[np.ndarray, "pairs"]) -> list[tuple[str, float]]:
    """For each concept the true concept that it goes with best on real images: (name, area under the ROC curve).

    The area is that of the concept's energy as a detector of the true concept's presence; ("", nan) if it never fires.
    """
    names = sorted({concept["name"] for row in rows for concept in pairs.concepts[row]})
    if not names:
        return [("", float("nan"))] * matrix.shape[1]
    present = np.array([[name in {c["name"] for c in pairs.concepts[row]} for name in names] for row in rows], bool)
    columns = matrix.tocsc()
    result = []
    for concept in range(matrix.shape[1]):
        fired = columns.indices[columns.indptr[concept] : columns.indptr[concept + 1]]
        if len(fired) == 0:
            result.append(("", float("nan")))
            continue
        areas = roc_areas(columns[:, concept].toarray()[:, 0], present)
        best = int(np.nanargmax(areas))
        result.append((names[best], float(areas[best])))
    return result


def roc_areas(scores: Float[np.ndarray, "n"], present: np.ndarray) -> Float[np.ndarray, "names"]:
    """Area under the ROC curve of one score for each column of `present`, ties counted half; nan if a column is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    n_present = present.sum(axis=0)
    n_absent = len(scores) - n_present
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks @ present - n_present * (n_present + 1) / 2) / (n_present * n_absent)
