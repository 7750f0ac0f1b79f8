"""What the explorer shows, as plain arrays: from the tables, energies and codes of finished results.

The static explorer (`explorer`) and the widget in the notebook send these to one front end (`frontend/`).
Shape letters: k concepts, m top images per source, n images, e entries of heatmaps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Float32, Int, Int32, Shaped, UInt8, UInt16
from PIL import Image

from blindspots_lib.analysis.energies import BLOCK, TokenCodes
from blindspots_lib.analysis.energy_definitions import deltas_by_definition
from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.statistics import ConceptStats, blocks_of
from blindspots_lib.core.config import PerfectGenerator
from blindspots_lib.core.errors import StudyError
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.figures.style import model_colour

Planted = Mapping[str, Sequence[str]]  # per model and concept "suppressed", "exaggerated" or "": what was planted on purpose
TRAINING = "training"  # the source of the nearest training images
N_TOP, N_TOGETHER = 8, 8  # top images per source, and concepts that fire on the same tokens, of every concept
CALLS = ("unclear", "aligned", "suppressed", "exaggerated")  # numbers of the calls
AT_FIRST = ("energy", "delta", "shrunken", "q")  # what the overview of a model draws
INTERVALS = ("low", "high", "shrunken_low", "shrunken_high", "p_max")
OMISSION, INTRUSION = ("omission_value", "omission_low", "omission_high"), ("intrusion_value", "intrusion_low", "intrusion_high")


def explorer_meta(results: Results) -> dict[str, Any]:
    """Return the facts of a study that the front end shows or draws with."""
    study = results.study
    analysis = study.analysis
    return {
        "study": study.name, "title": study.title, "replica": study.replica, "attribution": study.attribution,
        "n_pairs": len(results.pair_ids), "n_concepts": len(results.concepts),
        "side": results.codes["real"].layout.patches_per_side, "arithmetic": analysis.arithmetic,
        "suppressed_below": analysis.suppressed_below, "exaggerated_above": analysis.exaggerated_above,
        "false_discovery_rate": analysis.false_discovery_rate,
        "models": [{"name": m.name, "label": m.label, "colour": model_colour(study, m.name),
                    "is_perfect": isinstance(m, PerfectGenerator)} for m in study.models],
        "sources": ["real", *(model.name for model in study.models)],
    }  # fmt: skip


def concept_columns(results: Results, places: Float[np.ndarray, "k 2"], planted: Planted | None = None) -> dict[str, Any]:
    """Return the columns of the concept table as arrays, with their places on the map.

    name: list of k texts; lift, r: its scores on captions, nan without a name; family, firings, n_images_real: Int32;
    energy_real, x, y: Float32; models: for each name the
    `model_arrays`, and where it is known what was planted, `planted` (numbers in `CALLS`).
    """
    table = results.concepts
    models = {model.name: model_arrays(table, model.name) for model in results.study.models}
    for name, sides in (planted or {}).items():
        models[name]["planted"] = call_numbers(pd.Series(sides).replace("", CALLS[0]))
    return {
        "name": table["name"].tolist(), **{key: table[f"name_{key}"].to_numpy(np.float32) for key in ("lift", "r")},
        "family": table["family"].to_numpy(np.int32),
        "firings": table["firings"].to_numpy(np.int32), "n_images_real": table["n_images_real"].to_numpy(np.int32),
        "energy_real": table["energy_real"].to_numpy(np.float32),
        "x": places[:, 0].astype(np.float32), "y": places[:, 1].astype(np.float32),
        "models": models,
    }  # fmt: skip


def definition_deltas(results: Results) -> dict[str, dict[str, Float32[np.ndarray, "k"]]]:
    """Return for every model raw delta by the other definitions of energy: "mean" (of the firing tokens), "max", "presence"."""
    chosen = results.codes["real"].layout.selection(results.study.analysis.tokens)
    return {
        model: {name: values.astype(np.float32) for name, values in deltas.items() if name != "sum"}
        for model, deltas in deltas_by_definition(results.codes, results.rows, chosen).items()
    }


def model_arrays(table: pd.DataFrame, model: str) -> dict[str, Shaped[np.ndarray, "k"]]:
    """Return energy, delta, shrunken, q and their intervals (Float32), call (number in `CALLS`) and tested (UInt8) of a model."""
    arrays = {name: table[f"{name}_{model}"].to_numpy(np.float32) for name in (*AT_FIRST, *INTERVALS)}
    return arrays | {"call": call_numbers(table[f"call_{model}"]), "tested": table[f"tested_{model}"].to_numpy(np.uint8)}


def call_numbers(calls: pd.Series) -> UInt8[np.ndarray, "k"]:
    return calls.map({call: number for number, call in enumerate(CALLS)}).to_numpy(np.uint8)


def family_columns(results: Results) -> dict[str, Any]:
    """Return name, members (`concepts`, a list per family) and for every model shrunken, its interval and call per family."""
    table = results.families
    members = results.concepts.groupby("family")["concept"].agg(list)
    columns = ("shrunken", "shrunken_low", "shrunken_high")
    models = {
        model.name: {name: table[f"{name}_{model.name}"].to_numpy(np.float32) for name in columns}
        | {"call": call_numbers(table[f"call_{model.name}"])}
        for model in results.study.models
    }
    return {"name": table["name"].tolist(), "concepts": [members[family] for family in table["family"]], "models": models}


def asked_rows(results: Results) -> list[dict[str, Any]]:
    """Return one object per word and model: omission and intrusion as [value, low, high, call]; None where not defined."""
    rows = []
    for row in results.asked[results.asked["reason"] == ""].to_dict("records"):
        rows.append({
            "word": row["word"], "model": row["model"], "n_asked": int(row["n_asked"]),
            "omission": [*(rounded(row[name]) for name in OMISSION), row["omission_call"]],
            "intrusion": [*(rounded(row[name]) for name in INTRUSION), row["intrusion_call"]],
            "rate": rounded(row["intrusion_rate"]), "explained_by": row["explained_by"],
        })  # fmt: skip
    return rows


def rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def pair_columns(results: Results) -> dict[str, Any]:
    """Return id and caption of every pair, and for every model distance, delta (Float32), copy (UInt8: its group, 0 for none),
    and, where the study knows its training corpus, nearest (Int32: a number in it) and similarity (Float32)."""
    table, models = results.datapoints, {}
    for model in results.study.models:
        rows = table[table["model"] == model.name].set_index("pair_id").reindex(results.pair_ids)
        models[model.name] = {
            "distance": values_of(rows, "energy_distance"), "delta": values_of(rows, "datapoint_delta"),
            "copy": rows["copy_group"].where(rows["copy_call"] == "copy", 0).clip(0, 255).to_numpy(np.uint8),
        }  # fmt: skip
        if "training_index" in rows:
            similarity = values_of(rows, "training_similarity")
            models[model.name] |= {"nearest": rows["training_index"].to_numpy(np.int32), "similarity": similarity}
    return {"id": list(results.pair_ids), "caption": list(results.captions), "models": models}


def nearest_numbers(results: Results) -> Int[np.ndarray, "t"]:
    """Return the training images that are the nearest to some generation, by their numbers; none where they are not known."""
    known = results.datapoints.get("training_index", pd.Series(dtype=np.int64))
    return np.unique(known[known >= 0].to_numpy(np.int64))


def training_image(results: Results, number: int) -> Image.Image:
    """Draw an image of the corpus that the study's models were trained on. Raises StudyError if there is none of that number."""
    corpus = results.study.training_corpus
    if corpus is None or not 0 <= number < corpus.n:
        raise StudyError(f"this study knows no training image {number}")
    return Image.fromarray(draw_scene(corpus.seed, number)[1].image)


def values_of(rows: pd.DataFrame, name: str) -> Float32[np.ndarray, "pairs"]:
    return rows[name].to_numpy(np.float32) if name in rows else np.full(len(rows), np.nan, np.float32)


class Top(NamedTuple):
    """The images of one source on which each concept has most energy."""

    positions: Int[np.ndarray, "k m"]  # among the complete pairs; -1 where there is none
    energies: Float32[np.ndarray, "k m"]


def top_images(stats: ConceptStats) -> Top:
    return Top(stats.top_ids[:, :N_TOP], stats.top_energies[:, :N_TOP])


class Heat(NamedTuple):
    """The heatmaps of top images, without their zeros: image i of concept k has the entries of slot k * m + i."""

    offsets: Int[np.ndarray, "slots+1"]
    patches: UInt16[np.ndarray, "e"]
    values: Float32[np.ndarray, "e"]  # codes


def top_heat(codes: TokenCodes, rows: Int[np.ndarray, "n"], positions: Int[np.ndarray, "k m"]) -> Heat:
    """Return the heatmap of each concept on its top images; the codes of every image are read once, in order."""
    n_concepts, n_patches = len(positions), codes.layout.patches_per_side**2
    slots = np.flatnonzero(positions.ravel() >= 0)
    keys = positions.ravel()[slots].astype(np.int64) * n_concepts + slots // max(1, positions.shape[1])
    order = np.argsort(keys)
    keys, slots = keys[order], slots[order]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.float32))]
    for block in blocks_of(codes.sizes(rows), BLOCK):
        first, last = np.searchsorted(keys, [block.start * n_concepts, block.stop * n_concepts])
        if first == last:
            continue
        entries = codes.patch_codes(rows[block]).tocoo()
        image, patch = np.divmod(entries.row.astype(np.int64), n_patches)
        key = (image + block.start) * n_concepts + entries.col
        place = np.searchsorted(keys[first:last], key).clip(max=last - first - 1)
        wanted = keys[first:last][place] == key
        parts.append((slots[first:last][place[wanted]], patch[wanted].astype(np.uint16), entries.data[wanted].astype(np.float32)))
    slot, patches, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(slot, kind="stable")
    counts = np.bincount(slot, minlength=positions.size)
    return Heat(np.concatenate([[0], counts.cumsum()]), patches[order], values[order])


def strongest_concepts(codes: TokenCodes, rows: Int[np.ndarray, "n"]) -> Int32[np.ndarray, "n p"]:
    """Return the concept of greatest code on every patch of some images, the first among equals; -1 where none fires."""
    patches = codes.patch_codes(rows)
    strongest = np.full(patches.shape[0], -1, np.int32)
    fires = np.flatnonzero(np.diff(patches.indptr))
    if len(fires):
        highest = np.maximum.reduceat(patches.data, patches.indptr[fires])
        patch = np.repeat(np.arange(patches.shape[0]), np.diff(patches.indptr))
        is_highest = patches.data == np.repeat(highest, np.diff(patches.indptr)[fires])
        of_patch, first = np.unique(patch[is_highest], return_index=True)
        strongest[of_patch] = patches.indices[is_highest][first]
    return strongest.reshape(len(rows), -1)


def pair_patches(results: Results, pair: int) -> dict[str, Int32[np.ndarray, "p"]]:
    """Return the strongest concept of every patch of a pair's images, by source (`strongest_concepts`)."""
    return {source: strongest_concepts(codes, results.rows[source][[pair]])[0] for source, codes in results.codes.items()}


def heat_strength(heats: Mapping[str, Heat], n_concepts: int) -> Float32[np.ndarray, "k"]:
    """Return the greatest code of each concept on its top images of all sources: what a heatmap shows at full strength."""
    strength = np.zeros(n_concepts, np.float32)
    for heat in heats.values():
        per_concept = (len(heat.offsets) - 1) // n_concepts
        np.maximum.at(strength, np.repeat(np.arange(len(heat.offsets) - 1), np.diff(heat.offsets)) // per_concept, heat.values)
    return strength


def strongest_overlaps(overlap: sp.csr_matrix) -> tuple[Int[np.ndarray, "k m"], Float32[np.ndarray, "k m"]]:
    """Return the concepts of largest overlap with each one, and how large it is: -1 and 0 where there are fewer."""
    overlap = overlap.tocsr()
    concepts = np.full((overlap.shape[0], N_TOGETHER), -1, np.int64)
    values = np.zeros(concepts.shape, np.float32)
    for block in blocks_of(np.diff(overlap.indptr), BLOCK):
        part = overlap[block].tocoo()
        order = np.lexsort((part.col, -part.data, part.row))
        row, column, value = part.row[order], part.col[order], part.data[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = (rank < N_TOGETHER) & (value > 0)
        concepts[row[kept] + block.start, rank[kept]] = column[kept]
        values[row[kept] + block.start, rank[kept]] = value[kept]
    return concepts, values


def concept_images(results: Results, concept: int) -> dict[str, list[tuple[int, float, UInt8[np.ndarray, "p"]]]]:
    """Return for each source the top images of one concept: position of the pair, energy, heatmap of 0 to 255 per patch.

    For one concept at a time, as a notebook asks; `top_heat` reads all concepts at once.
    """
    found = {}
    for source, codes in results.codes.items():
        top = top_images(results.energies[source].stats)
        positions = top.positions[concept][top.positions[concept] >= 0]
        patches = codes.layout.patches_per_side**2
        maps = np.zeros((len(positions), patches), np.float32)
        if len(positions):
            maps = codes.patch_codes(results.rows[source][positions])[:, [concept]].toarray().reshape(-1, patches)
        found[source] = positions, top.energies[concept], maps
    strength = max((float(maps.max(initial=0)) for _, _, maps in found.values()), default=0.0)
    return {
        source: [(int(at), float(energies[i]), as_bytes(maps[i], strength)) for i, at in enumerate(positions)]
        for source, (positions, energies, maps) in found.items()
    }


def as_bytes(values: Float32[np.ndarray, "p"], strength: float | Float32[np.ndarray, "p"]) -> UInt8[np.ndarray, "p"]:
    """Return values as numbers from 0 to 255, where 255 is `strength`; what is above 0 is at least 1."""
    scaled = np.round(255 * values / np.maximum(strength, np.finfo(np.float32).tiny))
    return np.where(values > 0, scaled.clip(1, 255), 0).astype(np.uint8)
