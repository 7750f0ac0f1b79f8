"""The static explorer: a folder that any browser opens from disk, with everything that was found in a study.

From disk a page may load scripts and pictures, but not fetch: so data are scripts. `data.js` holds what the first view draws;
intervals, captions, concepts (64 per file) and thumbnails (64 per sheet) are loaded when they are looked at. Arrays are base64
of little-endian integers: fractions and coordinates in 65,535 steps, energies in as many steps of their logarithm.
Captions and names are strangers' text: they are JSON in scripts, and the front end writes them as text.
"""

import base64
import json
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.artifacts import code_revision
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import make_folder, naming_full_disk
from blindspots_lib.core.parallel import AT_ONCE, side_by_side
from blindspots_lib.core.study import Study
from blindspots_lib.figures import explorer_data as data
from blindspots_lib.figures.style import REPLICA_NOTE

FRONTEND = Path(__file__).parent / "frontend"
# the front end, in order
SCRIPTS = (
    "text.js", "plots.js", "brush.js", "selection.js", "pictures.js", "controls.js", "overview.js", "card.js", "lists.js",
    "pairs.js", "help.js", "explorer.js",
)  # fmt: skip
PER_SHARD, PER_SHEET, SHEET_COLUMNS = 64, 64, 8  # concepts per script; thumbnails per sheet, and in a row of it
LARGEST_THUMB, SHEETS_BYTES, BYTES_PER_PIXEL = 128, 100e6, 0.25  # so many small pictures that all sheets stay below 100 MB
WEBP_QUALITY = 65
STEPS = 65_534  # of a quantised number; 65,535 stands for nan
MARK = "explorer.js"  # a folder that has this file was written here, and may be replaced

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self' file:; style-src 'self' file:; \
img-src 'self' file: data:; base-uri 'none'; form-action 'none'">
<title>Blindspots explorer</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="explorer.css">
</head>
<body>
<div id="explorer"><p>Loading. This page needs JavaScript, and the files beside it.</p></div>
{scripts}
</body>
</html>
"""


def explorer_folder(study: Study) -> Path:
    """Return where `make explorer` writes the explorer of a study."""
    return study.folder / "explorer"


def write_explorer(results: Results, folder: Path, planted: data.Planted | None = None) -> Path:
    """Write the explorer of a study into a folder of its own and return the page to open, `index.html`.

    `planted` says where faults were put on purpose, which is known of the embedded study. An explorer that stands there is
    replaced when the new one is whole. Raises StudyError if the folder holds anything else.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists())):
        raise StudyError(f"{folder}: holds something else than an explorer; choose a folder that is empty or not there")
    partial_folder, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{state}") for state in ("partial", "old"))
    try:
        make_folder(partial_folder)
        with naming_full_disk(partial_folder):
            write_parts(results, partial_folder, planted)
            if folder.exists():
                folder.rename(old)
            partial_folder.rename(folder)
    finally:
        for leftover in (partial_folder, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return folder / "index.html"


def write_parts(results: Results, folder: Path, planted: data.Planted | None) -> None:
    """Write all files of an explorer."""
    side = thumb_side(results)
    write_page(folder)
    write_data(results, folder, side, planted)
    for part in (write_models, write_words):
        part(results, folder)
    write_concepts(results, folder)
    write_patches(results, folder)
    write_thumbs(results, folder / "thumbs", side)


def write_page(folder: Path) -> None:
    """Write the page with its style sheet and the front end's scripts."""
    scripts = [f'<script src="{name}"></script>' for name in (*SCRIPTS, "folder.js", "data.js")]
    (folder / "index.html").write_text(PAGE.format(scripts="\n".join(scripts)), encoding="utf-8")
    for name in (*SCRIPTS, "folder.js", "explorer.css"):
        shutil.copyfile(FRONTEND / name, folder / name)


def write_data(results: Results, folder: Path, side: int, planted: data.Planted | None) -> None:
    """Write `data.js`: what the overview of every model draws."""
    columns = data.concept_columns(results, results.places, planted)
    models = {
        name: {key: fractions(arrays[key]) for key in ("delta", "shrunken", "q")}
        | {"energy": logarithms(arrays["energy"]), "verdict": integers(arrays["call"] + len(data.CALLS) * arrays["tested"])}
        | {key: integers(arrays[key]) for key in arrays.keys() & {"planted"}}
        for name, arrays in columns["models"].items()
    }
    names, index = np.unique(np.array(columns["name"], dtype=object), return_inverse=True)
    meta = data.explorer_meta(results)
    note = REPLICA_NOTE if meta["replica"] else ""
    write_script(folder, "data", {
        "meta": meta | {"thumb": side, "note": note, "revision": code_revision()},
        "format": {"per_shard": PER_SHARD, "per_sheet": PER_SHEET, "columns": SHEET_COLUMNS, "n_top": data.N_TOP},
        "names": names.tolist(), "name": integers(index), "energy_real": logarithms(columns["energy_real"]),
        **{key: integers(columns[key]) for key in ("family", "n_images_real")},
        **{key: scaled(columns[key]) for key in ("x", "y")}, "models": models,
    })  # fmt: skip


def write_models(results: Results, folder: Path) -> None:
    """Write what cards say besides: firings, scores of names, delta by other definitions; one script per model of intervals."""
    scores = {key: scaled(results.concepts[f"name_{key}"].to_numpy()) for key in ("lift", "r")}
    write_script(folder, "facts", {"firings": integers(results.concepts["firings"].to_numpy()), **scores})
    definitions = data.definition_deltas(results)
    write_script(folder, "definitions", {model: {name: fractions(values) for name, values in deltas.items()}
                                         for model, deltas in definitions.items()})  # fmt: skip
    for number, model in enumerate(results.study.models):
        arrays = data.model_arrays(results.concepts, model.name)
        write_script(folder, f"models/{number}", {key: fractions(arrays[key]) for key in data.INTERVALS})


def write_words(results: Results, folder: Path) -> None:
    """Write families, asked words, and pairs with their captions."""
    write_script(folder, "families", with_arrays(data.family_columns(results), {"call": integers}, fractions))
    write_script(folder, "asked", data.asked_rows(results))
    packing = {"copy": integers, "nearest": integers, "distance": scaled}
    training = {"training": integers(data.nearest_numbers(results))}
    write_script(folder, "captions", with_arrays(data.pair_columns(results), packing, fractions) | training)


def with_arrays(columns: dict[str, Any], packing: dict[str, Callable], otherwise: Callable) -> dict[str, Any]:
    """Return columns whose models' arrays are packed, each by the function of its name."""
    models = {
        name: {key: packing.get(key, otherwise)(values) for key, values in arrays.items()}
        for name, arrays in columns["models"].items()
    }
    return columns | {"models": models}


def write_concepts(results: Results, folder: Path) -> None:
    """Write `concepts/00000.js` and so on: top images with heatmaps, and what each concept fires with, 64 concepts per file."""
    n_concepts = len(results.concepts)
    tops, heats = {}, {}
    for source, codes in results.codes.items():
        tops[source] = data.top_images(results.energies[source].stats)
        heats[source] = data.top_heat(codes, results.rows[source], tops[source].positions)
    real = tops["real"].positions
    write_script(folder, "tops", {"per_concept": real.shape[1], "pair": integers(real.ravel())})
    strength = data.heat_strength(heats, n_concepts)
    together, overlap = data.strongest_overlaps(results.energies["real"].stats.overlap())
    for shard, first in enumerate(range(0, n_concepts, PER_SHARD)):
        some = slice(first, min(first + PER_SHARD, n_concepts))
        sources = {source: packed_images(tops[source], heats[source], strength, some) for source in tops}
        content = {"together": integers(together[some].ravel()), "overlap": fractions(overlap[some].ravel()), "sources": sources}
        write_script(folder, f"concepts/{shard:05d}", content)


def packed_images(top: data.Top, heat: data.Heat, strength: np.ndarray, some: slice) -> dict[str, Any]:
    """Return the top images of some concepts in a source: pairs, energies, and the heatmaps without their zeros."""
    per_concept = top.positions.shape[1]
    offsets = heat.offsets[some.start * per_concept : some.stop * per_concept + 1]
    entries, counts = slice(offsets[0], offsets[-1]), np.diff(offsets)
    concept = some.start + np.repeat(np.arange(len(counts)) // max(1, per_concept), counts)
    return {
        "per_concept": per_concept, "pair": integers(top.positions[some].ravel()), "counts": integers(counts),
        "energy": logarithms(top.energies[some].ravel()), "patch": integers(heat.patches[entries]),
        "heat": integers(data.as_bytes(heat.values[entries], strength[concept])),
    }  # fmt: skip


def write_patches(results: Results, folder: Path) -> None:
    """Write `pairs/00000.js` and so on: the strongest concept on every patch of the images of 64 pairs."""
    for shard, first in enumerate(range(0, len(results.pair_ids), PER_SHEET)):
        some = slice(first, first + PER_SHEET)
        patches = {
            source: integers(data.strongest_concepts(codes, results.rows[source][some]).ravel())
            for source, codes in results.codes.items()
        }
        write_script(folder, f"pairs/{shard:05d}", {"patches": patches})


def thumb_side(results: Results) -> int:
    """Return the side of thumbnails in pixels, a multiple of 16: at most 128, the images' own, and what 100 MB allow."""
    own = min(results.images["real"][results.pair_ids[0]].size)
    allowed = math.sqrt(SHEETS_BYTES / BYTES_PER_PIXEL / (len(results.pair_ids) * len(results.images)))
    return max(32, int(min(own, LARGEST_THUMB, allowed)) // 16 * 16)


def write_thumbs(results: Results, folder: Path, side: int) -> None:
    """Write the sprite sheets of all sources: image i of a source is thumbnail i % 64 of its sheet i // 64."""
    make_folder(folder)
    sources = [(name, results.pair_ids, images.__getitem__) for name, images in results.images.items()]
    if len(nearest := data.nearest_numbers(results)):
        sources.append((data.TRAINING, nearest.tolist(), partial(data.training_image, results)))
    with side_by_side(partial(write_sheets, folder, side), sources, AT_ONCE) as done:
        for _ in done:
            pass


def write_sheets(folder: Path, side: int, source: tuple[str, list, Callable[[Any], Image.Image]]) -> None:
    """Write the sheets of one source, given its name, the ids of its images, and what returns one; shards are read once."""
    name, ids, image_of = source
    for sheet, first in enumerate(range(0, len(ids), PER_SHEET)):
        shown = ids[first : first + PER_SHEET]
        canvas = Image.new("RGB", (SHEET_COLUMNS * side, -(-len(shown) // SHEET_COLUMNS) * side))
        for place, one in enumerate(shown):
            small = image_of(one).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(small, (place % SHEET_COLUMNS * side, place // SHEET_COLUMNS * side))
        canvas.save(folder / f"{name}-{sheet:04d}.webp", "WEBP", quality=WEBP_QUALITY, method=4)


# -- arrays and JSON in scripts ------------------------------------------------------------------------------------------------


def write_script(folder: Path, name: str, content: Any) -> None:
    """Write a script that hands JSON over to the front end. Nothing in it can end the script or begin a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    path = folder / f"{name}.js"
    make_folder(path.parent)
    path.write_text(f"BlindspotsExplorer.receive({json.dumps(name)},{text});\n", encoding="ascii")


def integers(values: Shaped[np.ndarray, "n"]) -> dict[str, Any]:
    """Pack whole numbers into the smallest integers that hold them; the largest of their kind stands for -1, nothing."""
    values = np.asarray(values).astype(np.int64)
    kind = next(kind for kind in ("u1", "u2", "u4") if values.max(initial=0) < np.iinfo(kind).max)
    return encoded(np.where(values < 0, np.iinfo(kind).max, values), kind, whole=int((values < 0).any()))


def fractions(values: Shaped[np.ndarray, "n"]) -> dict[str, Any]:
    """Pack numbers from 0 to 1, or nan, in steps of 1.5e-5."""
    return quantised(np.asarray(values, np.float64), 0.0, 1.0)


def scaled(values: Shaped[np.ndarray, "n"]) -> dict[str, Any]:
    """Pack any numbers, or nan, in equal steps between their least and greatest."""
    values = np.asarray(values, np.float64)
    known = values[np.isfinite(values)]
    return quantised(values, float(known.min(initial=np.inf)) if len(known) else 0.0, float(known.max()) if len(known) else 1.0)


def logarithms(values: Shaped[np.ndarray, "n"]) -> dict[str, Any]:
    """Pack numbers of at least 0 in equal steps of their logarithm, to four digits; the first step stands for 0."""
    values = np.asarray(values, np.float64)
    present = values[values > 0]
    low, high = (math.log(present.min()), math.log(present.max())) if len(present) else (0.0, 1.0)
    place = (np.log(np.where(values > 0, values, math.exp(low))) - low) / max(high - low, 1e-9)
    steps = np.where(values > 0, 1 + np.round(place * (STEPS - 1)), 0)
    return encoded(steps, "u2", log=[low, high])


def quantised(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    place = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return encoded(np.where(np.isfinite(values), np.round(place.clip(0, 1) * STEPS), STEPS + 1), "u2", range=[low, high])


def encoded(values: np.ndarray, kind: str, **how: Any) -> dict[str, Any]:
    return {"kind": kind, **how, "data": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode()}
