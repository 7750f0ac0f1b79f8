"""Image-caption pairs (x, t), one schema for every source, kept as Parquet shards with embedded PNG images."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, folder_fingerprint, replacing, shard_path
from blindspots_lib.scenes import DEFAULT_PRIOR, draw_scene
from blindspots_lib.study import ScenePairs, Study, StudyError, resolve

MAX_PIXELS = 64_000_000  # a larger image is refused before it is decoded


class Pair(NamedTuple):
    pair_id: str  # stable, unique
    caption: str
    image: bytes  # PNG or JPEG file
    concepts: list[dict]  # what is truly in the image, [{"name", "count"}]; empty where nobody knows


def pair_schema():
    """The Arrow schema of a shard of pairs; `datasets` reads its image column as images."""
    from datasets import Features, Image, List, Value

    concept = {"name": Value("string"), "count": Value("int32")}
    return Features({
        "pair_id": Value("string"), "caption": Value("string"), "image": Image(), "concepts": List(concept),
    }).arrow_schema  # fmt: skip


def generation_schema():
    """The Arrow schema of a shard of generations: `lost` is why there is no image, or ""."""
    from datasets import Features, Image, Value

    return Features({"pair_id": Value("string"), "image": Image(), "lost": Value("string")}).arrow_schema


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, name: str) -> Image.Image:
    """An RGB image from the bytes of a file.

    Raises StudyError if the bytes are cut short, not an image, or claim more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise StudyError(f"{name}: {image.width} x {image.height} pixels is too large; at most {MAX_PIXELS:,} in all")
        return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise StudyError(f"{name}: not a readable image ({error}); replace or remove it") from None


def write_shard(path: Path, rows: list[dict], schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)


def read_shard(path: Path, columns: list[str] | None = None) -> list[dict]:
    """The rows of one Parquet file. Raises StudyError if it is not whole or a column is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            have = ", ".join(file.schema_arrow.names)
            raise StudyError(f"{path}: no column {sorted(missing)[0]!r}; it has {have}")
        return file.read(columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"{path}: not a whole Parquet file ({reason}); delete {path.parent} and run again") from None


def shards_of(artifact: Artifact) -> list[Path]:
    return sorted(artifact.folder.glob("shard-*.parquet"))


def count_images(path: Path) -> int:
    """How many rows of one Parquet file have an image."""
    return sum(row["image"] is not None for row in read_shard(path, ["image"]))


def pairs_artifact(study: Study) -> Artifact:
    """The output folder of `collect_pairs`."""
    inputs = {} if isinstance(study.pairs, ScenePairs) else {"files": folder_fingerprint(resolve(study.pairs.path))}
    return Artifact(study.folder / "pairs", study.name, study.pairs.model_dump(), inputs, ("pairs", "scenes"))


def collect_pairs(study: Study) -> Artifact:
    """Draw or copy the real image-caption pairs of a study, validated, into Parquet shards."""
    artifact = pairs_artifact(study)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    size, n = study.pairs.shard_size, study.pairs.n
    starts = range(0, n, size)
    source = scene_pairs(study.pairs) if isinstance(study.pairs, ScenePairs) else stored_pairs(study.pairs)
    seen: set[str] = set()
    for index, start in enumerate(tqdm(starts, desc="pairs", unit="shard")):
        rows = [checked(pair, seen) for _, pair in zip(range(min(size, n - start)), source, strict=False)]
        if len(rows) < min(size, n - start):
            raise StudyError(f"pairs.n = {n}: the source has only {start + len(rows)} pairs; lower it")
        write_shard(shard_path(artifact.folder, index, "parquet"), rows, pair_schema())
    artifact.finish(n_pairs=n, **({"prior": asdict(DEFAULT_PRIOR)} if isinstance(study.pairs, ScenePairs) else {}))
    return artifact


def scene_pairs(config: ScenePairs) -> Iterator[Pair]:
    for index in range(config.n):
        scene, rendering = draw_scene(config.seed, index)
        concepts = [*scene.objects, (scene.background, 1)]
        yield Pair(f"scene-{config.seed}-{index:06d}", scene.caption, encode_png(rendering.image),
                   [{"name": name, "count": count} for name, count in concepts])  # fmt: skip


def stored_pairs(config) -> Iterator[Pair]:
    files = sorted(resolve(config.path).glob("*.parquet"))
    if not files:
        raise StudyError(f"{resolve(config.path)}: no Parquet files there; correct pairs.path")
    for file in files:
        for row in read_shard(file, ["pair_id", "caption", "image"]):
            yield Pair(row["pair_id"], row["caption"], row["image"]["bytes"], [])


def checked(pair: Pair, seen: set[str]) -> dict:
    """The row of a pair that is fit for study: unique id, a caption, an image that decodes."""
    if pair.pair_id in seen:
        raise StudyError(f"pair {pair.pair_id!r}: this pair_id stands twice; give every pair its own")
    if not (pair.caption or "").strip():
        raise StudyError(f"pair {pair.pair_id!r}: its caption is empty; add one or remove the pair")
    decode_image(pair.image, f"image of pair {pair.pair_id!r}")
    seen.add(pair.pair_id)
    return {**pair._asdict(), "image": {"bytes": pair.image, "path": None}}


class PairTable(NamedTuple):
    """All pairs of a study without their images, in order."""

    pair_ids: list[str]
    captions: list[str]
    concepts: list[list[dict]]


def read_pair_table(artifact: Artifact) -> PairTable:
    rows = [row for path in shards_of(artifact) for row in read_shard(path, ["pair_id", "caption", "concepts"])]
    return PairTable(*([row[key] for row in rows] for key in ("pair_id", "caption", "concepts")))


class ImageStore:
    """Images of an artifact by pair id, one shard in memory at a time."""

    def __init__(self, artifact: Artifact):
        where = [(row["pair_id"], path) for path in shards_of(artifact) for row in read_shard(path, ["pair_id"])]
        self.shard_of = dict(where)
        self.row_of = {pair_id: row for row, (pair_id, _) in enumerate(where)}  # over all shards
        self.open_path, self.open_rows = None, {}

    def __getitem__(self, pair_id: str) -> Image.Image:
        path = self.shard_of[pair_id]
        if path != self.open_path:
            self.open_rows = {row["pair_id"]: row["image"] for row in read_shard(path, ["pair_id", "image"])}
            self.open_path = path
        return decode_image(self.open_rows[pair_id]["bytes"], f"image of pair {pair_id!r} in {path}")


def complete_pairs(artifacts: dict[str, Artifact]) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Ids of the pairs that have an image on every side, and what each side lost, by cause.

    A pair counts only when the real image and every model's image exist, so that all sets hold the same pairs.
    """
    sides, lost = {}, {}
    for name, artifact in artifacts.items():
        rows = [row for path in shards_of(artifact) for row in read_shard(path, ["pair_id"] + ["lost"] * (name != "real"))]
        sides[name] = [row["pair_id"] for row in rows if not row.get("lost")]
        causes = [row["lost"] for row in rows if row.get("lost")]
        lost[name] = {cause: causes.count(cause) for cause in sorted(set(causes))}
    common = set.intersection(*(set(ids) for ids in sides.values()))
    for name, ids in sides.items():
        missing = len(set(sides["real"]) - set(ids)) - sum(lost[name].values())
        if missing:
            lost[name]["no row"] = missing
    if not common:
        raise StudyError("no pair has an image on every side; do the pair ids of the sources match?")
    return [pair_id for pair_id in sides["real"] if pair_id in common], lost
