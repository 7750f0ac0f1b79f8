"""Encoding and statistics: ours against Overcomplete's encode and against the published scripts' arithmetic."""

import numpy as np
import torch

from benchmarks.data import D, make_tokens
from benchmarks.memory import peak_of
from benchmarks.peers import PublishedStatistics, import_overcomplete
from benchmarks.timing import Row, ratios, time_side_by_side
from blindspots_lib.analysis.energies import encode_images
from blindspots_lib.analysis.statistics import ConceptStats
from blindspots_lib.sae.formats import to_overcomplete
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.topk import in_integers

K_ACTIVE, N_TOKENS, N_TOP = 5, 2048, 10


def make_sae(n_concepts: int, seed: int = 0) -> tuple[TopKSAE, torch.Tensor]:
    """A top-k SAE whose encoder looks for tokens like those it gets, and such tokens."""
    tokens, candidates = make_tokens(N_TOKENS, n_concepts, seed)
    sae = TopKSAE(D, n_concepts, K_ACTIVE, n_candidates=1, dictionary="free")
    sae.start_from(candidates, token_length=tokens.norm(dim=1).mean().item())
    return sae, tokens


def make_peer(sae: TopKSAE):
    peer = import_overcomplete().TopKSAE(D, sae.n_concepts, top_k=K_ACTIVE, dictionary_params={"normalization": "identity"})
    peer.load_state_dict(to_overcomplete(sae))
    return peer.eval()


@torch.no_grad()
def run_encode(n_concepts: int = 32_000) -> list[Row]:
    """Encoding and top-5 without dense codes, exact in float32, against Overcomplete's in float32."""
    sae, tokens = make_sae(n_concepts)
    peer = make_peer(sae)
    exact, theirs = sae.encode(tokens), peer.encode(tokens)[1].topk(K_ACTIVE)
    assert torch.equal(theirs.indices.sort(dim=1).values, exact.indices.sort(dim=1).values), "indices differ"
    torch.testing.assert_close(theirs.values, exact.values)
    x, columns = (in_integers(rows, rows.mean(dim=0)).integers for rows in (tokens, sae.encoder.weight.detach()))
    seconds = time_side_by_side({
        "peer": lambda: peer.encode(tokens), "ours": lambda: sae.encode(tokens),
        "float32": lambda: tokens @ sae.encoder.weight.T, "int8": lambda: torch._int_mm(x, columns.T),
    }, repeats=25)  # fmt: skip
    what, against = f"encode + top-5, {N_TOKENS:,} tokens, K = {n_concepts:,}", "Overcomplete TopKSAE.encode, float32"
    row = Row(f"{what}, exact in float32", against, ratios(seconds, "peer", "ours"), 4, note="same indices, same values")
    return [row, *(roofline(seconds, bare, n_concepts) for bare in ("float32", "int8"))]


def roofline(seconds: dict[str, list[float]], bare: str, n_concepts: int) -> Row:
    """Rate of `encode` as a share of what the bare product of the same shape reaches on this machine in some dtype."""
    rate = 2 * N_TOKENS * D * n_concepts / np.median(seconds[bare]) / 1e9
    what = f"roofline: rate of encode over that of the bare product, {bare}"
    return Row(what, "torch", ratios(seconds, bare, "ours"), None, note=f"the bare product: {rate:.0f} G operations/s")


def run_encode_memory(n_concepts: int = 32_000) -> Row:
    """Transient memory of one encoding, dense codes over ours; each in a process of its own."""
    peer = peak_of("encode_peer", n_concepts)
    ours = peak_of("encode_ours", n_concepts)
    note = f"{peer / 1e6:.0f} MB against {ours / 1e6:.0f} MB"
    what = f"encode + top-5, transient memory, K = {n_concepts:,}"
    return Row(what, "Overcomplete TopKSAE.encode, float32", [peer / ours], 10, note=note)


@torch.no_grad()
def run_statistics(n_concepts: int = 8000, n_images: int = 200) -> list[Row]:
    """Energies, co-occurrence and top images from cached tokens, against the published scripts' arithmetic."""
    sae, _ = make_sae(n_concepts)
    peer = make_peer(sae)
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

    dense = [dense_codes(*(array[ten : ten + 10] for array in codes), n_concepts) for ten in range(0, n_images, 10)]

    def ours(given=None) -> ConceptStats:
        stats = ConceptStats.empty(n_concepts, N_TOP)
        stats.add(*(given or encode_images(sae, stored)), np.arange(n_images))
        return stats

    difference = check_statistics(published(dense), ours(codes), n_images)
    del dense
    seconds: dict[str, list[float]] = {"published, sums": []}
    whole = time_side_by_side({
        "published": lambda: seconds["published, sums"].append(published().seconds), "ours": ours,
        "ours, sums": lambda: ours(codes),
    }, warm_up=False)  # fmt: skip
    what, against = f"statistics of {n_images} images, K = {n_concepts:,}", "the published scripts' arithmetic"
    note = f"mean energies within {difference:.0e}, same top images"
    return [
        Row(f"{what}, from cached tokens", against, ratios(whole, "published", "ours"), 30, note=note),
        Row(f"{what}, accumulation alone", against, ratios(seconds | whole, "published, sums", "ours, sums"), 1000, note=note),
    ]


def dense_codes(indices: np.ndarray, values: np.ndarray, n_concepts: int) -> torch.Tensor:
    """The same codes as the peer keeps them, (b, t, k)."""
    dense = torch.zeros(*indices.shape[:2], n_concepts)
    return dense.scatter_(2, torch.from_numpy(indices.astype(np.int64)), torch.from_numpy(values.astype(np.float32)))


def check_statistics(theirs: PublishedStatistics, ours: ConceptStats, n_images: int) -> float:
    """Greatest relative difference of mean energies. Raises AssertionError if the two do not say the same."""
    mean = theirs.energy.double().numpy() / n_images
    difference = float(np.abs(ours.mean_energy() - mean).max() / mean.max())
    assert difference < 1e-3, "mean energies differ"
    assert np.array_equal(theirs.cooccurrence.numpy() > 0, ours.together.toarray() > 0), "other concepts fire together"
    close = np.isclose(theirs.top_energies.numpy(), ours.top_energies, rtol=2e-3, atol=1e-4)
    assert close.all(), "the top images have other energies"
    return difference
