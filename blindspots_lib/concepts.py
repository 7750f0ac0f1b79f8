"""Concept statistics: energies of images, codes of tokens, co-occurrence, top images; never anything dense in K x K."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float16, Int, UInt32
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, replacing, shard_path
from blindspots_lib.features import TokenLayout, layout_of, save_array, token_shards
from blindspots_lib.pairs import PairTable
from blindspots_lib.study import Study, StudyError


def energies_artifact(study: Study, source: str, features: Artifact, sae: Artifact) -> Artifact:
    """The output folder of `compute_energies`; `source` is "real" or a model's name."""
    inputs = {"features": features.fingerprint, "sae": sae.fingerprint}
    config = {"tokens": study.analysis.tokens}
    return Artifact(study.folder / "energies" / source, study.name, config, inputs, ("concepts", "sae"))


def compute_energies(study: Study, source: str, features: Artifact, sae: Artifact) -> Artifact:
    """Codes of all tokens of a source, and from them the images x concepts matrix of energies.

    In the folder: `energies.npz` (SciPy CSR, rows in the order of the pairs, empty for a lost image), `firings.npy`
    (how many tokens each concept fires on) and per shard the codes' indices and values, (b, t, a).
    """
    import torch

    from blindspots_lib.sae import load_sae

    artifact = energies_artifact(study, source, features, sae)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    model, layout = load_sae(sae.folder), layout_of(features)
    blocks, firings = [], np.zeros(model.n_concepts, np.int64)
    for index, tokens in enumerate(tqdm(token_shards(features), desc=f"energies, {source}", unit="shard")):
        lost = np.isnan(tokens[:, 0, 0])
        rows = torch.from_numpy(np.nan_to_num(tokens.astype(np.float32)))
        with torch.inference_mode():
            codes = model.encode(rows.flatten(0, 1))
        indices = codes.indices.view(*rows.shape[:2], -1).numpy().astype(np.uint32)
        values = codes.values.view(*rows.shape[:2], -1).numpy().astype(np.float16)
        values[lost] = 0
        save_array(shard_path(artifact.folder, index, "indices.npy"), indices)
        save_array(shard_path(artifact.folder, index, "values.npy"), values)
        chosen = layout.selection(study.analysis.tokens)
        blocks.append(image_energies(indices[:, chosen], values[:, chosen], model.n_concepts))
        firings += count_firings(indices[:, chosen], values[:, chosen], model.n_concepts)
    with replacing(artifact.folder / "energies.npz") as partial, open(partial, "wb") as file:
        sp.save_npz(file, sp.vstack(blocks, format="csr"))
    save_array(artifact.folder / "firings.npy", firings)
    artifact.finish(layout=layout._asdict())
    return artifact


def image_energies(indices: UInt32[np.ndarray, "b t a"], values: Float16[np.ndarray, "b t a"], n_concepts: int) -> sp.csr_matrix:
    """xi(x): the codes of each concept summed over the tokens of an image, as a sparse (b, k) float32 matrix."""
    rows = np.repeat(np.arange(len(indices)), indices[0].size)
    fired = values.ravel() > 0
    entries = (values.ravel()[fired].astype(np.float32), (rows[fired], indices.ravel()[fired].astype(np.int64)))
    return sp.coo_matrix(entries, shape=(len(indices), n_concepts)).tocsr()


def count_firings(
    indices: UInt32[np.ndarray, "b t a"], values: Float16[np.ndarray, "b t a"], n_concepts: int
) -> Int[np.ndarray, "k"]:
    """||Z_:,k||_0: on how many tokens each concept fires."""
    return np.bincount(indices.ravel()[values.ravel() > 0], minlength=n_concepts)


class Energies(NamedTuple):
    """What a source's images say of every concept, for the complete pairs only."""

    matrix: sp.csr_matrix  # (pairs, k) float32
    firings: Int[np.ndarray, "k"]


def load_energies(artifact: Artifact, rows: Int[np.ndarray, "pairs"]) -> Energies:
    """The energies of the pairs at `rows`. Raises StudyError if a file is not whole."""
    try:
        matrix = sp.load_npz(artifact.folder / "energies.npz").tocsr()
        firings = np.load(artifact.folder / "firings.npy", allow_pickle=False)
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise StudyError(f"{artifact.folder}: energies are not whole ({error}); delete the folder and run again") from None
    return Energies(matrix[rows], firings)


class TokenCodes:
    """Codes of the tokens of single images, memory-mapped, for heatmaps."""

    def __init__(self, artifact: Artifact):
        self.layout = TokenLayout(**artifact.facts["layout"])
        self.indices = [np.load(p, mmap_mode="r") for p in sorted(artifact.folder.glob("shard-*.indices.npy"))]
        self.values = [np.load(p, mmap_mode="r") for p in sorted(artifact.folder.glob("shard-*.values.npy"))]
        self.starts = np.cumsum([0, *(len(shard) for shard in self.indices)])

    def heatmap(self, row: int, concept: int) -> Float[np.ndarray, "side side"]:
        """Where one concept fires in the image at `row`: its code at every patch."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        local = row - self.starts[shard]
        patches = self.layout.patches
        fires = self.indices[shard][local, patches] == concept
        values = np.where(fires, self.values[shard][local, patches].astype(np.float32), 0).sum(axis=-1)
        return values.reshape(self.layout.patches_per_side, -1)


def top_images(matrix: sp.csr_matrix, concept: int, n: int) -> Int[np.ndarray, "m"]:
    """Rows of the at most n images with the most energy of a concept, strongest first; only images where it fires."""
    column = matrix[:, [concept]].tocoo()
    order = np.lexsort((column.row, -column.data))
    return column.row[order[:n]]


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


def hull_distances(sae_folder: Path) -> Float[np.ndarray, "k"]:
    """How far each atom lies from its point in the convex hull of the candidates: ||Lambda_k||, times the feature's unit."""
    from blindspots_lib.sae import load_sae

    return load_sae(sae_folder).dictionary.relaxation.detach().norm(dim=1).numpy()
