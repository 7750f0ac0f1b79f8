"""Collect the pairs of a study and the images that its SAE learns from: validate them, write shards, count losses."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, shard_path
from blindspots_lib.core.config import FolderPairs, ImageCorpus, LinkedPairs, Pairs, SceneCorpus, ScenePairs, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import file_fingerprint, fingerprint_of, read_json, write_json
from blindspots_lib.core.storage import read_shard, shards_of, write_shard
from blindspots_lib.data.images import UnusableImage, shrunk
from blindspots_lib.data.pairs import generation_schema, pair_schema
from blindspots_lib.data.sources import (
    Candidates,
    CorpusImage,
    Lost,
    Pair,
    corpus_inputs,
    open_corpus,
    open_source,
    source_inputs,
)  # fmt: skip

EMPTY = {"n_shards": 0, "taken": 0, "lost": {}}  # progress
PAIRS, CORPUS = Stage("pairs", 2), Stage("corpus", 2)


def pairs_artifact(workspace: Workspace, config: Pairs) -> Artifact:
    """Describe the output folder of `collect_pairs`."""
    return Artifact(workspace, "pairs", PAIRS, contents(config, "path", "n_connections", "timeout"), source_inputs(config))


def identity_of(images: Artifact) -> str:
    """Return the fingerprint of an output of images for what is made of them.

    Pairs and corpora from the web are never the same twice: links die. What came is part of their identity, though not of
    their own fingerprint, which says only what was asked for.
    """
    header = images.header()
    came = header["facts"].get("came") if header and header["fingerprint"] == images.fingerprint else None
    return fingerprint_of([images.fingerprint, came]) if came else images.fingerprint


def what_came(config: Pairs | SceneCorpus | ImageCorpus, artifact: Artifact) -> dict[str, str]:
    """Return the facts that identify the images of a source on the web: one digest of all shards; none of other sources."""
    is_remote = isinstance(config, LinkedPairs) or getattr(config, "repo", None)
    return {"came": fingerprint_of([file_fingerprint(path) for path in shards_of(artifact)])} if is_remote else {}


def collect_pairs(workspace: Workspace, config: Pairs) -> Artifact:
    """Draw, copy or download the real image-caption pairs of a study into Parquet shards; validate each pair.

    An interrupted run goes on after its last finished shard, and a greater `n` after the last pair. Scenes are drawn again,
    because the caption noise depends on n. The header counts lost candidates by cause.
    Raises StudyError if the source has fewer than `n` pairs, or at the first fault in the user's own images.
    """
    artifact = pairs_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    artifact.begin(growing="" if isinstance(config, ScenePairs) else "n")
    progress = Progress(artifact)
    wanted, size = config.n or sys.maxsize, config.shard_size
    ids = {
        row["pair_id"]
        for path in shards_of(artifact, progress.n_shards)[: progress.n_shards]
        for row in read_shard(path, ["pair_id"])
    }
    source = open_source(config, artifact, skip=progress.taken)
    is_own = isinstance(config, ScenePairs | FolderPairs)
    with tqdm(total=config.n, initial=len(ids), desc="pairs", unit="pair") as bar:
        while len(ids) < wanted:
            rows, taken, lost = next_rows(source, min(size, wanted - len(ids)), ids, config.store_side, is_own, bar)
            if rows:
                write_shard(shard_path(artifact.folder, progress.n_shards, "parquet"), rows, pair_schema())
            progress.add(taken, lost, is_shard=bool(rows))
            if len(rows) < size and len(ids) < wanted:
                break
    if not ids:
        lost = ", ".join(f"{cause}: {count}" for cause, count in progress.lost.items())
        reason = f"none of its {progress.taken} candidates became a pair ({lost})" if lost else "has no pairs; add some"
        raise StudyError(f"{getattr(config, 'path', None) or getattr(config, 'repo', 'pairs')}: {reason}")
    if len(ids) < (config.n or 1):
        raise StudyError(f"pairs.n = {config.n}: the source has only {len(ids)} pairs; lower it")
    artifact.finish(n_pairs=len(ids), candidates=progress.taken, lost=progress.lost, **what_came(config, artifact))
    return artifact


class Progress:
    """The number of candidates that finished shards took, and the losses by cause; stored beside the shards."""

    def __init__(self, artifact: Artifact):
        self.path = artifact.folder / "progress.json"
        state = read_json(self.path, *EMPTY) if self.path.exists() else EMPTY
        self.n_shards, self.taken, self.lost = state["n_shards"], state["taken"], state["lost"]

    def add(self, taken: int, lost: Mapping[str, int], is_shard: bool) -> None:
        self.n_shards, self.taken = self.n_shards + is_shard, self.taken + taken
        self.lost = {cause: self.lost.get(cause, 0) + lost.get(cause, 0) for cause in sorted({*self.lost, *lost})}
        write_json(self.path, {"n_shards": self.n_shards, "taken": self.taken, "lost": self.lost})


def next_rows(source: Candidates, n: int, ids: set[str], side: int, is_own: bool, bar: tqdm) -> tuple[list[dict], int, Counter]:
    """Return the next n good pairs as rows, the number of candidates they took, and the number of lost ones by cause."""
    rows, taken, lost = [], 0, Counter()
    while len(rows) < n and (candidate := next(source, None)) is not None:
        taken += 1
        found = candidate if isinstance(candidate, Lost) else pair_or_fault(candidate, ids, side)
        if isinstance(found, Pair):
            ids.add(found.pair_id)
            rows.append({**found._asdict(), "image": {"bytes": found.image, "path": None}})
            bar.update()
        elif is_own:
            raise StudyError(found.message)
        else:
            lost[found.cause] += 1
    return rows, taken, lost


def pair_or_fault(pair: Pair, ids: set[str], side: int) -> Pair | Lost:
    """Return a pair with its image as it is stored, or what is wrong with it."""
    if fault := text_fault(pair.pair_id, pair.caption, ids):
        return fault
    try:
        return pair._replace(image=shrunk(pair.image, side, f"image of pair {pair.pair_id!r}"))
    except UnusableImage as error:
        return Lost(error.cause, str(error))


def text_fault(pair_id: str, caption: str, ids: set[str]) -> Lost | None:
    """Return what is wrong with a pair's id, where these `ids` came before, or with its caption."""
    if pair_id in ids:
        return Lost("duplicate", f"pair {pair_id!r}: this pair_id stands twice; give every pair its own")
    if not caption.strip():
        return Lost("no caption", f"pair {pair_id!r}: its caption is empty or not a text; add one or remove the pair")
    return None


def corpus_artifact(workspace: Workspace, config: SceneCorpus | ImageCorpus) -> Artifact:
    """Describe the output folder of `collect_corpus`."""
    return Artifact(workspace, "corpus", CORPUS, contents(config, "path"), corpus_inputs(config))


def collect_corpus(workspace: Workspace, config: SceneCorpus | ImageCorpus) -> Artifact:
    """Collect the images that an SAE learns from, if not the real ones: paths to those of a folder, copies of a set's."""
    artifact = corpus_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    finished = shards_of(artifact)
    n = sum(len(read_shard(path, ["pair_id"])) for path in finished)
    images = open_corpus(config, artifact, skip=n)
    with tqdm(total=config.n, initial=n, desc="corpus", unit="image") as bar:
        for index in itertools.count(len(finished)):
            taken = itertools.islice(images, config.shard_size)
            rows = [corpus_row(f"image-{n + i:08d}", image, config.store_side) for i, image in enumerate(taken)]
            if not rows:
                break
            write_shard(shard_path(artifact.folder, index, "parquet"), rows, generation_schema())
            n += len(rows)
            bar.update(len(rows))
    if n < (config.n or 1):
        raise StudyError(f"sae.corpus.n = {config.n}: {config.title} has only {n} images; lower it")
    artifact.finish(n_images=n, **what_came(config, artifact))
    return artifact


def corpus_row(image_id: str, image: CorpusImage, side: int) -> dict:
    """Make the row of a corpus image. An image of a set that does not decode is lost; those of a folder are read later."""
    if isinstance(image, Path):
        return {"pair_id": image_id, "image": {"bytes": None, "path": str(image)}, "lost": ""}
    try:
        lost, content = (image.cause, None) if isinstance(image, Lost) else ("", shrunk(image, side, image_id))
    except UnusableImage as error:
        lost, content = error.cause, None
    return {"pair_id": image_id, "image": content and {"bytes": content, "path": None}, "lost": lost}
