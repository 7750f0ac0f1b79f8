import pytest
import torch

from blindspots_lib.sae import topk
from blindspots_lib.sae.topk import largest_of, products_above, search_by_integers, top_products


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(topk, "ROWS", 16)
    monkeypatch.setattr(topk, "COLUMNS", dict.fromkeys(topk.COLUMNS, 96))


@pytest.mark.parametrize(("n", "m", "k"), [(50, 500, 1), (16, 96, 3), (33, 1001, 7), (3, 5, 5), (1, 200, 100)])
def test_tiles_find_what_the_whole_product_holds(small_tiles, n, m, k):
    torch.manual_seed(n)
    x, weight, bias = torch.randn(n, 8), torch.randn(m, 8), torch.randn(m)
    whole = (x @ weight.T + bias).topk(k)
    found = top_products(x, weight, bias, k)
    torch.testing.assert_close(found.values, whole.values)
    assert torch.equal(found.indices, whole.indices)


@pytest.mark.parametrize("case", ["ties", "one stripe", "falling", "rising"])
def test_stripes_lose_nothing(case):
    tile = {
        "ties": torch.randint(0, 3, (9, 160)).float(),
        "one stripe": torch.cat([torch.arange(10.0), torch.zeros(150)]).expand(9, -1),
        "falling": -torch.arange(160.0).expand(9, -1),
        "rising": torch.arange(160.0).expand(9, -1),
    }[case]
    found = largest_of(tile, 2)
    assert torch.equal(found.values, tile.topk(2).values)
    assert torch.equal(tile.gather(1, found.indices), found.values)


@pytest.mark.parametrize("case", ["plain", "great biases", "no tokens to speak of", "one great feature", "twins"])
def test_integers_rule_out_nothing_that_belongs_there(small_tiles, case):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(40, 64), torch.randn(700, 64) * torch.rand(700, 1) * 5, torch.randn(700)
    if case == "great biases":
        bias *= 1e12
    elif case == "no tokens to speak of":
        x[:20] = 0
        x[20:] *= 1e-30
    elif case == "one great feature":
        x[:, 3] = 300.0
    elif case == "twins":
        weight[350:] = weight[:350].clone()
    products = x @ weight.T + bias
    found = search_by_integers(x, weight, bias, 5)
    torch.testing.assert_close(found.values, products.topk(5).values)
    torch.testing.assert_close(products.gather(1, found.indices), found.values)
    assert all(len(set(row)) == 5 for row in found.indices.tolist())


@pytest.mark.parametrize("share", [0, 1])
def test_many_candidates_are_decided_like_few(small_tiles, monkeypatch, share):
    monkeypatch.setattr(topk, "FEW", share)
    torch.manual_seed(1)
    x, weight, bias = torch.randn(20, 64), torch.randn(98, 64), torch.randn(98)  # the last tile is narrower than k
    torch.testing.assert_close(search_by_integers(x, weight, bias, 5).values, (x @ weight.T + bias).topk(5).values)


@pytest.mark.parametrize("n", [0, 3])
def test_many_concepts_are_searched_like_few(n):
    torch.manual_seed(2)
    x, weight, bias = torch.randn(n, 16), torch.randn(5000, 16), torch.randn(5000)
    torch.testing.assert_close(top_products(x, weight, bias, 5).values, (x @ weight.T + bias).topk(5).values)


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k = 4: must not exceed the 3 rows"):
        top_products(torch.randn(2, 3), torch.randn(3, 3), torch.zeros(3), 4)


@pytest.mark.parametrize("threshold", [torch.tensor(4.0), torch.linspace(-1, 6, 300)], ids=["one", "one per concept"])
def test_products_above_a_threshold_by_brute_force(small_tiles, threshold):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(40, 8), torch.randn(300, 8), torch.randn(300)
    product = x @ weight.T + bias
    found = products_above(x, weight, bias, threshold)
    dense = torch.zeros_like(product).scatter_add(1, found.indices, found.values)
    torch.testing.assert_close(dense, torch.where((product >= threshold) & (product > 0), product, 0))
    assert products_above(x, weight, bias, torch.tensor(1e9)).values.tolist() == [[0.0]] * 40
