"""Image-caption pairs (x, t), one schema for every source, kept as Parquet shards with embedded images."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, read_json, replacing, shard_path, write_json
from blindspots_lib.images import centre_square, decode_image, stored_bytes
from blindspots_lib.parts import FolderPairs, LinkedPairs, ScenePairs, contents
from blindspots_lib.scene_pairs import caption_owners, place_of
from blindspots_lib.scenes import DEFAULT_PRIOR
from blindspots_lib.sources import Candidates, Lost, Pair, corpus_inputs, open_corpus, open_source, source_inputs
from blindspots_lib.study import Study, StudyError


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
    config = contents(study.pairs, "path", "n_connections", "timeout")
    links = isinstance(study.pairs, LinkedPairs)  # dead ones do not come back, whatever becomes of the code
    code = () if links else ("pairs", "scene_pairs", "scenes", "sources")
    return Artifact(study.folder / "pairs", study.name, config, source_inputs(study.pairs), code)


def collect_pairs(study: Study) -> Artifact:
    """Draw, copy or download the real image-caption pairs of a study, validated, into Parquet shards.

    An interrupted run goes on after its last finished shard. The header counts, by cause, the candidates that gave no pair.
    """
    artifact = pairs_artifact(study)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    progress = Progress(artifact)
    wanted, size = study.pairs.n or sys.maxsize, study.pairs.shard_size
    ids = {row["pair_id"] for path in shards_of(artifact)[: progress.n_shards] for row in read_shard(path, ["pair_id"])}
    source = open_source(study.pairs, artifact, skip=progress.taken)
    is_own = isinstance(study.pairs, ScenePairs | FolderPairs)
    with tqdm(total=study.pairs.n, initial=len(ids), desc="pairs", unit="pair") as bar:
        while len(ids) < wanted:
            rows, taken, lost = next_rows(source, min(size, wanted - len(ids)), ids, is_own, bar)
            if rows:
                write_shard(shard_path(artifact.folder, progress.n_shards, "parquet"), rows, pair_schema())
            progress.add(taken, lost, is_shard=bool(rows))
            if len(rows) < size and len(ids) < wanted:
                break
    if len(ids) < (study.pairs.n or 1):
        raise StudyError(f"pairs.n = {study.pairs.n}: the source has only {len(ids)} pairs; lower it")
    process = process_facts(study.pairs) if isinstance(study.pairs, ScenePairs) else {}
    artifact.finish(n_pairs=len(ids), candidates=progress.taken, lost=progress.lost, **process)
    return artifact


def process_facts(config: ScenePairs) -> dict:
    """What is known of pairs that were drawn: the prior, and which of them carry the caption of which other."""
    owners = {position: int(owner) for position, owner in enumerate(caption_owners(config)) if owner != position}
    noise = {place_of(config, position).pair_id: place_of(config, owner).pair_id for position, owner in owners.items()}
    return {"prior": asdict(DEFAULT_PRIOR), "caption_noise": noise}


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
    """Rows of the next n good pairs, how many candidates that took, and why the others were lost."""
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


def collect_corpus(study: Study) -> Artifact:
    """The images that a study's SAE learns from, if not the real ones: named where they lie, or copied from a set."""
    config = study.sae.corpus
    code = ("pairs", "sources", "scenes")
    artifact = Artifact(study.folder / "corpus", study.name, contents(config, "path"), corpus_inputs(config), code)
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


class PairTable(NamedTuple):
    """All pairs of a study without their images, in order."""

    pair_ids: list[str]
    captions: list[str]
    concepts: list[list[dict]]


def read_pair_table(artifact: Artifact) -> PairTable:
    rows = [row for path in shards_of(artifact) for row in read_shard(path, ["pair_id", "caption", "concepts"])]
    return PairTable(*([row[key] for row in rows] for key in ("pair_id", "caption", "concepts")))


class ImageStore:
    """Images of an artifact by pair id, as the backbone sees them (the centre crop), one shard in memory at a time."""

    def __init__(self, artifact: Artifact, share: float = 1.0):
        self.share = share  # of the short side that is seen
        where = [(row["pair_id"], path) for path in shards_of(artifact) for row in read_shard(path, ["pair_id"])]
        self.shard_of = dict(where)
        self.row_of = {pair_id: row for row, (pair_id, _) in enumerate(where)}  # over all shards
        self.open_path, self.open_rows = None, {}

    def __getitem__(self, pair_id: str) -> Image.Image:
        path = self.shard_of[pair_id]
        if path != self.open_path:
            self.open_rows = {row["pair_id"]: row["image"] for row in read_shard(path, ["pair_id", "image"])}
            self.open_path = path
        name = f"image of pair {pair_id!r} in {path}"
        return centre_square(decode_image(stored_bytes(self.open_rows[pair_id], name), name), self.share)


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
