"""Statistics of concepts over any number of images, exact in any order of the images.

Sums of floating-point numbers depend on their order, so sums are kept as integers here (`ExactSum`). The statistics of two
disjoint sets of images merge into those of their union, bit for bit. Memory grows with the number of concepts and of pairs of
concepts that fire together; nothing is dense in concepts x concepts.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float16, Float32, Int, UInt32

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import replacing

LIMBS = (2.0**32, 1.0, 2.0**-32, 2.0**-64)  # units of the integers that add up to a sum
EXACT = 2**21  # numbers summed at a time: if each is below 2^32, the sum is below 2^53, exact in float64
N_TOP = 32  # images kept per concept
PRODUCTS = 2**24  # pairs of codes on the same token counted at a time


class ShardCodes(NamedTuple):
    """The codes of b images of t tokens each: token i has the entries from offsets[i] to offsets[i + 1], all above 0."""

    shape: tuple[int, int, int]  # images, tokens per image, concepts
    offsets: Int[np.ndarray, "b*t+1"]
    indices: UInt32[np.ndarray, "e"]  # concepts
    values: Float16[np.ndarray, "e"]

    def at(self, images: Int[np.ndarray, "n"], tokens: slice = slice(None)) -> "ShardCodes":
        """Return a copy of the codes of some images, over some of their tokens."""
        places = np.arange(self.shape[0] * self.shape[1]).reshape(self.shape[:2])[images, tokens]
        starts = self.offsets[places.ravel()]
        lengths = self.offsets[places.ravel() + 1] - starts
        offsets = np.concatenate([[0], lengths.cumsum()])
        entries = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return ShardCodes((*places.shape, self.shape[2]), offsets, self.indices[entries], self.values[entries])

    def over(self, tokens: slice) -> "ShardCodes":
        """Return a copy of the codes of all images, over some of their tokens."""
        return self.at(np.arange(self.shape[0]), tokens)

    def matrix(self, dtype: type, n_tokens: int = 1) -> sp.csr_matrix:
        """Return the codes as rows of k concepts, one row per `n_tokens` tokens; a concept may stand in a row several times."""
        found = self.values.astype(dtype), self.indices.astype(np.int64), self.offsets[::n_tokens]
        return sp.csr_matrix(found, shape=(len(found[2]) - 1, self.shape[2]))


@dataclass
class ExactSum:
    """One sum per concept of numbers in [0, 2^63), exact for multiples of 2^-64: float16 codes, their sums, their squares."""

    limbs: Int[np.ndarray, "4 k"]

    @classmethod
    def zeros(cls, n_concepts: int) -> "ExactSum":
        return cls(np.zeros((len(LIMBS), n_concepts), np.int64))

    def add(self, concepts: Int[np.ndarray, "e"], numbers: Float[np.ndarray, "e"]) -> None:
        """Add each number to the sum of its concept. Numbers are split into multiples of the units, without rounding error."""
        for first in range(0, len(numbers), EXACT):
            rest, some = numbers[first : first + EXACT].astype(np.float64), concepts[first : first + EXACT]
            for limb, unit in zip(self.limbs, LIMBS, strict=True):
                whole = np.floor(rest / unit)
                limb += np.bincount(some, weights=whole, minlength=len(limb)).astype(np.int64)
                rest -= whole * unit

    def value(self) -> Float[np.ndarray, "k"]:
        """Return the sums, rounded once to float64."""
        total = sum(limb * int(unit / LIMBS[-1]) for limb, unit in zip(self.limbs.astype(object), LIMBS, strict=True))
        return np.array([number / int(1 / LIMBS[-1]) for number in total], np.float64)


@dataclass
class ConceptStats:
    """Statistics of k concepts over a set of images. `add` images, `merge` another set, `save` and `load`."""

    n_images: int
    n_tokens: int
    energy: ExactSum  # sum of xi_k(x) over images
    squared_energy: ExactSum
    images: Int[np.ndarray, "k"]  # number of images that each concept fires on
    firings: Int[np.ndarray, "k"]  # number of tokens that it fires on: ||Z_:,k||_0
    top_energies: Float32[np.ndarray, "k m"]  # the m largest energies of each concept, largest first; 0 where there is none
    top_ids: Int[np.ndarray, "k m"]  # ids of their images, smaller ids first among equals; -1 where there is none
    pairs: list[sp.csr_matrix]  # a few matrices (k, k) whose sum is `together`, each much smaller than the one before

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

    def add(self, codes: ShardCodes, ids: Int[np.ndarray, "b"]) -> None:
        """Add b images by the codes of their tokens; each image is identified by its id, and none may be added twice."""
        n_concepts = self.n_concepts
        if codes.shape[2] != n_concepts:
            raise StudyError(f"concept statistics: made for {n_concepts} concepts, got codes of {codes.shape[2]}")
        energies = image_energies(codes)
        image = np.repeat(np.arange(len(ids)), np.diff(energies.indptr))
        self.n_images += len(ids)
        self.n_tokens += codes.shape[0] * codes.shape[1]
        self.energy.add(energies.indices, energies.data)
        self.squared_energy.add(energies.indices, np.square(energies.data, dtype=np.float64))
        self.images += np.bincount(energies.indices, minlength=n_concepts)
        self.firings += np.bincount(codes.indices, minlength=n_concepts)
        self.keep_top(energies.indices, energies.data, np.asarray(ids)[image])
        fires = codes.matrix(np.int64)
        fires.data[:] = 1
        for some in blocks_of(np.square(np.diff(codes.offsets)), PRODUCTS):
            part = fires[some]
            self.count_pairs((part.T @ part).T)  # symmetric; transposed back from CSC to CSR

    @property
    def together(self) -> sp.csr_matrix:
        """Number of tokens on which two concepts both fire, (k, k) int64; the diagonal is `firings`."""
        while len(self.pairs) > 1:
            self.pairs.append(self.pairs.pop() + self.pairs.pop())
        return self.pairs[0]

    def count_pairs(self, counts: sp.csr_matrix) -> None:
        """Add to `together`. Only matrices of similar size are summed at once, so that an image does not cost a whole sum."""
        self.pairs.append(counts)
        while len(self.pairs) > 1 and self.pairs[-2].nnz <= 2 * self.pairs[-1].nnz:
            self.pairs.append(self.pairs.pop() + self.pairs.pop())

    def keep_top(self, concepts: Int[np.ndarray, "e"], energies: Float32[np.ndarray, "e"], ids: Int[np.ndarray, "e"]) -> None:
        """Keep the largest energies of each concept among those kept so far and these."""
        n_top = self.top_ids.shape[1]
        worth = energies >= self.top_energies[concepts, -1]
        touched, concepts = np.unique(concepts[worth], return_inverse=True)
        kept = self.top_ids[touched] >= 0
        concepts = np.concatenate([concepts, np.nonzero(kept)[0]])
        energies = np.concatenate([energies[worth], self.top_energies[touched][kept]])
        ids = np.concatenate([ids[worth], self.top_ids[touched][kept]])
        falling = np.uint64(2**32 - 1) - energies.view(np.uint32)  # positive floats are ordered as their bits
        order = np.lexsort((ids, (concepts.astype(np.uint64) << np.uint64(32)) | falling))
        concepts = concepts[order]
        rank = np.arange(len(order)) - np.searchsorted(concepts, concepts)  # among the energies of the same concept
        best = rank < n_top
        self.top_energies[touched[concepts[best]], rank[best]] = energies[order[best]]
        self.top_ids[touched[concepts[best]], rank[best]] = ids[order[best]]

    def merge(self, other: "ConceptStats") -> None:
        """Add the statistics of other images. Raises StudyError if they have other concepts or another number of top images."""
        if other.n_concepts != self.n_concepts or other.top_ids.shape != self.top_ids.shape:
            raise StudyError(
                f"concept statistics: {self.n_concepts} concepts with {self.top_ids.shape[1]} top images each do not merge "
                f"with {other.n_concepts} with {other.top_ids.shape[1]}; use one SAE and one number of top images"
            )
        self.n_images += other.n_images
        self.n_tokens += other.n_tokens
        self.energy.limbs += other.energy.limbs
        self.squared_energy.limbs += other.squared_energy.limbs
        self.images += other.images
        self.firings += other.firings
        concepts, places = np.nonzero(other.top_ids >= 0)
        self.keep_top(concepts, other.top_energies[concepts, places], other.top_ids[concepts, places])
        self.count_pairs(other.together)

    def mean_energy(self) -> Float[np.ndarray, "k"]:
        """Mean energy E_x[xi_k(x)] over the images."""
        return self.energy.value() / self.n_images

    def energy_deviation(self) -> Float[np.ndarray, "k"]:
        """Standard deviation of xi_k(x) over the images."""
        mean = self.mean_energy()
        return np.sqrt(np.maximum(self.squared_energy.value() / self.n_images - mean**2, 0))

    def overlap(self) -> sp.csr_matrix:
        """Jaccard index of two concepts, sparse (k, k): tokens both fire on / tokens either fires on; empty diagonal."""
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


def image_energies(codes: ShardCodes) -> sp.csr_matrix:
    """Return xi(x), the codes of each concept summed over the tokens of an image, as a sparse (b, k) float32 matrix.

    Sums of float16 codes are exact in float64; they are rounded once.
    """
    energies = codes.matrix(np.float64, codes.shape[1])
    energies.sum_duplicates()
    return energies.astype(np.float32)


def blocks_of(sizes: Int[np.ndarray, "n"], limit: int) -> list[slice]:
    """Split a sequence into blocks whose sizes add up to less than `limit`, not counting the first one of a block."""
    ends = np.flatnonzero(np.diff(sizes.cumsum() // limit)) + 1
    return [slice(*bounds) for bounds in itertools.pairwise([0, *ends.tolist(), len(sizes)])]
