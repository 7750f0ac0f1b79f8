"""The batches of tokens that training sees, and their order."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor
from tqdm import tqdm

from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.models.tokens import TokenSource


class TrainingTokens:
    """The tokens of a source at the chosen positions, in a seeded order that can resume at any step.

    An epoch takes the shards in random order, a few at a time (a window of about `buffer_size` tokens), and the tokens of a
    window in random order. The tokens left over after a window's last whole batch are skipped in that epoch.
    """

    def __init__(self, source: TokenSource, config: SAEConfig):
        self.source, self.seed, self.buffer_size = source, config.seed, config.buffer_size
        self.positions = np.arange(source.layout.n_tokens)[source.layout.selection(config.tokens)]
        self.sizes = [source.n_images(index) * len(self.positions) for index in range(len(source))]
        self.batch_size = min(config.batch_size, len(self))

    def __len__(self) -> int:
        return sum(self.sizes)

    def rows(self, index: int) -> Float16[Tensor, "n d"]:
        """Return the chosen tokens of one shard. Raises StudyError if any is not finite."""
        tokens = self.source.shard(index)
        present = ~np.isnan(tokens[:, 0, 0])
        rows = torch.from_numpy(tokens[present][:, self.positions].reshape(-1, tokens.shape[-1]))
        if not torch.isfinite(rows).all():
            image = int(np.flatnonzero(present)[int((~torch.isfinite(rows).all(dim=1)).nonzero()[0]) // len(self.positions)])
            raise StudyError(
                f"{self.source.paths[index]}: image {image} has NaN or infinite tokens; delete the folder and run again"
            )
        return rows

    def windows(self, epoch: int) -> list[list[int]]:
        """Return the shards of each window of an epoch; every window holds at least one batch."""
        windows, filled = [[]], 0
        for index in torch.randperm(len(self.sizes), generator=self.generator(epoch, -1)).tolist():
            if filled >= self.batch_size and filled + self.sizes[index] > self.buffer_size:
                windows.append([])
                filled = 0
            windows[-1].append(index)
            filled += self.sizes[index]
        if filled < self.batch_size and len(windows) > 1:
            windows[-2:] = [windows[-2] + windows[-1]]
        return windows

    def generator(self, epoch: int, window: int) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, epoch, window + 1)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))

    def batches(self, first_step: int = 0) -> Iterator[Float16[Tensor, "n d"]]:
        """Yield batches without end, from that of `first_step` on."""
        step = 0
        for epoch in itertools.count():
            for number, window in enumerate(self.windows(epoch)):
                n_batches = sum(self.sizes[index] for index in window) // self.batch_size
                if step + n_batches > first_step:
                    yield from self.window_batches(window, self.generator(epoch, number), max(0, first_step - step))
                step += n_batches

    def window_batches(self, window: list[int], generator: torch.Generator, first: int) -> Iterator[Float16[Tensor, "n d"]]:
        bounds = np.cumsum([0, *(self.sizes[index] for index in window)])
        buffer = torch.empty(bounds[-1], self.source.layout.width, dtype=torch.float16)
        for index, begin, end in zip(window, bounds[:-1], bounds[1:], strict=True):
            buffer[begin:end] = self.rows(index)
        order = torch.randperm(len(buffer), generator=generator)
        for batch in range(first, len(buffer) // self.batch_size):
            yield buffer[order[batch * self.batch_size : (batch + 1) * self.batch_size]]

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """Draw n tokens without replacement, or all if there are fewer; they keep their order."""
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), size=min(n, len(self)), replace=False))
        starts = np.cumsum([0, *self.sizes])
        bounds = np.searchsorted(chosen, starts)
        result = torch.empty(len(chosen), self.source.layout.width)
        for index in tqdm(range(len(self.sizes)), desc="sample of tokens", unit="shard"):
            first, last = bounds[index], bounds[index + 1]
            if last > first:
                result[first:last] = self.rows(index)[chosen[first:last] - starts[index]].float()
        return result
