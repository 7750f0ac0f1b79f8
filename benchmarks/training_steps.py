"""Optimizer steps from the same start: ours against Overcomplete's train_sae and against an eager sparse decode."""

import torch

from benchmarks.contestants import BATCH, RATE, TOP_K, make_alike, make_peer, make_trainer
from benchmarks.data import backbone_tokens, make_tokens
from benchmarks.peers import EagerSparseTraining, OvercompleteTraining
from benchmarks.timing import Row, ratios, time_in_turn
from blindspots_lib.sae.kmeans import kmeans_candidates
from blindspots_lib.sae.overcomplete import to_overcomplete
from blindspots_lib.sae.train import Trainer

RATES = (3e-5, 1e-4, 3e-4)  # learning rates that `compare_with_peer` tries


def check_parity(trainer: Trainer, peer, batches: list[torch.Tensor], losses_of, n_alike: int = 3) -> float:
    """Return the largest relative difference of the first `n_alike` losses. Raises AssertionError if it is not small."""
    ours = [trainer.step(x, RATE)["mse"] for x in batches]
    theirs = losses_of(peer, batches)
    difference = max(abs(a - b) / b for a, b in list(zip(ours, theirs, strict=True))[:n_alike])
    assert difference < 1e-3, f"losses differ: {ours} against {theirs}"
    assert ours[-1] < 0.99 * ours[0], f"nothing was learned: {ours}"
    return difference


def parity(difference: float) -> str:
    return f"losses of 3 steps within {difference:.0e}"


def run_archetypal(n: int = 8000) -> list[Row]:
    """Time RA-SAE steps at K = C = n against RATopKSAE: dense W, local W, and dense W with bfloat16 products."""
    tokens, candidates = make_tokens(4 * BATCH, n)
    batches = list(tokens.split(BATCH))
    trainer = make_alike(n, "dense", candidates)
    peer = OvercompleteTraining(make_peer(trainer.sae), RATE)
    with torch.no_grad():
        peer_codes = peer.sae.train().encode(batches[0])[1]
    ours = trainer.sae.encode(batches[0])
    assert torch.equal(peer_codes.topk(TOP_K).indices.sort(dim=1).values, ours.indices.sort(dim=1).values), "indices differ"
    del peer_codes
    # only the first losses can agree: the peer's gradient of W is not taken through the division by the sums of its rows
    difference = check_parity(trainer, peer, batches[:1] * 3, lambda p, b: p.steps(b, monitoring=1), n_alike=1)
    contestants = {"peer": lambda: peer.steps(batches[:1]), "dense": lambda: trainer.step(batches[0], RATE)}
    local, half = make_alike(n, "local", candidates), make_alike(n, "dense", candidates, "bfloat16")
    contestants["local"] = lambda: local.step(batches[0], RATE)
    contestants["dense, bfloat16"] = lambda: half.step(batches[0], RATE)
    seconds = time_in_turn(contestants)
    same = f"first losses within {difference:.0e}, same indices"
    against = "Overcomplete train_sae + RATopKSAE, float32"
    size = f"K = C = {n:,}, batch {BATCH:,}"
    return [
        Row(f"RA-SAE step, dense W, {size}", against, ratios(seconds, "peer", "dense"), 5, note=same),
        Row(f"RA-SAE step, local W (m = 32), {size}", against, ratios(seconds, "peer", "local"), 15, note=same),
        Row(f"RA-SAE step, dense W, bfloat16 products, {size}", against, ratios(seconds, "peer", "dense, bfloat16"), None),
    ]


def run_equal_tokens(n: int = 8000, n_steps: int = 200) -> list[Row]:
    """Compare R2 after training on the same tokens from k-means candidates: dense W, local W and the peer."""
    n_tokens = 64 * BATCH
    real = backbone_tokens(n_tokens)
    return [
        compare_r2(real, "tokens of the embedded study", n, n_steps),
        compare_r2(make_tokens(n_tokens, 500, seed=1)[0], "synthetic tokens", n, n_steps),
        compare_with_peer(real),
    ]


def compare_r2(tokens: torch.Tensor, which: str, n: int, n_steps: int) -> Row:
    candidates = kmeans_candidates(tokens, n, seed=0)
    batches = tokens.split(BATCH)
    variance = (tokens - tokens.mean(dim=0)).square().mean().item()
    r2 = {}
    for kind in ("dense", "local"):
        trainer = make_trainer(n, kind, candidates)
        last = [trainer.step(batches[step % len(batches)], 1e-3)["mse"] for step in range(n_steps)][-len(batches) :]
        r2[kind] = 1 - sum(last) / len(last) / variance
    note = f"dense {r2['dense']:.4f}, local {r2['local']:.4f}"
    what = f"R2 of dense W less that of local W (m = 32), {which}, {n_steps} steps, K = C = {n:,}"
    return Row(what, "ours, dense W", [r2["dense"] - r2["local"]], 0.01, "R2", note)


def compare_with_peer(tokens: torch.Tensor, n: int = 1536, n_steps: int = 500) -> Row:
    """Compare R2 of dense W with Overcomplete's, each at its best learning rate.

    Overcomplete's gradient of W ignores the division of W by the sums of its rows.
    """
    candidates = kmeans_candidates(tokens, n, seed=0)
    batches = tokens.split(BATCH)
    many = [batches[step % len(batches)] for step in range(n_steps)]
    variance = (tokens - tokens.mean(dim=0)).square().mean().item()
    losses = {"ours": [], "peer": []}  # per rate, the mean over the last pass
    for rate in RATES:
        trainer = make_alike(n, "dense", candidates)
        peer = OvercompleteTraining(make_peer(trainer.sae), rate)
        for name, found in {"ours": [trainer.step(x, rate)["mse"] for x in many], "peer": peer.steps(many, monitoring=1)}.items():
            losses[name].append(sum(found[-len(batches) :]) / len(batches))
    r2 = {name: [1 - loss / variance for loss in found] for name, found in losses.items()}
    note = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in found)}" for name, found in r2.items())
    what = f"R2 of dense W less the peer's, tokens of the embedded study, {n_steps} steps, K = C = {n:,}, best of three rates"
    return Row(what, "Overcomplete train_sae + RATopKSAE, float32", [max(r2["ours"]) - max(r2["peer"])], None, "R2", note)


def run_plain(n: int = 32_000) -> list[Row]:
    """Time plain top-k steps at K = n against Overcomplete's TopKSAE and against an eager sparse decode."""
    tokens, candidates = make_tokens(4 * BATCH, n)
    batches = list(tokens.split(BATCH))
    trainer, again = make_alike(n, "free", candidates), make_alike(n, "free", candidates)
    peer = OvercompleteTraining(make_peer(trainer.sae), RATE)
    state = to_overcomplete(trainer.sae)
    eager = EagerSparseTraining(
        state["encoder.final_block.0.weight"], state["encoder.final_block.0.bias"], state["dictionary._weights"], TOP_K, RATE
    )
    first = check_parity(trainer, peer, batches[:1] * 3, lambda p, b: p.steps(b, monitoring=1))
    second = check_parity(again, eager, batches[:1] * 3, lambda p, b: p.steps(b))
    seconds = time_in_turn({
        "overcomplete": lambda: peer.steps(batches[:1]), "eager": lambda: eager.steps(batches[:1]),
        "ours": lambda: trainer.step(batches[0], RATE),
    })  # fmt: skip
    what = f"plain TopK step, K = {n:,}, k = 5, batch {BATCH:,}"
    return [
        Row(what, "Overcomplete train_sae + TopKSAE", ratios(seconds, "overcomplete", "ours"), 3, note=parity(first)),
        Row(what, "eager sparse decode", ratios(seconds, "eager", "ours"), 1.2, note=parity(second)),
    ]
