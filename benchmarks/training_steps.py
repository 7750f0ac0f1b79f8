"""One optimizer step: ours against Overcomplete's train_sae, and against an eager sparse decode, from the same start."""

import torch

from benchmarks.data import backbone_tokens, make_tokens
from benchmarks.peers import EagerSparseTraining, OvercompleteTraining, import_overcomplete
from benchmarks.timing import Row, ratios, time_side_by_side
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.sae.formats import to_overcomplete
from blindspots_lib.sae.kmeans import kmeans_candidates
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.train import Trainer, make_sae

BATCH, K_ACTIVE = 1024, 5
RATE = 3e-5  # suits encoders without a token length, which the peers do not have
RATES = (3e-5, 1e-4, 3e-4)
NEVER = 10**9  # no concept counts as dead: the peers have no such term


def make_trainer(n_concepts: int, dictionary: str, candidates: torch.Tensor, precision: str = "float32") -> Trainer:
    config = SAEConfig(
        n_concepts=n_concepts, k=K_ACTIVE, n_candidates=len(candidates), dictionary=dictionary, n_steps=1, batch_size=BATCH,
        dead_after=NEVER, aux_coeff=0, precision=precision, search=precision,
    )  # fmt: skip
    trainer = Trainer(make_sae(candidates.shape[1], config), config)
    trainer.sae.start_from(candidates, token_length=candidates.norm(dim=1).mean().item())
    trainer.variance = 1.0
    trainer.sae.dictionary.prepare_training(getattr(torch, precision))
    return trainer


def make_alike(n_concepts: int, dictionary: str, candidates: torch.Tensor, precision: str = "float32") -> Trainer:
    """The same with the token length folded into the encoder, so that a step means the same to the peers."""
    trainer = make_trainer(n_concepts, dictionary, candidates, precision)
    with torch.no_grad():
        trainer.sae.encoder.weight.div_(trainer.sae.token_length)
        trainer.sae.token_length.fill_(1.0)
    return trainer


def make_peer(sae: TopKSAE, candidates: torch.Tensor, rate: float = RATE) -> OvercompleteTraining:
    """Overcomplete's SAE with the weights of ours: RATopKSAE, or TopKSAE where the dictionary is free."""
    overcomplete = import_overcomplete()
    if hasattr(sae.dictionary, "free_atoms"):
        peer = overcomplete.TopKSAE(sae.d, sae.n_concepts, top_k=K_ACTIVE, dictionary_params={"normalization": "identity"})
    else:
        peer = overcomplete.RATopKSAE(
            sae.d, sae.n_concepts, points=torch.zeros_like(candidates), top_k=K_ACTIVE, delta=1.0, use_multiplier=False
        )
    peer.load_state_dict(to_overcomplete(sae))
    return OvercompleteTraining(peer, rate)


def check_parity(trainer: Trainer, peer, batches: list[torch.Tensor], losses_of, n_alike: int = 3) -> float:
    """Greatest relative difference of the first `n_alike` losses. Raises AssertionError if it is not small."""
    ours = [trainer.step(x, RATE)["mse"] for x in batches]
    theirs = losses_of(peer, batches)
    difference = max(abs(a - b) / b for a, b in list(zip(ours, theirs, strict=True))[:n_alike])
    assert difference < 1e-3, f"losses differ: {ours} against {theirs}"
    assert ours[-1] < 0.99 * ours[0], f"nothing was learned: {ours}"
    return difference


def parity(difference: float) -> str:
    return f"losses of 3 steps within {difference:.0e}"


def run_archetypal(n: int = 8000) -> list[Row]:
    """RA-SAE steps at K = C = n: dense W, local W, and dense W with bfloat16 products, against RATopKSAE."""
    tokens, candidates = make_tokens(4 * BATCH, n)
    batches = list(tokens.split(BATCH))
    trainer = make_alike(n, "dense", candidates)
    peer = make_peer(trainer.sae, candidates)
    with torch.no_grad():
        peer_codes = peer.sae.train().encode(batches[0])[1]
    ours = trainer.sae.encode(batches[0])
    assert torch.equal(peer_codes.topk(K_ACTIVE).indices.sort(dim=1).values, ours.indices.sort(dim=1).values), "indices differ"
    del peer_codes
    # the peer's gradient of W is not taken through the division by its sums, so that the first step parts them
    difference = check_parity(trainer, peer, batches[:1] * 3, lambda p, b: p.steps(b, monitoring=1), n_alike=1)
    contestants = {"peer": lambda: peer.steps(batches[:1]), "dense": lambda: trainer.step(batches[0], RATE)}
    local, half = make_alike(n, "local", candidates), make_alike(n, "dense", candidates, "bfloat16")
    contestants["local"] = lambda: local.step(batches[0], RATE)
    contestants["dense, bfloat16"] = lambda: half.step(batches[0], RATE)
    seconds = time_side_by_side(contestants)
    same = f"first losses within {difference:.0e}, same indices"
    against = "Overcomplete train_sae + RATopKSAE, float32"
    size = f"K = C = {n:,}, batch {BATCH:,}"
    return [
        Row(f"RA-SAE step, dense W, {size}", against, ratios(seconds, "peer", "dense"), 5, note=same),
        Row(f"RA-SAE step, local W (m = 32), {size}", against, ratios(seconds, "peer", "local"), 15, note=same),
        Row(f"RA-SAE step, dense W, bfloat16 products, {size}", against, ratios(seconds, "peer", "dense, bfloat16"), None),
    ]


def run_equal_tokens(n: int = 8000, n_steps: int = 200) -> list[Row]:
    """R2 after the same tokens, from k-means candidates as in every training: dense W, local W and the peer."""
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
    """R2 of dense W less that of Overcomplete's, whose gradient of W ignores the division by its sums; each at its best rate."""
    candidates = kmeans_candidates(tokens, n, seed=0)
    batches = tokens.split(BATCH)
    many = [batches[step % len(batches)] for step in range(n_steps)]
    variance = (tokens - tokens.mean(dim=0)).square().mean().item()
    losses = {"ours": [], "peer": []}  # mean over the last pass, at each rate
    for rate in RATES:
        trainer = make_alike(n, "dense", candidates)
        peer = make_peer(trainer.sae, candidates, rate)
        for name, found in {"ours": [trainer.step(x, rate)["mse"] for x in many], "peer": peer.steps(many, monitoring=1)}.items():
            losses[name].append(sum(found[-len(batches) :]) / len(batches))
    r2 = {name: [1 - loss / variance for loss in found] for name, found in losses.items()}
    note = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in found)}" for name, found in r2.items())
    what = f"R2 of dense W less the peer's, tokens of the embedded study, {n_steps} steps, K = C = {n:,}, best of three rates"
    return Row(what, "Overcomplete train_sae + RATopKSAE, float32", [max(r2["ours"]) - max(r2["peer"])], None, "R2", note)


def run_plain(n: int = 32_000) -> list[Row]:
    """Plain top-k steps at K = n, against Overcomplete's TopKSAE and against an eager sparse decode."""
    tokens, candidates = make_tokens(4 * BATCH, n)
    batches = list(tokens.split(BATCH))
    trainer, again = make_alike(n, "free", candidates), make_alike(n, "free", candidates)
    peer = make_peer(trainer.sae, candidates)
    state = to_overcomplete(trainer.sae)
    eager = EagerSparseTraining(
        state["encoder.final_block.0.weight"], state["encoder.final_block.0.bias"], state["dictionary._weights"], K_ACTIVE, RATE
    )
    first = check_parity(trainer, peer, batches[:1] * 3, lambda p, b: p.steps(b, monitoring=1))
    second = check_parity(again, eager, batches[:1] * 3, lambda p, b: p.steps(b))
    seconds = time_side_by_side({
        "overcomplete": lambda: peer.steps(batches[:1]), "eager": lambda: eager.steps(batches[:1]),
        "ours": lambda: trainer.step(batches[0], RATE),
    })  # fmt: skip
    what = f"plain TopK step, K = {n:,}, k = 5, batch {BATCH:,}"
    return [
        Row(what, "Overcomplete train_sae + TopKSAE", ratios(seconds, "overcomplete", "ours"), 3, note=parity(first)),
        Row(what, "eager sparse decode", ratios(seconds, "eager", "ours"), 1.2, note=parity(second)),
    ]
