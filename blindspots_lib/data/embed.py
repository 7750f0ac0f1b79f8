"""Images of a shard through a network: decoded, taken in batches, put in place; rows of lost images stay NaN."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image

from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.storage import fill_shards, read_shard, save_array, shards_of
from blindspots_lib.data.images import decode_image, stored_bytes

Embed = Callable[[Sequence[Image.Image]], Float[np.ndarray, "b *s"]]


def embed_images(path: Path, embed: Embed, shape: tuple[int, ...], batch_size: int) -> Float16[np.ndarray, "n *s"]:
    """`embed` of all images in one Parquet shard, each of this shape; NaN where there is no image."""
    rows = read_shard(path, ["pair_id", "image"])
    found = np.full((len(rows), *shape), np.nan, np.float16)
    present = [position for position, row in enumerate(rows) if row["image"] is not None]
    for start in range(0, len(present), batch_size):
        chosen = present[start : start + batch_size]
        names = [f"image of pair {rows[i]['pair_id']!r} in {path}" for i in chosen]
        found[chosen] = embed(
            [decode_image(stored_bytes(rows[i]["image"], name), name) for i, name in zip(chosen, names, strict=True)]
        )
    return found


def embed_shards(artifact: Artifact, images: Artifact, embed: Embed, shape: tuple[int, ...], batch_size: int) -> None:
    """`embed_images` of every shard of a source of images, one .npy per shard."""
    fill_shards(
        artifact, shards_of(images), lambda path: embed_images(path, embed, shape, batch_size), save_array, "npy", artifact.path
    )
