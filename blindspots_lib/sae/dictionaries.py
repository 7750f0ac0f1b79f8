"""Dictionaries of an SAE: free atoms, or archetypal atoms, which stay near the convex hull of the data.

A dictionary decodes sparse codes from the active atoms alone and gives the exact gradient of its parameters row by row, so
that no second array of the size of the dense weights is held. Source of the archetypal dictionary: Fel et al., "Archetypal
SAE", ICML 2025 (arXiv 2502.12892).

Shape letters: n tokens, d features, k concepts, c candidates, m neighbours, a active concepts per token, u concepts that
fire on any token of a batch, f firings in a batch.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from blindspots_lib.sae.topk import top_products

Concepts = Int[Tensor, "u"]  # the concepts that fire, in order
AtomRows = Float[Tensor, "u d"]  # one row per concept that fires
ALL = slice(None)


class Codes(NamedTuple):
    """Sparse codes of n tokens: the active concepts, and how strongly each fires (>= 0; 0 means that it does not)."""

    indices: Int[Tensor, "n a"]
    values: Float[Tensor, "n a"]


class Firings(NamedTuple):
    """Codes sorted by concept: the tokens that each concept fires on."""

    concepts: Concepts
    starts: Int[Tensor, "u + 1"]  # where the firings of each concept begin, and where the last ones end
    tokens: Int[Tensor, "f"]  # the tokens of the first concept, of the second, ...
    places: Int[Tensor, "f"]  # where each firing stands in the flattened codes

    def sums(
        self, weights: Float[Tensor, "f"], rows: Float[Tensor, "n e"], first: int = 0, last: int | None = None
    ) -> Float[Tensor, "u e"]:
        """Return, for each of concepts[first:last], the sum over its firings of weight times the token's row."""
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
    """Sort entries, each of one concept and one token, by concept; entries of the same concept keep their order."""
    concepts, order = concepts.sort(stable=True)
    concepts, counts = concepts.unique_consecutive(return_counts=True)
    return Firings(concepts, F.pad(counts.cumsum(0), (1, 0)), tokens[order], places[order])


class RowGradient(NamedTuple):
    """The gradient of one parameter, zero except in some rows."""

    name: str
    rows: Concepts
    squared_norm: Float[Tensor, ""]
    part: Callable[[int, int], Tensor]  # (first, last) -> the gradients of rows[first:last]


def row_gradient(name: str, rows: Concepts, values: Float[Tensor, "u *e"]) -> RowGradient:
    return RowGradient(name, rows, values.square().sum(), lambda first, last: values[first:last])


def decode(codes: Codes, atoms: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
    """Return x^ = sum over the active concepts of value times atom; only the active atoms are read."""
    return F.embedding_bag(codes.indices, atoms, per_sample_weights=codes.values.to(atoms.dtype), mode="sum")


def inner_products(rows: Float[Tensor, "n e"], table: Float[Tensor, "k e"], indices: Int[Tensor, "n a"]) -> Float[Tensor, "n a"]:
    """Return <row_n, table_i> for the indices i of each n, as the gradient of `decode` with respect to the values."""
    with torch.enable_grad():
        values = torch.zeros(indices.shape, dtype=table.dtype, device=table.device, requires_grad=True)
        sums = decode(Codes(indices, values), table.detach())
    return torch.autograd.grad(sums, values, rows)[0]


class Dictionary(nn.Module):
    """What an SAE asks of its dictionary. Subclasses add `atoms`, `start_from` and `gradients`."""

    def prepare_training(self, product_dtype: torch.dtype) -> None:
        """Prepare for products with C in this dtype; the candidates must be set."""

    def project_rows(self, name: str, rows: Float[Tensor, "r e"]) -> None:
        """Bring rows of the parameter `name` back to where they must lie."""

    def decoding(self, codes: Codes, firings: Firings) -> "AtomDecoding | MixtureDecoding":
        return AtomDecoding(self, codes, firings, self.atoms(firings.concepts))


class FreeDictionary(Dictionary):
    """Free atoms: D itself is the parameter, as in a plain top-k SAE."""

    def __init__(self, n_concepts: int, d: int):
        super().__init__()
        self.free_atoms = nn.Parameter(torch.zeros(n_concepts, d))

    def atoms(self, concepts: Concepts | slice = ALL) -> AtomRows:
        return self.free_atoms[concepts]

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Start atom i at candidate i mod c."""
        self.free_atoms.copy_(candidates[torch.arange(len(self.free_atoms)) % len(candidates)])

    def gradients(self, concepts: Concepts, of_atoms: AtomRows, atoms: AtomRows) -> Iterator[RowGradient]:
        yield row_gradient("free_atoms", concepts, of_atoms)


class ArchetypalDictionary(Dictionary):
    """D = W C + Lambda: atoms near the convex hull of the candidates.

    C (c, d) holds the candidates and is fixed. The rows of W lie on the simplex (>= 0, sum 1). The rows of Lambda (k, d)
    are at most `radius` long. Gradient steps leave those sets; `project` brings the parameters back.

    The gradient of W is taken through the division by its rows' sums. With A the gradient of an atom and h = w C its hull
    point, the entry of candidate c is <A, C_c - h>: what moves the atom along the hull. Without the second term, a gradient
    that only lengthens or shortens the atom pulls on all candidates alike, and each Adam step mixes their mean into every atom.

    Subclasses say which candidates an atom mixes: `hull_points` are the rows of W C of some concepts, `weight_gradient` is the
    gradient of W, from the gradient of their atoms and their hull points; `start_weights` puts atoms on the chosen candidates.
    """

    def __init__(self, n_concepts: int, n_candidates: int, n_weights: int, d: int, radius: float):
        super().__init__()
        self.radius = radius
        self.register_buffer("candidates", torch.zeros(n_candidates, d))
        self.weights = nn.Parameter(torch.zeros(n_concepts, n_weights))
        self.relaxation = nn.Parameter(torch.zeros(n_concepts, d))

    def atoms(self, concepts: Concepts | slice = ALL) -> AtomRows:
        return self.hull_points(concepts) + self.relaxation[concepts]

    @torch.no_grad()
    def start_from(self, candidates: Float[Tensor, "c d"]) -> None:
        """Take these candidates; atom i starts at candidate i mod c."""
        self.candidates.copy_(candidates)
        self.relaxation.zero_()
        self.start_weights(torch.arange(len(self.weights)) % len(candidates))

    def gradients(self, concepts: Concepts, of_atoms: AtomRows, atoms: AtomRows) -> Iterator[RowGradient]:
        yield row_gradient("relaxation", concepts, of_atoms)
        yield self.weight_gradient(concepts, of_atoms, atoms - self.relaxation[concepts])

    def project_rows(self, name: str, rows: Float[Tensor, "r e"]) -> None:
        """Bring rows of W onto the simplex (clip at 0, divide by the sum), rows of Lambda into the ball of `radius`."""
        if name == "weights":
            total = rows.clamp_(min=0).sum(dim=1, keepdim=True)
            if not total.all():  # a row without a positive weight becomes uniform
                rows[total[:, 0] == 0] = 1
                total = rows.sum(dim=1, keepdim=True)
            rows.div_(total)
        else:
            rows.mul_(self.radius / rows.norm(dim=1, keepdim=True).clamp_(min=max(self.radius, 1e-30)))

    def project(self) -> None:
        for name in ("weights", "relaxation"):
            self.project_rows(name, getattr(self, name).data)


class DenseArchetypalDictionary(ArchetypalDictionary):
    """Atoms that mix all candidates, as in the paper: W is (k, c)."""

    def __init__(self, n_concepts: int, n_candidates: int, d: int, radius: float):
        super().__init__(n_concepts, n_candidates, n_candidates, d, radius)
        self.product_dtype: torch.dtype | None = None
        for name in ("middle", "centred", "centred_gram"):  # mean of the candidates, C minus it, its Gram matrix
            self.register_buffer(name, None, persistent=False)

    def start_weights(self, chosen: Int[Tensor, "k"]) -> None:
        self.weights.zero_()[torch.arange(len(chosen)), chosen] = 1.0

    def prepare_training(self, product_dtype: torch.dtype) -> None:
        self.product_dtype = product_dtype
        self.middle = self.candidates.mean(dim=0)
        self.centred = self.candidates - self.middle
        self.centred_gram = self.centred.T @ self.centred

    def product(self, a: Float[Tensor, "p q"], b: Float[Tensor, "q r"]) -> Float[Tensor, "p r"]:
        dtype = self.product_dtype or a.dtype
        return (a.to(dtype) @ b.to(dtype)).to(a.dtype)

    def hull_points(self, concepts: Concepts | slice) -> AtomRows:
        return self.product(self.weights[concepts], self.candidates)

    def decoding(self, codes: Codes, firings: Firings) -> "AtomDecoding | MixtureDecoding":
        """Take the cheaper order: (Z W) C costs one product with C per token, Z (W C) one per concept that fires."""
        if len(firings.concepts) > len(codes.indices):
            return MixtureDecoding(self, codes, firings)
        return super().decoding(codes, firings)

    def weight_gradient(self, concepts: Concepts, of_atoms: AtomRows, hull_points: AtomRows) -> RowGradient:
        along = (of_atoms * (hull_points - self.middle)).sum(dim=1)

        def part(first: int, last: int) -> Float[Tensor, "p c"]:
            return self.product(of_atoms[first:last], self.centred.T) - along[first:last, None]

        return RowGradient("weights", concepts, self.weight_gradient_norm(of_atoms, along), part)

    def weight_gradient_norm(self, of_atoms: AtomRows, along: Float[Tensor, "u"]) -> Float[Tensor, ""]:
        """Return ||A C'^T - a 1^T||^2 = tr(A (C'^T C') A^T) + c |a|^2, without forming it; C' is C centred, a = `along`."""
        return ((of_atoms @ self.centred_gram) * of_atoms).sum() + len(self.candidates) * along.square().sum()


class LocalArchetypalDictionary(ArchetypalDictionary):
    """Atoms that mix the m candidates nearest to the one they start at: W is (k, m), and the constraint holds exactly."""

    def __init__(self, n_concepts: int, n_candidates: int, d: int, radius: float, n_neighbours: int):
        super().__init__(n_concepts, n_candidates, n_neighbours, d, radius)
        self.register_buffer("neighbours", torch.zeros(n_concepts, n_neighbours, dtype=torch.int64))

    def start_weights(self, chosen: Int[Tensor, "k"]) -> None:
        self.neighbours.copy_(nearest_candidates(self.candidates, self.weights.shape[1])[chosen])
        self.weights.zero_()[:, 0] = 1.0

    def hull_points(self, concepts: Concepts | slice) -> AtomRows:
        return decode(Codes(self.neighbours[concepts], self.weights[concepts]), self.candidates)

    def weight_gradient(self, concepts: Concepts, of_atoms: AtomRows, hull_points: AtomRows) -> RowGradient:
        along = (of_atoms * hull_points).sum(dim=1, keepdim=True)
        return row_gradient("weights", concepts, inner_products(of_atoms, self.candidates, self.neighbours[concepts]) - along)


def nearest_candidates(candidates: Float[Tensor, "c d"], m: int) -> Int[Tensor, "c m"]:
    """Return, for each candidate, itself and then the m - 1 others nearest to it."""
    half_squares = candidates.square().sum(dim=1) / 2
    nearest = top_products(candidates, candidates, -half_squares, m).indices  # <a, b> - |b|^2 / 2 falls with |a - b|
    own = torch.arange(len(candidates), device=candidates.device)[:, None]
    others_first = (nearest == own).long().argsort(dim=1, stable=True)  # an equal candidate may come before it, or in its place
    return torch.cat([own, nearest.gather(1, others_first)[:, : m - 1]], dim=1)


class AtomDecoding:
    """x^ = Z D, decoded from the atoms that fire, and its gradients."""

    def __init__(self, dictionary: Dictionary, codes: Codes, firings: Firings, atoms: Float[Tensor, "u d"]):
        self.dictionary, self.codes, self.firings = dictionary, codes, firings
        self.atoms = atoms if len(atoms) else atoms.new_zeros(1, atoms.shape[1])  # one row to look up if no concept fires
        positions = torch.zeros_like(codes.indices).flatten()
        positions[firings.places] = torch.repeat_interleave(firings.starts.diff())
        self.positions = positions.view_as(codes.indices)  # among the atoms that fire; 0, with value 0, if not active
        self.reconstruction = decode(Codes(self.positions, codes.values), self.atoms)

    def code_gradient(self, error: Float[Tensor, "n d"]) -> Float[Tensor, "n a"]:
        """Return the gradient of the codes, from that of the reconstruction."""
        return inner_products(error, self.atoms, self.positions)

    def gradients(self, error: Float[Tensor, "n d"]) -> Iterator[RowGradient]:
        """Return the gradients of the dictionary's parameters, from that of the reconstruction."""
        of_atoms = self.firings.sums(self.codes.values.flatten()[self.firings.places], error)
        return self.dictionary.gradients(self.firings.concepts, of_atoms, self.atoms[: len(of_atoms)])


class MixtureDecoding:
    """x^ = (Z W) C + Z Lambda and its gradients, for batches with more concepts that fire than tokens."""

    def __init__(self, dictionary: DenseArchetypalDictionary, codes: Codes, firings: Firings):
        self.dictionary, self.codes, self.firings = dictionary, codes, firings
        mixtures = decode(codes, dictionary.weights)
        self.reconstruction = dictionary.product(mixtures, dictionary.candidates) + decode(codes, dictionary.relaxation)

    def code_gradient(self, error: Float[Tensor, "n d"]) -> Float[Tensor, "n a"]:
        dictionary, concepts = self.dictionary, self.codes.indices
        self.pull = dictionary.product(
            error, dictionary.centred.T
        )  # (n, c): gradient of the mixtures, minus a constant per token
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
