"""Peak memory, each job in a fresh process: python -m benchmarks.memory JOB N prints bytes."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from blindspots_lib.core.paths import PROJECT_ROOT


def peak_of(job: str, n_concepts: int) -> int:
    """Bytes that a job took at its peak (all of the process for training, beyond its inputs for encoding)."""
    command = [sys.executable, "-m", "benchmarks.memory", job, str(n_concepts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    return int(done.stdout.split()[-1])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def beyond_inputs(run) -> int:
    """Peak resident memory of a call beyond what was there before it (Linux: the high-water mark is reset first)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    kept = run()
    peak = resource_high_water()
    del kept
    return peak - before


def resource_high_water() -> int:
    """VmHWM, which clear_refs resets, unlike getrusage's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def train(dictionary: str, n_concepts: int) -> int:
    """Some steps at K = C = n, batch 1,024, with a checkpoint written in between; the whole process's peak."""
    import torch

    from benchmarks.data import make_tokens
    from benchmarks.training_steps import BATCH, RATE, make_trainer

    tokens, candidates = make_tokens(BATCH, n_concepts)
    trainer = make_trainer(n_concepts, dictionary, candidates)
    del candidates
    for step in range(3):
        trainer.step(tokens, RATE)
        if step == 1:
            (PROJECT_ROOT / "runs").mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=PROJECT_ROOT / "runs") as folder:
                trainer.save(Path(folder) / "checkpoint.safetensors")
    assert torch.isfinite(trainer.sae.encoder.weight).all()
    return resource_high_water()


def encode(ours: bool, n_concepts: int) -> int:
    import torch

    from benchmarks.encoding import make_peer, make_sae

    sae, tokens = make_sae(n_concepts)
    with torch.no_grad():
        if ours:
            sae.encode(tokens[:64])
            return beyond_inputs(lambda: sae.encode(tokens))
        peer = make_peer(sae)
        peer.encode(tokens[:64])
        return beyond_inputs(lambda: peer.encode(tokens))


JOBS = {
    "train_local": lambda n: train("local", n), "train_dense": lambda n: train("dense", n),
    "encode_ours": lambda n: encode(True, n), "encode_peer": lambda n: encode(False, n),
}  # fmt: skip


if __name__ == "__main__":
    print(JOBS[sys.argv[1]](int(sys.argv[2])))
