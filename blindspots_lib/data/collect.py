"""Collect the pairs of a study, and the images that its SAE learns from: validated, written in shards, losses counted."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tqdm import tqdm

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, read_json, shard_path, write_json
from blindspots_lib.core.config import FolderPairs, ImageCorpus, Pairs, SceneCorpus, ScenePairs, contents
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import read_shard, shards_of, write_shard
from blindspots_lib.data.images import decode_image
from blindspots_lib.data.pairs import generation_schema, pair_schema
from blindspots_lib.data.sources import Candidates, Lost, Pair, corpus_inputs, open_corpus, open_source, source_inputs

PAIRS, CORPUS = Stage("pairs", 1), Stage("corpus", 1)


def pairs_artifact(workspace: Workspace, config: Pairs) -> Artifact:
    """The output folder of `collect_pairs`."""
    return Artifact(workspace, "pairs", PAIRS, contents(config, "path", "n_connections", "timeout"), source_inputs(config))


def collect_pairs(workspace: Workspace, config: Pairs) -> Artifact:
    """Draw, copy or download the real image-caption pairs of a study, validated, into Parquet shards.

    An interrupted run goes on after its last finished shard, and a greater `n` after the last pair. (Scenes are drawn
    again: which of them carry another's caption depends on n.) The header counts, by cause, the candidates that gave no pair.
    Raises StudyError if the source has fewer than `n` pairs, and for the first fault of one's own images.
    """
    artifact = pairs_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    artifact.begin(growing="" if isinstance(config, ScenePairs) else "n")
    progress = Progress(artifact)
    wanted, size = config.n or sys.maxsize, config.shard_size
    ids = {row["pair_id"] for path in shards_of(artifact)[: progress.n_shards] for row in read_shard(path, ["pair_id"])}
    source = open_source(config, artifact, skip=progress.taken)
    is_own = isinstance(config, ScenePairs | FolderPairs)
    with tqdm(total=config.n, initial=len(ids), desc="pairs", unit="pair") as bar:
        while len(ids) < wanted:
            rows, taken, lost = next_rows(source, min(size, wanted - len(ids)), ids, is_own, bar)
            if rows:
                write_shard(shard_path(artifact.folder, progress.n_shards, "parquet"), rows, pair_schema())
            progress.add(taken, lost, is_shard=bool(rows))
            if len(rows) < size and len(ids) < wanted:
                break
    if len(ids) < (config.n or 1):
        raise StudyError(f"pairs.n = {config.n}: the source has only {len(ids)} pairs; lower it")
    artifact.finish(n_pairs=len(ids), candidates=progress.taken, lost=progress.lost)
    return artifact


class Progress:
    """How many candidates the finished shards have taken, and what was lost on the way, kept beside the shards."""

    def __init__(self, artifact: Artifact):
        self.path = artifact.folder / "progress.json"
        state = read_json(self.path) if self.path.exists() else {"n_shards": 0, "taken": 0, "lost": {}}
        self.n_shards, self.taken, self.lost = state["n_shards"], state["taken"], state["lost"]

    def add(self, taken: int, lost: Mapping[str, int], is_shard: bool) -> None:
        self.n_shards, self.taken = self.n_shards + is_shard, self.taken + taken
        self.lost = {cause: self.lost.get(cause, 0) + lost.get(cause, 0) for cause in sorted({*self.lost, *lost})}
        write_json(self.path, {"n_shards": self.n_shards, "taken": self.taken, "lost": self.lost})


def next_rows(source: Candidates, n: int, ids: set[str], is_own: bool, bar: tqdm) -> tuple[list[dict], int, Counter]:
    """The next n good pairs as rows, the number of candidates that took, and why the others were lost."""
    rows, taken, lost = [], 0, Counter()
    while len(rows) < n and (candidate := next(source, None)) is not None:
        taken += 1
        fault = Fault(candidate.cause, "") if isinstance(candidate, Lost) else find_fault(candidate, ids)
        if fault and is_own:
            raise StudyError(fault.message)
        if fault:
            lost[fault.cause] += 1
            continue
        ids.add(candidate.pair_id)
        rows.append({**candidate._asdict(), "image": {"bytes": candidate.image, "path": None}})
        bar.update()
    return rows, taken, lost


class Fault(NamedTuple):
    """What is wrong with a pair: the cause that is counted, or the message where it stops the run."""

    cause: str
    message: str


def find_fault(pair: Pair, ids: set[str]) -> Fault | None:
    """Why a pair is not fit for study, or None: its id, its caption, or an image that does not decode."""
    if pair.pair_id in ids:
        return Fault("duplicate", f"pair {pair.pair_id!r}: this pair_id stands twice; give every pair its own")
    if not pair.caption.strip():
        return Fault("no caption", f"pair {pair.pair_id!r}: its caption is empty; add one or remove the pair")
    try:
        decode_image(pair.image, f"image of pair {pair.pair_id!r}")
    except StudyError as error:
        return Fault("not a readable image", str(error))
    return None


def corpus_artifact(workspace: Workspace, config: SceneCorpus | ImageCorpus) -> Artifact:
    """The output folder of `collect_corpus`."""
    return Artifact(workspace, "corpus", CORPUS, contents(config, "path"), corpus_inputs(config))


def collect_corpus(workspace: Workspace, config: SceneCorpus | ImageCorpus) -> Artifact:
    """Collect the images that an SAE learns from, if not the real ones: named where they lie, or copied from a set."""
    artifact = corpus_artifact(workspace, config)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    finished = shards_of(artifact)
    n = sum(len(read_shard(path, ["pair_id"])) for path in finished)
    cells = open_corpus(config, artifact, skip=n)
    with tqdm(total=config.n, initial=n, desc="corpus", unit="image") as bar:
        for index in itertools.count(len(finished)):
            batch = list(itertools.islice(cells, config.shard_size))
            if not batch:
                break
            rows = [corpus_row(f"image-{n + i:08d}", cell) for i, cell in enumerate(batch)]
            write_shard(shard_path(artifact.folder, index, "parquet"), rows, generation_schema())
            n += len(batch)
            bar.update(len(batch))
    if n < (config.n or 1):
        raise StudyError(f"sae.corpus.n = {config.n}: {config.title} has only {n} images; lower it")
    artifact.finish(n_images=n)
    return artifact


def corpus_row(image_id: str, cell: dict) -> dict:
    """The row of an image of the corpus; one of a set that does not decode is lost, one of a folder is read later."""
    fault = ""
    if cell["path"] is None:
        try:
            decode_image(cell["bytes"] or b"", image_id)
        except StudyError:
            fault = "not a readable image"
    return {"pair_id": image_id, "image": None if fault else cell, "lost": fault}
