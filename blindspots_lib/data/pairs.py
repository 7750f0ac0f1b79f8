"""Image-caption pairs (x, t) and generations x': one schema for all sources, stored as Parquet shards with the images in them."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import read_shard, shards_of, write_shard
from blindspots_lib.data.images import centre_square, stored_image


def pair_schema(*more: str):
    """Return the Arrow schema of a shard of pairs, with `more` columns of text. `datasets` reads its image column as images."""
    from datasets import Features, Image, Value

    columns = {name: Value("string") for name in more}
    return Features({"pair_id": Value("string"), "caption": Value("string"), "image": Image(), **columns}).arrow_schema


def generation_schema():
    """Return the Arrow schema of a shard of generations: `lost` says why there is no image, or is ""."""
    return pair_schema("lost")


def save_generations(path: Path, rows: list[dict]) -> None:
    write_shard(path, rows, generation_schema())


def count_images(path: Path) -> int:
    """Return the number of rows of one Parquet file that have an image."""
    return sum(row["image"] is not None for row in read_shard(path, ["image"]))


class PairTable(NamedTuple):
    """All pairs of a study in order, without their images."""

    pair_ids: list[str]
    captions: list[str]


def read_pair_table(artifact: Artifact) -> PairTable:
    rows = [row for path in shards_of(artifact) for row in read_shard(path, ["pair_id", "caption"])]
    return PairTable([row["pair_id"] for row in rows], [row["caption"] for row in rows])


class ImageStore:
    """Images of an artifact by pair id, cropped as the backbone sees them; one shard is in memory at a time."""

    def __init__(self, artifact: Artifact, fraction: float = 1.0):
        self.fraction = fraction  # of the short side that the centre crop keeps
        where = [(row["pair_id"], path) for path in shards_of(artifact) for row in read_shard(path, ["pair_id"])]
        self.shard_of = dict(where)
        self.row_of = {pair_id: row for row, (pair_id, _) in enumerate(where)}  # over all shards
        self.open_path, self.open_rows = None, {}

    def __getitem__(self, pair_id: str) -> Image.Image:
        path = self.shard_of[pair_id]
        if path != self.open_path:
            self.open_rows = {row["pair_id"]: row for row in read_shard(path, ["pair_id", "image"])}
            self.open_path = path
        return centre_square(stored_image(self.open_rows[pair_id], path), self.fraction)


def complete_pairs(artifacts: dict[str, Artifact]) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Return the ids of the pairs that have a real image and an image of every model, and what each side lost, by cause."""
    sides, lost = {}, {}
    for name, artifact in artifacts.items():
        rows = [row for path in shards_of(artifact) for row in read_shard(path, ["pair_id"] + ["lost"] * (name != "real"))]
        sides[name] = [row["pair_id"] for row in rows if not row.get("lost")]
        causes = [row["lost"] for row in rows if row.get("lost")]
        lost[name] = {cause: causes.count(cause) for cause in sorted(set(causes))}
    for name, ids in sides.items():
        missing = len(set(sides["real"]) - set(ids)) - sum(lost[name].values())
        if missing:
            lost[name]["no row"] = missing
    common = set.intersection(*map(set, sides.values()))
    if not common:
        raise StudyError("no pair has an image on every side; do the pair ids of the sources match?")
    return [pair_id for pair_id in sides["real"] if pair_id in common], lost
