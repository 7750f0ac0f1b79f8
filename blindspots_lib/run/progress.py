"""What of a study is on disk already, output by output."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blindspots_lib.analysis.descriptors import training_corpus_artifact
from blindspots_lib.analysis.energies import energies_artifact
from blindspots_lib.core.artifacts import HEADER, SUPERSEDED, Artifact, is_output
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.study import Study
from blindspots_lib.models.tokens import tokens_artifact
from blindspots_lib.run.stages import images_of, sae_of, training_images

SHARDS = ("shard-?????.parquet", "batch-*.parquet", "shard-?????.npy")  # files with one row per image


class Written(NamedTuple):
    """How much of an output is on disk."""

    n_images: int = 0
    size: int = 0  # bytes
    complete: bool = False


def outputs_of(study: Study) -> dict[str, Artifact]:
    """Return the outputs of a study by their paths, without those that lack an input, such as weights of a local folder."""
    found: dict[str, Artifact] = {}
    for model in study.models:
        with suppress(StudyError):
            images = images_of(study.model_copy(update={"models": (model,)}))
            found |= {artifact.path: artifact for artifact in images.values()}
            tokens = {
                source: tokens_artifact(study.workspace, study.backbone, source, artifact) for source, artifact in images.items()
            }
            found |= {artifact.path: artifact for artifact in tokens.values()}
            found["sae"] = sae = sae_of(study)
            for source, artifact in tokens.items():
                energies = energies_artifact(study.workspace, study.analysis, source, artifact, sae)
                found[energies.path] = energies
    with suppress(StudyError):
        if getattr(study.sae, "corpus", None):
            found["tokens/corpus"] = tokens_artifact(study.workspace, study.backbone, *training_images(study))
        if study.training_corpus:
            found["training-corpus"] = training_corpus_artifact(study.workspace, study.backbone, study.training_corpus)
    return found


def written(artifact: Artifact | None) -> Written:
    """Return what there is of an output; nothing of one that was made of other settings or inputs."""
    header = header_of(artifact) if artifact else None
    if not header or header["fingerprint"] != artifact.fingerprint:
        return Written()
    shards = [path for pattern in SHARDS for path in artifact.folder.glob(pattern)]
    files = filter(is_output, artifact.folder.iterdir()) if header["complete"] else shards
    return Written(sum(map(n_rows_of, shards)), size_of(files), header["complete"])


def outdated(study: Study, outputs: Iterable[Artifact]) -> int:
    """Return the bytes of what was set aside, and of what will be since its settings or inputs have changed."""
    size = size_of((study.folder / SUPERSEDED).rglob("*"))
    for artifact in outputs:
        header = header_of(artifact)
        if header and header["fingerprint"] != artifact.fingerprint and set(artifact.changes(header)) != {"n"}:
            size += size_of(artifact.folder.iterdir())
    return size


def header_of(artifact: Artifact) -> dict[str, Any] | None:
    """Return the header of an output, or None if it has none or one that the run itself will name."""
    with suppress(StudyError):
        return artifact.header()
    return None


def size_of(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file() and path.name != HEADER)


def n_rows_of(shard: Path) -> int:
    """Return the number of rows of a table or an array; 0 if it is damaged."""
    import pyarrow.parquet as pq

    with suppress(OSError, ValueError):
        return len(np.load(shard, mmap_mode="r")) if shard.suffix == ".npy" else pq.read_metadata(shard).num_rows
    return 0
