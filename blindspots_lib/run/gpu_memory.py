"""What a text-to-image model needs of a GPU's memory: all its parts at once, its largest part, or less."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from blindspots_lib.core.config import TextToImageModel, Weights
from blindspots_lib.core.hub import WEIGHTS, fetch
from blindspots_lib.core.study import Study
from blindspots_lib.models.pipelines import ROOM, Need, offload_for
from blindspots_lib.run.costs import in_units
from blindspots_lib.run.remote import files_needed

WAYS = {"never": "as a whole", "model": "part by part", "sequential": "layer by layer, which is slow"}


def need_of(model: TextToImageModel) -> Need:
    """Return the bytes of a model's weights, and of its largest part, as they are stored.

    Raises StudyError if they are neither here nor listed by the hub.
    """
    sizes: Counter[tuple[str, str]] = Counter()
    for name, part in model.parts.items():
        if name == "unet":
            sizes["weights", "unet"] = 0  # it takes the place of the pipeline's own
        for folder, size in stored(part):
            sizes[("weights" if name == "unet" else name), folder] += size
    return Need(sum(sizes.values()), max(sizes.values(), default=0))


def stored(part: Weights) -> Iterator[tuple[str, int]]:
    """Yield the folder and the bytes of each file of weights, of the variant where there is one."""
    if part.path:
        folder = fetch(part)
        for place in [folder, *filter(Path.is_dir, sorted(folder.iterdir()))]:
            names = {path: match for path in place.glob("*.safetensors") if (match := WEIGHTS.fullmatch(path.name))}
            variant = part.variant if part.variant in {match["variant"] for match in names.values()} else None
            yield from ((place.name, path.stat().st_size) for path, match in names.items() if match["variant"] == variant)
    else:
        for file in files_needed(part):
            if file.path.endswith(".safetensors"):
                yield Path(file.path).parent.name, file.size


def gpu_rows(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield, for each model, its name, the GPU memory for all parts and for the largest one, and how it will run here."""
    import torch

    for model in study.pipelines:
        need = need_of(model)
        sizes = f"{in_units(ROOM * need.whole)}; part by part {in_units(ROOM * need.largest)}"
        if not torch.cuda.is_available():
            yield model.label, sizes, "as stored; there is no GPU here"
            continue
        free, _ = torch.cuda.mem_get_info()
        way = offload_for(need, free) if model.offload == "auto" else model.offload
        yield model.label, sizes, f"as stored; this GPU has {in_units(free)} free, so it runs {WAYS[way]} (offload: {way})"
