"""The k largest entries of each row of X V^T + v, exactly, without ever holding the product.

At the paper's size the dense codes of one batch take hundreds of megabytes, and choosing from them takes as long as the
product. Here one tile of the product is formed, its largest entries are taken while it is in the cache, and the next tile
overwrites it.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int8, Int32, Shaped
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024  # rows of X in a tile
COLUMNS = {torch.float64: 1008, torch.float32: 1008, torch.int8: 8192}  # rows of V in a tile; measured
PART = 256  # rows that are turned into integers at a time
STRIPES = 16  # parts of a tile whose elementwise maximum is searched first
MANY = 4096  # least number of rows of V for which products of integers save time
LIMIT = 2**30  # greatest bias in the unit of the integer products
FEW = 1 / 64  # fraction of a tile's entries: with more candidates, the product in floats is faster
X, V, Bias = Float[Tensor, "n d"], Float[Tensor, "m d"], Float[Tensor, "m"]  # of X V^T + v


class Largest(NamedTuple):
    """The top_k largest entries of each row, largest first."""

    indices: Int[Tensor, "n a"]
    values: Shaped[Tensor, "n a"]


def top_products(x: X, weight: V, bias: Bias, top_k: int) -> Largest:
    """Return the top_k largest of x_n . weight_m + bias_m for each n, with the m they belong to.

    Values are exact in the dtype of x. Where the processor multiplies integers faster, integers rule out most products
    first. Raises ValueError if top_k exceeds m.
    """
    if top_k > len(weight):
        raise ValueError(f"top_k = {top_k}: must not exceed the {len(weight)} rows to choose from")
    if integers_pay(x, weight, top_k):
        return search_by_integers(x, weight, bias, top_k)
    values, indices = [], []
    for column, tiles in float_tiles(x, weight, bias):
        found = [largest_of(tile, min(top_k, tile.shape[1])) for tile in tiles]
        values.append(torch.cat([tile.values for tile in found]))
        indices.append(torch.cat([tile.indices for tile in found]) + column)
    best = torch.cat(values, dim=1).topk(top_k, dim=1)
    return Largest(torch.cat(indices, dim=1).gather(1, best.indices), best.values)


def integers_pay(x: X, weight: V, top_k: int) -> bool:
    """Whether the processor has instructions for products of int8, and top_k is so small against m that their overhead pays."""
    few_of_many = len(weight) >= MANY >= 4 * STRIPES * top_k
    return few_of_many and len(x) > 0 and x.dtype == torch.float32 and x.device.type == "cpu" and torch.cpu._is_vnni_supported()


def float_tiles(x: X, weight: V, bias: Bias) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """Yield each first column with its tiles of X V^T + v, one per `ROWS` rows of X; each tile overwrites the one before."""
    width = COLUMNS[x.dtype]
    memory = x.new_empty(min(ROWS, len(x)) * width)
    for column in range(0, len(weight), width):
        v, b = weight[column : column + width], bias[column : column + width]
        tiles = (torch.addmm(b, rows, v.T, out=memory[: len(rows) * len(v)].view(-1, len(v))) for rows in x.split(ROWS))
        yield column, tiles


def largest_of(tile: Shaped[Tensor, "n m"], top_k: int) -> Largest:
    """Return `tile.topk(top_k)`, found by the elementwise maximum of stripes of columns.

    An entry among the top_k largest lies at a position of one of the top_k largest maxima: any other position has top_k
    entries above it that are at least as large. So top_k * STRIPES entries are left to choose from.
    """
    n, m = tile.shape
    if m % STRIPES or m // STRIPES < 4 * top_k:
        values, indices = tile.topk(top_k, dim=1)
        return Largest(indices, values)
    width = m // STRIPES
    positions = tile.view(n, STRIPES, width).amax(dim=1).topk(top_k, dim=1).indices
    columns = (positions[:, :, None] + torch.arange(STRIPES, device=tile.device) * width).flatten(1)
    values, chosen = tile.gather(1, columns).topk(top_k, dim=1)
    return Largest(columns.gather(1, chosen), values)


class Integers(NamedTuple):
    """Rows minus a common middle, as integers in -127..127 of one unit, and the rounding errors."""

    integers: Int8[Tensor, "n d"]
    unit: Float[Tensor, ""]
    lengths: Float[Tensor, "n"]  # |row - middle|
    errors: Float[Tensor, "n"]  # |row - middle - integers * unit|


def in_integers(rows: Float[Tensor, "n d"], middle: Float[Tensor, "d"]) -> Integers:
    """Round to 127 steps up to the largest entry, `PART` rows at a time so that what is formed stays in the cache."""
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


def search_by_integers(x: X, weight: V, bias: Bias, top_k: int) -> Largest:
    """Return the top_k largest of each row, exact in floats, from the few products that integers cannot rule out.

    With x^ and v^ the rounded rows, |x.v - x^.v^| <= |x - x^| |v| + |x^| |v - v^| by Cauchy and Schwarz. An entry that stays
    further than that below the k-th largest found so far cannot be among the top_k largest. The means c of X and m of V, which
    may make up most of a product, are kept out of the integers: x.v = (x - c).(v - m) + c.(v - m) + x.m.
    """
    width = COLUMNS[torch.int8]
    centre, middle = x.mean(dim=0), weight[:width].mean(dim=0)
    whole, shift = in_integers(x, centre), x @ middle
    rounding = 4 * x.shape[1] * torch.finfo(x.dtype).eps * (whole.lengths + centre.norm())  # of d sums, if |v| = 1
    memory = torch.empty(min(ROWS, len(x)) * min(width, len(weight)), dtype=torch.int32)
    best = Largest(torch.zeros(len(x), top_k, dtype=torch.int64), x.new_full((len(x), top_k), -torch.inf))
    for column in range(0, len(weight), width):
        some, added = weight[column : column + width], bias[column : column + width]
        columns = in_integers(some, middle)
        unit = whole.unit * columns.unit
        longest = columns.lengths.amax()
        error = whole.errors * longest + (whole.lengths + whole.errors) * columns.errors.amax()
        error += rounding * (longest + middle.norm())
        steps = ((added + some @ centre - middle @ centre) / unit).round_()
        if steps.abs().amax() > LIMIT:
            error += torch.inf
        steps = steps.clamp_(-LIMIT, LIMIT).to(torch.int32)
        for start in range(0, len(x), ROWS):
            part = slice(start, start + ROWS)
            tile = memory[: len(x[part]) * len(some)].view(-1, len(some))
            torch._int_mm(whole.integers[part], columns.integers.T, out=tile).add_(steps)
            known = best.values[part, -1] if column else kth_largest(x[part], some, added, tile, top_k)
            least = ((known - shift[part] - error[part]) / unit - 1).floor_().clamp_(-2 * LIMIT, LIMIT)  # 1: steps are rounded
            found = among(x[part], some, added, tile, least.to(torch.int32), top_k)
            values, chosen = torch.cat([best.values[part], found.values], dim=1).topk(top_k, dim=1)
            best.values[part] = values
            best.indices[part] = torch.cat([best.indices[part], found.indices + column], dim=1).gather(1, chosen)
    return best


def kth_largest(x: X, weight: V, bias: Bias, tile: Int32[Tensor, "n m"], top_k: int) -> Float[Tensor, "n"]:
    """Return a lower bound of each row's k-th largest product: the least of the top_k whose integers are largest."""
    columns = largest_of(tile, top_k).indices.flatten()
    return products_at(x, weight, bias, torch.arange(0, len(columns) + 1, top_k), columns).view(len(x), top_k).amin(dim=1)


def among(x: X, weight: V, bias: Bias, tile: Int32[Tensor, "n m"], least: Int32[Tensor, "n"], top_k: int) -> Largest:
    """Return the products whose integers are at least `least`, in a table filled up with -inf.

    If they are too many, return the top_k largest of all. As in `largest_of`, the elementwise maximum of stripes comes first.
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


def products_at(x: X, weight: V, bias: Bias, starts: Int[Tensor, "n_1"], columns: Int[Tensor, "e"]) -> Float[Tensor, "e"]:
    """Return some entries of X V^T + v; the columns of row n are columns[starts_n : starts_n+1]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        asked = torch.sparse_csr_tensor(starts, columns, x.new_zeros(len(columns)), (len(x), len(weight)), check_invariants=False)
    return torch.sparse.sampled_addmm(asked, x, weight.T, beta=0).values() + bias[columns]


def in_columns(row: Int[Tensor, "e"], column: Int[Tensor, "e"], values: Float[Tensor, "e"], n: int, missing: float) -> Largest:
    """Put entries, given row by row, in a table as wide as the longest of n rows; shorter rows get index 0, value `missing`."""
    counts = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    shape = n, max(1, int(counts.max()))
    indices = torch.zeros(shape, dtype=torch.int64, device=row.device)
    kept = values.new_full(shape, missing)
    indices[row, place], kept[row, place] = column, values
    return Largest(indices, kept)


def products_above(x: X, weight: V, bias: Bias, threshold: Float[Tensor, "*m"]) -> Largest:
    """Return all x_n . weight_m + bias_m that are positive and at least `threshold`, one number or one per m, in the order of m.

    The table is as wide as the row with the most entries; a shorter row is filled with value 0.
    """
    rows, columns, values = [], [], []
    for column, tiles in float_tiles(x, weight, bias):
        limit = threshold[column : column + COLUMNS[x.dtype]] if threshold.ndim else threshold
        for number, tile in enumerate(tiles):
            found = ((tile >= limit) & (tile > 0)).nonzero()
            rows.append(found[:, 0] + number * ROWS)
            columns.append(found[:, 1] + column)
            values.append(tile[found[:, 0], found[:, 1]])
    row, order = torch.cat(rows).sort(stable=True)
    return in_columns(row, torch.cat(columns)[order], torch.cat(values)[order], len(x), 0.0)
