"""What all training scripts of the miniature models share: the corpus, one training loop that resumes, the model card."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.data.scenes import ATTRIBUTION, BACKGROUNDS, IMAGE_SIZE, OBJECTS, Scene, draw_scene
from blindspots_lib.models.backbone import IMAGENET_MEAN, IMAGENET_STD

MODELS_DIR = PROJECT_ROOT / "miniatures" / "weights"
CHECKPOINTS_DIR = PROJECT_ROOT / "runs" / "miniatures"
CORPUS_SEED = 1  # of the training corpus; only the public pairs of the study `mini` are scenes of it
CORPUS_SIZE = 24_000
HELDOUT_SEED = 2  # of scenes for probes and for choosing solver steps and guidance, never for training
JUDGE_SEED = 4  # of scenes for judging the pipelines, never for choosing anything
CHECKPOINT_SECONDS = 60
GRADIENTS_BY = 10  # steps after which every weight has a gradient, including those behind layers that start at zero


class Corpus(NamedTuple):
    """Undistorted scenes with their ground truth."""

    images: np.ndarray  # (n, 64, 64, 3) uint8
    owners: np.ndarray  # (n, 64, 64) int16, the object that covers each pixel, -1 for background
    captions: list[str]
    presence: np.ndarray  # (n, objects + backgrounds) float32, 1 where the concept is in the scene
    n_objects: np.ndarray  # (n,) int64, number of objects in the scene, 1 to 4


def draw_corpus(seed: int, n: int) -> Corpus:
    """Draw the first n scenes of a corpus."""
    images = np.empty((n, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    owners = np.empty((n, IMAGE_SIZE, IMAGE_SIZE), np.int16)
    captions, n_objects = [], np.empty(n, np.int64)
    presence = np.zeros((n, len(OBJECTS) + len(BACKGROUNDS)), np.float32)
    for index in tqdm(range(n), desc="drawing scenes", mininterval=5):
        scene, (images[index], owners[index]) = draw_scene(seed, index)
        captions.append(scene.caption)
        presence[index, concept_indices(scene)] = 1
        n_objects[index] = sum(count for _, count in scene.objects)
    return Corpus(images, owners, captions, presence, n_objects)


def concept_indices(scene: Scene) -> list[int]:
    """Return the columns of `Corpus.presence` that are 1 for a scene: its objects, then its background."""
    objects = [list(OBJECTS).index(name) for name, _ in scene.objects]
    return [*objects, len(OBJECTS) + list(BACKGROUNDS).index(scene.background)]


def to_unit(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 (b, h, w, 3) to float32 (b, 3, h, w) in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_imagenet(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 (b, h, w, 3) to float32 (b, 3, h, w), normalized with ImageNet's mean and standard deviation."""
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    return ((to_unit(images) + 1) / 2 - mean) / std


@dataclass(frozen=True)
class Schedule:
    """Length, batch size and optimizer of a training."""

    n_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.01
    seed: int = 0
    optimizer: str = "adamw"  # or "muon": Muon for the matrices of transformer blocks, AdamW for the rest
    ends: tuple[int, ...] = ()  # steps before the last at which the rate fell to 0, and the training was then prolonged

    def factor(self, step: int) -> float:
        """Return the learning rate of a step over `learning_rate`: linear warm-up, then a cosine that is 0 at the next end.

        After an end the rate continues on the cosine to the following end, as if it had been aimed at that end from the start.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        end = next(end for end in (*self.ends, self.n_steps) if step < end)
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup_steps) / (end - self.warmup_steps)))

    def summary(self) -> str:
        """The steps, batch size and seed, as a model card states them."""
        prolonged = f", prolonged at {' and '.join(f'{end:,}' for end in self.ends)}" if self.ends else ""
        return f"{self.n_steps:,} of {self.batch_size} images, seed {self.seed}{prolonged}"


def fit(
    name: str,
    modules: nn.ModuleDict,
    schedule: Schedule,
    loss_of_step: Callable[[int, np.random.Generator], Mapping[str, torch.Tensor]],
    after_step: Callable[[int], None] = lambda step: None,
) -> float:
    """Train `modules`; return the seconds that it took, including those before interruptions.

    The loss of a step uses a random generator seeded by the step. So an interrupted training that resumes from its checkpoint,
    `runs/miniatures/<name>/checkpoint.pt`, ends with the same weights as an uninterrupted one. Raises SystemExit if the
    checkpoint is of another schedule.
    """
    folder = CHECKPOINTS_DIR / name
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizers = make_optimizers(modules, schedule)
    first, earlier = 0, 0.0
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        if state["schedule"] != asdict(schedule):
            raise SystemExit(f"error: {folder}: checkpoint of another schedule, {state['schedule']}; delete it to start again")
        modules.load_state_dict(state["modules"])
        for optimizer, saved_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
        first, earlier = state["step"], state["seconds"]
    started = saved = time.monotonic()
    modules.to(memory_format=torch.channels_last).train()
    bar = tqdm(range(first, schedule.n_steps), initial=first, total=schedule.n_steps, desc=name, mininterval=10)
    for step in bar:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = schedule.learning_rate * schedule.factor(step)
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):  # float32 weights, bfloat16 products
            losses = loss_of_step(step, np.random.default_rng([schedule.seed, step]))
        modules.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        if step == first + GRADIENTS_BY:
            check_gradients(name, modules)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        after_step(step)
        if step % 50 == 0:
            row = {"step": step, **{key: round(value.item(), 5) for key, value in losses.items()}}
            bar.set_postfix(row, refresh=False)
            with open(folder / "loss.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
        now = time.monotonic()
        if now - saved > CHECKPOINT_SECONDS or step + 1 == schedule.n_steps:
            state = {
                "modules": modules.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1, "seconds": earlier + now - started, "schedule": asdict(schedule),
            }  # fmt: skip
            torch.save(state, folder / "checkpoint.partial")
            os.replace(folder / "checkpoint.partial", folder / "checkpoint.pt")
            saved = now
    modules.eval()
    return earlier + time.monotonic() - started


def check_gradients(name: str, modules: nn.ModuleDict) -> None:
    """Raise SystemExit if weights of a layer that is used have a gradient of exactly 0: they would never change."""
    idle = [key for key, p in modules.named_parameters() if p.grad is not None and not p.grad.any()]
    if idle:
        raise SystemExit(f"error: {name}: {len(idle)} tensors have a gradient of 0 and learn nothing, first {idle[0]}")


def make_optimizers(modules: nn.ModuleDict, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return AdamW for all weights, or AdamW and Muon, the latter for the matrices of transformer blocks."""
    named = [(name, p) for name, p in modules.named_parameters() if p.requires_grad]
    matrices = [
        p for name, p in named if schedule.optimizer == "muon" and "blocks." in name and p.ndim == 2 and min(p.shape) > 16
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    common = {"lr": schedule.learning_rate, "weight_decay": schedule.weight_decay}
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.99), **common)
    return [adamw, torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common)] if matrices else [adamw]


def write_card(folder: Path, title: str, facts: Mapping[str, object], limits: str) -> None:
    """Write the model card: a table of facts (data, steps, time, seeds, quality), and what the model cannot do."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    text = (
        f"# {title}\n\nA miniature model of the embedded study (a controlled replica: no evidence about the model "
        f"family it is named after).\nTrained on OpenMoji Scenes. {ATTRIBUTION}.\n\n| | |\n|---|---|\n{rows}\n\n"
        f"What it cannot do: {limits}\n\nTrain it again: `make miniatures`.\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def add_to_card(folder: Path, facts: Mapping[str, object]) -> None:
    """Add rows to the table of a model card; rows of the same name are replaced."""
    card = folder / "README.md"
    lines = [
        line for line in card.read_text(encoding="utf-8").splitlines() if not any(line.startswith(f"| {key} |") for key in facts)
    ]
    last = max(number for number, line in enumerate(lines) if line.startswith("|"))
    lines[last + 1 : last + 1] = [f"| {key} | {value} |" for key, value in facts.items()]
    card.write_text("\n".join(lines) + "\n", encoding="utf-8")
