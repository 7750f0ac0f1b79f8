"""The bytes that a study writes: measured on what is there already and on a sample of its images, else a first guess."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blindspots_lib.core import config
from blindspots_lib.core.artifacts import Artifact
from blindspots_lib.core.config import ExternalImages, PerfectGenerator, SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import resolve
from blindspots_lib.core.study import Study
from blindspots_lib.data.images import UnusableImage, encode_png, shrunk
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.sources import Pair, folder_rows, webdataset_pairs
from blindspots_lib.models.external import files_by_id
from blindspots_lib.run.costs import guessed_active, n_corpus, n_pairs, n_parameters, trained_again
from blindspots_lib.run.progress import outdated, outputs_of, written

SAMPLE, SEED = 48, 0  # images of one's own that are encoded as they will be stored; which ones
SCENES = 8  # scenes that are drawn
PHOTO_BYTES_PER_PIXEL = 0.3  # of a photograph's JPEG, of 4 : 3
PNG_BYTES_PER_PIXEL = 1.6  # of generated images
ROW_BYTES = 200  # of a pair's id and caption, or of a path
CODE_BYTES, OFFSET_BYTES, ENERGY_BYTES = 6, 8, 5  # of an active concept of a token; of a token; of one of an image, compressed
CONCEPT_BYTES = 464  # of a concept's sums and top images in the statistics
TOGETHER_BYTES = 12  # of two concepts that fire together
REPEATED = 0.8  # exponent with which the number of different pairs of concepts grows with all that fire together
ENCODED = 64  # real images whose codes are counted, where they and the SAE are here already
CELL_BYTES, COLUMNS, OWN_COLUMNS = 4, 20, 12  # of the tables; per model, and besides
Known = tuple[int | float, str]  # bytes, and how they are known


class Disk(NamedTuple):
    """The bytes of one kind of output."""

    what: str
    size: int | float
    how: str  # it is known


class Codes(NamedTuple):
    """Mean numbers of codes in real images."""

    per_token: float
    per_image: float  # different concepts
    pairs: Callable[[int], float]  # of concepts that fire together, by the number of images
    how: str = "by some real images"


def disk_rows(study: Study, tokens: int, width: int) -> list[Disk]:
    """Return the bytes on disk of each kind of output; what is written already counts as it is."""
    n, outputs = n_pairs(study), outputs_of(study)
    sources = ["real", *(model.name for model in study.models)]

    def size(path: str, guess: Callable[[], Known]) -> Known:
        found = written(outputs.get(path))
        if found.complete or found.n_images:
            return found.size * (1 if found.complete else n / found.n_images), "as written"
        return guess()

    images = [size(f"generations/{model.name}", lambda model=model: image_bytes(model, n)) for model in study.models]
    codes, per_token = some_codes(study, tokens, outputs), 2.0 * width * study.backbone.keep_tokens
    encoded = n * (tokens * (codes.per_token * CODE_BYTES + OFFSET_BYTES) + codes.per_image * ENERGY_BYTES)
    energies = [size(f"energies/{source}", lambda: (encoded, codes.how)) for source in sources]
    statistics = CONCEPT_BYTES * study.sae.n_concepts + TOGETHER_BYTES * codes.pairs(n)
    cells = study.sae.n_concepts * (OWN_COLUMNS + COLUMNS * len(study.models)) + n * len(study.models) * COLUMNS
    rows = [
        row("pairs", [size("pairs", lambda: image_bytes(study.pairs, n))]),
        row("generations", images),
        row("tokens", [(n * len(sources) * tokens * per_token, "counted")]),
        row("codes", energies),
        row("statistics", [(len(sources) * statistics, codes.how)]),
        row("SAE", [(sae_bytes(study, width), "counted")]),
        row("tables", [(cells * CELL_BYTES, "a first guess")]),
    ]
    if found := corpus_bytes(study, tokens * per_token):
        rows.append(row("corpus", found))
    if aside := outdated(study, outputs.values()):
        rows.append(Disk("set aside", aside, f"`make clean-superseded STUDY={study.name}` removes it"))
    return rows


def bytes_here(study: Study) -> int:
    """Return the bytes of a study's outputs that are on disk already, and of those set aside."""
    outputs = outputs_of(study).values()
    return sum(written(artifact).size for artifact in outputs) + outdated(study, outputs)


def row(what: str, sizes: Sequence[Known]) -> Disk:
    hows = [how for how in dict.fromkeys(how for _, how in sizes) if how != "counted"]
    return Disk(what, float(sum(size for size, _ in sizes)), ", ".join(hows))


def image_bytes(part: config.Part, n: int) -> Known:
    """Return the bytes of n images of a source of pairs or of a model, with their captions, and how they are known."""
    each, how = None, "a first guess"
    try:
        match part:
            case config.Scenes() | PerfectGenerator():
                seed = getattr(part, "seed", SEED)
                each = np.mean([len(encode_png(draw_scene(seed, number)[1].image)) for number in range(SCENES)])
                how = f"by {SCENES} scenes"
            case config.FolderPairs():
                files = [file for _, _, file in itertools.islice(folder_rows(part), n)]
                each, how = stored_bytes(files, part.store_side)
            case ExternalImages():
                files = list(files_by_id(resolve(part.images)).values())[:n]
                each, how = stored_bytes(files, part.store_side)
            case config.WebdatasetPairs():
                pairs = itertools.islice(webdataset_pairs(part, 0), SAMPLE)
                sizes = [len(shrunk(pair.image, part.store_side, "")) for pair in pairs if isinstance(pair, Pair)]
                each, how = np.mean(sizes), f"by its first {len(sizes)} images"
            case config.TextToImageModel():
                each = PNG_BYTES_PER_PIXEL * part.image_size**2
    except StudyError:  # the images are not there yet
        pass
    if each is None:
        each = PHOTO_BYTES_PER_PIXEL * part.store_side**2 * 4 / 3
    return n * (each + ROW_BYTES), how


def stored_bytes(files: Sequence[Path], side: int) -> Known:
    """Return the mean bytes of image files as they are stored: those of all files, times what a sample of them shrinks to."""
    files = [file for file in files if file.is_file()]
    if not files:
        raise StudyError("no images")
    sample = [files[i] for i in np.random.default_rng(SEED).permutation(len(files))[:SAMPLE]]
    before, after = 0, 0
    for file in sample:
        content = file.read_bytes()
        before += len(content)
        with suppress(UnusableImage):  # it is lost
            after += len(shrunk(content, side, str(file)))
    whole = np.mean([file.stat().st_size for file in files])
    return float(whole * after / max(before, 1)), f"by {len(sample)} of {len(files):,} files"


def sae_bytes(study: Study, width: int) -> float:
    """Return the bytes of all SAEs of a study. The candidates of one are kept twice: for others to start from, and in it."""
    if not isinstance(study.sae, SAEConfig):
        return 4.0 * study.sae.n_concepts * 2 * width
    return sum(4.0 * (n_parameters(sae, width) + 2 * sae.n_candidates * width) for sae in {study.sae, *trained_again(study)})


def corpus_bytes(study: Study, tokens_of_one: float) -> list[Known]:
    """Return the bytes of the images that the SAE learns from, if they are not the real ones, and of their tokens."""
    corpus, n = getattr(study.sae, "corpus", None), n_corpus(study)
    if not corpus:
        return []
    images = (n * ROW_BYTES, "counted") if getattr(corpus, "path", None) else image_bytes(corpus, n)
    return [images, (n * tokens_of_one, "counted")]


def some_codes(study: Study, tokens: int, outputs: dict[str, Artifact]) -> Codes:
    """Count the codes of some real images, once their tokens and the SAE are here; until then guess."""
    from blindspots_lib.analysis.energies import encode_images
    from blindspots_lib.models.tokens import StoredTokens
    from blindspots_lib.sae.model import load_sae

    try:
        stored, sae = StoredTokens(outputs["tokens/real"].require()), load_sae(outputs["sae"].require().folder)
    except (StudyError, KeyError):
        return guessed_codes(study, tokens)
    shards = np.linspace(0, len(stored) - 1, min(len(stored), 8)).astype(int).tolist()
    some = np.concatenate([stored.shard(index)[: ENCODED // len(shards)] for index in shards])
    codes = encode_images(sae, np.asarray(some))
    per_image, chosen = codes.matrix(np.float32, codes.shape[1]), stored.layout.selection(study.analysis.tokens)
    per_image.sum_duplicates()
    half = np.arange(codes.shape[0] // 2)
    few, more = (n_together(codes.at(images, chosen)) for images in (half, np.arange(codes.shape[0])))
    growth = np.log(more / max(few, 1)) / np.log(codes.shape[0] / max(len(half), 1)) if few else 1.0
    most = float(study.sae.n_concepts) ** 2

    def pairs(n: int) -> float:
        return min(most, more * (n / codes.shape[0]) ** growth)

    n_tokens = max(1, len(codes.offsets) - 1)
    return Codes(len(codes.indices) / n_tokens, per_image.nnz / codes.shape[0], pairs)


def n_together(codes) -> int:
    """Return the number of ordered pairs of concepts that fire on the same token anywhere; a concept pairs with itself, too."""
    fires = codes.matrix(np.int64)
    fires.data[:] = 1
    return (fires.T @ fires).nnz


def guessed_codes(study: Study, tokens: int) -> Codes:
    active = guessed_active(study)
    most = float(study.sae.n_concepts) ** 2
    return Codes(
        active, min(study.sae.n_concepts, (tokens * active) ** REPEATED),
        lambda n: min(most, (n * tokens * active**2) ** REPEATED), "a first guess",
    )  # fmt: skip
