"""Measure peak memory, each job in a fresh process: python -m benchmarks.memory JOB N prints bytes."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.contestants import BATCH, RATE, make_encoder, make_peer, make_trainer
from benchmarks.data import make_tokens
from blindspots_lib.core.paths import PROJECT_ROOT


def peak_of(job: str, n_concepts: int) -> int:
    """Return the peak bytes of a job: those of the whole process for training, those beyond the inputs for encoding."""
    command = [sys.executable, "-m", "benchmarks.memory", job, str(n_concepts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    return int(done.stdout.split()[-1])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def beyond_inputs(run) -> int:
    """Return the peak resident memory of a call beyond what was resident before it (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    kept = run()
    peak = resource_high_water()
    del kept
    return peak - before


def resource_high_water() -> int:
    """Return VmHWM, which clear_refs resets; the peak of getrusage cannot be reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def train(dictionary: str, n_concepts: int) -> int:
    """Train for three steps at K = C = n, write a checkpoint in between, and return the peak bytes of the process."""
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
    """Encode 2,048 tokens with our SAE or the peer's, and return the peak bytes beyond the inputs."""
    sae, tokens = make_encoder(n_concepts)
    with torch.no_grad():
        if ours:
            sae.encode(tokens[:64])
            return beyond_inputs(lambda: sae.encode(tokens))
        peer = make_peer(sae).eval()
        peer.encode(tokens[:64])
        return beyond_inputs(lambda: peer.encode(tokens))


JOBS = {
    "train_local": lambda n: train("local", n), "train_dense": lambda n: train("dense", n),
    "encode_ours": lambda n: encode(True, n), "encode_peer": lambda n: encode(False, n),
}  # fmt: skip


if __name__ == "__main__":
    print(JOBS[sys.argv[1]](int(sys.argv[2])))
