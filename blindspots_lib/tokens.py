"""Where tokens come from (stored shards, or the backbone whenever they are asked for) and the order training sees them in."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact
from blindspots_lib.features import TokenExtractor, TokenLayout, extract_tokens, features_artifact, image_tokens, open_array
from blindspots_lib.pairs import count_images, shards_of
from blindspots_lib.parts import Backbone, SAEConfig
from blindspots_lib.study import Study, StudyError


class TokenSource:
    """The tokens of a source of images, shard by shard."""

    layout: TokenLayout  # what stands where among the tokens of an image

    def __init__(self, fingerprint: str, paths: list[Path]):
        self.fingerprint, self.paths = fingerprint, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Float16[np.ndarray, "b t d"]]:
        return (self.shard(index) for index in range(len(self)))

    def shard(self, index: int) -> Float16[np.ndarray, "b t d"]:
        """The tokens of one shard of images; rows of lost images are NaN."""
        raise NotImplementedError

    def n_images(self, index: int) -> int:
        """How many images of a shard are there."""
        raise NotImplementedError

    def at(self, rows: Int[np.ndarray, "n"]) -> Float16[np.ndarray, "n t d"]:
        """The tokens of the images at these rows, counted over all shards; no shard after the last of them is read."""
        tokens, first = None, 0
        for shard in self:
            inside = (rows >= first) & (rows < first + len(shard))
            tokens = np.empty((len(rows), *shard.shape[1:]), np.float16) if tokens is None else tokens
            tokens[inside] = shard[rows[inside] - first]
            first += len(shard)
            if first > rows.max():
                return tokens
        raise IndexError(f"row {rows.max()} of {first}")


class StoredTokens(TokenSource):
    """Tokens in memory-mapped shards, as `extract_tokens` wrote them."""

    def __init__(self, artifact: Artifact):
        super().__init__(artifact.fingerprint, sorted(artifact.folder.glob("shard-*.npy")))
        self.layout = TokenLayout(**artifact.facts["layout"])

    def shard(self, index: int) -> Float16[np.ndarray, "b t d"]:
        return open_array(self.paths[index])

    def n_images(self, index: int) -> int:
        return int((~np.isnan(self.shard(index)[:, 0, 0])).sum())


class ComputedTokens(TokenSource):
    """The same tokens, made by the backbone each time they are asked for, so that none need be kept."""

    def __init__(self, backbone: Backbone, images: Artifact, fingerprint: str):
        super().__init__(fingerprint, shards_of(images))
        self.backbone = backbone

    @cached_property
    def extractor(self) -> TokenExtractor:
        return TokenExtractor(self.backbone)

    @property
    def layout(self) -> TokenLayout:
        return self.extractor.layout

    def shard(self, index: int) -> Float16[np.ndarray, "b t d"]:
        return image_tokens(self.extractor, self.paths[index], self.backbone.batch_size)

    def n_images(self, index: int) -> int:
        return count_images(self.paths[index])


def open_tokens(study: Study, source: str, images: Artifact) -> TokenSource:
    """The tokens of a source ("real" or a model's name): stored first, unless the study says not to keep them."""
    if study.backbone.keep_tokens:
        return StoredTokens(extract_tokens(study, source, images))
    return ComputedTokens(study.backbone, images, features_artifact(study, source, images).fingerprint)


class TrainingTokens:
    """A source's tokens as rows without images, a selection of positions, in a seeded order that can resume anywhere.

    An epoch takes the shards in a random order, some at a time (a window, of about `buffer_size` tokens), and the
    tokens of a window in a random order. What a window has beyond whole batches waits for another epoch.
    """

    def __init__(self, source: TokenSource, config: SAEConfig):
        self.source, self.seed, self.buffer_size = source, config.seed, config.buffer_size
        self.positions = np.arange(source.layout.n_tokens)[source.layout.selection(config.tokens)]
        self.sizes = [source.n_images(index) * len(self.positions) for index in range(len(source))]
        self.batch_size = min(config.batch_size, len(self))

    def __len__(self) -> int:
        return sum(self.sizes)

    def rows(self, index: int) -> Float16[Tensor, "n d"]:
        """The chosen tokens of one shard. Raises StudyError if any is not finite."""
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
        """The shards of each window of an epoch; every window holds a batch at least."""
        windows, filled = [[]], 0
        for index in torch.randperm(len(self.sizes), generator=self.generator(epoch, -1)).tolist():
            if filled >= self.batch_size and filled + self.sizes[index] > self.buffer_size:
                windows.append([])
                filled = 0
            windows[-1].append(index)
            filled += self.sizes[index]
        if filled < self.batch_size and len(windows) > 1:
            rest = windows.pop()
            windows[-1] += rest
        return windows

    def generator(self, epoch: int, window: int) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, epoch, window + 1)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))

    def batches(self, first_step: int = 0) -> Iterator[Float16[Tensor, "n d"]]:
        """One batch after the other, without end, from the one of `first_step`."""
        step = 0
        for epoch in range(2**62):
            for number, window in enumerate(self.windows(epoch)):
                n_batches = sum(self.sizes[index] for index in window) // self.batch_size
                if step + n_batches > first_step:
                    yield from self.window_batches(window, self.generator(epoch, number), max(0, first_step - step))
                step += n_batches

    def window_batches(self, window: list[int], generator: torch.Generator, first: int) -> Iterator[Float16[Tensor, "n d"]]:
        buffer = torch.empty(sum(self.sizes[index] for index in window), self.source.layout.width, dtype=torch.float16)
        filled = 0
        for index in window:
            buffer[filled : filled + self.sizes[index]] = self.rows(index)
            filled += self.sizes[index]
        order = torch.randperm(len(buffer), generator=generator)
        for batch in range(first, len(buffer) // self.batch_size):
            yield buffer[order[batch * self.batch_size : (batch + 1) * self.batch_size]]

    def sample(self, n: int, seed: int) -> Float[Tensor, "n d"]:
        """n tokens drawn without replacement, or all if there are no more, in their order."""
        chosen = np.random.default_rng(seed).choice(len(self), size=min(n, len(self)), replace=False)
        chosen.sort()
        starts = np.cumsum([0, *self.sizes])
        bounds = np.searchsorted(chosen, starts)
        result = torch.empty(len(chosen), self.source.layout.width)
        for index in tqdm(range(len(self.sizes)), desc="sample of tokens", unit="shard"):
            first, last = bounds[index], bounds[index + 1]
            if last > first:
                result[first:last] = self.rows(index)[chosen[first:last] - starts[index]].float()
        return result
