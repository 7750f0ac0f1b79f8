"""Compute one array per image of a shard with a network, in batches; rows of lost images stay NaN."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image

from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.storage import fill_shards, read_shard, save_array, shards_of
from blindspots_lib.data.images import stored_image

Embed = Callable[[Sequence[Image.Image]], Float[np.ndarray, "b *s"]]


def embed_images(path: Path, embed: Embed, shape: tuple[int, ...], batch_size: int) -> Float16[np.ndarray, "n *s"]:
    """Apply `embed` to all images of one Parquet shard. `shape` is that of one result; rows without an image are NaN."""
    rows = read_shard(path, ["pair_id", "image"])
    found = np.full((len(rows), *shape), np.nan, np.float16)
    present = [index for index, row in enumerate(rows) if row["image"] is not None]
    for start in range(0, len(present), batch_size):
        chosen = present[start : start + batch_size]
        found[chosen] = embed([stored_image(rows[i], path) for i in chosen])
    return found


def embed_shards(artifact: Artifact, images: Artifact, embed: Embed, shape: tuple[int, ...], batch_size: int) -> None:
    """Write `embed_images` of every shard of a source of images, one .npy per shard."""
    make = partial(embed_images, embed=embed, shape=shape, batch_size=batch_size)
    fill_shards(artifact, shards_of(images), make, save_array, "npy", artifact.path)
