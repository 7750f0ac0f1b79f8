"""Where pairs come from: scenes, a folder, a set of `datasets`, a webdataset, links. Each gives candidates in a fixed order.

A candidate is a `Pair`, or `Lost` with the cause: of what strangers put on the web some is always missing, and that is
counted. In a folder of one's own nothing should be missing, so there the first fault stops the run and is named.
"""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from blindspots_lib.core.artifacts import Artifact, listing_fingerprint, read_json, write_json
from blindspots_lib.core.config import (
    DatasetPairs,
    FolderPairs,
    ImageCorpus,
    LinkedPairs,
    Place,
    SceneCorpus,
    ScenePairs,
    WebdatasetPairs,
)
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve
from blindspots_lib.data.downloads import download_in_order
from blindspots_lib.data.images import SUFFIXES, encode_png, shrunk
from blindspots_lib.data.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.tables import find_table, inside, read_table

READ = SUFFIXES | {".csv", ".jsonl", ".json", ".parquet", ".arrow", ".tar", ".zip"}  # the files that sources are made of


class Pair(NamedTuple):
    pair_id: str  # stable, unique
    caption: str
    image: bytes  # an image file


class Lost(NamedTuple):
    cause: str


Candidates = Iterator[Pair | Lost]


def open_source(config, artifact: Artifact, skip: int) -> Candidates:
    """The candidates of a study's pairs from number `skip` on; what must stay the same later is recorded in `artifact`."""
    match config:
        case ScenePairs():
            return drawn_pairs(config, skip)
        case FolderPairs():
            return itertools.islice(folder_pairs(config), skip, None)
        case DatasetPairs():
            return dataset_pairs(config, pinned(config, artifact), skip)
        case WebdatasetPairs():
            return webdataset_pairs(config, skip)
        case LinkedPairs():
            return linked_pairs(config, pinned(config, artifact), skip)


def source_inputs(config) -> dict[str, str]:
    """Fingerprints of the local files that pairs come from: their names, sizes and times."""
    if not getattr(config, "path", None):
        return {}
    path = resolve(config.path)
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder; correct the path in the study")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix.lower() in READ]
    return {"files": listing_fingerprint(files)}


def corpus_inputs(config: SceneCorpus | ImageCorpus) -> dict[str, str]:
    """The fingerprint of the images of a local corpus: their names, sizes and times."""
    if isinstance(config, SceneCorpus) or config.repo:
        return {}
    return {"files": listing_fingerprint(image_files(resolve(config.path)))}


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in order."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def drawn_pairs(config: ScenePairs, skip: int) -> Candidates:
    owners = caption_owners(config)
    for position in range(skip, config.n):
        place = place_of(config, position)
        rendering = draw_scene(*place)[1]
        yield Pair(place.pair_id, described_scene(config, int(owners[position])).caption, encode_png(rendering.image))


# -- a folder of one's own -----------------------------------------------------------------------------------------------


def folder_pairs(config: FolderPairs) -> Candidates:
    folder = resolve(config.path)
    table = read_table(
        find_table(folder), ["file_name", config.caption_column, *([config.id_column] if config.id_column else [])]
    )
    files = [inside(folder, name) for name in table["file_name"]]
    missing = [name for name, file in zip(table["file_name"], files, strict=True) if not file.is_file()]
    if missing:
        raise StudyError(
            f"{folder}: {len(missing)} of {len(files)} images are missing, such as {', '.join(map(repr, missing[:3]))}; "
            "add them or remove their rows"
        )
    ids = table[config.id_column] if config.id_column else pd.Series([Path(name).stem for name in table["file_name"]])
    if ids.isna().any():
        raise StudyError(f"{folder}: row {int(ids.isna().argmax()) + 1} of its table has no {config.id_column}; fill it in")
    for pair_id, caption, file in zip(ids, table[config.caption_column].fillna(""), files, strict=True):
        yield Pair(str(pair_id), str(caption), file.read_bytes())


# -- sets of the datasets library ----------------------------------------------------------------------------------------


def pinned(config: Place, artifact: Artifact) -> str | None:
    """The commit of a set: the study's, or the latest when the run began, which is recorded beside the shards."""
    if config.revision != "latest":
        return config.revision
    record = artifact.folder / "revision.json"
    if not record.exists():
        from huggingface_hub import HfApi

        with naming_hub_errors(config):
            write_json(record, {"revision": patiently(lambda: HfApi().dataset_info(config.repo).sha)})
    return read_json(record)["revision"]


def stream(config: Place, revision: str | None, columns: list[str], image_column: str | None, skip: int):
    """The rows of a set, in the study's order, from number `skip` on; images as files, not decoded."""
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    where = str(resolve(config.path)) if config.path else config.repo
    with naming_set_errors(config):
        rows = datasets.load_dataset(where, config.config, split=config.split, revision=revision, streaming=True)
        features = rows.features or rows._resolve_features().features
        missing = [column for column in columns if column not in features]
        if missing:
            raise StudyError(f"{config.title}: no column {missing[0]!r}; it has {', '.join(features)}")
        rows = rows.select_columns(columns)
        if image_column:
            rows = rows.cast_column(image_column, datasets.Image(decode=False))
        if getattr(config, "shuffle_buffer", 1) > 1:
            rows = rows.shuffle(seed=config.seed, buffer_size=config.shuffle_buffer)
        yield from rows.skip(skip)


@contextmanager
def naming_set_errors(config: Place) -> Iterator[None]:
    """Turn what `datasets` raises into one line."""
    import datasets

    try:
        with naming_hub_errors(config):
            yield
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise StudyError(
                f"{config.title}: is gated; accept its agreement at https://huggingface.co/datasets/{config.repo} and log in "
                "with `hf auth login`"
            ) from None
        raise StudyError(f"{config.title}: no such set, or a private one; correct it, or log in with `hf auth login`") from None
    except StudyError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{config.title}: cannot be read as a set ({reason}); what came is kept") from None


def dataset_pairs(config: DatasetPairs, revision: str | None, skip: int) -> Candidates:
    columns = [config.caption_column, config.image_column, *([config.id_column] if config.id_column else [])]
    for number, row in enumerate(stream(config, revision, columns, config.image_column, skip), start=skip):
        pair_id = str(row[config.id_column]) if config.id_column else f"row-{number:08d}"
        yield pair_or_lost(pair_id, row[config.caption_column], cell_bytes(row[config.image_column], config))


def cell_bytes(cell: dict | None, config: Place) -> bytes | None:
    """The file of an image column's cell: in it, in an archive or repository that it names, or of a local set on this disk."""
    if not cell or cell["bytes"] is not None or not cell["path"]:
        return cell and cell["bytes"]
    if "://" not in cell["path"] and not config.path:
        return None  # a set from the hub does not choose files of this machine
    from datasets.download.streaming_download_manager import xopen

    try:
        with xopen(cell["path"], "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def pair_or_lost(pair_id: str, caption: Any, image: bytes | None) -> Pair | Lost:
    """A pair from the cells of a row, or why it is none."""
    if not image:
        return Lost("no image")
    if not isinstance(caption, str) or not caption.strip():
        return Lost("no caption")
    return Pair(pair_id, caption, image)


def webdataset_pairs(config: WebdatasetPairs, skip: int) -> Candidates:
    """The samples of all .tar files of a folder, in the order of their names."""
    import tarfile

    folder = resolve(config.path)
    archives = sorted(folder.glob("*.tar"))
    if not archives:
        raise StudyError(f"{folder}: no .tar files there; correct pairs.path")

    def samples() -> Candidates:
        for archive in archives:
            try:
                with tarfile.open(archive, "r|") as members:
                    for key, group in itertools.groupby(files_of(members), key=lambda file: file[0]):
                        yield sample_pair(f"{archive.stem}-{key}", {suffix: content for _, suffix, content in group})
            except (tarfile.TarError, OSError) as error:
                raise StudyError(f"{archive}: not a whole archive ({error}); replace or remove it") from None

    yield from itertools.islice(samples(), skip, None)


def files_of(members) -> Iterator[tuple[str, str, bytes]]:
    """(key, ending, content) of the files of an archive."""
    for member in members:
        if member.isfile():
            key, _, suffix = Path(member.name).name.partition(".")
            yield key, f".{suffix.lower()}", members.extractfile(member).read()


def sample_pair(pair_id: str, files: dict[str, bytes]) -> Pair | Lost:
    image = next((content for suffix, content in files.items() if suffix in SUFFIXES), None)
    caption = files.get(".txt", b"").decode("utf-8", errors="replace")
    return pair_or_lost(pair_id, caption, image)


# -- links ---------------------------------------------------------------------------------------------------------------


def linked_pairs(config: LinkedPairs, revision: str | None, skip: int) -> Candidates:
    """Rows of links and captions, each image downloaded; the id is a hash of both, so that it stays if the order changes."""
    rows = stream(config, revision, [config.link_column, config.caption_column], None, skip)
    for row, found in download_in_order(rows, lambda row: row[config.link_column], config):
        link, caption = row[config.link_column], row[config.caption_column]
        if found.lost:
            yield Lost(found.lost)
        elif not isinstance(caption, str) or not caption.strip():
            yield Lost("no caption")
        else:
            pair_id = hashlib.sha256(f"{link}\n{caption}".encode()).hexdigest()[:16]
            try:
                yield Pair(pair_id, caption, shrunk(found.content, config.store_side, link))
            except StudyError:
                yield Lost("not a readable image")


# -- images alone --------------------------------------------------------------------------------------------------------


def open_corpus(config: SceneCorpus | ImageCorpus, artifact: Artifact, skip: int) -> Iterator[dict]:
    """The images of a corpus from number `skip` on; what must stay the same later is recorded in `artifact`."""
    if isinstance(config, SceneCorpus):
        return ({"bytes": encode_png(draw_scene(config.seed, i)[1].image), "path": None} for i in range(skip, config.n))
    return corpus_images(config, pinned(config, artifact), skip)


def corpus_images(config: ImageCorpus, revision: str | None, skip: int) -> Iterator[dict]:
    """The cells of an image column from number `skip` on: the files of a folder, named where they lie, or bytes of a set."""
    if config.repo:
        rows = stream(config, revision, [config.image_column], config.image_column, skip)
        cells = (row[config.image_column] for row in itertools.islice(rows, max(0, config.n - skip)))
        yield from ({"bytes": cell_bytes(cell, config), "path": None} for cell in cells)
        return
    folder = resolve(config.path)
    files = [str(file) for file in image_files(folder)]
    if not files:
        raise StudyError(f"{folder}: no images there; correct sae.corpus.path")
    if config.n is not None:
        files = pd.Series(files).sample(min(config.n, len(files)), random_state=config.seed).tolist()
    yield from ({"bytes": None, "path": path} for path in files[skip:])
