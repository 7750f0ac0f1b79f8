"""Galleries of finished results: functions that choose pairs and concepts, and functions that lay them out as grids."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from blindspots_lib.analysis.delta import ranked_deltas
from blindspots_lib.analysis.energies import cooccurrence
from blindspots_lib.analysis.memorization import extreme_pairs
from blindspots_lib.analysis.results import Results
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.figures.charts import NAMED_FROM
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, principal_colours

SCALE = (0.0, 0.25, 0.5, 0.75, 1.0)  # the values of delta that a scale figure shows


def caption_of(results: Results, pair_id: str) -> str:
    return results.pairs.captions[results.pairs.pair_ids.index(pair_id)]


def contact_sheet(results: Results, pair_ids: Sequence[str]) -> Figure:
    """Draw one row per pair: the caption t, the real image x, every model's x'."""
    rows = [Row(caption_of(results, p), [Cell(store[p]) for store in results.images.values()]) for p in pair_ids]
    return draw_grid(rows, ["real x", *(f"x′ {model.label}" for model in results.study.models)])


def token_colours(results: Results, patches: dict[str, np.ndarray], side: int) -> Figure:
    """Draw two rows per source: the images of the first complete pairs, and their patch tokens as colours."""
    colours = np.split(principal_colours(np.concatenate(list(patches.values())), side), len(patches))
    labels = {"real": "real images", **{model.name: model.label for model in results.study.models}}
    rows = []
    for source, pictures in zip(patches, colours, strict=True):
        shown = [Cell(results.images[source][pair_id]) for pair_id in results.pair_ids[: len(pictures)]]
        rows += [Row(labels[source], shown), Row("patch tokens", [Cell(picture) for picture in pictures])]
    return draw_grid(rows)


def concept_cell(results: Results, source: str, position: int, concept: int, strength: float) -> Cell:
    """Return the image of a source at a position among the complete pairs, with the concept's heatmap."""
    return Cell(results.images[source][results.pair_ids[position]], "", heatmap(results, source, position, concept), strength)


def heatmap(results: Results, source: str, position: int, concept: int) -> np.ndarray:
    return results.codes[source].heatmap(int(results.rows[source][position]), concept)


def top_images(results: Results, source: str, concept: int, n: int) -> list[int]:
    """Return the positions of the at most n images with the highest energy of a concept, highest first."""
    return [int(position) for position in results.energies[source].stats.top_ids[concept, :n] if position >= 0]


def concept_strength(results: Results, concept: int) -> float:
    """Return the scale of a concept's heatmaps: its highest token code on its top images of any source."""
    shown = ((source, position) for source in results.codes for position in top_images(results, source, concept, 3))
    return max((float(heatmap(results, *place, concept).max()) for place in shown), default=0.0)


def concept_label(results: Results, concept: int, model: str | None = None) -> str:
    """Return a concept's number, its ground-truth concept where known, and its delta with the interval for one model."""
    row = results.concepts.loc[concept]
    label = f"concept {concept}"
    if row["goes_with"]:
        named = row["goes_with_auc"] >= NAMED_FROM
        label += f"\nbest match: {row['goes_with']}\n(AUC {row['goes_with_auc']:.2f})" if named else "\nno clear match"
    if model is not None:
        label += f"\nδ = {row[f'delta_{model}']:.2f} [{row[f'low_{model}']:.2f}, {row[f'high_{model}']:.2f}]"
    return label


def top_cells(results: Results, source: str, concept: int, n: int) -> list[Cell | None]:
    """Return the n top images of a concept; None where it fires on fewer."""
    strength, found = concept_strength(results, concept), top_images(results, source, concept, n)
    cells = [concept_cell(results, source, position, concept, strength) for position in found]
    return cells + [None] * (n - len(cells))


def concept_sheet(results: Results, concepts: Sequence[int], n: int = 8) -> Figure:
    """Draw one row per concept: its top real images, with heatmaps."""
    return draw_grid([Row(concept_label(results, c), top_cells(results, "real", c, n)) for c in concepts])


def typical_concepts(results: Results, n: int) -> list[int]:
    """Return n concepts in equal steps from those that fire on most real images to those that fire on few."""
    n_images = results.concepts["n_images_real"]
    table = results.concepts[n_images >= min(results.study.analysis.min_images, n_images.max())]
    order = table.sort_values(["n_images_real", "concept"], ascending=[False, True])["concept"].to_numpy()
    return [int(c) for c in order[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)]]


def concept_everywhere(results: Results, concept: int, n: int = 8) -> Figure:
    """Draw one concept: a row of its top images for each source."""
    rows = [Row("real images\n" + concept_label(results, concept), top_cells(results, "real", concept, n))]
    for model in results.study.models:
        delta = results.concepts.loc[concept, f"delta_{model.name}"]
        rows.append(Row(f"{model.label}\nδ = {delta:.2f}", top_cells(results, model.name, concept, n)))
    return draw_grid(rows)


def well_observed(results: Results, model: str) -> pd.DataFrame:
    """Return the ranked concepts that fire on at least 1 % of the images, real and generated; all if those are few."""
    table = results.concepts.loc[ranked_deltas(results.concepts, model).index]
    often = table[table["n_images_real"] + table[f"n_images_{model}"] >= 0.01 * 2 * len(results.pair_ids)]
    return often if len(often) >= 2 * len(SCALE) else table


def concepts_along_scale(results: Results, model: str) -> list[int]:
    """Return for each step of `SCALE` the well observed concept of nearest delta; among equals the most frequent one."""
    table, chosen = well_observed(results, model), []
    for step in SCALE:
        left = table.drop(chosen)
        left = left.assign(distance=(left[f"delta_{model}"] - step).abs().round(2))
        chosen.append(int(left.sort_values(["distance", "firings"], ascending=[True, False]).index[0]))
    return chosen


def scale_figure(results: Results, model: str, concepts: Sequence[int], n: int = 4) -> Figure:
    """Draw one row per concept (`concepts_along_scale`): its top real images, then its top generated images."""
    rows = [Row(concept_label(results, c, model), top_cells(results, "real", c, n) + top_cells(results, model, c, n))
            for c in concepts]  # fmt: skip
    return draw_grid(rows, [f"{kind} {i + 1}" for kind in ("real", "generated") for i in range(n)])


def numbers_of(results: Results, model: str, concepts: Sequence[int]) -> list[dict]:
    """Return what a gallery states of its concepts, for its sidecar: name, delta, interval and the pairs that it shows."""
    columns = {name: name.removesuffix(f"_{model}") for name in (f"delta_{model}", f"low_{model}", f"high_{model}")}
    rows = results.concepts.loc[list(concepts), ["concept", "goes_with", "goes_with_auc", *columns]].rename(columns=columns)
    pairs = [[results.pair_ids[at] for at in telling_pairs(results, model, concept, 4)] for concept in concepts]
    return [row | {"telling_pairs": ids} for row, ids in zip(rows.to_dict("records"), pairs, strict=True)]


def telling_pairs(results: Results, model: str, concept: int, n: int) -> np.ndarray:
    """Return the positions of the pairs whose energy of a concept changes most, in the direction of its delta."""
    generated, real = (results.energies[name].matrix[:, [concept]].toarray()[:, 0] for name in (model, "real"))
    gain = generated - real if results.concepts.loc[concept, f"delta_{model}"] > 0.5 else real - generated
    return np.argsort(-gain, kind="stable")[:n]


def blindspot_gallery(results: Results, model: str, concepts: Sequence[int], n: int = 4) -> Figure:
    """Draw one row per concept: the pairs in which it changes most, real x and the model's x' with heatmaps."""
    rows = []
    for concept in concepts:
        strength = concept_strength(results, concept)
        cells = [concept_cell(results, source, int(position), concept, strength)
                 for position in telling_pairs(results, model, concept, n) for source in ("real", model)]  # fmt: skip
        rows.append(Row(concept_label(results, concept, model), cells))
    return draw_grid(rows, ["real x", f"x′ {results.study.model(model).label}"] * n)


def clearest_blindspots(results: Results, model: str, n: int) -> dict[str, list[int]]:
    """Return the n concepts that are surest to be "suppressed" (lowest upper end of the interval) and "exaggerated"."""
    table = well_observed(results, model)
    return {
        "suppressed": first_of_each_name(table.sort_values([f"high_{model}", "concept"]))[:n],
        "exaggerated": first_of_each_name(table.sort_values([f"low_{model}", "concept"], ascending=[False, True]))[:n],
    }


def first_of_each_name(table: pd.DataFrame) -> list[int]:
    """Return the concepts of a table in its order, without those whose name an earlier one has."""
    named = table["goes_with_auc"] >= NAMED_FROM
    return table.loc[~(named & table["goes_with"].where(named).duplicated()), "concept"].tolist()


def named_cooccurrence(results: Results, n: int) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Return labels and co-occurrence counts, real and per model, of n concepts.

    Where ground-truth concepts are known: the n best matches, one per ground-truth concept; else the n that fire on most images.
    """
    table = results.concepts.sort_values(["n_images_real", "concept"], ascending=[False, True])
    named = table[table["goes_with_auc"] >= NAMED_FROM].sort_values("goes_with_auc", ascending=False, kind="stable")
    table = (named.drop_duplicates("goes_with") if len(named) else table)[:n].sort_values("goes_with", kind="stable")
    chosen = table["concept"].to_numpy()
    labels = [name or str(concept) for concept, name in zip(chosen, table["goes_with"], strict=True)]
    counts = {source: cooccurrence(energies.matrix[:, chosen]).toarray() for source, energies in results.energies.items()}
    return labels, counts["real"], {model.label: counts[model.name] for model in results.study.models}


def extreme_pairs_sheet(results: Results, model: str, side: str, n: int) -> Figure:
    """Draw the pairs with the "least" or the "greatest" energy distance: caption, x, x', nearest training image of x'."""
    least, greatest = extreme_pairs(results.datapoints, model, n)
    rows = []
    for pair in (least if side == "least" else greatest).itertuples():
        cells = [*(Cell(results.images[source][pair.pair_id]) for source in ("real", model)), *training_cells(results, pair)]
        rows.append(Row(f"{caption_of(results, pair.pair_id)}\ndistance {pair.energy_distance:.1f}", cells))
    titles = ["real x", "x′"] + ["nearest training"] * (results.study.training_corpus is not None)
    return draw_grid(rows, titles, label_width=2.2, wrap=30)


def training_cells(results: Results, pair) -> list[Cell]:
    """Return the nearest training image of a generation, if the study knows its training corpus."""
    corpus = results.study.training_corpus
    if corpus is None:
        return []
    image = Image.fromarray(draw_scene(corpus.seed, int(pair.training_index))[1].image)
    return [Cell(image, f"similarity {pair.training_similarity:.3f}")]


def nearest_training_sheet(results: Results, model: str, n: int = 6) -> Figure:
    """Draw the generations that are nearest to a training image: caption, x', that image, and x for comparison."""
    rows, table = [], results.datapoints[results.datapoints["model"] == model]
    for pair in table.sort_values(["training_similarity", "pair_id"], ascending=[False, True]).head(n).itertuples():
        cells = [Cell(results.images[model][pair.pair_id]), *training_cells(results, pair)]
        rows.append(Row(caption_of(results, pair.pair_id), [*cells, Cell(results.images["real"][pair.pair_id])]))
    return draw_grid(rows, ["x′", "nearest training", "real x"], label_width=2.2, wrap=30)
