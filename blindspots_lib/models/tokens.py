"""The backbone's tokens of all images of a source, stored in shards or computed on demand."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int
from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, shard_path
from blindspots_lib.core.config import Backbone, contents
from blindspots_lib.core.hub import hashes, weights_fingerprint
from blindspots_lib.core.parallel import on_every_gpu
from blindspots_lib.core.storage import open_array, save_array, shards_of
from blindspots_lib.data.collect import identity_of
from blindspots_lib.data.embed import embed_images
from blindspots_lib.data.pairs import count_images
from blindspots_lib.models.backbone import TokenExtractor, TokenLayout
from blindspots_lib.models.loading import compute_dtype, conditions

TOKENS = Stage("tokens", 1)


def tokens_artifact(workspace: Workspace, backbone: Backbone, source: str, images: Artifact) -> Artifact:
    """Describe the output folder of `extract_tokens`; `source` is "real" or a model's name."""
    inputs = {"images": identity_of(images), "backbone": weights_fingerprint(backbone)}
    return Artifact(workspace, f"tokens/{source}", TOKENS, contents(backbone, "path", "batch_size", "keep_tokens"), inputs)


def extract_tokens(workspace: Workspace, backbone: Backbone, source: str, images: Artifact) -> Artifact:
    """Store the tokens of all images of a source, one (b, t, d) float16 .npy per shard; rows of lost images are NaN."""
    artifact = tokens_artifact(workspace, backbone, source, images)
    if not artifact.is_complete():
        layouts: list[TokenLayout] = []
        artifact.begin(conditions(compute_dtype(), "transformers"))
        jobs = [(path, shard_path(artifact.folder, index, "npy")) for index, path in enumerate(shards_of(images))]
        missing = [job for job in jobs if not job[1].exists()]
        with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=artifact.path, unit="shard") as bar:

            def count(layout: TokenLayout) -> None:
                layouts.append(layout)
                bar.update()

            on_every_gpu(partial(extract_shards, backbone), missing, count)
        layout = layouts[0] if layouts else TokenExtractor(backbone).layout
        artifact.finish(layout=layout._asdict(), files=hashes(backbone))
    return artifact


def extract_shards(backbone: Backbone, jobs: Sequence[tuple[Path, Path]], report: Callable[[TokenLayout], object]) -> None:
    """Store the tokens of some shards of images, each where its job says; report each with its layout."""
    extractor = TokenExtractor(backbone) if jobs else None
    for images, target in jobs:
        save_array(target, embed_images(images, extractor, extractor.layout.shape, backbone.batch_size))
        report(extractor.layout)


class TokenSource:
    """The tokens of a source of images, shard by shard."""

    layout: TokenLayout

    def __init__(self, fingerprint: str, paths: list[Path]):
        self.fingerprint, self.paths = fingerprint, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Float16[np.ndarray, "b t d"]]:
        return (self.shard(index) for index in range(len(self)))

    def shard(self, index: int) -> Float16[np.ndarray, "b t d"]:
        """Return the tokens of one shard of images; rows of lost images are NaN."""
        raise NotImplementedError

    def n_images(self, index: int) -> int:
        """Return the number of images in a shard, without the lost ones."""
        raise NotImplementedError

    def at(self, rows: Int[np.ndarray, "n"]) -> Float16[np.ndarray, "n t d"]:
        """Return the tokens of the images at these rows, counted over all shards; later shards are not read."""
        tokens, first = np.empty((len(rows), *self.layout.shape), np.float16), 0
        for shard in self:
            inside = (rows >= first) & (rows < first + len(shard))
            tokens[inside] = shard[rows[inside] - first]
            first += len(shard)
            if first > rows.max():
                return tokens
        raise IndexError(f"row {rows.max()} of {first}")


class StoredTokens(TokenSource):
    """Memory-mapped tokens that `extract_tokens` stored."""

    def __init__(self, artifact: Artifact):
        super().__init__(artifact.fingerprint, sorted(artifact.folder.glob("shard-*.npy")))
        self.layout = TokenLayout(**artifact.facts["layout"])

    def shard(self, index: int) -> Float16[np.ndarray, "b t d"]:
        return open_array(self.paths[index])

    def n_images(self, index: int) -> int:
        return int((~np.isnan(self.shard(index)[:, 0, 0])).sum())


class ComputedTokens(TokenSource):
    """The same tokens, computed by the backbone on demand, so that none are stored."""

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
        return embed_images(self.paths[index], self.extractor, self.layout.shape, self.backbone.batch_size)

    def n_images(self, index: int) -> int:
        return count_images(self.paths[index])


def open_tokens(workspace: Workspace, backbone: Backbone, source: str, images: Artifact) -> TokenSource:
    """Open the tokens of a source whose images are complete. Raises StudyError if the tokens should be stored and are not."""
    artifact = tokens_artifact(workspace, backbone, source, images)
    stored = backbone.keep_tokens
    return StoredTokens(artifact.require()) if stored else ComputedTokens(backbone, images.require(), artifact.fingerprint)
