"""The k largest entries of each row of X V^T + v, exactly, without ever holding the product.

At the paper's size one batch of dense codes takes hundreds of megabytes, and choosing from them as long as the product.
Here a tile of the product is formed, its largest entries are taken while it is in the cache, and it is overwritten.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int32, Shaped
from torch import Tensor

ROWS = 1024  # of X in a tile
COLUMNS = {torch.float64: 1008, torch.float32: 1008, torch.bfloat16: 4096, torch.int8: 4096}  # rows of V in a tile; measured
STRIPES = 16  # parts of a tile whose elementwise maximum is searched first
SPARE = {torch.bfloat16: 2, torch.int8: 2}  # candidates that a coarse search keeps for each of the k that are asked for


class Largest(NamedTuple):
    """The k largest entries of each row, largest first."""

    indices: Int[Tensor, "n k"]
    values: Shaped[Tensor, "n k"]


def top_products(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], k: int, search: torch.dtype | None = None
) -> Largest:
    """The k largest of x_n . weight_m + bias_m for each n, with the m they belong to.

    With `search` bfloat16 or int8 the products are formed in that dtype to find `SPARE` times k candidates; their values,
    and the choice among them, are those of x's own dtype. Raises ValueError if k exceeds m.
    """
    if k > len(weight):
        raise ValueError(f"k = {k}: must not exceed the {len(weight)} rows to choose from")
    if search is None or search == x.dtype:
        return search_tiles(FloatTiles(x), weight, bias, k)
    n_candidates = min(SPARE[search] * k, len(weight))
    tiles = Int8Tiles(x, weight) if search == torch.int8 else FloatTiles(x.to(search))
    return decide(x, weight, bias, search_tiles(tiles, weight, bias, n_candidates).indices, k)


class FloatTiles:
    """Tiles of X V^T + v in the dtype of X; V and v are brought to it tile by tile."""

    def __init__(self, x: Float[Tensor, "n d"]):
        self.x, self.width = x, COLUMNS[x.dtype]
        self.memory = x.new_empty(min(ROWS, len(x)) * self.width)

    def columns(self, weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"]) -> Iterator[Float[Tensor, "r m"]]:
        """The tiles of some rows of V, for one part of X after the other, each in the place of the last."""
        weight, bias = weight.to(self.x.dtype), bias.to(self.x.dtype)
        for rows in self.x.split(ROWS):
            yield torch.addmm(bias, rows, weight.T, out=self.memory[: len(rows) * len(weight)].view(len(rows), -1))


class Int8Tiles:
    """The same from X and V as integers in -127..127, each in one unit: 127 steps to its largest entry."""

    def __init__(self, x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"]):
        x_unit, self.unit = x.abs().amax() / 127, weight.abs().amax() / 127
        self.x, self.bias_unit = (x / x_unit).round_().to(torch.int8), x_unit * self.unit
        self.width = COLUMNS[torch.int8]
        self.memory = torch.empty(min(ROWS, len(x)) * self.width, dtype=torch.int32, device=x.device)

    def columns(self, weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"]) -> Iterator[Int32[Tensor, "r m"]]:
        """The tiles of some rows of V, for one part of X after the other, each in the place of the last."""
        weight = (weight / self.unit).round_().to(torch.int8)
        bias = (bias / self.bias_unit).round_().to(torch.int32)
        for rows in self.x.split(ROWS):
            tile = self.memory[: len(rows) * len(weight)].view(len(rows), -1)
            yield torch._int_mm(rows, weight.T, out=tile).add_(bias)


def search_tiles(tiles: FloatTiles | Int8Tiles, weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], k: int) -> Largest:
    """The k largest of each row over all tiles, exact in the dtype of the tiles."""
    values, indices = [], []
    for column in range(0, len(weight), tiles.width):
        part = slice(column, column + tiles.width)
        found = [largest_of(tile, min(k, tile.shape[1])) for tile in tiles.columns(weight[part], bias[part])]
        values.append(torch.cat([tile.values for tile in found]))
        indices.append(torch.cat([tile.indices for tile in found]) + column)
    best = torch.cat(values, dim=1).topk(k, dim=1)
    return Largest(torch.cat(indices, dim=1).gather(1, best.indices), best.values)


def largest_of(tile: Shaped[Tensor, "n m"], k: int) -> Largest:
    """`tile.topk(k)`, by the elementwise maximum of stripes of columns.

    An entry among the k largest lies at a position of one of the k largest maxima: any other position has k entries
    above it that are at least as large. So k * STRIPES entries are left to choose from.
    """
    n, m = tile.shape
    if m % STRIPES or m // STRIPES < 4 * k:
        values, indices = tile.topk(k, dim=1)
        return Largest(indices, values)
    width = m // STRIPES
    positions = tile.view(n, STRIPES, width).amax(dim=1).topk(k, dim=1).indices
    stripes = torch.arange(STRIPES, device=tile.device) * width
    columns = (positions[:, :, None] + stripes).view(n, -1)
    values, chosen = tile.gather(1, columns).topk(k, dim=1)
    return Largest(columns.gather(1, chosen), values)


def decide(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, "m"], candidates: Int[Tensor, "n c"], k: int
) -> Largest:
    """The k largest among the candidates of each row, by products in x's own dtype."""
    values = torch.cat([
        torch.einsum("nd,ncd->nc", rows, weight[chosen]) + bias[chosen]
        for rows, chosen in zip(x.split(64), candidates.split(64), strict=True)
    ])  # fmt: skip
    best = values.topk(k, dim=1)
    return Largest(candidates.gather(1, best.indices), best.values)


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
    counts = torch.bincount(row, minlength=len(x))
    place = torch.arange(len(row), device=x.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    width = max(1, int(counts.max()))
    indices = torch.zeros(len(x), width, dtype=torch.int64, device=x.device)
    kept = x.new_zeros(len(x), width)
    indices[row, place] = torch.cat(columns)[order]
    kept[row, place] = torch.cat(values)[order]
    return Largest(indices, kept)
