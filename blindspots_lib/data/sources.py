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

import pandas as pd

from blindspots_lib.core import config as parts
from blindspots_lib.core.artifacts import Artifact, listing_fingerprint, read_json, write_json
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import naming_hub_errors, patiently
from blindspots_lib.core.paths import resolve
from blindspots_lib.data.downloads import download_in_order
from blindspots_lib.data.images import SUFFIXES, encode_png, image_files, shrunk
from blindspots_lib.data.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.tables import find_table, inside, read_table

READ = SUFFIXES | {".csv", ".jsonl", ".json", ".parquet", ".arrow", ".tar", ".zip"}  # files that sources read


class Pair(NamedTuple):
    pair_id: str  # stable, unique
    caption: str
    image: bytes  # an image file


class Lost(NamedTuple):
    cause: str


Candidates = Iterator[Pair | Lost]


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
    """Fingerprint the local files that pairs come from, by their names, sizes and times."""
    if not getattr(config, "path", None):
        return {}
    path = resolve(config.path)
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder; correct the path in the study")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix.lower() in READ]
    return {"files": listing_fingerprint(files)}


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
    for pair_id, caption, file in zip(ids, table[config.caption_column].fillna(""), files, strict=True):
        yield Pair(str(pair_id), str(caption), file.read_bytes())


def pinned(config: parts.Dataset, artifact: Artifact) -> str | None:
    """Return the commit of a set: the study's, or the latest when the run began, which is recorded beside the shards."""
    if config.revision != "latest":
        return config.revision
    record = artifact.folder / "revision.json"
    if not record.exists():
        from huggingface_hub import HfApi

        with naming_hub_errors(config):
            write_json(record, {"revision": patiently(lambda: HfApi().dataset_info(config.repo).sha)})
    return read_json(record)["revision"]


def stream(config: parts.Dataset, revision: str | None, columns: list[str], image_column: str | None, skip: int):
    """Yield the rows of a set, in the study's order, from number `skip` on; images as files, not decoded."""
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    where = str(resolve(config.path)) if config.path else config.repo
    with naming_set_errors(config):
        rows = datasets.load_dataset(where, config.config, split=config.split, revision=revision, streaming=True)
        features = rows.features or rows._resolve_features().features
        if missing := [column for column in columns if column not in features]:
            raise StudyError(f"{config.title}: no column {missing[0]!r}; it has {', '.join(features)}")
        rows = rows.select_columns(columns)
        if image_column:
            rows = rows.cast_column(image_column, datasets.Image(decode=False))
        if getattr(config, "shuffle_buffer", 1) > 1:
            rows = rows.shuffle(seed=config.seed, buffer_size=config.shuffle_buffer)
        yield from rows.skip(skip)


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
        yield pair_or_lost(pair_id, row[config.caption_column], cell_bytes(row[config.image_column], config))


def cell_bytes(cell: dict | None, config: parts.Dataset) -> bytes | None:
    """Return the file of an image column's cell: its bytes, or the file that it names in an archive, repository or local set."""
    if not cell or cell["bytes"] is not None or not cell["path"]:
        return cell and cell["bytes"]
    if "://" not in cell["path"] and not config.path:
        return None  # a set from the hub must not read files of this machine
    from datasets.download.streaming_download_manager import xopen

    try:
        with xopen(cell["path"], "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def pair_or_lost(pair_id: str, caption: Any, image: bytes | None) -> Pair | Lost:
    """Make a pair from the cells of a row, or say what is missing."""
    if not image:
        return Lost("no image")
    if not isinstance(caption, str) or not caption.strip():
        return Lost("no caption")
    return Pair(pair_id, caption, image)


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
                image = next((content for suffix, content in files.items() if suffix in SUFFIXES), None)
                caption = files.get(".txt", b"").decode("utf-8", errors="replace")
                yield pair_or_lost(f"{archive.stem}-{key}", caption, image)
    except (tarfile.TarError, OSError) as error:
        raise StudyError(f"{archive}: not a whole archive ({error}); replace or remove it") from None


def files_of(members) -> Iterator[tuple[str, str, bytes]]:
    """Yield (key, ending, content) of the files of an archive."""
    for member in members:
        if member.isfile():
            key, _, suffix = Path(member.name).name.partition(".")
            yield key, f".{suffix.lower()}", members.extractfile(member).read()


def linked_pairs(config: parts.LinkedPairs, revision: str | None, skip: int) -> Candidates:
    """Download the image of each row. The id is a hash of link and caption, so that it stays if the order changes."""
    rows = stream(config, revision, [config.link_column, config.caption_column], None, skip)
    for row, found in download_in_order(rows, lambda row: row[config.link_column], config):
        link, caption = row[config.link_column], row[config.caption_column]
        cause = found.lost or ("" if isinstance(caption, str) and caption.strip() else "no caption")
        pair_id = hashlib.sha256(f"{link}\n{caption}".encode()).hexdigest()[:16]
        try:
            yield Lost(cause) if cause else Pair(pair_id, caption, shrunk(found.content, config.store_side, link))
        except StudyError:
            yield Lost("not a readable image")


def open_corpus(config: parts.SceneCorpus | parts.ImageCorpus, artifact: Artifact, skip: int) -> Iterator[dict]:
    """Return the images of a corpus from number `skip` on. `artifact` records what must stay the same later."""
    if isinstance(config, parts.SceneCorpus):
        return ({"bytes": encode_png(draw_scene(config.seed, i)[1].image), "path": None} for i in range(skip, config.n))
    return corpus_images(config, pinned(config, artifact), skip)


def corpus_images(config: parts.ImageCorpus, revision: str | None, skip: int) -> Iterator[dict]:
    """Yield the cells of an image column from number `skip` on: paths to the files of a folder, or bytes from a set."""
    if config.repo:
        rows = stream(config, revision, [config.image_column], config.image_column, skip)
        cells = (row[config.image_column] for row in itertools.islice(rows, max(0, config.n - skip)))
        yield from ({"bytes": cell_bytes(cell, config), "path": None} for cell in cells)
        return
    folder = resolve(config.path)
    if not (files := [str(file) for file in image_files(folder)]):
        raise StudyError(f"{folder}: no images there; correct sae.corpus.path")
    if config.n is not None:
        files = pd.Series(files).sample(min(config.n, len(files)), random_state=config.seed).tolist()
    yield from ({"bytes": None, "path": path} for path in files[skip:])
