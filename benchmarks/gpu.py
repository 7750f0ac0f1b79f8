"""Measure SAE steps and encoding on a GPU beside Overcomplete: python -m benchmarks.gpu writes figures/bench/gpu.json.

Sizes are the paper's where they fit the card; Overcomplete's dense W at K = C = 32,000 takes 20 GB. Times are the median of
repeats, each between two synchronizations.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime

import torch

from benchmarks.contestants import BATCH, RATE, TOP_K, make_alike, make_peer
from benchmarks.data import D, make_tokens
from benchmarks.peers import OvercompleteTraining
from benchmarks.timing import Row, ratios, time_in_turn
from blindspots_lib.core.artifacts import code_revision
from blindspots_lib.core.files import write_json
from blindspots_lib.core.paths import PROJECT_ROOT

PAPER_TOKENS = 1.67e10  # of the published training
N_ENCODED = 32_768  # tokens of an encoding
REPEATS = 20


def synchronized(run: Callable[[], object]) -> Callable[[], None]:
    """Return the same run, which ends when the GPU has finished it."""

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed


def on_gpu(trainer):
    """Move a trainer with all its moments to the GPU."""
    trainer.sae.cuda()
    trainer.steps_since_fired = trainer.steps_since_fired.cuda()
    for moments in (trainer.optimizer.means, trainer.optimizer.squares):
        moments.update({name: tensor.cuda() for name, tensor in moments.items()})
    trainer.optimizer.parameters = {name: parameter.detach() for name, parameter in trainer.sae.named_parameters()}
    return trainer


def run_steps(kind: str, n: int, bar: float) -> list[Row]:
    """Time RA-SAE steps with dense or local W, or plain steps, at K = C = n, and extrapolate the published training."""
    tokens, candidates = make_tokens(BATCH, n)
    x = tokens.cuda()
    trainer = on_gpu(make_alike(n, kind, candidates))
    peer = OvercompleteTraining(make_peer(make_alike(n, "free" if kind == "free" else "dense", candidates).sae).cuda(), RATE)
    seconds = time_in_turn(
        {"peer": synchronized(lambda: peer.steps([x])), "ours": synchronized(lambda: trainer.step(x, RATE))}, REPEATS
    )
    what = {"dense": "RA-SAE step, dense W", "local": "RA-SAE step, local W (m = 32)", "free": "plain TopK step"}[kind]
    size = f"{what}, K = C = {n:,}, batch {BATCH:,}"
    hours = [step * PAPER_TOKENS / BATCH / 3600 for step in seconds["ours"]]
    return [
        Row(size, "Overcomplete train_sae, float32", ratios(seconds, "peer", "ours"), bar),
        Row(f"{size}: the published training of {PAPER_TOKENS:.3g} tokens", "at most 3 hours", hours, 3.0, "hours"),
    ]


@torch.no_grad()
def run_encode(n: int = 32_000) -> Row:
    """Compare the rate of an exact encoding with that of the bare bfloat16 product of the same shape on this card."""
    tokens, candidates = make_tokens(N_ENCODED, n)
    x, sae = tokens.cuda(), make_alike(n, "free", candidates).sae.cuda()
    half, weight = x.bfloat16(), sae.encoder.weight.detach().bfloat16()
    seconds = time_in_turn({"bare": synchronized(lambda: half @ weight.T), "ours": synchronized(lambda: sae.encode(x))}, REPEATS)
    rate = 2 * N_ENCODED * D * n / min(seconds["bare"]) / 1e12
    what = f"rate of encode + top-{TOP_K} over that of the bare product, K = {n:,}"
    return Row(what, "torch, bfloat16", ratios(seconds, "bare", "ours"), 0.6, note=f"the bare product: {rate:.0f} T operations/s")


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: there is no GPU here; run it where torch.cuda.is_available()")
    n_dense = 32_000 if torch.cuda.mem_get_info()[0] > 45e9 else 8_000
    rows = [*run_steps("dense", n_dense, 6.0), *run_steps("local", n_dense, 12.0), *run_steps("free", 32_000, 3.0), run_encode()]
    machine = {"gpu": torch.cuda.get_device_name(), "memory": torch.cuda.mem_get_info()[1], "torch": torch.__version__,
               "measured": datetime.now(UTC).isoformat(timespec="seconds"), "revision": code_revision()}  # fmt: skip
    for row in rows:
        entry = row.as_json()
        verdict = {None: "", True: "ok", False: "MISSED"}[row.passes]
        print(f"{row.what:90} {entry['median']:9.3g} {row.unit:6} [{entry['min']:.3g}, {entry['max']:.3g}] {verdict}", flush=True)
    table = {f"{row.what}; against {row.against}": row.as_json() for row in rows}
    write_json(PROJECT_ROOT / "figures" / "bench" / "gpu.json", {"machine": machine, "rows": table})


if __name__ == "__main__":
    main()
