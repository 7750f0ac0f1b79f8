"""Time and memory of encoding against Overcomplete's, and time of the statistics against the published scripts' arithmetic."""

import numpy as np
import torch

from benchmarks.contestants import N_ENCODED, TOP_K, make_encoder, make_peer
from benchmarks.data import D, make_tokens
from benchmarks.memory import peak_of
from benchmarks.peers import PublishedStatistics
from benchmarks.timing import Row, ratios, time_in_turn
from blindspots_lib.analysis.energies import encode_images
from blindspots_lib.analysis.statistics import ConceptStats, ShardCodes
from blindspots_lib.sae.topk import in_integers

N_TOP = 10  # top images per concept


@torch.no_grad()
def run_encode(n_concepts: int = 32_000) -> list[Row]:
    """Time encoding to the 5 largest codes, without dense codes and exact in float32, against Overcomplete's in float32."""
    sae, tokens = make_encoder(n_concepts)
    peer = make_peer(sae).eval()
    exact, theirs = sae.encode(tokens), peer.encode(tokens)[1].topk(TOP_K)
    assert torch.equal(theirs.indices.sort(dim=1).values, exact.indices.sort(dim=1).values), "indices differ"
    torch.testing.assert_close(theirs.values, exact.values)
    x, columns = (in_integers(rows, rows.mean(dim=0)).integers for rows in (tokens, sae.encoder.weight.detach()))
    seconds = time_in_turn({
        "peer": lambda: peer.encode(tokens), "ours": lambda: sae.encode(tokens),
        "float32": lambda: tokens @ sae.encoder.weight.T, "int8": lambda: torch._int_mm(x, columns.T),
    }, repeats=25)  # fmt: skip
    what, against = f"encode + top-5, {N_ENCODED:,} tokens, K = {n_concepts:,}", "Overcomplete TopKSAE.encode, float32"
    row = Row(f"{what}, exact in float32", against, ratios(seconds, "peer", "ours"), 4, note="same indices, same values")
    return [row, *(roofline(seconds, bare, n_concepts) for bare in ("float32", "int8"))]


def roofline(seconds: dict[str, list[float]], bare: str, n_concepts: int) -> Row:
    """Compare the rate of `encode` with that of the bare matrix product of the same shape, in one dtype on this machine."""
    rate = 2 * N_ENCODED * D * n_concepts / np.median(seconds[bare]) / 1e9
    what = f"roofline: rate of encode over that of the bare product, {bare}"
    return Row(what, "torch", ratios(seconds, bare, "ours"), None, note=f"the bare product: {rate:.0f} G operations/s")


def run_encode_memory(n_concepts: int = 32_000) -> Row:
    """Measure the transient memory of one encoding, dense codes over ours, each in a process of its own."""
    peer = peak_of("encode_peer", n_concepts)
    ours = peak_of("encode_ours", n_concepts)
    note = f"{peer / 1e6:.0f} MB against {ours / 1e6:.0f} MB"
    what = f"encode + top-5, transient memory, K = {n_concepts:,}"
    return Row(what, "Overcomplete TopKSAE.encode, float32", [peer / ours], 10, note=note)


@torch.no_grad()
def run_statistics(n_concepts: int = 8000, n_images: int = 200) -> list[Row]:
    """Time energies, co-occurrence and top images from cached tokens, against the published scripts' arithmetic."""
    sae, _ = make_encoder(n_concepts)
    peer = make_peer(sae).eval()
    tokens = make_tokens(n_images * 261, n_concepts)[0].view(n_images, 261, D).half()
    stored = tokens.numpy()
    codes = encode_images(sae, stored)

    def peer_codes():
        return (peer.encode(ten.float().flatten(0, 1))[1].view(len(ten), 261, -1) for ten in tokens.split(10))

    def published(batches=None) -> PublishedStatistics:
        stats = PublishedStatistics(n_concepts, N_TOP)
        for ten in batches or peer_codes():
            stats.add(ten)
        return stats

    dense = [dense_codes(codes.at(np.arange(ten, ten + 10))) for ten in range(0, n_images, 10)]

    def ours(given=None) -> ConceptStats:
        stats = ConceptStats.empty(n_concepts, N_TOP)
        stats.add(given or encode_images(sae, stored), np.arange(n_images))
        return stats

    difference = check_statistics(published(dense), ours(codes), n_images)
    del dense
    seconds: dict[str, list[float]] = {"published, sums": []}
    whole = time_in_turn({
        "published": lambda: seconds["published, sums"].append(published().seconds), "ours": ours,
        "ours, sums": lambda: ours(codes),
    }, warm_up=False)  # fmt: skip
    what, against = f"statistics of {n_images} images, K = {n_concepts:,}", "the published scripts' arithmetic"
    note = f"mean energies within {difference:.0e}, same top images"
    return [
        Row(f"{what}, from cached tokens", against, ratios(whole, "published", "ours"), 30, note=note),
        Row(f"{what}, accumulation alone", against, ratios(seconds | whole, "published, sums", "ours, sums"), 1000, note=note),
    ]


def dense_codes(codes: ShardCodes) -> torch.Tensor:
    """Return the same codes as dense ones, (b, t, k), as the peer stores them."""
    return torch.from_numpy(codes.matrix(np.float32).toarray()).view(codes.shape)


def check_statistics(theirs: PublishedStatistics, ours: ConceptStats, n_images: int) -> float:
    """Return the largest relative difference of mean energies. Raises AssertionError if the statistics disagree."""
    mean = theirs.energy.double().numpy() / n_images
    difference = float(np.abs(ours.mean_energy() - mean).max() / mean.max())
    assert difference < 1e-3, "mean energies differ"
    assert np.array_equal(theirs.cooccurrence.numpy() > 0, ours.together.toarray() > 0), "different concepts fire together"
    close = np.isclose(theirs.top_energies.numpy(), ours.top_energies, rtol=2e-3, atol=1e-4)
    assert close.all(), "the top images have different energies"
    return difference
