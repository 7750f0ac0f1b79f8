"""External images: another program or a service made them for a study's captions; pair ids match them to the pairs."""

from collections import Counter
from pathlib import Path

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import ExternalImages, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import fingerprint_of, listing_fingerprint
from blindspots_lib.core.paths import resolve
from blindspots_lib.core.storage import fill_shards, read_shard, shards_of
from blindspots_lib.data.collect import identity_of
from blindspots_lib.data.images import UnusableImage, image_files, shrunk
from blindspots_lib.data.pairs import save_generations
from blindspots_lib.data.tables import inside, read_table

EXTERNAL = Stage("external images", 2)


def external_artifact(workspace: Workspace, model: ExternalImages, pairs: Artifact) -> Artifact:
    """Describe the output folder of `take_images`."""
    inputs = {"pairs": identity_of(pairs), "images": images_fingerprint(model)}
    config = contents(model, "name", "label", "images")
    return Artifact(workspace, f"generations/{model.name}", EXTERNAL, config, inputs)


def take_images(workspace: Workspace, model: ExternalImages, pairs: Artifact) -> Artifact:
    """Copy the external images of a model. Missing and unreadable images are lost, and counted.

    Raises StudyError if no image has the id of a pair.
    """
    artifact = external_artifact(workspace, model, pairs)
    if artifact.is_complete():
        return artifact
    files = files_by_id(resolve(model.images))
    shards = [read_shard(path, ["pair_id", "caption"]) for path in shards_of(pairs)]
    ids = [row["pair_id"] for rows in shards for row in rows]
    check_ids(model, ids, files)
    artifact.begin()

    def take(rows: list[dict]) -> list[dict]:
        return [row | taken(files.get(row["pair_id"]), model.store_side) for row in rows]

    fill_shards(artifact, shards, take, save_generations, "parquet", f"images, {model.label}")
    artifact.finish(n_images=sum(pair_id in files for pair_id in ids))
    return artifact


def images_fingerprint(model: ExternalImages) -> str:
    """Fingerprint which image belongs to which pair, and the images' sizes and times."""
    files = files_by_id(resolve(model.images))
    owners = sorted((pair_id, str(file)) for pair_id, file in files.items())
    return fingerprint_of({"owners": owners, "files": listing_fingerprint(files.values())})


def files_by_id(source: Path) -> dict[str, Path]:
    """Return image files by pair id: the names of files in a folder, or the columns pair_id and file_name of a table."""
    if not source.exists():
        raise StudyError(f"{source}: no such folder or table; correct images in the study")
    if source.is_dir():
        named = [(file.stem, file) for file in image_files(source)]
    else:
        table = read_table(source, ["pair_id", "file_name"])
        named = [(str(row.pair_id), inside(source.parent, row.file_name)) for row in table.itertuples()]
    if twice := [name for name, count in Counter(name for name, _ in named).items() if count > 1]:
        raise StudyError(f"{source}: has more than one image for the pair {twice[0]!r}; keep one")
    return dict(named)


def check_ids(model: ExternalImages, ids: list[str], files: dict[str, Path]) -> None:
    if set(ids).isdisjoint(files):
        theirs = ", ".join(map(repr, sorted(files)[:3])) or "none at all"
        raise StudyError(
            f"model {model.name!r}: no image in {model.images} has the id of a pair; the pairs are called "
            f"{', '.join(map(repr, ids[:3]))}, the images {theirs}"
        )


def taken(file: Path | None, side: int) -> dict:
    """Return the image of one pair as it is stored; or, if it is of no use, why it is lost."""
    if file is None or not file.is_file():
        return {"image": None, "lost": "missing"}
    try:
        return {"image": {"bytes": shrunk(file.read_bytes(), side, str(file)), "path": None}, "lost": ""}
    except UnusableImage as error:
        return {"image": None, "lost": error.cause}
