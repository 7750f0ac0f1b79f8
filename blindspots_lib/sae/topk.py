"""The k largest entries of each row of X V^T + v, exactly, without ever holding the product.

At the paper's size one batch of dense codes takes hundreds of megabytes, and choosing from them as long as the product.
Here a tile of the product is formed, its largest entries are taken while it is in the cache, and it is overwritten.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int8, Int32, Shaped
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024  # of X in a tile
COLUMNS = {torch.float64: 1008, torch.float32: 1008, torch.bfloat16: 4096, torch.int8: 8192}  # rows of V in a tile; measured
PART = 256  # rows that are turned into integers at a time
STRIPES = 16  # parts of a tile whose elementwise maximum is searched first
SPARE = 2  # candidates that a search in bfloat16 keeps for each of the top_k that are asked for
MANY = 4096  # rows of V from which integers pay
LIMIT = 2**30  # of a bias in the unit of integer products
FEW = 1 / 64  # of a tile: more candidates than that are dearer than its product in floats


class Largest(NamedTuple):
    """The top_k largest entries of each row, largest first."""

    indices: Int[Tensor, "n a"]
    values: Shaped[Tensor, "n a"]


def top_products(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], top_k: int, search: torch.dtype | None = None
) -> Largest:
    """The top_k largest of x_n . weight_m + bias_m for each n, with the m they belong to.

    Exact in x's own dtype; where the processor multiplies integers faster, they only say which products to form.
    With `search` bfloat16, where it does not, products in bfloat16 find `SPARE` times top_k candidates, and x's own dtype
    decides among them. Raises ValueError if top_k exceeds m.
    """
    if top_k > len(weight):
        raise ValueError(f"top_k = {top_k}: must not exceed the {len(weight)} rows to choose from")
    if integers_pay(x, weight, top_k):
        return search_by_integers(x, weight, bias, top_k)
    if search is None or search == x.dtype:
        return search_tiles(FloatTiles(x), weight, bias, top_k)
    candidates = search_tiles(FloatTiles(x.to(search)), weight, bias, min(SPARE * top_k, len(weight))).indices
    return decide(x, weight, bias, candidates, top_k)


def integers_pay(x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], top_k: int) -> bool:
    """Whether the processor has instructions for products of int8, and few are wanted of many, as the overhead asks."""
    few_of_many = len(weight) >= MANY >= 4 * STRIPES * top_k
    return few_of_many and len(x) > 0 and x.dtype == torch.float32 and x.device.type == "cpu" and torch.cpu._is_vnni_supported()


class FloatTiles:
    """Tiles of X V^T + v in the dtype of X; V and v are brought to it tile by tile."""

    def __init__(self, x: Float[Tensor, "n d"]):
        self.x, self.width = x, COLUMNS[x.dtype]
        self.memory = x.new_empty(min(ROWS, len(x)) * self.width)

    def columns(self, weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"]) -> Iterator[Float[Tensor, "r m"]]:
        """The tiles of some rows of V, for one part of X after the other, each in the place of the last."""
        weight, bias = weight.to(self.x.dtype), bias.to(self.x.dtype)
        for rows in self.x.split(ROWS):
            yield torch.addmm(bias, rows, weight.T, out=self.memory[: len(rows) * len(weight)].view(len(rows), len(weight)))


def search_tiles(tiles: FloatTiles, weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], top_k: int) -> Largest:
    """The top_k largest of each row over all tiles, exact in the dtype of the tiles."""
    values, indices = [], []
    for column in range(0, len(weight), tiles.width):
        part = slice(column, column + tiles.width)
        found = [largest_of(tile, min(top_k, tile.shape[1])) for tile in tiles.columns(weight[part], bias[part])]
        values.append(torch.cat([tile.values for tile in found]))
        indices.append(torch.cat([tile.indices for tile in found]) + column)
    best = torch.cat(values, dim=1).topk(top_k, dim=1)
    return Largest(torch.cat(indices, dim=1).gather(1, best.indices), best.values)


def largest_of(tile: Shaped[Tensor, "n m"], top_k: int) -> Largest:
    """`tile.topk(top_k)`, by the elementwise maximum of stripes of columns.

    An entry among the top_k largest lies at a position of one of the top_k largest maxima: any other position has top_k entries
    above it that are at least as large. So top_k * STRIPES entries are left to choose from.
    """
    n, m = tile.shape
    if m % STRIPES or m // STRIPES < 4 * top_k:
        values, indices = tile.topk(top_k, dim=1)
        return Largest(indices, values)
    width = m // STRIPES
    positions = tile.view(n, STRIPES, width).amax(dim=1).topk(top_k, dim=1).indices
    stripes = torch.arange(STRIPES, device=tile.device) * width
    columns = (positions[:, :, None] + stripes).flatten(1)
    values, chosen = tile.gather(1, columns).topk(top_k, dim=1)
    return Largest(columns.gather(1, chosen), values)


def decide(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], candidates: Int[Tensor, "n c"], top_k: int
) -> Largest:
    """The top_k largest among the candidates of each row, by products in x's own dtype."""
    values = torch.cat([
        torch.einsum("nd,ncd->nc", rows, weight[chosen]) + bias[chosen]
        for rows, chosen in zip(x.split(64), candidates.split(64), strict=True)
    ])  # fmt: skip
    best = values.topk(top_k, dim=1)
    return Largest(candidates.gather(1, best.indices), best.values)


class Integers(NamedTuple):
    """Rows, less a common middle, as integers in -127..127 of one unit, with what that loses."""

    integers: Int8[Tensor, "n d"]
    unit: Float[Tensor, ""]
    lengths: Float[Tensor, "n"]  # of the rows less the middle
    errors: Float[Tensor, "n"]  # lengths of the differences, row less middle less integers times unit


def in_integers(rows: Float[Tensor, "n d"], middle: Float[Tensor, "d"]) -> Integers:
    """127 steps to the largest entry. Part by part, so that what is formed on the way stays in the cache."""
    low, high = torch.stack([torch.stack((part - middle).aminmax()) for part in rows.split(PART)]).unbind(dim=1)
    unit = (torch.maximum(-low.amin(), high.amax()) / 127).clamp_min(torch.finfo(rows.dtype).tiny)
    integers, lengths, errors = torch.empty(rows.shape, dtype=torch.int8), rows.new_empty(len(rows)), rows.new_empty(len(rows))
    for start in range(0, len(rows), PART):
        part = slice(start, start + PART)
        steps = (rows[part] - middle).div_(unit)
        torch.linalg.vector_norm(steps, dim=1, out=lengths[part])
        nearest = steps.round()
        integers[part] = nearest
        torch.linalg.vector_norm(steps.sub_(nearest), dim=1, out=errors[part])
    return Integers(integers, unit, lengths * unit, errors * unit)


def greatest_error(x: Integers, weight: Integers) -> Float[Tensor, "n"]:
    """How far a product of integers can be from that of floats, for each row of X and any of V.

    |x.v - x^.v^| <= |x - x^| |v| + |x^| |v - v^| by Cauchy and Schwarz.
    """
    return x.errors * weight.lengths.amax() + (x.lengths + x.errors) * weight.errors.amax()


def search_by_integers(x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], top_k: int) -> Largest:
    """The top_k largest of each row, exact in floats, from the few products that integers cannot rule out.

    A product of integers is at most `greatest_error` from the true one. So whatever stays further below the k-th
    largest that is known already cannot be among the top_k largest. The means c of X and m of V, of which most of a product
    may consist, are left out of the integers: x.v = (x - c).(v - m) + c.(v - m) + x.m.
    """
    width = COLUMNS[torch.int8]
    centre, middle = x.mean(dim=0), weight[:width].mean(dim=0)
    whole, shift = in_integers(x, centre), x @ middle
    rounding = 4 * x.shape[1] * torch.finfo(x.dtype).eps * (whole.lengths + centre.norm())  # of d sums, for v of length 1
    memory = torch.empty(min(ROWS, len(x)) * min(width, len(weight)), dtype=torch.int32)
    best = Largest(torch.zeros(len(x), top_k, dtype=torch.int64), x.new_full((len(x), top_k), -torch.inf))
    for column in range(0, len(weight), width):
        some, added = weight[column : column + width], bias[column : column + width]
        columns = in_integers(some, middle)
        unit = whole.unit * columns.unit
        error = greatest_error(whole, columns) + rounding * (columns.lengths.amax() + middle.norm())
        steps = ((added + some @ centre - middle @ centre) / unit).round_()
        if steps.abs().amax() > LIMIT:
            error += torch.inf
        steps = steps.clamp_(-LIMIT, LIMIT).to(torch.int32)
        for start in range(0, len(x), ROWS):
            part = slice(start, start + ROWS)
            tile = memory[: len(x[part]) * len(some)].view(-1, len(some))
            torch._int_mm(whole.integers[part], columns.integers.T, out=tile).add_(steps)
            known = best.values[part, -1] if column else kth_largest(x[part], some, added, tile, top_k)
            least = ((known - shift[part] - error[part]) / unit - 1).floor_().clamp_(-2 * LIMIT, LIMIT)  # 1: rounded steps
            found = among(x[part], some, added, tile, least.to(torch.int32), top_k)
            values, chosen = torch.cat([best.values[part], found.values], dim=1).topk(top_k, dim=1)
            best.values[part] = values
            best.indices[part] = torch.cat([best.indices[part], found.indices + column], dim=1).gather(1, chosen)
    return best


def kth_largest(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], tile: Int32[Tensor, "n m"], top_k: int
) -> Float[Tensor, "n"]:
    """At most the k-th largest product of each row: the least of the top_k for which the integers are largest."""
    columns = largest_of(tile, top_k).indices.flatten()
    return products_at(x, weight, bias, torch.arange(0, len(columns) + 1, top_k), columns).view(len(x), top_k).amin(dim=1)


def among(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"],
    tile: Int32[Tensor, "n m"], least: Int32[Tensor, "n"], top_k: int,
) -> Largest:  # fmt: skip
    """The products for which the integers are at least so large, in a table with -inf where a row has fewer.

    Where they are too many, the top_k largest of all. As in `largest_of`, the elementwise maximum of stripes comes first.
    """
    n, m = tile.shape
    stripes = tile.view(n, -1, m // STRIPES if m % STRIPES == 0 else m)
    row, position = (stripes.amax(dim=1) >= least[:, None]).nonzero().unbind(dim=1)
    if len(row) > FEW * tile.numel():
        return largest_of(torch.addmm(bias, x, weight.T), min(top_k, m))
    chosen, stripe = (stripes[row, :, position] >= least[row, None]).nonzero().unbind(dim=1)
    row, column = row[chosen], position[chosen] + stripe * stripes.shape[2]
    starts = F.pad(torch.bincount(row, minlength=n).cumsum(0), (1, 0))
    return in_columns(row, column, products_at(x, weight, bias, starts, column), n, -torch.inf)


def products_at(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"],
    starts: Int[Tensor, "n_1"], columns: Int[Tensor, "e"],
) -> Float[Tensor, "e"]:  # fmt: skip
    """Some entries of X V^T + v; those of row n are at the columns from starts_n up to starts_n+1."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        asked = torch.sparse_csr_tensor(starts, columns, x.new_zeros(len(columns)), (len(x), len(weight)), check_invariants=False)
    return torch.sparse.sampled_addmm(asked, x, weight.T, beta=0).values() + bias[columns]


def in_columns(row: Int[Tensor, "e"], column: Int[Tensor, "e"], values: Float[Tensor, "e"], n: int, missing: float) -> Largest:
    """Entries in the order of their rows as a table, as wide as the longest of the n rows; index 0 where one is shorter."""
    counts = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    shape = n, max(1, int(counts.max()))
    indices = torch.zeros(shape, dtype=torch.int64, device=row.device)
    kept = values.new_full(shape, missing)
    indices[row, place], kept[row, place] = column, values
    return Largest(indices, kept)


def products_above(x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], threshold: float) -> Largest:
    """All of x_n . weight_m + bias_m that are positive and at least `threshold`, in the order of m.

    As many columns as the row with the most has; where a row has fewer, the value is 0.
    """
    rows, columns, values = [], [], []
    tiles = FloatTiles(x)
    for column in range(0, len(weight), tiles.width):
        part = slice(column, column + tiles.width)
        for number, tile in enumerate(tiles.columns(weight[part], bias[part])):
            found = ((tile >= threshold) & (tile > 0)).nonzero()
            rows.append(found[:, 0] + number * ROWS)
            columns.append(found[:, 1] + column)
            values.append(tile[found[:, 0], found[:, 1]])
    row, order = torch.cat(rows).sort(stable=True)
    return in_columns(row, torch.cat(columns)[order], torch.cat(values)[order], len(x), 0.0)
