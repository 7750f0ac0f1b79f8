"""One SAE training loop: k-means candidates, then reconstruction with an auxiliary term that revives dead concepts."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, naming_full_disk, replacing, write_json
from blindspots_lib.features import load_tokens
from blindspots_lib.sae import TopKSAE, decode, top_codes
from blindspots_lib.study import SAEConfig, Study, StudyError

POORLY_REBUILT = 0.25  # share of a batch's tokens, the worst rebuilt, that dead concepts are drawn to
FAVOURITES = 16  # tokens among those that each dead concept is drawn to


def sae_artifact(study: Study, features: Artifact) -> Artifact:
    """The output folder of `fit_sae`."""
    config = study.sae.model_dump(exclude={"checkpoint_every"})
    return Artifact(study.folder / "sae", study.name, config, {"tokens": features.fingerprint}, ("sae", "training"))


def fit_sae(study: Study, features: Artifact) -> Artifact:
    """Train the study's SAE on all tokens of the real images; an interrupted training goes on where it was."""
    artifact = sae_artifact(study, features)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    tokens = training_tokens(load_tokens(features))
    sae, history = train_sae(tokens, study.sae, checkpoint=artifact.folder / "checkpoint.pt")
    with naming_full_disk(artifact.folder / "model.safetensors"):
        sae.save_pretrained(artifact.folder)
    write_json(artifact.folder / "history.json", history)
    (artifact.folder / "checkpoint.pt").unlink(missing_ok=True)
    artifact.finish(n_tokens=len(tokens), steps=len(history))
    return artifact


def training_tokens(tokens: Float16[np.ndarray, "b t d"]) -> Float16[Tensor, "n d"]:
    """All tokens as rows. Raises StudyError if any is not finite."""
    rows = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))
    if not torch.isfinite(rows).all():
        image = int((~torch.isfinite(rows).all(dim=1)).nonzero()[0]) // tokens.shape[1]
        raise StudyError(f"features: image {image} has NaN or infinite tokens; delete the features folder and run again")
    return rows


def kmeans_candidates(tokens: Float16[Tensor, "n d"], n: int, seed: int) -> Float[Tensor, "c d"]:
    """C: the centroids of the tokens, by faiss."""
    import faiss

    if len(tokens) < n:
        raise StudyError(f"sae.n_candidates = {n}: must not exceed the number of tokens, {len(tokens)}")
    kmeans = faiss.Kmeans(tokens.shape[1], n, niter=15, seed=seed, max_points_per_centroid=128, min_points_per_centroid=1)
    kmeans.train(tokens.float().numpy())
    return torch.from_numpy(kmeans.centroids)


def shuffled_batches(n: int, batch_size: int, seed: int, first_step: int) -> Iterator[Tensor]:
    """Row numbers of one batch after the other, without end: every epoch a fresh permutation of its own seed."""
    batch_size = min(batch_size, n)
    per_epoch = n // batch_size
    for epoch in range(first_step // per_epoch, 2**62):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        begin = first_step - epoch * per_epoch if epoch == first_step // per_epoch else 0
        for batch in range(begin, per_epoch):
            yield order[batch * batch_size : (batch + 1) * batch_size]


def learning_rate(config: SAEConfig, step: int) -> float:
    """Linear warm-up, then cosine from `learning_rate` to `final_learning_rate`."""
    warmup = max(1, round(config.warmup * config.n_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.n_steps - warmup)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * span * (1 + math.cos(math.pi * progress))


def train_sae(tokens: Float16[Tensor, "n d"], config: SAEConfig, checkpoint: Path) -> tuple[TopKSAE, list[dict]]:
    """Train an SAE by AdamW on the mean squared error, less `dead_appeal` of dead concepts; one projection a step.

    Returns the SAE and, per step, the loss, R2, L0 and number of dead concepts. Everything that decides the result
    (weights, moments, how long each concept has been silent, step, and by it the order of the data) is in
    `checkpoint`, so an interrupted run ends with the same bytes as an uninterrupted one.
    """
    sae = TopKSAE(tokens.shape[1], config.n_concepts, config.k, config.n_candidates, config.relaxation_radius)
    optimizer = torch.optim.AdamW(sae.parameters(), betas=(0.9, 0.999), weight_decay=config.weight_decay)
    silent = torch.zeros(config.n_concepts, dtype=torch.int64)  # steps since each concept last fired
    history: list[dict] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        sae.load_state_dict(state["sae"])
        optimizer.load_state_dict(state["optimizer"])
        silent, history = state["silent"], state["history"]
    else:
        token_length = tokens.float().norm(dim=1).mean().item()
        sae.start_from(kmeans_candidates(tokens, config.n_candidates, config.seed), token_length)
    mean = tokens.float().mean(dim=0)
    variance = (tokens.float() - mean).square().sum(dim=1).mean()
    batches = shuffled_batches(len(tokens), config.batch_size, config.seed, first_step=len(history))
    for step in tqdm(range(len(history), config.n_steps), initial=len(history), total=config.n_steps, desc="RA-SAE"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        row = training_step(sae, optimizer, tokens[next(batches)].float(), silent, config)
        row["r2"] = 1 - row["mse"] * tokens.shape[1] / variance.item()
        history.append(row)
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.n_steps:
            state = {"sae": sae.state_dict(), "optimizer": optimizer.state_dict(), "silent": silent, "history": history}
            save_checkpoint(checkpoint, state)
    return sae.eval(), history


def save_checkpoint(path: Path, state: dict) -> None:
    buffer = io.BytesIO()  # torch's own writer does not say when the disk is full
    torch.save(state, buffer)
    with replacing(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def training_step(sae: TopKSAE, optimizer, x: Float[Tensor, "n d"], silent: Tensor, config: SAEConfig) -> dict:
    """One optimizer step; counts in `silent` how long each concept has not fired."""
    preactivations = sae.preactivations(x)
    codes = top_codes(preactivations, config.k)
    atoms = sae.dictionary.atoms()
    residual = x - decode(codes, atoms)
    mse = residual.square().mean()
    dead = silent >= config.dead_after
    loss = mse
    if config.auxiliary_weight and dead.any():
        loss = loss - config.auxiliary_weight * dead_appeal(preactivations[:, dead], residual.detach())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    optimizer.step()
    sae.dictionary.project()
    silent += 1
    silent[codes.indices[codes.values > 0]] = 0
    return {"mse": mse.item(), "l0": (codes.values > 0).sum(dim=1).float().mean().item(), "dead": int(dead.sum())}


def dead_appeal(preactivations: Float[Tensor, "n k"], residual: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean preactivation of dead concepts, each on the few badly rebuilt tokens it likes best; raising it revives them.

    An atom is bound to the data's hull, so dead atoms cannot be made to explain the residual itself. Instead each dead
    concept is drawn towards tokens of the worst rebuilt share that are already near to it, and differ from concept to
    concept; once it fires there, the reconstruction shapes it.
    """
    n_poor = max(1, round(POORLY_REBUILT * len(residual)))
    poor = residual.square().sum(dim=1).topk(n_poor).indices
    return preactivations[poor].topk(min(FAVOURITES, n_poor), dim=0).values.mean()
