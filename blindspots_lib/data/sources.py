"""Sources of pairs: scenes, a folder, a set of `datasets`, a webdataset, links. Each yields candidates in a fixed order.

A candidate is a `Pair`, or `Lost` with the cause. From the web some pairs are always missing; they are counted by cause.
In the user's own folder nothing should be missing, so the first fault there stops the run.
"""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from blindspots_lib.core import config as parts
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import file_fingerprint, listing_fingerprint, read_json, write_json
from blindspots_lib.core.hub import naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve
from blindspots_lib.data.downloads import download_in_order, fetch_image
from blindspots_lib.data.images import SUFFIXES, encode_png, image_files
from blindspots_lib.data.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.tables import TABLES, find_table, inside, read_table

READ = SUFFIXES | {".csv", ".jsonl", ".json", ".parquet", ".arrow", ".tar", ".zip"}  # files that sources read


class Pair(NamedTuple):
    pair_id: str  # stable, unique
    caption: str
    image: bytes  # an image file


class Lost(NamedTuple):
    cause: str
    message: str = ""  # where a loss stops the run


Candidates = Iterator[Pair | Lost]
CorpusImage = bytes | Path | Lost  # an image file, or the path of one
LARGEST_FILE = 200_000_000  # bytes that a file in an archive may have
N_PARTS = 32  # row groups of a set that are read at a time
LIMITS = parts.LinkedPairs.model_construct()  # of links in an image column: the defaults of a set of links
ARCHIVES = ("zip://", "gzip://", "bz2://", "lz4://", "xz://", "zstd://")


def open_source(config, artifact: Artifact, skip: int) -> Candidates:
    """Return the candidates of a study's pairs from number `skip` on. `artifact` records what must stay the same later."""
    match config:
        case parts.ScenePairs():
            return drawn_pairs(config, skip)
        case parts.FolderPairs():
            return itertools.islice(folder_pairs(config), skip, None)
        case parts.DatasetPairs():
            return dataset_pairs(config, pinned(config, artifact), skip)
        case parts.WebdatasetPairs():
            return webdataset_pairs(config, skip)
        case parts.LinkedPairs():
            return linked_pairs(config, pinned(config, artifact), skip)


def source_inputs(config) -> dict[str, str]:
    """Fingerprint the local files that pairs come from, by their names, sizes and times; a folder's table by its content."""
    if not getattr(config, "path", None):
        return {}
    path = resolve(config.path)
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder; correct the path in the study")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix.lower() in READ]
    tables = [file for file in files if isinstance(config, parts.FolderPairs) and file.name in TABLES]
    return {"files": listing_fingerprint(files), **{f"captions in {table.name}": file_fingerprint(table) for table in tables}}


def corpus_inputs(config: parts.SceneCorpus | parts.ImageCorpus) -> dict[str, str]:
    """Fingerprint the images of a local corpus, by their names, sizes and times."""
    if isinstance(config, parts.SceneCorpus) or config.repo:
        return {}
    return {"files": listing_fingerprint(image_files(resolve(config.path)))}


def drawn_pairs(config: parts.ScenePairs, skip: int) -> Candidates:
    owners = caption_owners(config)
    for position in range(skip, config.n):
        place = place_of(config, position)
        image = encode_png(draw_scene(*place)[1].image)
        yield Pair(place.pair_id, described_scene(config, int(owners[position])).caption, image)


def folder_pairs(config: parts.FolderPairs) -> Candidates:
    return (Pair(pair_id, caption, file.read_bytes()) for pair_id, caption, file in folder_rows(config))


def folder_rows(config: parts.FolderPairs) -> Iterator[tuple[str, str, Path]]:
    """Yield the id, the caption and the image file of each pair of a folder. Raises StudyError if a file is missing."""
    folder = resolve(config.path)
    table = read_table(find_table(folder), list(filter(None, ("file_name", config.caption_column, config.id_column))))
    files = [inside(folder, name) for name in table["file_name"]]
    if missing := [name for name, file in zip(table["file_name"], files, strict=True) if not file.is_file()]:
        raise StudyError(
            f"{folder}: {len(missing)} of {len(files)} images are missing, such as {', '.join(map(repr, missing[:3]))}; "
            "add them or remove their rows"
        )
    ids = table[config.id_column] if config.id_column else pd.Series([Path(name).stem for name in table["file_name"]])
    if ids.isna().any():
        raise StudyError(f"{folder}: row {int(ids.isna().argmax()) + 1} of its table has no {config.id_column}; fill it in")
    for pair_id, caption, file in zip(ids, table[config.caption_column], files, strict=True):
        yield str(pair_id), caption_text(caption), file


def pinned(config: parts.Dataset, artifact: Artifact) -> str | None:
    """Return the commit of a set: the study's, or the latest when the run began, which is recorded beside the shards."""
    if config.revision != "latest":
        return config.revision
    record = artifact.folder / "revision.json"
    if not record.exists():
        from huggingface_hub import HfApi

        with naming_hub_errors(config):
            write_json(record, {"revision": patiently(lambda: HfApi().dataset_info(config.repo).sha)})
    return read_json(record, "revision")["revision"]


def stream(config: parts.Dataset, revision: str | None, columns: list[str], image_column: str | None, skip: int):
    """Yield the rows of a set, in the study's order, from number `skip` on; images as files, not decoded."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    where, buffer = str(resolve(config.path)) if config.path else config.repo, getattr(config, "shuffle_buffer", 1)
    with naming_set_errors(config), tqdm(desc="rows read", unit="row", leave=False, disable=buffer == 1) as bar:
        builder = datasets.load_dataset_builder(where, config.config, revision=revision)
        if hasattr(builder.config, "decode_num_threads"):
            builder.config.decode_num_threads = 0  # images of the hub would be decoded there, without our limits
        rows = builder.as_streaming_dataset(split=config.split)
        features = rows.features or rows._resolve_features().features
        if missing := [column for column in columns if column not in features]:
            raise StudyError(f"{config.title}: no column {missing[0]!r}; it has {', '.join(features)}")
        if isinstance(builder, Parquet):
            builder.config.columns, builder.config.batch_size = columns, max(1, buffer // N_PARTS)  # no more is held in memory
            rows = builder.as_streaming_dataset(split=config.split)
        rows = rows.select_columns(columns)
        if image_column:
            rows = rows.cast_column(image_column, datasets.Image(decode=False))
        if buffer > 1:
            rows = shuffled(rows, config, bar)
        yield from rows.skip(skip)


def shuffled(rows, config: parts.Dataset, bar: tqdm):
    """Draw row groups of all files of a set by the study's seed, `N_PARTS` at a time, and mix their rows in a buffer."""

    def count(table):
        bar.update(len(table))
        return table

    rows = rows.reshard()  # row groups in place of files
    if rows._ex_iterable.iter_arrow:
        rows = rows.with_format("arrow").map(count, batched=True, features=rows.features).with_format(None)
    return rows.shuffle(seed=config.seed, buffer_size=config.shuffle_buffer, max_buffer_input_shards=N_PARTS)


@contextmanager
def naming_set_errors(config: parts.Dataset) -> Iterator[None]:
    """Turn what `datasets` raises into one line."""
    import datasets

    try:
        with naming_hub_errors(config):
            yield
    except datasets.exceptions.DatasetNotFoundError as error:
        gated = f"is gated; accept its agreement at https://huggingface.co/datasets/{config.repo} and log in with `hf auth login`"
        missing = "no such set, or a private one; correct it, or log in with `hf auth login`"
        raise StudyError(f"{config.title}: {gated if 'gated' in str(error) else missing}") from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{config.title}: cannot be read as a set ({reason}); what came is kept") from None


def dataset_pairs(config: parts.DatasetPairs, revision: str | None, skip: int) -> Candidates:
    columns = list(filter(None, (config.caption_column, config.image_column, config.id_column)))
    for number, row in enumerate(stream(config, revision, columns, config.image_column, skip), start=skip):
        pair_id = str(row[config.id_column]) if config.id_column else f"row-{number:08d}"
        image = cell_image(row[config.image_column], config)
        yield image if isinstance(image, Lost) else Pair(pair_id, caption_text(row[config.caption_column]), image)


def cell_image(cell: dict | None, config: parts.Dataset) -> bytes | Lost:
    """Return the file of an image column's cell: its bytes, or those of the file that it names.

    A set from the hub may name links and members of its own archives, no files of this machine or of others. What cannot be
    opened is lost.
    """
    if cell and cell["bytes"]:
        return cell["bytes"]
    if not cell or not cell["path"]:
        return Lost("no image")
    *outer, place = cell["path"].split("::")
    if not outer and place.startswith(("http://", "https://")):
        from blindspots_lib.data.connections import link_client

        with link_client(1, LIMITS.timeout) as client:
            found = fetch_image(client, place, LIMITS)
        return Lost(found.lost) if found.lost else found.content
    is_own = place.startswith(f"hf://datasets/{config.repo}@") and all(part.startswith(ARCHIVES) for part in outer)
    if not config.path and not is_own:
        return Lost("a file outside of the set")
    from datasets.download.streaming_download_manager import xopen

    def read() -> bytes:
        with xopen(cell["path"], "rb") as file:
            return file.read()

    try:
        return patiently(read) or Lost("no image")
    except Exception:  # fsspec, archives and the hub's client raise many kinds
        return Lost("a file that cannot be opened")


def caption_text(cell: Any) -> str:
    """Return the caption of a cell: its text, UTF-8 bytes decoded, the first of a list that is not empty; "" for all else."""
    if isinstance(cell, list | tuple | np.ndarray):
        return next(filter(str.strip, map(caption_text, cell)), "")
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace")
    return cell if isinstance(cell, str) else ""


def webdataset_pairs(config: parts.WebdatasetPairs, skip: int) -> Candidates:
    """Yield the samples of all .tar files of a folder, in the order of their names."""
    folder = resolve(config.path)
    if not (archives := sorted(folder.glob("*.tar"))):
        raise StudyError(f"{folder}: no .tar files there; correct pairs.path")
    yield from itertools.islice(itertools.chain.from_iterable(map(archive_pairs, archives)), skip, None)


def archive_pairs(archive: Path) -> Candidates:
    import tarfile

    try:
        with tarfile.open(archive, "r|") as members:
            for key, group in itertools.groupby(files_of(members), key=lambda file: file[0]):
                files = {suffix: content for _, suffix, content in group}
                suffix = next((suffix for suffix in files if suffix in SUFFIXES), "")
                image, caption = files.get(suffix, b""), caption_text(files.get(".txt"))
                lost = Lost("too large" if image is None else "no image")
                yield Pair(f"{archive.stem}-{key}", caption, image) if image else lost
    except (tarfile.TarError, OSError) as error:
        raise StudyError(f"{archive}: not a whole archive ({error}); replace or remove it") from None


def files_of(members) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield (key, ending, content) of the files of an archive; no content of a file that is larger than `LARGEST_FILE`."""
    for member in members:
        if member.isfile():
            key, _, suffix = Path(member.name).name.partition(".")
            yield key, f".{suffix.lower()}", members.extractfile(member).read() if member.size <= LARGEST_FILE else None


def linked_pairs(config: parts.LinkedPairs, revision: str | None, skip: int) -> Candidates:
    """Download the image of each row. The id is a hash of link and caption, so that it stays if the order changes."""
    rows = stream(config, revision, [config.link_column, config.caption_column], None, skip)
    for row, found in download_in_order(rows, lambda row: row[config.link_column], config):
        link, caption = row[config.link_column], caption_text(row[config.caption_column])
        pair_id = hashlib.sha256(f"{link}\n{caption}".encode(errors="replace")).hexdigest()[:16]
        yield Lost(found.lost) if found.lost else Pair(pair_id, caption, found.content)


def open_corpus(config: parts.SceneCorpus | parts.ImageCorpus, artifact: Artifact, skip: int) -> Iterator[CorpusImage]:
    """Return the images of a corpus from number `skip` on. `artifact` records what must stay the same later."""
    if isinstance(config, parts.SceneCorpus):
        return (encode_png(draw_scene(config.seed, i)[1].image) for i in range(skip, config.n))
    return corpus_images(config, pinned(config, artifact), skip)


def corpus_images(config: parts.ImageCorpus, revision: str | None, skip: int) -> Iterator[CorpusImage]:
    """Yield images from number `skip` on: paths to the files of a folder, or files from a set."""
    if config.repo:
        rows = stream(config, revision, [config.image_column], config.image_column, skip)
        cells = (row[config.image_column] for row in itertools.islice(rows, max(0, config.n - skip)))
        yield from (cell_image(cell, config) for cell in cells)
        return
    folder = resolve(config.path)
    if not (files := [str(file) for file in image_files(folder)]):
        raise StudyError(f"{folder}: no images there; correct sae.corpus.path")
    if config.n is not None:
        files = pd.Series(files).sample(min(config.n, len(files)), random_state=config.seed).tolist()
    yield from map(Path, files[skip:])
