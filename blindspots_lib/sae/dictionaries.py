"""Dictionaries of an SAE: free atoms, or archetypal ones, which stay near the convex hull of the data.

Each decodes sparse codes from the active atoms alone, and gives the exact gradient of its parameters row by row, so
that nothing of the size of the dense weights is held twice. Source of the archetypal kind: Fel et al., "Archetypal SAE",
ICML 2025 (arXiv 2502.12892).

Shape letters: n tokens, d features, k concepts, c candidates, m neighbours, a active concepts of a token, u concepts
that fire on any token of a batch, f firings of a batch.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from blindspots_lib.sae.topk import top_products


class Codes(NamedTuple):
    """Sparse codes of n tokens: the active concepts and how strongly each fires (>= 0; 0 if it does not)."""

    indices: Int[Tensor, "n a"]
    values: Float[Tensor, "n a"]


class Firings(NamedTuple):
    """Codes in the order of the concepts: the tokens that each concept fires on."""

    concepts: Int[Tensor, "u"]  # those that fire at all, in order
    starts: Int[Tensor, "u + 1"]  # where each one's firings begin, and where the last one's end
    tokens: Int[Tensor, "f"]  # the tokens of the first concept, of the second, ...
    places: Int[Tensor, "f"]  # where each firing stands in the flattened codes

    def sums(
        self, weights: Float[Tensor, "f"], rows: Float[Tensor, "n e"], first: int = 0, last: int | None = None
    ) -> Float[Tensor, "u e"]:
        """For each of concepts[first:last] the sum over its firings of weight times the token's row."""
        starts = self.starts[first : len(self.concepts) + 1 if last is None else last + 1]
        begin, end = int(starts[0]), int(starts[-1])
        return F.embedding_bag(
            self.tokens[begin:end], rows, starts - begin, mode="sum", per_sample_weights=weights[begin:end],
            include_last_offset=True,
        )  # fmt: skip


def firings_of(codes: Codes) -> Firings:
    fired = (codes.values.flatten() > 0).nonzero()[:, 0]
    return group_by_concept(codes.indices.flatten()[fired], fired // codes.indices.shape[1], fired)


def group_by_concept(concepts: Int[Tensor, "f"], tokens: Int[Tensor, "f"], places: Int[Tensor, "f"]) -> Firings:
    """Entries of a concept and a token each, in the order of the concepts; equal ones stay in the order they came in."""
    concepts, order = concepts.sort(stable=True)
    concepts, counts = concepts.unique_consecutive(return_counts=True)
    return Firings(concepts, F.pad(counts.cumsum(0), (1, 0)), tokens[order], places[order])


class RowGradient(NamedTuple):
    """The gradient of one parameter, zero in all but some rows."""

    name: str
    rows: Int[Tensor, "u"]  # in order
    squared_norm: Float[Tensor, ""]
    part: Callable[[int, int], Tensor]  # (first, last) -> the gradients of rows[first:last]


def row_gradient(name: str, rows: Int[Tensor, "u"], values: Float[Tensor, "u *e"]) -> RowGradient:
    return RowGradient(name, rows, values.square().sum(), lambda first, last: values[first:last])


def decode(codes: Codes, atoms: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
    """x^ = sum over the active concepts of value times atom; touches nothing but the active atoms."""
    return F.embedding_bag(codes.indices, atoms, per_sample_weights=codes.values.to(atoms.dtype), mode="sum")


def inner_products(rows: Float[Tensor, "n e"], table: Float[Tensor, "k e"], indices: Int[Tensor, "n a"]) -> Float[Tensor, "n a"]:
    """<row_n, table_i> for the indices i of each n: the gradient of `decode` with respect to the values, gathering nothing."""
    with torch.enable_grad():
        values = torch.zeros(indices.shape, dtype=table.dtype, device=table.device, requires_grad=True)
        sums = decode(Codes(indices, values), table.detach())
    return torch.autograd.grad(sums, values, rows)[0]


class FreeDictionary(nn.Module):
    """D itself is the parameter, as in a plain top-k SAE."""

    def __init__(self, n_concepts: int, d: int):
        super().__init__()
        self.free_atoms = nn.Parameter(torch.zeros(n_concepts, d))

    def atoms(self) -> Float[Tensor, "k d"]:
        return self.free_atoms

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Atom i starts at candidate i mod c."""
        self.free_atoms.copy_(candidates[torch.arange(len(self.free_atoms)) % len(candidates)])

    def prepare_training(self, product_dtype: torch.dtype) -> None:
        """Nothing to prepare."""

    def decoding(self, codes: Codes, firings: Firings) -> "AtomDecoding":
        return AtomDecoding(self, codes, firings, self.free_atoms[firings.concepts])

    def gradients(
        self, concepts: Int[Tensor, "u"], of_atoms: Float[Tensor, "u d"], atoms: Float[Tensor, "u d"]
    ) -> Iterator[RowGradient]:
        yield row_gradient("free_atoms", concepts, of_atoms)

    def project_rows(self, name: str, rows: Float[Tensor, "r d"]) -> None:
        """Nothing binds a free atom."""


class ArchetypalDictionary(nn.Module):
    """D = W C + Lambda: atoms near the convex hull of the candidates.

    C (c, d) holds the candidates and is fixed. The rows of W lie on the simplex (>= 0, sum 1), the rows of Lambda
    (k, d) are no longer than `radius`. Gradient steps leave those sets; `project` brings the parameters back.

    The gradient of W is taken through the division by its rows' sums. With A the gradient of an atom and h = w C its hull
    point, the entry of candidate c is <A, C_c - h>: what moves the atom along the hull. Without the second term any wish
    for a longer or shorter atom pulls on all candidates alike, and each step of Adam mixes their mean into every atom.
    """

    def __init__(self, n_concepts: int, n_candidates: int, n_weights: int, d: int, radius: float):
        super().__init__()
        self.radius = radius
        self.register_buffer("candidates", torch.zeros(n_candidates, d))
        self.weights = nn.Parameter(torch.zeros(n_concepts, n_weights))
        self.relaxation = nn.Parameter(torch.zeros(n_concepts, d))

    def hull_points(self, concepts: Int[Tensor, "u"] | slice) -> Float[Tensor, "u d"]:
        """The rows of W C that belong to `concepts`: their atoms without the relaxation."""
        raise NotImplementedError

    def weight_gradient(
        self, concepts: Int[Tensor, "u"], of_atoms: Float[Tensor, "u d"], hull_points: Float[Tensor, "u d"]
    ) -> RowGradient:
        """That of W, from the gradient of the atoms of `concepts` and their hull points."""
        raise NotImplementedError

    def prepare_training(self, product_dtype: torch.dtype) -> None:
        """Form products with C in this dtype; the candidates must be set."""

    def atoms(self) -> Float[Tensor, "k d"]:
        return self.hull_points(slice(None)) + self.relaxation

    def decoding(self, codes: Codes, firings: Firings) -> "AtomDecoding | MixtureDecoding":
        atoms = self.hull_points(firings.concepts) + self.relaxation[firings.concepts]
        return AtomDecoding(self, codes, firings, atoms)

    def gradients(
        self, concepts: Int[Tensor, "u"], of_atoms: Float[Tensor, "u d"], atoms: Float[Tensor, "u d"]
    ) -> Iterator[RowGradient]:
        yield row_gradient("relaxation", concepts, of_atoms)
        yield self.weight_gradient(concepts, of_atoms, atoms - self.relaxation[concepts])

    def project_rows(self, name: str, rows: Float[Tensor, "r e"]) -> None:
        """Rows of W onto the simplex (clip at 0, divide by the sum), rows of Lambda into the ball of `radius`."""
        if name == "weights":
            total = rows.clamp_(min=0).sum(dim=1, keepdim=True)
            if not total.all():  # a row without a positive weight becomes uniform
                rows[total[:, 0] == 0] = 1
                total = rows.sum(dim=1, keepdim=True)
            rows.div_(total)
        else:
            rows.mul_(self.radius / rows.norm(dim=1, keepdim=True).clamp_(min=max(self.radius, 1e-30)))

    @torch.no_grad()
    def project(self) -> None:
        for name in ("weights", "relaxation"):
            self.project_rows(name, getattr(self, name).data)


class DenseArchetypalDictionary(ArchetypalDictionary):
    """Every atom may draw on every candidate: W is (k, c), the paper's."""

    def __init__(self, n_concepts: int, n_candidates: int, d: int, radius: float):
        super().__init__(n_concepts, n_candidates, n_candidates, d, radius)
        self.product_dtype: torch.dtype | None = None
        for name in ("middle", "centred", "centred_gram"):  # of the candidates: their mean, C less it, the Gram matrix of that
            self.register_buffer(name, None, persistent=False)

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Take these candidates; atom i starts at candidate i mod c."""
        self.candidates.copy_(candidates)
        rows = torch.arange(len(self.weights))
        self.weights.zero_()[rows, rows % len(candidates)] = 1.0
        self.relaxation.zero_()

    def prepare_training(self, product_dtype: torch.dtype) -> None:
        """Form products with C in this dtype; the candidates must be set."""
        self.product_dtype = product_dtype
        self.middle = self.candidates.mean(dim=0)
        self.centred = self.candidates - self.middle
        self.centred_gram = self.centred.T @ self.centred

    def product(self, a: Float[Tensor, "p q"], b: Float[Tensor, "q r"]) -> Float[Tensor, "p r"]:
        dtype = self.product_dtype or a.dtype
        return (a.to(dtype) @ b.to(dtype)).to(a.dtype)

    def hull_points(self, concepts: Int[Tensor, "u"] | slice) -> Float[Tensor, "u d"]:
        return self.product(self.weights[concepts], self.candidates)

    def decoding(self, codes: Codes, firings: Firings) -> "AtomDecoding | MixtureDecoding":
        """(Z W) C costs a product with C for each token, Z (W C) one for each concept that fires: take the cheaper."""
        if len(firings.concepts) > len(codes.indices):
            return MixtureDecoding(self, codes, firings)
        return super().decoding(codes, firings)

    def weight_gradient(
        self, concepts: Int[Tensor, "u"], of_atoms: Float[Tensor, "u d"], hull_points: Float[Tensor, "u d"]
    ) -> RowGradient:
        along = (of_atoms * (hull_points - self.middle)).sum(dim=1)

        def part(first: int, last: int) -> Float[Tensor, "p c"]:
            return self.product(of_atoms[first:last], self.centred.T) - along[first:last, None]

        return RowGradient("weights", concepts, self.weight_gradient_norm(of_atoms, along), part)

    def weight_gradient_norm(self, of_atoms: Float[Tensor, "u d"], along: Float[Tensor, "u"]) -> Float[Tensor, ""]:
        """||A C'^T - a 1^T||^2 = tr(A (C'^T C') A^T) + c |a|^2 with C' centred and a = `along`, without forming it."""
        return ((of_atoms @ self.centred_gram) * of_atoms).sum() + len(self.candidates) * along.square().sum()


class LocalArchetypalDictionary(ArchetypalDictionary):
    """Every atom draws on the m candidates nearest to the one it starts at: W is (k, m), the constraint holds exactly."""

    def __init__(self, n_concepts: int, n_candidates: int, d: int, radius: float, n_neighbours: int):
        super().__init__(n_concepts, n_candidates, n_neighbours, d, radius)
        self.register_buffer("neighbours", torch.zeros(n_concepts, n_neighbours, dtype=torch.int64))

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Take these candidates; atom i starts at candidate i mod c, its nearest neighbour."""
        self.candidates.copy_(candidates)
        nearest = nearest_candidates(candidates, self.weights.shape[1])
        self.neighbours.copy_(nearest[torch.arange(len(self.weights)) % len(candidates)])
        self.weights.zero_()[:, 0] = 1.0
        self.relaxation.zero_()

    def hull_points(self, concepts: Int[Tensor, "u"] | slice) -> Float[Tensor, "u d"]:
        return decode(Codes(self.neighbours[concepts], self.weights[concepts]), self.candidates)

    def weight_gradient(
        self, concepts: Int[Tensor, "u"], of_atoms: Float[Tensor, "u d"], hull_points: Float[Tensor, "u d"]
    ) -> RowGradient:
        along = (of_atoms * hull_points).sum(dim=1, keepdim=True)
        return row_gradient("weights", concepts, inner_products(of_atoms, self.candidates, self.neighbours[concepts]) - along)


def nearest_candidates(candidates: Float[Tensor, "c d"], m: int) -> Int[Tensor, "c m"]:
    """For each candidate itself, then the m - 1 others nearest to it."""
    half_squares = candidates.square().sum(dim=1) / 2
    nearest = top_products(candidates, candidates, -half_squares, m).indices  # <a, b> - |b|^2 / 2 falls with |a - b|
    own = torch.arange(len(candidates), device=candidates.device)[:, None]
    others_first = (nearest == own).long().argsort(dim=1, stable=True)  # a twin may have come before it, or in its place
    return torch.cat([own, nearest.gather(1, others_first)[:, : m - 1]], dim=1)


class AtomDecoding:
    """x^ = Z D from the atoms that fire, and what its gradient needs."""

    def __init__(self, dictionary: "Dictionary", codes: Codes, firings: Firings, atoms: Float[Tensor, "u d"]):
        self.dictionary, self.codes, self.firings = dictionary, codes, firings
        self.atoms = atoms if len(atoms) else atoms.new_zeros(1, atoms.shape[1])  # something to look up where none fires
        positions = torch.zeros_like(codes.indices).flatten()
        positions[firings.places] = torch.repeat_interleave(firings.starts.diff())
        self.positions = positions.view_as(codes.indices)  # among the atoms that fire; 0, with value 0, if it does not
        self.reconstruction = decode(Codes(self.positions, codes.values), self.atoms)

    def code_gradient(self, error: Float[Tensor, "n d"]) -> Float[Tensor, "n a"]:
        """That of the codes, from the gradient of the reconstruction."""
        return inner_products(error, self.atoms, self.positions)

    def gradients(self, error: Float[Tensor, "n d"]) -> Iterator[RowGradient]:
        """Those of the dictionary's parameters, from the gradient of the reconstruction."""
        of_atoms = self.firings.sums(self.codes.values.flatten()[self.firings.places], error)
        return self.dictionary.gradients(self.firings.concepts, of_atoms, self.atoms[: len(of_atoms)])


class MixtureDecoding:
    """x^ = (Z W) C + Z Lambda, for batches on which more concepts fire than there are tokens."""

    def __init__(self, dictionary: DenseArchetypalDictionary, codes: Codes, firings: Firings):
        self.dictionary, self.codes, self.firings = dictionary, codes, firings
        mixtures = decode(codes, dictionary.weights)
        self.reconstruction = dictionary.product(mixtures, dictionary.candidates) + decode(codes, dictionary.relaxation)

    def code_gradient(self, error: Float[Tensor, "n d"]) -> Float[Tensor, "n a"]:
        dictionary, concepts = self.dictionary, self.codes.indices
        self.pull = dictionary.product(error, dictionary.centred.T)  # (n, c), the gradient of the mixtures less a constant
        self.along = inner_products(self.pull, dictionary.weights, concepts)
        of_relaxed = inner_products(error, dictionary.relaxation, concepts)
        return self.along + (error @ dictionary.middle)[:, None] + of_relaxed

    def gradients(self, error: Float[Tensor, "n d"]) -> Iterator[RowGradient]:
        values = self.codes.values.flatten()[self.firings.places]
        of_atoms = self.firings.sums(values, error)
        yield row_gradient("relaxation", self.firings.concepts, of_atoms)
        pulls = values * self.along.flatten()[self.firings.places]
        along = torch.segment_reduce(pulls, "sum", lengths=self.firings.starts.diff())

        def part(first: int, last: int) -> Float[Tensor, "p c"]:
            return self.firings.sums(values, self.pull, first, last) - along[first:last, None]

        yield RowGradient("weights", self.firings.concepts, self.dictionary.weight_gradient_norm(of_atoms, along), part)


Dictionary = FreeDictionary | ArchetypalDictionary
