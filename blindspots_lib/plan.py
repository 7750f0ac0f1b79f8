"""What a study will take, before it runs; and whether it can run at all.

    python -m blindspots_lib.plan paper            images, tokens, disk, memory, time, downloads, agreements
    python -m blindspots_lib.plan paper --check    ids, revisions, shapes, agreements and free disk, nothing downloaded or run

Times come from a short run of each part on this machine, and only of parts whose weights are here already.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from blindspots_lib.hub import RemoteFile, cached, files_of, list_files, naming_hub_errors, patiently, remembered
from blindspots_lib.parts import (
    DatasetPairs,
    FolderPairs,
    LinkedPairs,
    MadeElsewhere,
    Place,
    SAEConfig,
    ScenePairs,
    TextToImageModel,
    TrainedSAE,
    Weights,
)
from blindspots_lib.study import Study, StudyError, load_study, resolve, runs_folder

PHOTO_BYTES = 120_000  # of a photograph with a short side of 512 pixels, as JPEG; an average
PNG_BYTES_A_PIXEL = 1.6  # of a generated image; an average
CODE_BYTES = 6  # of one active concept of a token: its index and its value
CALIBRATION_STEPS = (2, 4)  # solver steps of two short runs, whose difference is the time of two steps
SMALL = 128  # pixels a side up to which a whole batch is tried on a CPU; above it one image


class Row(NamedTuple):
    """One line of a plan."""

    what: str
    value: str
    note: str = ""


def remote_parts(study: Study) -> Iterator[tuple[str, Place]]:
    """Everything of a study that is on the hub, under the name that the study gives it."""
    for model in study.pipelines:
        for name, part in {"": model, ", prior": model.prior, ", unet": model.unet, ", lora": model.lora}.items():
            if part and part.repo:
                yield f"model {model.name}{name}", part
    if study.backbone.repo:
        yield "backbone", study.backbone
    if isinstance(study.sae, TrainedSAE) and study.sae.repo:
        yield "sae", study.sae


def files_needed(place: Place) -> list[RemoteFile]:
    """The files that `fetch` would take, known from an earlier run or asked of the hub."""
    if (files := remembered(place)) is not None:
        return files
    if isinstance(place, TrainedSAE):
        found = [file for file in list_files(place) if file.path == place.file]
        if not found:
            raise StudyError(f"{place.title}: has no file {place.file!r}; correct it in the study")
        return found
    return files_of(place)


def n_pairs(study: Study) -> int:
    """How many pairs the study has; of a folder without a number, those of its table."""
    if study.pairs.n is not None:
        return study.pairs.n
    from blindspots_lib.sources import find_table, read_table

    return len(read_table(find_table(resolve(study.pairs.path)), ["file_name"]))


def n_tokens(study: Study) -> int | None:
    """Tokens of an image, from the backbone's config if it is here."""
    import json

    folder = local_folder(study.backbone)
    if folder is None:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("vision_config", config)
    return 1 + config.get("num_register_tokens", 0) + (study.backbone.crop // config["patch_size"]) ** 2


def local_folder(weights: Weights):
    """Where a model's files are on this machine, or None if any of them is missing."""
    if weights.path:
        folder = resolve(weights.path) / (weights.subfolder or "")
        return folder if folder.is_dir() else None
    files = remembered(weights)
    places = [cached(weights, file) for file in files or []]
    if not places or None in places:
        return None
    return places[0].parents[files[0].path.count("/")] / (weights.subfolder or "")


def tokens_width(study: Study) -> int | None:
    import json

    folder = local_folder(study.backbone)
    if folder is None:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("vision_config", config)["hidden_size"]


# -- sizes ---------------------------------------------------------------------------------------------------------------


def disk_rows(study: Study, tokens: int, width: int) -> list[tuple[str, float]]:
    """Bytes on disk of each kind of output."""
    n, sources = n_pairs(study), 1 + len(study.models)
    pair = 8_000 if isinstance(study.pairs, ScenePairs) else PHOTO_BYTES
    active = study.sae.k or 16
    made = sum(PNG_BYTES_A_PIXEL * model.image_size**2 for model in study.pipelines)
    made += sum(PHOTO_BYTES for model in study.models if isinstance(model, MadeElsewhere))
    kept = 2.0 * n * sources * tokens * width if study.backbone.keep_tokens else 0.0
    return [
        ("pairs", float(n * pair)), ("generations", n * made), ("tokens", kept),
        ("codes", float(n * sources * tokens * active * CODE_BYTES)), ("SAE", 4.0 * study.sae.n_concepts * width * 2),
    ]  # fmt: skip


def sae_memory(config: SAEConfig, width: int) -> float:
    """Bytes that training holds: parameters, two moments of each, the candidates, a buffer and a window of tokens."""
    mixing = {"dense": config.n_candidates, "local": config.n_neighbours, "free": 0}[config.dictionary]
    parameters = config.n_concepts * (2 * width + 1 + mixing)
    candidates = config.n_candidates * width * (1 + config.points_per_candidate)
    return 4.0 * (3 * parameters + candidates) + 2.0 * config.buffer_size * width


# -- times ---------------------------------------------------------------------------------------------------------------


def seconds_of(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def seconds_an_image(model: TextToImageModel) -> float:
    """The time of one image of a model, from two short runs of one batch."""
    import torch

    from blindspots_lib.pipelines import generate_batch, load_pipeline

    pipeline = load_pipeline(model)
    batch = model.batch_size if torch.cuda.is_available() or model.image_size <= SMALL else 1

    def run(steps: int) -> float:
        short = model.model_copy(update={"steps": steps})
        return seconds_of(lambda: generate_batch(pipeline, short, ["a photo"] * batch, list(range(batch))))

    if batch > 1:
        run(CALIBRATION_STEPS[0])  # the first call is slow, which matters where calls are short
    few, more = (run(steps) for steps in CALIBRATION_STEPS)
    step = max(0.0, more - few) / (CALIBRATION_STEPS[1] - CALIBRATION_STEPS[0])
    return (few + step * (model.steps - CALIBRATION_STEPS[0])) / batch


def seconds_of_tokens(study: Study) -> float:
    """The time of one image's tokens, from one batch."""
    from PIL import Image

    from blindspots_lib.features import TokenExtractor

    extractor = TokenExtractor(study.backbone)
    size = study.backbone.resize
    pictures = [Image.fromarray(np.full((size, size, 3), i % 256, np.uint8)) for i in range(min(study.backbone.batch_size, 16))]
    extractor(pictures[:2])
    return seconds_of(lambda: extractor(pictures)) / len(pictures)


def seconds_a_step(config: SAEConfig, width: int) -> float:
    """The time of one training step of the SAE at its full size, on made-up tokens."""
    import torch

    from blindspots_lib.training import Trainer, make_sae

    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(make_sae(width, config).to(device), config)
    trainer.sae.start_from(torch.randn(config.n_candidates, width, device=device), token_length=width**0.5)
    trainer.variance = float(width)
    trainer.sae.dictionary.prepare_training(getattr(torch, config.precision))
    batch = torch.randn(config.batch_size, width, device=device)
    trainer.step(batch, config.learning_rate)
    return seconds_of(lambda: trainer.step(batch, config.learning_rate))


# -- the plan ------------------------------------------------------------------------------------------------------------


def plan_rows(study: Study) -> Iterator[Row]:
    """The plan, line by line, as each is known."""
    n, sources = n_pairs(study), 1 + len(study.models)
    yield Row("pairs", f"{n:,}", f"{n * sources:,} images in all")
    yield from download_rows(study)
    yield from agreement_rows(study)
    tokens, width = n_tokens(study), tokens_width(study)
    if tokens is None:
        yield Row("tokens, disk, time", "not known yet", "the backbone is not here; run again once it is downloaded")
        return
    yield Row("tokens", f"{n * sources * tokens:,}", f"{tokens} an image, {width} features each")
    rows = disk_rows(study, tokens, width)
    free = free_disk()
    for what, size in rows:
        yield Row(f"disk, {what}", in_units(size))
    yield Row("disk in all", in_units(sum(size for _, size in rows)), f"{in_units(free)} free")
    if isinstance(study.sae, SAEConfig):
        yield Row("memory of the SAE's training", in_units(sae_memory(study.sae, width)), f"{in_units(total_memory())} here")
    yield from time_rows(study, width)


def download_rows(study: Study) -> Iterator[Row]:
    total, seen = 0, set()
    for what, place in remote_parts(study):
        try:
            files = {file.path: file for file in files_needed(place)}
        except StudyError as error:
            yield Row(f"download, {what}", "not known", str(error))
            continue
        left = [file for file in files.values() if cached(place, file) is None and (place.title, file.path) not in seen]
        seen |= {(place.title, path) for path in files}
        size = sum(file.size for file in left)
        total += size
        whole = in_units(sum(file.size for file in files.values()))
        yield Row(f"download, {what}", in_units(size) if left else "nothing", f"{place.title}, {whole} in all")
    yield Row("download in all", in_units(total) if total else "nothing")


def agreement_rows(study: Study) -> Iterator[Row]:
    """The licence of everything that comes from the hub, once each."""
    places = {place.repo: ("model", place) for _, place in remote_parts(study)}
    for place in (study.pairs, getattr(study.sae, "corpus", None)):
        if getattr(place, "repo", None):
            places[place.repo] = ("dataset", place)
    for repo, (kind, place) in places.items():
        yield Row("agreement", licence_of(place, kind), repo)


def licence_of(place: Place, kind: str) -> str:
    """The licence that the hub states, and whether an agreement must be accepted first."""
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.dataset_info if kind == "dataset" else api.model_info
    try:
        with naming_hub_errors(place):
            info = patiently(lambda: ask(place.repo, revision=None if place.revision == "latest" else place.revision))
    except StudyError as error:
        if "is gated" in str(error):
            return "gated: accept its agreement first"
        return "not known (the hub is out of reach)"
    stated = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return (", ".join(stated) or "no licence stated") + ("; gated" if info.gated else "")


def time_rows(study: Study, width: int) -> Iterator[Row]:
    n, seconds = n_pairs(study), 0.0
    for model in study.pipelines:
        parts = [part for part in (model, model.prior, model.unet, model.lora) if part]
        if any(local_folder(part) is None for part in parts):
            yield Row(f"time, {model.label}", "not known yet", "its weights are not here")
            continue
        each = seconds_an_image(model)
        seconds += each * n
        yield Row(f"time, {model.label}", duration(each * n), f"{1 / each:.2g} images a second")
    each = seconds_of_tokens(study)
    seconds += each * n * (1 + len(study.models))
    yield Row("time, tokens", duration(each * n * (1 + len(study.models))), f"{1 / each:.2g} images a second")
    if isinstance(study.sae, SAEConfig):
        step = seconds_a_step(study.sae, width)
        seconds += step * study.sae.n_steps
        yield Row("time, SAE", duration(step * study.sae.n_steps), f"{step:.2g} s a step, k-means not counted")
    yield Row("time in all", duration(seconds), "of what is known, at the speed of a short run")


def in_units(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def free_disk() -> int:
    folder = runs_folder()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def total_memory() -> int:
    import psutil

    return psutil.virtual_memory().total


# -- the check -----------------------------------------------------------------------------------------------------------


def check(study: Study) -> list[str]:
    """Everything that would stop the study, each in one line; nothing is downloaded or run."""
    faults = []
    for _, place in remote_parts(study):
        faults += fault_of(lambda place=place: files_needed(place))
    for weights in [study.backbone, *study.pipelines]:
        if weights.path and not resolve(weights.path).is_dir():
            faults.append(f"{resolve(weights.path)}: no such folder; correct the path in the study, or run `make models`")
    for model in study.models:
        if isinstance(model, MadeElsewhere):
            faults += fault_of(lambda model=model: check_elsewhere(study, model))
    if isinstance(study.pairs, FolderPairs):
        faults += fault_of(lambda: n_pairs(study))
    if isinstance(study.pairs, LinkedPairs | DatasetPairs) and study.pairs.repo:
        faults += fault_of(lambda: check_set(study.pairs))
    tokens, width = (n_tokens(study), tokens_width(study)) if not faults else (None, None)
    if tokens:
        needed = sum(size for _, size in disk_rows(study, tokens, width))
        if needed > free_disk():
            faults.append(f"{runs_folder()}: the study needs {in_units(needed)} of disk, {in_units(free_disk())} are free")
        if isinstance(study.sae, SAEConfig) and sae_memory(study.sae, width) > total_memory():
            needed = in_units(sae_memory(study.sae, width))
            faults.append(
                f"sae: training needs {needed} of memory, this machine has {in_units(total_memory())}; try dictionary: local"
            )
    return list(dict.fromkeys(faults))


def fault_of(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except StudyError as error:
        return [str(error)]
    return []


def check_elsewhere(study: Study, model: MadeElsewhere) -> None:
    """The ids of images made elsewhere against those of a folder's pairs."""
    from blindspots_lib.elsewhere import check_ids, files_by_id
    from blindspots_lib.sources import folder_pairs

    source = resolve(model.images)
    if not source.exists():
        raise StudyError(f"model {model.name!r}: {source}: no such folder or table; correct images")
    files = files_by_id(source)
    if isinstance(study.pairs, FolderPairs):
        check_ids(model, [pair.pair_id for pair in folder_pairs(study.pairs)], files)


def check_set(place: LinkedPairs | DatasetPairs) -> None:
    """Whether a set of `datasets` is there and open to us, and has its columns: its first row is read."""
    from blindspots_lib.sources import stream

    columns = [place.caption_column, place.link_column if isinstance(place, LinkedPairs) else place.image_column]
    unshuffled = place.model_copy(update={"shuffle_buffer": 1})
    revision = None if place.revision == "latest" else place.revision
    next(stream(unshuffled, revision, columns, None, 0), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a name in studies/, or the path of a study file")
    parser.add_argument("--check", action="store_true", help="only say what would stop it")
    arguments = parser.parse_args()
    try:
        study = load_study(arguments.study)
        if arguments.check:
            faults = check(study)
            for fault in faults:
                print(f"error: {fault}", file=sys.stderr)
            print(f"{study.name}: " + (f"{len(faults)} things to mend" if faults else "nothing stands in its way"))
            return 1 if faults else 0
        for row in plan_rows(study):
            print(f"{row.what:<32} {row.value:>16}  {row.note}".rstrip(), flush=True)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"next: make figures STUDY={arguments.study}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
