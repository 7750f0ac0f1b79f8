"""The SAE training loop: start at the candidates, minimize the reconstruction error with AdamW, revive dead concepts."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from threading import Event

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, Fingerprinted, Stage, Workspace
from blindspots_lib.core.config import SAEConfig, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import fingerprint_of, naming_full_disk, replacing, write_json
from blindspots_lib.core.parallel import n_side_by_side, side_by_side
from blindspots_lib.models.loading import conditions, naming_full_gpu
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.batches import TrainingTokens
from blindspots_lib.sae.gradients import sae_gradients
from blindspots_lib.sae.kmeans import Start, keep_start
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.optimizer import RowAdamW

TRAIN = Stage("SAE", 1)
SMALL = 4096  # greatest number of concepts for which one training leaves a second core idle
MAX_NORM = 1.0  # of all gradients together


def sae_artifact(workspace: Workspace, tokens: Fingerprinted, config: SAEConfig) -> Artifact:
    """Return the output folder of `fit_sae`, one per configuration."""
    content = contents(config, "checkpoint_every", "corpus")
    path = f"saes/{config.dictionary}-{config.n_concepts}-{config.top_k}-{fingerprint_of(content)}"
    return Artifact(workspace, path, TRAIN, content, {"tokens": tokens.fingerprint})


def fit_sae(workspace: Workspace, tokens: TokenSource, config: SAEConfig, halt: Event | None = None) -> Artifact:
    """Train an SAE of this configuration, unless it is there already.

    An interrupted training continues from its checkpoint; set `halt` to interrupt it from another thread.
    """
    artifact = sae_artifact(workspace, tokens, config)
    if artifact.is_complete():
        return artifact
    artifact.begin(conditions(config.precision, "faiss-cpu"))
    rows = TrainingTokens(tokens, config)
    checkpoint = artifact.folder / "checkpoint.safetensors"
    sae, history = train_sae(rows, config, keep_start(workspace, tokens, config), checkpoint, halt)
    with naming_full_disk(artifact.folder / "model.safetensors"):
        sae.save_pretrained(artifact.folder)
    write_json(artifact.folder / "history.json", history)
    checkpoint.unlink(missing_ok=True)
    artifact.finish(n_tokens=len(rows), steps=len(history))
    return artifact


def fit_saes(workspace: Workspace, tokens: TokenSource, configs: Iterable[SAEConfig]) -> dict[SAEConfig, Artifact]:
    """Train SAEs of several configurations (`fit_sae`): small ones in parallel, the longest training first."""
    longest_first = sorted(dict.fromkeys(configs), key=lambda config: config.n_concepts * config.top_k, reverse=True)
    for config in longest_first:  # candidates not in parallel: several SAEs may share them
        if not sae_artifact(workspace, tokens, config).is_complete():
            keep_start(workspace, tokens, config)
    at_once = n_side_by_side() if all(config.n_concepts <= SMALL for config in longest_first) else 1
    halt = Event()
    with side_by_side(lambda config: fit_sae(workspace, tokens, config, halt), longest_first, at_once, halt) as trained:
        return dict(zip(longest_first, trained, strict=True))


def learning_rate(config: SAEConfig, step: int) -> float:
    """Return the learning rate: linear warm-up, then cosine from `learning_rate` to `final_learning_rate`."""
    warmup = max(1, round(config.warmup * config.n_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.n_steps - warmup)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * span * (1 + math.cos(math.pi * progress))


class Trainer:
    """An SAE in training, with all that decides its next steps: moments and `steps_since_fired` of each concept."""

    def __init__(self, sae: TopKSAE, config: SAEConfig):
        self.sae, self.config = sae, config
        self.optimizer = RowAdamW(dict(sae.named_parameters()), config.weight_decay)
        self.steps_since_fired = torch.zeros(sae.n_concepts, dtype=torch.int64, device=sae.encoder.weight.device)
        self.variance = math.nan  # mean squared distance of a token from the mean token
        self.history: list[dict] = []

    def step(self, x: Float[Tensor, "n d"], rate: float) -> dict:
        """Take one optimizer step on a batch; return its loss, R2, L0 and number of dead concepts."""
        dead = self.steps_since_fired >= self.config.dead_after
        found = sae_gradients(self.sae, x, dead, self.config.aux_coeff)
        self.optimizer.step(found.gradients, rate, MAX_NORM, self.project)
        self.steps_since_fired += 1
        fired = found.codes.values > 0
        self.steps_since_fired[found.codes.indices[fired]] = 0
        r2 = 1 - found.mse * self.sae.d / self.variance
        return {"mse": found.mse, "r2": r2, "l0": fired.sum().item() / len(x), "dead": int(dead.sum())}

    def project(self, name: str, rows: Tensor) -> None:
        module, _, parameter = name.rpartition(".")
        if module == "dictionary":
            self.sae.dictionary.project_rows(parameter, rows)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that decide the next steps, under their names in a checkpoint."""
        parts = {"sae": self.sae.state_dict(), "means": self.optimizer.means, "squares": self.optimizer.squares}
        named = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return named | {"steps_since_fired": self.steps_since_fired}

    def save(self, path: Path) -> None:
        """Write a checkpoint, without copying the tensors."""
        numbers = {"n_steps": self.optimizer.n_steps, "variance": self.variance, "history": self.history}
        with replacing(path) as partial:
            save_file(self.tensors(), partial, metadata={"numbers": json.dumps(numbers), "sha256": self.checksum()})

    def checksum(self) -> str:
        """Return the SHA-256 of all tensors, 16 hexadecimal digits."""
        found = hashlib.sha256()
        for _, tensor in sorted(self.tensors().items()):
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return found.hexdigest()[:16]

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Continue from a checkpoint. Raises StudyError if it is not whole."""
        try:
            with safe_open(path, "pt") as file:
                for name, tensor in self.tensors().items():
                    tensor.copy_(file.get_tensor(name))
                numbers, known = json.loads(file.metadata()["numbers"]), file.metadata().get("sha256")
        except (SafetensorError, OSError) as error:
            raise StudyError(f"{path}: not a whole checkpoint ({error}); delete it and train again") from None
        if known and known != self.checksum():
            raise StudyError(f"{path}: has other content than when it was written; delete it and train again")
        self.optimizer.n_steps, self.variance, self.history = numbers["n_steps"], numbers["variance"], numbers["history"]


def make_sae(d: int, config: SAEConfig) -> TopKSAE:
    """Return an SAE of the configuration's size for tokens of width d, not started yet."""
    return TopKSAE(
        d, config.n_concepts, config.top_k, config.n_candidates, config.dictionary, config.relaxation_radius, config.n_neighbours
    )


@naming_full_gpu("SAE", "; lower sae.batch_size or set dictionary: local")
def train_sae(
    tokens: TrainingTokens, config: SAEConfig, start: Start, checkpoint: Path, halt: Event | None = None
) -> tuple[TopKSAE, list[dict]]:
    """Train an SAE, on the GPU if there is one; return it and, per step, the loss, R2, L0 and number of dead concepts.

    Everything that decides the result (weights, moments, `steps_since_fired`, and the step, which gives the order of the data)
    is in `checkpoint`. So an interrupted training ends with the same bytes as an uninterrupted one. Raises KeyboardInterrupt
    after the step in which `halt` is set.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(make_sae(tokens.source.layout.width, config).to(device), config)
    if checkpoint.exists():
        trainer.load(checkpoint)
    else:
        trainer.sae.start_from(start.candidates.to(device), start.token_length.item())
        trainer.variance = start.variance.item()
    trainer.sae.dictionary.prepare_training(getattr(torch, config.precision))
    done = len(trainer.history)
    batches = tokens.batches(first_step=done)
    for step in tqdm(range(done, config.n_steps), initial=done, total=config.n_steps, desc="SAE"):
        x = next(batches).to(device, torch.float32)
        trainer.history.append(trainer.step(x, learning_rate(config, step)))
        halted = halt is not None and halt.is_set()
        if step + 1 < config.n_steps and (halted or (step + 1) % config.checkpoint_every == 0):
            trainer.save(checkpoint)
            if halted:
                raise KeyboardInterrupt
    return trainer.sae.cpu().eval(), trainer.history
