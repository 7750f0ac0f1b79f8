"""Mergeable statistics of concepts over any number of images, exact in whatever order the images come.

Sums of floating-point numbers depend on their order, so they are kept as integers here (`ExactSum`). Two states of
disjoint images merge into the state of all of them, bit for bit. Memory: some numbers a concept, and the pairs of
concepts that ever fire together; never anything dense in concepts x concepts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float16, Float32, Int, UInt32

from blindspots_lib.core.artifacts import replacing
from blindspots_lib.core.errors import StudyError

LIMBS = (2.0**32, 1.0, 2.0**-32, 2.0**-64)  # units of the integers that add up to a sum
EXACT = 2**21  # so many numbers below 2^32 have a sum below 2^53, which float64 holds exactly
N_TOP = 32  # images kept for each concept
DENSE = 2**21  # sums of images x concepts formed at a time


@dataclass
class ExactSum:
    """For each concept a sum of numbers in [0, 2^63), exact for multiples of 2^-64: float16 codes, their sums, their squares."""

    limbs: Int[np.ndarray, "4 k"]

    @classmethod
    def zeros(cls, n_concepts: int) -> "ExactSum":
        return cls(np.zeros((len(LIMBS), n_concepts), np.int64))

    def add(self, concepts: Int[np.ndarray, "e"], numbers: Float[np.ndarray, "e"]) -> None:
        """Add each number to the sum of its concept. Numbers are split at the units, which float64 does without error."""
        for first in range(0, len(numbers), EXACT):
            rest, some = numbers[first : first + EXACT].astype(np.float64), concepts[first : first + EXACT]
            for limb, unit in zip(self.limbs, LIMBS, strict=True):
                whole = np.floor(rest / unit)
                limb += np.bincount(some, weights=whole, minlength=len(limb)).astype(np.int64)
                rest -= whole * unit

    def merge(self, other: "ExactSum") -> None:
        self.limbs += other.limbs

    def value(self) -> Float[np.ndarray, "k"]:
        """The sums, rounded once to float64."""
        carried = self.limbs.astype(object)
        total = sum(carried[i] * int(unit / LIMBS[-1]) for i, unit in enumerate(LIMBS))
        return np.array([number / int(1 / LIMBS[-1]) for number in total], np.float64)


@dataclass
class ConceptStats:
    """What a set of images says of every concept. `add` images, `merge` another set's state, `save` and `load`."""

    n_images: int
    n_tokens: int
    energy: ExactSum  # xi_k(x), summed over images
    squared_energy: ExactSum
    images: Int[np.ndarray, "k"]  # on how many images each concept fires
    firings: Int[np.ndarray, "k"]  # on how many tokens: ||Z_:,k||_0
    top_energies: Float32[np.ndarray, "k m"]  # of the images with the most of each concept, falling; 0 where there is none
    top_ids: Int[np.ndarray, "k m"]  # their ids, smaller ids first among equals; -1 where there is none
    pairs: list[sp.csr_matrix]  # whose sum is `together`; a few, each much smaller than the one before it

    @classmethod
    def empty(cls, n_concepts: int, n_top: int = N_TOP) -> "ConceptStats":
        return cls(
            0, 0, ExactSum.zeros(n_concepts), ExactSum.zeros(n_concepts), np.zeros(n_concepts, np.int64),
            np.zeros(n_concepts, np.int64), np.zeros((n_concepts, n_top), np.float32), np.full((n_concepts, n_top), -1, np.int64),
            [sp.csr_matrix((n_concepts, n_concepts), dtype=np.int64)],
        )  # fmt: skip

    @property
    def n_concepts(self) -> int:
        return len(self.firings)

    def add(self, indices: UInt32[np.ndarray, "b t a"], values: Float16[np.ndarray, "b t a"], ids: Int[np.ndarray, "b"]) -> None:
        """Add images by the codes of their tokens; `ids` tell the images apart and must not come twice."""
        if len(indices) and indices.max(initial=0) >= self.n_concepts:
            raise StudyError(f"concept statistics: made for {self.n_concepts} concepts, got concept {indices.max()}")
        n_concepts = self.n_concepts
        fires = token_matrix(indices, values, n_concepts)
        energies = image_energies(indices, values, n_concepts)
        image = np.repeat(np.arange(len(ids)), np.diff(energies.indptr))
        self.n_images += len(ids)
        self.n_tokens += indices.shape[0] * indices.shape[1]
        self.energy.add(energies.indices, energies.data)
        self.squared_energy.add(energies.indices, np.square(energies.data, dtype=np.float64))
        self.images += np.bincount(energies.indices, minlength=n_concepts)
        self.firings += np.bincount(fires.indices, minlength=n_concepts)
        self.keep_top(energies.indices, energies.data, np.asarray(ids)[image])
        self.count_pairs((fires.T @ fires).T)  # symmetric; transposing makes rows of columns

    @property
    def together(self) -> sp.csr_matrix:
        """(k, k) int64: on how many tokens two concepts both fire; the diagonal is `firings`."""
        while len(self.pairs) > 1:
            self.pairs.append(self.pairs.pop() + self.pairs.pop())
        return self.pairs[0]

    def count_pairs(self, counts: sp.csr_matrix) -> None:
        """Add to `together`; sums are put off until they are of matrices of like size, or every image would cost a whole one."""
        self.pairs.append(counts)
        while len(self.pairs) > 1 and self.pairs[-2].nnz <= 2 * self.pairs[-1].nnz:
            self.pairs.append(self.pairs.pop() + self.pairs.pop())

    def keep_top(self, concepts: Int[np.ndarray, "e"], energies: Float32[np.ndarray, "e"], ids: Int[np.ndarray, "e"]) -> None:
        """Keep the greatest energies of each concept among those kept so far and these."""
        n_top = self.top_ids.shape[1]
        worth = energies >= self.top_energies[concepts, -1]
        touched, concepts = np.unique(concepts[worth], return_inverse=True)
        kept = self.top_ids[touched] >= 0
        concepts = np.concatenate([concepts, np.nonzero(kept)[0]])
        energies = np.concatenate([energies[worth], self.top_energies[touched][kept]])
        ids = np.concatenate([ids[worth], self.top_ids[touched][kept]])
        falling = np.uint64(2**32 - 1) - energies.view(np.uint32)  # the bits of positive floats are in their order
        order = np.lexsort((ids, (concepts.astype(np.uint64) << np.uint64(32)) | falling))
        concepts, place = concepts[order], np.arange(len(order))
        begins = np.concatenate([[True], concepts[1:] != concepts[:-1]]) if len(order) else np.zeros(0, bool)
        rank = place - np.maximum.accumulate(np.where(begins, place, 0))
        best = rank < n_top
        self.top_energies[touched[concepts[best]], rank[best]] = energies[order[best]]
        self.top_ids[touched[concepts[best]], rank[best]] = ids[order[best]]

    def merge(self, other: "ConceptStats") -> None:
        """Add what `other` has counted on other images. Raises StudyError if it counts other concepts."""
        if other.n_concepts != self.n_concepts or other.top_ids.shape != self.top_ids.shape:
            raise StudyError(
                f"concept statistics: {self.n_concepts} concepts with {self.top_ids.shape[1]} top images each do not merge "
                f"with {other.n_concepts} with {other.top_ids.shape[1]}; use one SAE and one number of top images"
            )
        self.n_images += other.n_images
        self.n_tokens += other.n_tokens
        self.energy.merge(other.energy)
        self.squared_energy.merge(other.squared_energy)
        self.images += other.images
        self.firings += other.firings
        concepts, places = np.nonzero(other.top_ids >= 0)
        self.keep_top(concepts, other.top_energies[concepts, places], other.top_ids[concepts, places])
        self.count_pairs(other.together)

    def mean_energy(self) -> Float[np.ndarray, "k"]:
        """E_x[xi_k(x)] over the images."""
        return self.energy.value() / self.n_images

    def energy_deviation(self) -> Float[np.ndarray, "k"]:
        """Standard deviation of xi_k(x) over the images."""
        mean = self.mean_energy()
        return np.sqrt(np.maximum(self.squared_energy.value() / self.n_images - mean**2, 0))

    def overlap(self) -> sp.csr_matrix:
        """(k, k), diagonal left out: of the tokens that either of two concepts fires on, the share that both fire on."""
        both = self.together.tocoo()
        apart = both.row != both.col
        row, col, data = both.row[apart], both.col[apart], both.data[apart]
        return sp.csr_matrix((data / (self.firings[row] + self.firings[col] - data), (row, col)), shape=both.shape)

    def save(self, path: Path) -> None:
        together = self.together
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(
                file, counts=np.array([self.n_images, self.n_tokens]), energy=self.energy.limbs,
                squared_energy=self.squared_energy.limbs, images=self.images, firings=self.firings,
                top_energies=self.top_energies, top_ids=self.top_ids, together_data=together.data,
                together_indices=together.indices, together_indptr=together.indptr,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "ConceptStats":
        """Read what `save` wrote. Raises StudyError if it is not whole."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                n = len(arrays["firings"])
                together = (arrays["together_data"], arrays["together_indices"], arrays["together_indptr"])
                return cls(
                    *arrays["counts"].tolist(), ExactSum(arrays["energy"]), ExactSum(arrays["squared_energy"]), arrays["images"],
                    arrays["firings"], arrays["top_energies"], arrays["top_ids"], [sp.csr_matrix(together, shape=(n, n))],
                )  # fmt: skip
        except Exception as error:  # zip and NumPy raise many kinds for a file that is cut short
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StudyError(f"{path}: concept statistics are not whole ({reason}); delete it and run again") from None


def token_matrix(indices: UInt32[np.ndarray, "b t a"], values: Float16[np.ndarray, "b t a"], n_concepts: int) -> sp.csr_matrix:
    """(tokens, k), 1 where a concept fires on a token."""
    fired = values.reshape(-1, values.shape[-1]) > 0
    bounds = np.concatenate([[0], fired.sum(axis=1).cumsum()])
    columns = indices.reshape(fired.shape)[fired].astype(np.int64)
    return sp.csr_matrix((np.ones(len(columns), np.int64), columns, bounds), shape=(len(fired), n_concepts))


def image_energies(indices: UInt32[np.ndarray, "b t a"], values: Float16[np.ndarray, "b t a"], n_concepts: int) -> sp.csr_matrix:
    """xi(x): the codes of each concept summed over the tokens of an image, as a sparse (b, k) float32 matrix.

    Sums of float16 codes are exact in float64; they are rounded once.
    """
    n_images, step = len(indices), max(1, DENSE // n_concepts)
    energies, columns, counts = [], [], [np.zeros(1, np.int64)]
    for first in range(0, n_images, step):
        some, codes = indices[first : first + step].reshape(-1, indices.shape[1] * indices.shape[2]), values[first : first + step]
        places = (some + np.arange(len(some))[:, None] * n_concepts).ravel()
        sums = np.bincount(places, weights=codes.ravel(), minlength=len(some) * n_concepts)
        found = np.flatnonzero(sums)
        energies.append(sums[found].astype(np.float32))
        columns.append(found % n_concepts)
        counts.append(np.bincount(found // n_concepts, minlength=len(some)))
    bounds = np.concatenate(counts).cumsum()
    if n_images == 0:
        return sp.csr_matrix((0, n_concepts), dtype=np.float32)
    return sp.csr_matrix((np.concatenate(energies), np.concatenate(columns), bounds), shape=(n_images, n_concepts))
