"""Images that another program or a service made for a study's captions, matched to the pairs by their ids."""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, fingerprint_of, shard_path
from blindspots_lib.images import SUFFIXES, decode_image
from blindspots_lib.pairs import generation_schema, read_shard, shards_of, write_shard
from blindspots_lib.parts import MadeElsewhere
from blindspots_lib.sources import inside, listing_fingerprint, read_table
from blindspots_lib.study import Study, StudyError, resolve


def take_images(study: Study, model: MadeElsewhere, pairs: Artifact) -> Artifact:
    """Take in the images of a model that runs elsewhere. What is missing or unreadable is lost, and counted so.

    Raises StudyError if not one of the images has the id of a pair.
    """
    source = resolve(model.images)
    inputs = {"pairs": pairs.fingerprint, "images": images_fingerprint(model)}
    artifact = Artifact(study.folder / "generations" / model.name, study.name, {}, inputs, ("elsewhere",))
    if artifact.is_complete():
        return artifact
    files = files_by_id(source)
    shards = [(path, [row["pair_id"] for row in read_shard(path, ["pair_id"])]) for path in shards_of(pairs)]
    check_ids(model, [pair_id for _, ids in shards for pair_id in ids], files)
    artifact.begin()
    for index, (_, ids) in enumerate(tqdm(shards, desc=f"images, {model.label}", unit="shard")):
        target = shard_path(artifact.folder, index, "parquet")
        if not target.exists():
            write_shard(target, [taken(pair_id, files.get(pair_id)) for pair_id in ids], generation_schema())
    artifact.finish(n_images=sum(pair_id in files for _, ids in shards for pair_id in ids))
    return artifact


def images_fingerprint(model: MadeElsewhere) -> str:
    """Of which image belongs to which pair, and of the images' sizes and times, wherever a table says that they are."""
    files = files_by_id(resolve(model.images))
    owners = sorted((pair_id, str(file)) for pair_id, file in files.items())
    return fingerprint_of({"owners": owners, "files": listing_fingerprint(files.values())})


def files_by_id(source: Path) -> dict[str, Path]:
    """Image files by pair id: by their names in a folder, by the columns pair_id and file_name of a table."""
    if not source.exists():
        raise StudyError(f"{source}: no such folder or table; correct images in the study")
    if source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
        named = [(file.stem, file) for file in files]
    else:
        table = read_table(source, ["pair_id", "file_name"])
        named = [(str(pair_id), inside(source.parent, name)) for pair_id, name in zip(table["pair_id"], table["file_name"])]  # noqa: B905
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise StudyError(f"{source}: has more than one image for the pair {twice[0]!r}; keep one")
    return dict(named)


def check_ids(model: MadeElsewhere, ids: list[str], files: dict[str, Path]) -> None:
    if not set(ids) & set(files):
        theirs = ", ".join(map(repr, sorted(files)[:3])) or "none at all"
        raise StudyError(
            f"model {model.name!r}: no image in {model.images} has the id of a pair; the pairs are called "
            f"{', '.join(map(repr, ids[:3]))}, the images {theirs}"
        )


def taken(pair_id: str, file: Path | None) -> dict:
    """The row of one pair: the file as it is if it decodes, else why not."""
    row = {"pair_id": pair_id, "image": None, "lost": ""}
    if file is None or not file.is_file():
        return {**row, "lost": "missing"}
    content = file.read_bytes()
    try:
        decode_image(content, str(file))
    except StudyError:
        return {**row, "lost": "not a readable image"}
    return {**row, "image": {"bytes": content, "path": None}}
